//! Whether the node's disk still takes what is written to it. A node whose disk hangs can neither
//! log nor serve its agents' HOMEs; it must let its lease go, so that they move.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fleet_client::private_file;
use fleet_runtime::clock::boot_ms;

/// A thread that writes and syncs a few bytes now and then.
#[derive(Clone)]
pub struct DiskProbe {
    /// When the last write that reached the disk began, in milliseconds of `CLOCK_BOOTTIME`.
    written_ms: Arc<AtomicU64>,
}

impl DiskProbe {
    /// Starts probing the disk that `directory` is on, every `period`.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start(directory: &Path, period: Duration) -> io::Result<Self> {
        let path = directory.join("disk-probe");
        let probe = Self { written_ms: Arc::new(AtomicU64::new(boot_ms())) };
        let written_ms = probe.written_ms.clone();
        std::thread::Builder::new().name("disk-probe".into()).spawn(move || {
            loop {
                let begun = boot_ms();
                // A file anew, as what the node is told is written: what is in place is taken even
                // by a full disk.
                match private_file::write(&path, &begun.to_le_bytes()) {
                    Ok(()) => written_ms.store(begun, Ordering::Relaxed),
                    Err(error) => tracing::error!(%error, "the disk takes no writes"),
                }
                std::thread::sleep(period);
            }
        })?;
        Ok(probe)
    }

    /// Whether a write that began within the last `within_ms` reached the disk.
    pub fn fresh(&self, within_ms: u64) -> bool {
        boot_ms().saturating_sub(self.written_ms.load(Ordering::Relaxed)) <= within_ms
    }
}
