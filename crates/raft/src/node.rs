//! A voter's handle to consensus.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_core::{Command, Key, Outcome, Rejection, Role, State};
use fleet_proto::convert::storage::encode_batch;
use fleet_types::{LeaseTiming, NodeId};
use openraft::{
    Config, Raft, ReadPolicy, SnapshotPolicy,
    async_runtime::watch::WatchReceiver,
    errors::{ClientWriteError, LinearizableReadError, RaftError},
};
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::{
    runtime::Handle,
    sync::{broadcast, watch},
};

use crate::{
    acknowledged::Acknowledged,
    error::{OpenError, ProposeError, ReadError},
    log_store::LogStore,
    network::{Dial, Network},
    service::Service,
    state_machine::{Applied, StateMachine},
    store::Store,
    thread::Thread,
    type_config::{Address, Batch, TypeConfig},
};

/// Names of the records one entry changed.
pub type Changes = Arc<BTreeSet<Key>>;

/// Changes a slow listener may fall behind before it must read the whole state again.
const CHANGES_BUFFERED: usize = 4_096;
/// How long the log may grow.
#[derive(Clone, Copy, Debug)]
pub struct LogLimits {
    /// Entries after which the log is cut at a snapshot.
    pub between_snapshots: u64,
    /// Entries kept behind a snapshot, so that a follower that was away briefly needs none.
    pub kept: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { between_snapshots: 20_000, kept: 5_000 }
    }
}

/// Pause before a leader that waits for a quorum tries again.
const PAUSE: Duration = Duration::from_millis(5);

/// What a node needs to take part.
pub struct RaftConfig {
    /// This node.
    pub id: NodeId,
    /// Directory for log, state and snapshots.
    pub dir: PathBuf,
    /// Heartbeat and election times.
    pub timing: LeaseTiming,
    /// How to reach peers.
    pub dial: Dial,
    /// How long the log may grow.
    pub log: LogLimits,
}

/// Who leads, as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// Whether this node is it.
    pub is_leader: bool,
    /// The current term.
    pub term: u64,
    /// Members that vote.
    pub voters: BTreeSet<NodeId>,
    /// Members that follow without a vote.
    pub learners: BTreeSet<NodeId>,
    /// Whether a change of the voters is half made: until it is whole, both those before it and
    /// those after it need a majority.
    pub is_changing: bool,
}

pub(crate) struct Inner {
    pub(crate) id: NodeId,
    pub(crate) raft: Raft<TypeConfig, StateMachine>,
    pub(crate) snapshots: PathBuf,
    pub(crate) acknowledged: Arc<Acknowledged>,
    applied: Arc<RwLock<Applied>>,
    index: watch::Receiver<u64>,
    changes: broadcast::Sender<Changes>,
    thread: Thread,
    /// How long a leader may wait to hear a quorum before it refuses.
    patience: Duration,
}

/// A handle to this node's part in consensus. Clones share it.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

