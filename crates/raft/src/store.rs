//! The one RocksDB both the log and the applied state live in.
//!
//! Three column families, one WAL: `log` holds entries by index, `meta` a few single values,
//! `state` the records. Because there is one WAL, whatever survives a crash is a prefix of what
//! was written, so applied state on disk never runs ahead of the log on disk.

use std::{io, path::Path, sync::Arc};

use prost::Message;
use rocksdb::{
    ColumnFamily, DB, DBRecoveryMode, MemtableFactory, Options, WriteBatch, WriteOptions,
};

use crate::error::OpenError;

/// Options of each family of the database.
fn families() -> [(&'static str, Options); 3] {
    // Records are read in order when a snapshot is made or the node starts, never one by one: what
    // is written is sorted then, not at each write.
    let mut state = Options::default();
    state.set_memtable_factory(MemtableFactory::Vector);
    [("log", Options::default()), ("meta", Options::default()), ("state", state)]
}

/// Keys of the `meta` family.
pub(crate) mod key {
    pub(crate) const VOTE: &[u8] = b"vote";
    pub(crate) const PURGED: &[u8] = b"purged";
    pub(crate) const APPLIED: &[u8] = b"applied";
    pub(crate) const MEMBERSHIP: &[u8] = b"membership";
}

/// The open database.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) db: Arc<DB>,
}

/// An I/O error of RocksDB.
pub(crate) fn io_error(error: rocksdb::Error) -> io::Error {
    io::Error::other(error)
}

impl Store {
    /// Opens the database in `dir`, or makes it.
    pub(crate) fn open(dir: &Path) -> Result<Self, OpenError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // A torn last record is what a power cut leaves and is dropped; what it may not hide is
        // entries that were acknowledged, which `high_water` checks.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_paranoid_checks(true);
        options.set_max_total_wal_size(256 << 20);
        options.set_keep_log_file_num(5);
        options.set_max_background_jobs(2);
        // An unsorted memtable takes one writer at a time.
        options.set_allow_concurrent_memtable_write(false);
        let db = DB::open_cf_with_opts(&options, dir, families())
            .map_err(|source| OpenError::Database { path: dir.to_owned(), source })?;
        Ok(Self { db: Arc::new(db) })
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("every family is made on opening")
    }

    pub(crate) fn log(&self) -> &ColumnFamily {
        self.family("log")
    }

    pub(crate) fn meta(&self) -> &ColumnFamily {
        self.family("meta")
    }

    pub(crate) fn state(&self) -> &ColumnFamily {
        self.family("state")
    }

    /// A message of the `meta` family.
    pub(crate) fn get_meta<M: Message + Default>(&self, key: &[u8]) -> io::Result<Option<M>> {
        let bytes = self.db.get_pinned_cf(self.meta(), key).map_err(io_error)?;
        bytes.map(|bytes| M::decode(&*bytes).map_err(io::Error::other)).transpose()
    }

    /// Writes a batch; with `sync`, it is on disk when this returns.
    pub(crate) fn write(&self, batch: WriteBatch, sync: bool) -> io::Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db.write_opt(batch, &options).map_err(io_error)
    }
}
