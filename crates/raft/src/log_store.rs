//! Votes and entries on disk.
//!
//! An append writes its entries to the WAL without waiting for the disk and hands its callback to
//! one flusher thread. That thread takes every callback that waits, syncs the WAL once for all of
//! them, and completes them in order: the more there is to write, the fewer syncs an entry costs.
//! A follower has nothing else to do meanwhile and syncs by itself: two changes of thread less on
//! the way of every entry.
//! Votes are synced by themselves before they are answered. A failed sync ends the process:
//! after it nobody knows what is on disk.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
};

use fleet_proto::storage as wire;
use fleet_types::limits;
use openraft::{
    OptionalSend, RaftLogReader,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use prost::Message;
use rocksdb::{Direction, IteratorMode, WriteBatch};

use crate::{
    codec::{get_entry, get_log_id, get_vote, put_entry, put_log_id, put_vote},
    error::OpenError,
    high_water::HighWater,
    store::{Store, io_error, key},
    tail::{self, Tail},
    type_config::{Entry, LogId, TypeConfig, Vote},
};

/// Appends that may wait for the disk; openraft pipelines far fewer.
const WAITING_MAX: usize = 4_096;

struct Waiting {
    callback: IOFlushed<TypeConfig>,
    last: u64,
}

/// The thread that syncs. Dropping it waits for the thread, which holds the database: RocksDB must
/// be closed before the process ends.
struct Flusher {
    queue: Option<mpsc::SyncSender<Waiting>>,
    /// How many appends wait for it.
    waiting: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Flusher {
    fn drop(&mut self) {
        // Without a sender the thread finishes what waits and ends.
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the flusher thread panicked");
        }
    }
}

/// The log. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    // Before the database, so that the thread is gone when the last handle closes it.
    flusher: Arc<Flusher>,
    store: Store,
    high_water: Arc<Mutex<HighWater>>,
    tail: Arc<Mutex<Tail>>,
    /// This node, and whom it voted for last.
    own: u64,
    voted_for: Arc<AtomicU64>,
}

impl LogStore {
    /// Opens the log of `store` for node `own`, refusing one that lost acknowledged entries.
    pub(crate) fn open(store: Store, dir: &Path, own: u64) -> Result<Self, OpenError> {
        let (high_water, acknowledged) = HighWater::open(dir)?;
        let found = last_index(&store)?;
        if found < acknowledged {
            return Err(OpenError::LostEntries { path: dir.to_owned(), acknowledged, found });
        }
        let high_water = Arc::new(Mutex::new(high_water));
        let (queue, waiting) = mpsc::sync_channel(WAITING_MAX);
        let (db, mark, count) = (store.clone(), high_water.clone(), Arc::default());
        let counted = Arc::clone(&count);
        let thread = std::thread::Builder::new()
            .name("wal-flush".into())
            .spawn(move || flush_loop(&db, &mark, &waiting, &counted))?;
        let flusher = Flusher { queue: Some(queue), waiting: count, thread: Some(thread) };
        let flusher = Arc::new(flusher);
        let vote: Option<wire::Vote> = store.get_meta(key::VOTE)?;
        let voted_for = Arc::new(AtomicU64::new(vote.map_or(own, |vote| vote.node_id)));
        let tail = Arc::default();
        Ok(Self { store, flusher, high_water, tail, own, voted_for })
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().expect("no holder panics")
    }
}

/// The last index of the log, counting what was purged.
fn last_index(store: &Store) -> io::Result<u64> {
    let last = store.db.iterator_cf(store.log(), IteratorMode::End).next();
    if let Some(item) = last {
        let (key, _) = item.map_err(io_error)?;
        return index_of(&key);
    }
    let purged: Option<wire::LogId> = store.get_meta(key::PURGED)?;
    Ok(purged.map_or(0, |id| id.index))
}

fn flush_loop(
    store: &Store,
    mark: &Mutex<HighWater>,
    waiting: &mpsc::Receiver<Waiting>,
    count: &AtomicUsize,
) {
    while let Ok(first) = waiting.recv() {
        let batch: Vec<Waiting> = std::iter::once(first).chain(waiting.try_iter()).collect();
        let last = batch.iter().map(|w| w.last).max().unwrap_or(0);
        let done = batch.len();
        flush(store, mark, last, || {
            batch.into_iter().for_each(|waiting| waiting.callback.io_completed(Ok(())));
        });
        count.fetch_sub(done, Ordering::Release);
    }
}

