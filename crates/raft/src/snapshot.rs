//! Snapshots as files.
//!
//! A file holds the length-prefixed description, the length-prefixed records, a zero length, and
//! the CRC-32 of everything before it. It is written under a temporary name, synced, renamed, and
//! its directory synced; so a file with a snapshot's name is whole. A snapshot reads the records
//! from a RocksDB view taken at one moment together with the position they stand for, so data and
//! description cannot disagree, and building one never holds up applying. It is built at the lowest
//! priority.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use fleet_core::Record;
use fleet_proto::{convert::storage::decode_record, storage as wire};
use openraft::storage::RaftSnapshotBuilder;
use prost::Message;
use rocksdb::IteratorMode;
use tempfile::TempPath;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use crate::{
    codec::{get_log_id, get_meta, get_stored_membership, malformed, put_meta},
    store::{Store, io_error, key},
    type_config::{Snapshot, SnapshotMeta, TypeConfig},
};

/// A snapshot file, whole and checked when it was written or received.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    pub(crate) path: PathBuf,
    /// Of one that was received: it goes with its last user, unless it was published.
    _received: Option<Arc<TempPath>>,
}

impl SnapshotFile {
    fn published(path: PathBuf) -> Self {
        Self { path, _received: None }
    }
}

/// Largest record accepted from a snapshot; far above any a command can make.
const RECORD_BYTES_MAX: u32 = 16 << 20;

struct Sum<T> {
    inner: T,
    crc: crc32fast::Hasher,
}

impl<T> Sum<T> {
    fn new(inner: T) -> Self {
        Self { inner, crc: crc32fast::Hasher::new() }
    }
}

impl<T: Write> Sum<T> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?.to_le_bytes();
        for part in [&length[..], bytes] {
            self.crc.update(part);
            self.inner.write_all(part)?;
        }
        Ok(())
    }
}

impl<T: Read> Sum<T> {
    /// The next record, or none at the end.
    fn get(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut length = [0; 4];
        self.inner.read_exact(&mut length)?;
        self.crc.update(&length);
        let length = u32::from_le_bytes(length);
        if length == 0 {
            return Ok(None);
        }
        if length > RECORD_BYTES_MAX {
            return Err(malformed("snapshot"));
        }
        let mut bytes = vec![0; length as usize];
        self.inner.read_exact(&mut bytes)?;
        self.crc.update(&bytes);
        Ok(Some(bytes))
    }
}

/// What the file of a snapshot is called, without its ending.
fn name(meta: &SnapshotMeta) -> String {
    let Some(last) = &meta.last_log_id else { return "empty".to_owned() };
    let leader = last.committed_leader_id();
    format!("{:020}-{}-{}", last.index(), leader.term, leader.node_id)
}

/// Gives the finished file at `temporary` its name in `dir`.
pub(crate) fn publish(dir: &Path, temporary: &Path, meta: &SnapshotMeta) -> io::Result<PathBuf> {
    File::open(temporary)?.sync_all()?;
    let path = dir.join(format!("{}.snapshot", name(meta)));
    fs::rename(temporary, &path)?;
    File::open(dir)?.sync_all()?;
    for entry in fs::read_dir(dir)? {
        let old = entry?.path();
        if old != path && old.extension().is_some_and(|e| e == "snapshot") {
            fs::remove_file(old)?;
        }
    }
    Ok(path)
}

/// Reads a whole snapshot file, checks it and hands over each of its records.
fn scan(
    path: &Path,
    mut record: impl FnMut(Vec<u8>) -> io::Result<()>,
) -> io::Result<SnapshotMeta> {
    let mut file = Sum::new(BufReader::new(File::open(path)?));
    let meta = file.get()?.ok_or_else(|| malformed("snapshot"))?;
    let meta = get_meta(Some(wire::SnapshotMeta::decode(&*meta).map_err(io::Error::other)?))?;
    while let Some(bytes) = file.get()? {
        record(bytes)?;
    }
    let mut sum = [0; 4];
    file.inner.read_exact(&mut sum)?;
    if file.crc.finalize().to_le_bytes() != sum {
        return Err(malformed("snapshot: wrong checksum"));
    }
    Ok(meta)
}

