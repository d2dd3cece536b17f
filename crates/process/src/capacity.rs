//! What this machine has for agents.

use std::{io, path::Path};

use fleet_types::Resources;
use procfs::{Current, Meminfo};

use crate::usage::FILE_BYTES;

/// What there must be room for beside.
const ROOM_BYTES: u64 = 64 << 10;

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

/// Whether the file system of a path has room for another file of some bytes, as root has it.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`] when it has not; when it cannot be told.
pub fn disk_room(path: &Path, bytes: u64) -> io::Result<()> {
    let held = rustix::fs::statvfs(path)?;
    let full = held.f_bfree * held.f_frsize < ROOM_BYTES.saturating_add(bytes);
    // Some count no files.
    if full || held.f_files > 0 && held.f_ffree == 0 {
        return Err(io::Error::new(io::ErrorKind::StorageFull, "it is full"));
    }
    Ok(())
}

/// What the file system of a path holds, in bytes; 0 when it cannot be told.
pub fn disk_bytes(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |held| held.f_blocks * held.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_room_or_says_that_it_is_full() {
        let dir = tempfile::tempdir().unwrap();
        assert!(disk_room(dir.path(), 1).is_ok());
        assert!(disk_room(dir.path(), u64::MAX).is_err());
        // It has no blocks at all.
        let full = disk_room(Path::new("/proc"), 0).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    }
}