fn config(timing: LeaseTiming, log: LogLimits) -> Result<Config, OpenError> {
    Config {
        cluster_name: "fleet".into(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        enable_pre_vote: Some(true),
        broadcast_submitted_on_append: Some(true),
        quorum_loss_probe_interval: Some(2 * timing.election_max_ms),
        // A restarted leader has forgotten its leases: it must win a term first.
        enable_leader_restore: Some(false),
        purge_batch_size: log.kept,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(log.between_snapshots),
        max_in_snapshot_log_to_keep: log.kept,
        max_payload_entries: 64,
        ..Config::default()
    }
    .validate()
    .map_err(|e| OpenError::Raft(e.to_string()))
}

impl Node {
    /// Opens the node's storage and takes part.
    ///
    /// # Errors
    /// When the storage is damaged or lost acknowledged entries.
    pub async fn open(options: RaftConfig) -> Result<Self, OpenError> {
        let snapshots = options.dir.join("snapshots");
        fs::create_dir_all(&snapshots)?;
        remove_unfinished(&snapshots)?;
        let store = Store::open(&options.dir.join("db"))?;
        let log = LogStore::open(store.clone(), &options.dir, options.id.0)?;
        let (changes, _) = broadcast::channel(CHANGES_BUFFERED);
        let machine = StateMachine::open(store, snapshots.clone(), changes.clone())?;
        let (applied, index) = (machine.shared(), machine.index());
        let acknowledged = Arc::new(Acknowledged::new());
        let (dial, aside) = (options.dial, Handle::current());
        let network = Network { dial, acknowledged: acknowledged.clone(), aside };
        let config = Arc::new(config(options.timing, options.log)?);
        let patience = Duration::from_millis(2 * options.timing.election_max_ms);
        let (id, thread) = (options.id, Thread::start()?);
        let raft = thread.handle().spawn(Raft::new(id.0, config, network, log, machine)).await;
        let raft = raft.map_err(|e| OpenError::Raft(e.to_string()))?;
        let raft = raft.map_err(|e| OpenError::Raft(e.to_string()))?;
        Ok(Self {
            inner: Arc::new(Inner {
                id,
                raft,
                snapshots,
                acknowledged,
                applied,
                index,
                changes,
                thread,
                patience,
            }),
        })
    }

    /// Makes this node the only voter of a new cluster. Does nothing when it is in one.
    ///
    /// # Errors
    /// When Raft has stopped.
    pub async fn initialize(&self, peer_address: &str) -> Result<(), OpenError> {
        let raft = &self.inner.raft;
        if raft.is_initialized().await.map_err(|e| OpenError::Raft(e.to_string()))? {
            return Ok(());
        }
        let members = BTreeMap::from([(self.inner.id.0, Address(peer_address.to_owned()))]);
        raft.initialize(members).await.map_err(|e| OpenError::Raft(e.to_string()))
    }

    /// The gRPC service that answers peers.
    pub fn service(&self) -> Service {
        Service { inner: self.inner.clone() }
    }

    /// The thread consensus has for itself; its service is to be served there.
    pub fn thread(&self) -> &Handle {
        self.inner.thread.handle()
    }

    /// This node's number.
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// The newest rules that all who vote can apply commands by: those of the next entry.
    pub fn rules(&self) -> u32 {
        // One whose vote is taken votes until Raft has taken it out.
        let voters = self.status().voters;
        let vote = |node: &fleet_core::Node| node.role == Role::Voter || voters.contains(&node.id);
        self.read(|state| state.rules_of(vote))
    }

    /// Commits commands as one entry and answers what each ended in.
    ///
    /// # Errors
    /// When this node does not lead, or the outcome is not known.
    pub async fn propose(
        &self,
        commands: &[Command],
    ) -> Result<Vec<Result<Outcome, Rejection>>, ProposeError> {
        let batch = Batch(encode_batch(self.rules(), commands).into());
        let end = Instant::now() + self.inner.patience;
        loop {
            match self.inner.raft.client_write(batch.clone()).await {
                Ok(written) => return Ok(written.data),
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                    // A leader that has not heard a quorum for a moment, as after a member was
                    // added, takes nothing and names nobody. Nothing was appended.
                    let waiting = forward.leader_id.is_none() && self.leader() == Some(self.id());
                    if !waiting || Instant::now() >= end {
                        let leader = forward.leader_id.map(NodeId);
                        return Err(ProposeError::NotLeader { leader });
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(ProposeError::Unknown(error.to_string())),
            }
        }
    }

    /// Returns once everything committed before the call is applied here, having confirmed with a
    /// quorum, after the call began, that this node still leads.
    ///
    /// # Errors
    /// When it does not lead, or no quorum answers.
    pub async fn linearize(&self) -> Result<(), ReadError> {
        // A leader answers its own round.
        self.inner.acknowledged.answering(self.status().term);
        match self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ReadError::NotLeader { leader: forward.leader_id.map(NodeId) })
            }
            Err(error) => Err(ReadError::NoQuorum(error.to_string())),
        }
    }

    /// Reads the applied state. Keep `read` short: applying waits for it.
    pub fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        let applied = self.inner.applied.read();
        let found = read(&applied.state);
        // Or else a reader that comes again at once could keep applying out for as long as it does.
        RwLockReadGuard::unlock_fair(applied);
        found
    }

    /// Index of the last applied entry; changes as entries are applied.
    pub fn applied_index(&self) -> watch::Receiver<u64> {
        self.inner.index.clone()
    }

    /// Names of changed records, from now on. A listener that lags must read the whole state.
    pub fn changes(&self) -> broadcast::Receiver<Changes> {
        self.inner.changes.subscribe()
    }

    /// Who leads, if that is known.
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.raft.server_metrics().borrow_watched().current_leader.map(NodeId)
    }

    /// Who leads and who takes part.
    pub fn status(&self) -> RaftStatus {
        // Not all the metrics: those change with every entry, and would wake every listener.
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        RaftStatus {
            leader: metrics.current_leader.map(NodeId),
            is_leader: metrics.current_leader == Some(self.inner.id.0),
            term: metrics.vote.leader_id.term,
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            is_changing: membership.get_joint_config().len() > 1,
        }
    }

    /// For how long, on this node's clock, no leader of a term before `term` can have had a round of
    /// [`Node::linearize`] begun and confirmed. Of use to the leader of `term`. A clock of another
    /// voter had its part in it: allow for a difference of rates.
    pub fn since_predecessors(&self, term: u64) -> Duration {
        self.inner.acknowledged.before_elected(term).elapsed()
    }

    /// Returns once [`Node::status`] may answer differently.
    pub async fn status_changed(&self) {
        let before = self.status();
        let mut metrics = self.inner.raft.server_metrics();
        while self.status() == before {
            if metrics.changed().await.is_err() {
                // Raft has stopped: nothing changes any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns why Raft has stopped for good, once it has; the process must end.
    pub async fn failed(&self) -> String {
        let mut metrics = self.inner.raft.server_metrics();
        while metrics.changed().await.is_ok() {}
        let metrics = self.inner.raft.metrics();
        let state = &metrics.borrow_watched().running_state;
        state.as_ref().err().map_or_else(|| "it was shut down".into(), ToString::to_string)
    }

    /// Makes a change of the voters whole that whoever began it did not: it was asked to stop, or
    /// led no more.
    ///
    /// # Errors
    /// When this node does not lead, or the change did not commit.
    pub async fn complete_change(&self) -> Result<(), ProposeError> {
        let metrics = self.inner.raft.server_metrics();
        let configs =
            metrics.borrow_watched().membership_config.membership().get_joint_config().clone();
        let Some(voters) = configs.into_iter().next_back() else { return Ok(()) };
        let changed = self.inner.raft.change_membership(voters, true).await;
        changed.map(drop).map_err(|e| ProposeError::Unknown(e.to_string()))
    }

    /// Makes a node a learner and waits until it has caught up, then gives it a vote.
    ///
    /// # Errors
    /// When this node does not lead, or the change did not commit.
    pub async fn add_voter(&self, node: NodeId, peer_address: &str) -> Result<(), ProposeError> {
        let raft = &self.inner.raft;
        let address = Address(peer_address.to_owned());
        let unknown = |e: &dyn std::fmt::Display| ProposeError::Unknown(e.to_string());
        raft.add_learner(node.0, address, false).await.map_err(|e| unknown(&e))?;
        // openraft takes a learner that lags by less than thousands of entries for caught up, even
        // one that never answered; giving that a vote could cost the quorum.
        let goal = raft.metrics().borrow_watched().last_log_index;
        let mut metrics = raft.metrics();
        loop {
            let matched = metrics.borrow_watched().replication.as_ref().and_then(|peers| {
                peers.get(&node.0).and_then(|matched| matched.as_ref().map(|id| id.index()))
            });
            if matched >= goal && matched.is_some() {
                break;
            }
            metrics.changed().await.map_err(|e| unknown(&e))?;
        }
        let mut voters: BTreeSet<u64> = self.status().voters.iter().map(|id| id.0).collect();
        voters.insert(node.0);
        raft.change_membership(voters, true).await.map_err(|e| unknown(&e))?;
        Ok(())
    }

    /// Takes a member out.
    ///
    /// # Errors
    /// When this node does not lead, or the change did not commit.
    pub async fn remove_member(&self, node: NodeId) -> Result<(), ProposeError> {
        let unknown = |e: &dyn std::fmt::Display| ProposeError::Unknown(e.to_string());
        let raft = &self.inner.raft;
        let status = self.status();
        if status.voters.contains(&node) {
            let voters: BTreeSet<u64> =
                status.voters.iter().filter(|id| **id != node).map(|id| id.0).collect();
            raft.change_membership(voters, false).await.map_err(|e| unknown(&e))?;
        } else if status.learners.contains(&node) {
            let gone = openraft::ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
            raft.change_membership(gone, false).await.map_err(|e| unknown(&e))?;
        }
        Ok(())
    }

    /// Hands leadership to another voter, if this node leads and there is one; waits up to
    /// `patience` for it to take over.
    pub async fn transfer_leadership(&self, patience: Duration) {
        let status = self.status();
        let other = status.voters.iter().find(|id| **id != self.inner.id);
        let (true, Some(to)) = (status.is_leader, other) else { return };
        if self.inner.raft.trigger().transfer_leader(to.0).await.is_err() {
            return;
        }
        let handed_over = async {
            while self.status().is_leader || self.status().leader.is_none() {
                self.status_changed().await;
            }
        };
        if tokio::time::timeout(patience, handed_over).await.is_err() {
            tracing::warn!(to = to.0, "handing leadership over took too long; stopping anyway");
        }
    }

    /// Stops taking part, and whatever else runs on [`Node::thread`].
    pub async fn shutdown(&self) {
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        self.inner.thread.end().await;
    }
}

/// Removes what a crash left half-written.
fn remove_unfinished(snapshots: &std::path::Path) -> io::Result<()> {
    for entry in fs::read_dir(snapshots)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "building" || e == "receiving") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