/// The records of a snapshot file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    scan(path, |bytes| {
        records.push(decode_record(&bytes).map_err(io::Error::other)?);
        Ok(())
    })?;
    Ok(records)
}

/// A file in `dir` for one transfer alone: a sender may begin anew before its last try has ended.
pub(crate) fn receiving(dir: &Path) -> io::Result<(File, TempPath)> {
    Ok(tempfile::Builder::new().suffix(".receiving").tempfile_in(dir)?.into_parts())
}

/// What was received, checked: a state machine that cannot install a snapshot ends its node.
pub(crate) fn received(path: TempPath, announced: &SnapshotMeta) -> io::Result<Snapshot> {
    let meta = scan(&path, |_| Ok(()))?;
    if meta != *announced {
        return Err(malformed("snapshot: not the one announced"));
    }
    let snapshot = SnapshotFile { path: path.to_path_buf(), _received: Some(Arc::new(path)) };
    Ok(Snapshot { meta, snapshot })
}

/// The description of a snapshot file, without its records.
fn read_meta(path: &Path) -> io::Result<SnapshotMeta> {
    let mut file = Sum::new(BufReader::new(File::open(path)?));
    let meta = file.get()?.ok_or_else(|| malformed("snapshot"))?;
    get_meta(Some(wire::SnapshotMeta::decode(&*meta).map_err(io::Error::other)?))
}

/// The newest snapshot in `dir`.
pub(crate) fn current(dir: &Path) -> io::Result<Option<Snapshot>> {
    let mut newest: Option<(SnapshotMeta, PathBuf)> = None;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "snapshot") {
            continue;
        }
        let meta = read_meta(&path)?;
        if newest.as_ref().is_none_or(|(best, _)| best.last_log_id < meta.last_log_id) {
            newest = Some((meta, path));
        }
    }
    Ok(newest.map(|(meta, path)| Snapshot { meta, snapshot: SnapshotFile::published(path) }))
}

/// Builds a snapshot of what is applied.
pub(crate) struct Builder {
    pub(crate) store: Store,
    pub(crate) dir: PathBuf,
}

impl Builder {
    fn build(&self) -> io::Result<Snapshot> {
        let view = self.store.db.snapshot();
        let meta_of = |name: &[u8]| view.get_cf(self.store.meta(), name).map_err(io_error);
        let applied = meta_of(key::APPLIED)?
            .map(|bytes| wire::LogId::decode(&*bytes).map_err(io::Error::other))
            .transpose()?;
        let membership = meta_of(key::MEMBERSHIP)?
            .map(|bytes| wire::StoredMembership::decode(&*bytes).map_err(io::Error::other))
            .transpose()?;
        let meta = SnapshotMeta {
            last_log_id: applied.map(get_log_id),
            last_membership: get_stored_membership(membership)?,
        };
        let temporary = self.dir.join(format!("{}.building", name(&meta)));
        let mut file = Sum::new(BufWriter::new(File::create(&temporary)?));
        file.put(&put_meta(&meta).encode_to_vec())?;
        for item in view.iterator_cf(self.store.state(), IteratorMode::Start) {
            file.put(&item.map_err(io_error)?.1)?;
        }
        file.put(&[])?;
        let sum = file.crc.finalize().to_le_bytes();
        file.inner.write_all(&sum)?;
        file.inner.flush()?;
        let path = publish(&self.dir, &temporary, &meta)?;
        Ok(Snapshot { meta, snapshot: SnapshotFile::published(path) })
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let builder = Self { store: self.store.clone(), dir: self.dir.clone() };
        let aside = move || {
            let build = || {
                step_back();
                builder.build()
            };
            std::thread::scope(|scope| scope.spawn(build).join().expect("building does not panic"))
        };
        tokio::task::spawn_blocking(aside).await.map_err(io::Error::other)?
    }
}

/// Lets others go first from here on, in this thread: nothing that a node does waits for a snapshot
/// of its own, which takes a core for as long as hundreds of writes.
fn step_back() {
    let batch = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
    let least = ThreadPriority::Min;
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), least, batch) {
        tracing::debug!(%error, "a snapshot is built at the priority of everything else");
    }
}
