//! Whether the node's disk still takes what is written to it. A node whose disk hangs can neither
//! log nor serve its agents' HOMEs, and one whose disk is full cannot write down what it is told;
//! it must let its lease go, so that they move.

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

use fleet_process::disk_room;
use fleet_runtime::clock::boot_ms;

/// What there must be room for.
const ROOM_BYTES: u64 = 64 << 10;

/// A thread that writes and syncs a few bytes now and then.
#[derive(Clone)]
pub struct DiskProbe {
    /// When the last write began that reached the disk while there was room for more, in milliseconds
    /// of `CLOCK_BOOTTIME`.
    written_ms: Arc<AtomicU64>,
    /// Bytes there was no room for.
    needed: Arc<AtomicU64>,
    period: Duration,
}

impl DiskProbe {
    /// Starts probing the disk that `directory` is on, every `period`.
    ///
    /// # Errors
    /// When the file it writes cannot be made, or no thread.
    pub fn start(directory: &Path, period: Duration) -> io::Result<Self> {
        let (path, room) = (directory.join("disk-probe"), directory.join("disk-room"));
        let file = File::options().write(true).create(true).truncate(false).open(path)?;
        let written_ms = Arc::new(AtomicU64::new(boot_ms()));
        let probe = Self { written_ms, needed: Arc::default(), period };
        let (written_ms, needed) = (probe.written_ms.clone(), probe.needed.clone());
        std::thread::Builder::new().name("disk-probe".into()).spawn(move || {
            loop {
                let begun = boot_ms();
                let written = file.write_all_at(&begun.to_le_bytes(), 0);
                let synced = written.and_then(|()| file.sync_data());
                // What lies in place is taken by a full disk, too.
                let needed = needed.load(Ordering::Relaxed);
                match synced.and_then(|()| disk_room(&room, ROOM_BYTES.saturating_add(needed))) {
                    Ok(()) => written_ms.store(begun, Ordering::Relaxed),
                    Err(error) => tracing::error!(%error, "the disk takes no writes"),
                }
                std::thread::sleep(period);
            }
        })?;
        Ok(probe)
    }

    /// Asks for room for so many bytes, which could not be written; 0 for none but a little.
    pub(crate) fn needs(&self, bytes: usize) {
        self.needed.store(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether a write that began within the last two periods reached the disk, and there was room.
    pub fn fresh(&self) -> bool {
        let within_ms = u64::try_from(2 * self.period.as_millis()).unwrap_or(u64::MAX);
        boot_ms().saturating_sub(self.written_ms.load(Ordering::Relaxed)) <= within_ms
    }

    /// Returns once it is so.
    pub async fn works(&self) {
        while !self.fresh() {
            tokio::time::sleep(self.period).await;
        }
    }
}
