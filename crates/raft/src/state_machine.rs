//! Applies committed entries to the typed state in memory and mirrors every changed record, with
//! the position, to disk in one write. That write is not synced: the log is, and a restart applies
//! again what the mirror lacks.

use std::{collections::BTreeSet, io, path::PathBuf, sync::Arc};

use fleet_core::{Key, RULES, Record, State, apply_by};
use fleet_proto::{
    convert::storage::{decode_batch, decode_record, encode_record},
    storage as wire,
};
use futures::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend,
    storage::{EntryResponder, RaftStateMachine},
};
use parking_lot::RwLock;
use prost::Message;
use rocksdb::{IteratorMode, WriteBatch};
use tokio::sync::{broadcast, watch};

use crate::{
    codec::{get_log_id, get_stored_membership, put_log_id, put_stored_membership},
    node::Changes,
    snapshot::{self, Builder, SnapshotFile},
    store::{Store, io_error, key},
    type_config::{Entry, LogId, Results, Snapshot, SnapshotMeta, StoredMembership, TypeConfig},
};

/// Audits of large states take long; a debug build checks those up to this many agents.
#[cfg(debug_assertions)]
const AUDITED_AGENTS_MAX: usize = 500;

/// What is applied, shared with readers.
#[derive(Default)]
pub(crate) struct Applied {
    pub(crate) state: State,
    pub(crate) last: Option<LogId>,
    pub(crate) membership: StoredMembership,
}

/// The state machine openraft drives.
pub(crate) struct StateMachine {
    store: Store,
    snapshots: PathBuf,
    applied: Arc<RwLock<Applied>>,
    changes: broadcast::Sender<Changes>,
    index: watch::Sender<u64>,
}

/// The key of a record in the `state` family: a letter for the kind, then the name.
fn stored_key(key: &Key) -> Vec<u8> {
    let (kind, name) = match key {
        Key::Cluster => ('c', String::new()),
        Key::Node(id) => ('n', format!("{:020}", id.0)),
        Key::Fleet(name) => ('f', name.to_string()),
        Key::Agent(id) => ('a', id.to_string()),
        Key::Token(id) => ('t', id.to_string()),
        Key::Request(id) => ('r', id.to_string()),
        Key::Quarantine(node, base) => ('q', format!("{:020}/{base:05}", node.0)),
        Key::Event(serial) => ('e', format!("{serial:020}")),
    };
    format!("{kind}{name}").into_bytes()
}

/// The records of stored bytes, decoded on every core: a node that starts waits for this.
fn decode(stored: &[Box<[u8]>]) -> io::Result<Vec<Record>> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let part = |part: &[Box<[u8]>]| {
        let records = part.iter().map(|bytes| decode_record(bytes).map_err(io::Error::other));
        records.collect::<io::Result<Vec<_>>>()
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = stored
            .chunks(stored.len().div_ceil(cores).max(1))
            .map(|stored| scope.spawn(move || part(stored)))
            .collect();
        let mut all = Vec::with_capacity(stored.len());
        for part in parts {
            all.extend(part.join().expect("decoding does not panic")?);
        }
        Ok(all)
    })
}

impl StateMachine {
    /// Loads what was applied before.
    pub(crate) fn open(
        store: Store,
        snapshots: PathBuf,
        changes: broadcast::Sender<Changes>,
    ) -> io::Result<Self> {
        let stored = store.db.iterator_cf(store.state(), IteratorMode::Start);
        let stored = stored.map(|item| item.map(|(_, value)| value).map_err(io_error));
        let records = decode(&stored.collect::<io::Result<Vec<_>>>()?)?;
        let last = store.get_meta::<wire::LogId>(key::APPLIED)?.map(get_log_id);
        let membership = get_stored_membership(store.get_meta(key::MEMBERSHIP)?)?;
        let (index, _) = watch::channel(last.map_or(0, |id| id.index()));
        let applied = Applied { state: State::restore(records), last, membership };
        Ok(Self { store, snapshots, applied: Arc::new(RwLock::new(applied)), changes, index })
    }

    pub(crate) fn shared(&self) -> Arc<RwLock<Applied>> {
        self.applied.clone()
    }

    pub(crate) fn index(&self) -> watch::Receiver<u64> {
        self.index.subscribe()
    }

