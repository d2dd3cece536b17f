//! What this machine has for agents.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use fleet_types::Resources;
use procfs::{Current, Meminfo};
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use crate::usage::FILE_BYTES;

/// Memory and processor time; 0 for what cannot be told.
pub fn capacity() -> Resources {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    Resources {
        memory_bytes: Meminfo::current().map_or(0, |memory| memory.mem_total),
        cpu_millis: cores as u64 * 1_000,
    }
}

/// What of the file system of a path is used, in bytes, 4 KiB for each file beside; none when it cannot be told.
pub fn disk_used(path: &Path) -> Option<u64> {
    let used = |held: rustix::fs::StatVfs| {
        let blocks = held.f_blocks.saturating_sub(held.f_bfree);
        let files = held.f_files.saturating_sub(held.f_ffree);
        (blocks * held.f_frsize).saturating_add(files.saturating_mul(FILE_BYTES))
    };
    rustix::fs::statvfs(path).ok().map(used)
}

/// Whether the disk has room for a file of some bytes, made at `path` and taken away again. What it says
/// is free counts what nobody may have (ext4), or nothing at all.
///
/// # Errors
/// When it has not.
pub fn disk_room(path: &Path, bytes: u64) -> io::Result<()> {
    let file = File::create(path)?;
    let room = match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        // What the file system says must do where it sets nothing aside.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let full = rustix::fs::fstatvfs(&file)
                .is_ok_and(|held| held.f_blocks > 0 && held.f_bfree * held.f_frsize < bytes);
            if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }
        room => room.map_err(io::Error::from),
    };
    fs::remove_file(path).and(room)
}

/// What the file system holds that a path is on, or would be, in bytes; 0 when it cannot be told.
pub fn disk_bytes(path: &Path) -> u64 {
    let mut held = path.ancestors().map(rustix::fs::statvfs);
    let held = held.find(|held| !matches!(held, Err(Errno::NOENT)));
    held.and_then(Result::ok).map_or(0, |held| held.f_blocks * held.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_room_or_says_that_it_has_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("room");
        assert!(disk_room(&path, 1).is_ok());
        assert!(disk_room(&path, 1 << 50).is_err());
        assert!(!path.exists());
        assert!(disk_room(&dir.path().join("none/room"), 1).is_err());
    }

    #[test]
    fn a_directory_that_is_yet_to_be_made_is_on_the_disk_of_those_above() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = disk_bytes(dir.path());
        assert!(bytes > 0);
        assert_eq!(disk_bytes(&dir.path().join("none/yet")), bytes);
    }
}
