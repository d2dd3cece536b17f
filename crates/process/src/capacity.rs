//! What this machine has for agents.

use std::path::Path;

use fleet_types::Resources;
use procfs::{Current, Meminfo};

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

/// What the file system of a path holds, in bytes; 0 when it cannot be told.
pub fn disk_bytes(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |held| held.f_blocks * held.f_frsize)
}
