//! A lower bound of what was acknowledged, kept outside the database.
//!
//! RocksDB cannot tell a torn tail (a write that never finished, harmless) from damage further up
//! (entries that were acknowledged and are gone). A node that lost acknowledged entries and votes
//! can undo a commit. So the last index known to be on disk is written to a small file of its own,
//! at most every [`INTERVAL`]: if the log ends below it, the node refuses to start.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Damage younger than this may go unseen; the cost of a smaller one is more syncs.
const INTERVAL: Duration = Duration::from_millis(200);

/// The file: index and checksum, 12 bytes, overwritten in place.
pub(crate) struct HighWater {
    file: File,
    written: u64,
    last: Instant,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("acknowledged")
}

impl HighWater {
    /// Opens the file in `dir`, or makes it; answers the index it held.
    pub(crate) fn open(dir: &Path) -> io::Result<(Self, u64)> {
        let path = path(dir);
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
        let mut bytes = [0_u8; 12];
        let held = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {
                let (index, sum) = bytes.split_at(8);
                let intact = crc32fast::hash(index).to_le_bytes() == sum;
                if intact { u64::from_le_bytes(index.try_into().expect("8 bytes")) } else { 0 }
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(e) => return Err(e),
        };
        Ok((Self { file, written: held, last: Instant::now() }, held))
    }

    /// Notes that the log is on disk up to `index`.
    pub(crate) fn advance(&mut self, index: u64) -> io::Result<()> {
        if index <= self.written || self.last.elapsed() < INTERVAL {
            return Ok(());
        }
        self.write(index)
    }

    /// Notes that entries after `index` were removed on purpose.
    pub(crate) fn lower(&mut self, index: u64) -> io::Result<()> {
        if index < self.written { self.write(index) } else { Ok(()) }
    }

    fn write(&mut self, index: u64) -> io::Result<()> {
        let mut bytes = [0_u8; 12];
        bytes[..8].copy_from_slice(&index.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..8]);
        bytes[8..].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(&bytes, 0)?;
        self.file.sync_data()?;
        self.written = index;
        self.last = Instant::now();
        Ok(())
    }
}