/// Syncs the log, which ends at `last`, and says so.
fn flush(store: &Store, mark: &Mutex<HighWater>, last: u64, done: impl FnOnce()) {
    let flushed = store.db.flush_wal(true).map_err(io_error).and_then(|()| {
        done();
        mark.lock().expect("no holder panics").advance(last)
    });
    if let Err(error) = flushed {
        tracing::error!(%error, "syncing the log failed; what is on disk is unknown, stopping");
        std::process::abort();
    }
}

fn index_of(key: &[u8]) -> io::Result<u64> {
    let bytes = key.try_into().map_err(|_| crate::codec::malformed("log key"))?;
    Ok(u64::from_be_bytes(bytes))
}

fn decode(bytes: &[u8]) -> io::Result<Entry> {
    get_entry(wire::LogEntry::decode(bytes).map_err(io::Error::other)?)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        if let Some(recent) = self.tail().range(start, end) {
            return Ok(recent.cloned().collect());
        }
        let key = start.to_be_bytes();
        let mode = IteratorMode::From(&key, Direction::Forward);
        let mut entries = Vec::new();
        for item in self.store.db.iterator_cf(self.store.log(), mode) {
            let (key, value) = item.map_err(io_error)?;
            if index_of(&key)? >= end {
                break;
            }
            entries.push(decode(&value)?);
        }
        Ok(entries)
    }

    /// Ends early when the entries would not fit in one message; at least one is answered.
    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let mut bytes = 0;
        if let Some(recent) = self.tail().range(start, end) {
            let fits = recent.enumerate().take_while(|(position, entry)| {
                bytes += tail::size(entry);
                *position == 0 || bytes <= limits::BATCH_BYTES_MAX
            });
            return Ok(fits.map(|(_, entry)| entry.clone()).collect());
        }
        let mut entries = Vec::new();
        let key = start.to_be_bytes();
        let mode = IteratorMode::From(&key, Direction::Forward);
        for item in self.store.db.iterator_cf(self.store.log(), mode) {
            let (key, value) = item.map_err(io_error)?;
            bytes += value.len();
            let full = !entries.is_empty() && bytes > limits::BATCH_BYTES_MAX;
            if full || index_of(&key)? >= end {
                break;
            }
            entries.push(decode(&value)?);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let vote: Option<wire::Vote> = self.store.get_meta(key::VOTE)?;
        vote.map(|vote| get_vote(Some(vote))).transpose()
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let purged: Option<wire::LogId> = self.store.get_meta(key::PURGED)?;
        let last_purged_log_id = purged.map(get_log_id);
        let last = self.store.db.iterator_cf(self.store.log(), IteratorMode::End).next();
        let last_log_id = match last {
            Some(item) => Some(decode(&item.map_err(io_error)?.1)?.log_id),
            None => last_purged_log_id,
        };
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.store.meta(), key::VOTE, put_vote(vote).encode_to_vec());
        self.voted_for.store(vote.leader_id.node_id, Ordering::Relaxed);
        self.store.write(batch, true)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut batch = WriteBatch::default();
        let mut last = 0;
        for entry in &entries {
            last = entry.log_id.index();
            let bytes = put_entry(entry.clone()).encode_to_vec();
            batch.put_cf(self.store.log(), last.to_be_bytes(), bytes);
        }
        self.store.write(batch, false)?;
        {
            let mut tail = self.tail();
            entries.into_iter().for_each(|entry| tail.push(entry));
        }
        // What waits from a time as a leader is completed first.
        let follows = self.voted_for.load(Ordering::Relaxed) != self.own;
        if follows && self.flusher.waiting.load(Ordering::Acquire) == 0 {
            flush(&self.store, &self.high_water, last, || callback.io_completed(Ok(())));
            return Ok(());
        }
        self.flusher.waiting.fetch_add(1, Ordering::Relaxed);
        let queue = self.flusher.queue.as_ref().expect("taken away only by drop");
        queue
            .send(Waiting { callback, last })
            .map_err(|_| io::Error::other("the flusher thread ended"))
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let first = last_log_id.map_or(0, |id| id.index() + 1);
        self.high_water.lock().expect("no holder panics").lower(first.saturating_sub(1))?;
        self.tail().clear();
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.store.log(), first.to_be_bytes(), u64::MAX.to_be_bytes());
        self.store.write(batch, true)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.tail().purge(log_id.index());
        let mut batch = WriteBatch::default();
        batch.put_cf(self.store.meta(), key::PURGED, put_log_id(&log_id).encode_to_vec());
        let end = (log_id.index() + 1).to_be_bytes();
        batch.delete_range_cf(self.store.log(), 0_u64.to_be_bytes(), end);
        self.store.write(batch, false)
    }
}