    /// Applies an entry to memory; what is to be mirrored to disk, and the results.
    fn apply_entry(&self, entry: Entry) -> io::Result<(WriteBatch, Results)> {
        let mut applied = self.applied.write();
        let (mut results, mut members_changed) = (Vec::new(), false);
        let index = entry.log_id.index();
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(batch) => {
                let (rules, commands) = decode_batch(&batch.0).map_err(io::Error::other)?;
                if rules > RULES {
                    return Err(io::Error::other(format!(
                        "entry {index} is applied by rules {rules}, and this build knows those up \
                         to {RULES}: a newer one is needed here"
                    )));
                }
                for command in commands {
                    let command = command.map_err(io::Error::other)?;
                    results.push(apply_by(rules, &mut applied.state, index, &command));
                }
            }
            EntryPayload::Membership(membership) => {
                applied.membership = StoredMembership::new(Some(entry.log_id), membership);
                members_changed = true;
            }
        }
        applied.last = Some(entry.log_id);
        #[cfg(debug_assertions)]
        if applied.state.agents().len() <= AUDITED_AGENTS_MAX {
            let violations = fleet_core::audit(&applied.state);
            assert!(violations.is_empty(), "entry {index} broke the state: {violations:?}");
        }
        let changed = applied.state.take_changed();
        let batch = self.mirror(&applied, &changed, members_changed);
        drop(applied);
        if !changed.is_empty() {
            // Nobody listening, or a listener that is too slow: it reads the whole state then.
            let _ = self.changes.send(Arc::new(changed));
        }
        Ok((batch, results))
    }

    fn mirror(
        &self,
        applied: &Applied,
        changed: &BTreeSet<Key>,
        members_changed: bool,
    ) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for key in changed {
            match applied.state.record(key) {
                Some(record) => {
                    batch.put_cf(self.store.state(), stored_key(key), encode_record(&record));
                }
                None => batch.delete_cf(self.store.state(), stored_key(key)),
            }
        }
        self.put_position(&mut batch, applied);
        if members_changed {
            self.put_members(&mut batch, applied);
        }
        batch
    }

    fn put_position(&self, batch: &mut WriteBatch, applied: &Applied) {
        if let Some(last) = &applied.last {
            batch.put_cf(self.store.meta(), key::APPLIED, put_log_id(last).encode_to_vec());
        }
    }

    fn put_members(&self, batch: &mut WriteBatch, applied: &Applied) {
        let membership = put_stored_membership(&applied.membership).encode_to_vec();
        batch.put_cf(self.store.meta(), key::MEMBERSHIP, membership);
    }

    fn install(&self, meta: &SnapshotMeta, file: &SnapshotFile) -> io::Result<()> {
        let records = snapshot::read(&file.path)?;
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.store.state(), [0_u8].as_slice(), [0xff_u8].as_slice());
        let state = State::restore(records);
        for record in state.records() {
            batch.put_cf(self.store.state(), stored_key(&record.key()), encode_record(&record));
        }
        let applied =
            Applied { state, last: meta.last_log_id, membership: meta.last_membership.clone() };
        self.put_position(&mut batch, &applied);
        self.put_members(&mut batch, &applied);
        self.store.write(batch, true)?;
        snapshot::publish(&self.snapshots, &file.path, meta)?;
        *self.applied.write() = applied;
        self.index.send_replace(meta.last_log_id.map_or(0, |id| id.index()));
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.applied.read();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let index = entry.log_id.index();
            let (batch, results) = self.apply_entry(entry)?;
            self.index.send_replace(index);
            if let Some(responder) = responder {
                responder.send(results);
            }
            // After the answer: the log has the entry, so this may be lost.
            self.store.write(batch, false)?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Builder { store: self.store.clone(), dir: self.snapshots.clone() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        tokio::task::block_in_place(|| self.install(meta, &snapshot))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        snapshot::current(&self.snapshots)
    }
}

#[cfg(test)]
mod tests {
    use fleet_proto::convert::storage::encode_batch;

    use super::*;
    use crate::type_config::{Batch, LeaderId};

    #[test]
    fn what_a_newer_build_made_is_not_applied_by_rules_of_before() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("db")).unwrap();
        let machine =
            StateMachine::open(store, dir.path().into(), broadcast::channel(1).0).unwrap();
        let entry = |index, rules| Entry {
            log_id: LogId::new(LeaderId { term: 1, node_id: 1 }, index),
            payload: EntryPayload::Normal(Batch(encode_batch(rules, &[]).into())),
        };
        assert!(machine.apply_entry(entry(1, RULES)).is_ok());
        let refused = machine.apply_entry(entry(2, RULES + 1)).err().unwrap();
        assert!(refused.to_string().contains("a newer one is needed here"), "{refused}");
        assert_eq!(machine.shared().read().last.unwrap().index(), 1);
    }
}
