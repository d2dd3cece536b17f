//! Whether the node's disk still takes what is written to it. A node whose disk hangs can neither
//! log nor serve its agents' HOMEs; it must let its lease go, so that they move.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

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
    /// When the file it writes cannot be made, or no thread.
    pub fn start(directory: &Path, period: Duration) -> io::Result<Self> {
        let path = directory.join("disk-probe");
        let file = File::options().write(true).create(true).truncate(false).open(path)?;
        let probe = Self { written_ms: Arc::new(AtomicU64::new(boot_ms())) };
        let written_ms = probe.written_ms.clone();
        std::thread::Builder::new().name("disk-probe".into()).spawn(move || {
            loop {
                let begun = boot_ms();
                let written = file.write_all_at(&begun.to_le_bytes(), 0);
                match written.and_then(|()| file.sync_data()) {
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
