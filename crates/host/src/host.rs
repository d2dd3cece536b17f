//! The host: what it was told, the agents' tasks, and what they report.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use fleet_process::{Child, Group, GroupError, Launcher, Limiter, LogFile};
use fleet_proto::{
    convert::{api::HOMES, host::parse_agent},
    host::{AgentKey, AssignRequest, Assignment, Observation},
    v1::Member,
};
use fleet_types::{AgentId, ClusterId, Epoch, NodeId, NodeName};
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinSet,
};

use crate::{
    agent::{Order, Task},
    governor::Governor,
    guard::Guard,
    ledger::Ledger,
    provision::Site,
    runtimes::Runtimes,
    start_key::StartKey,
};

/// Orders an agent's task may have waiting.
const ORDERS_WAITING_MAX: usize = 64;
/// Observations a slow watcher may fall behind before it is sent everything again.
const OBSERVATIONS_BUFFERED: usize = 4_096;

/// What a host needs.
pub struct HostOptions {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Its name.
    pub node_name: NodeName,
    /// Where the host keeps its ledger and agents' logs.
    pub data_dir: PathBuf,
    /// Parent of every agent's control group.
    pub group: Group,
    /// The runtimes.
    pub runtimes: Runtimes,
    /// Directories every agent may write to, beside its HOME.
    pub writable: Vec<PathBuf>,
    /// How many agents may start at once.
    pub starts_at_once: usize,
    /// Largest size of one agent's log.
    pub log_bytes_max: u64,
    /// Ends everything when the lease does.
    pub guard: Guard,
    /// Keeps agents to their limits.
    pub limiter: Limiter,
    /// The nodes to reach the cluster by, as known so far.
    pub members: Vec<Member>,
}

/// What agents' tasks share.
pub(crate) struct Shared {
    pub(crate) site: Site,
    pub(crate) governor: Arc<Governor>,
    pub(crate) launcher: Launcher,
    pub(crate) guard: Guard,
    pub(crate) limiter: Limiter,
    pub(crate) observed: Observed,
}

/// What is observed of every agent, and who wants to know.
pub struct Observed {
    all: Mutex<BTreeMap<(String, String), Observation>>,
    changes: broadcast::Sender<Observation>,
}

impl Observed {
    /// Notes what is observed of an agent and tells watchers if it is new.
    pub(crate) fn report(&self, observation: Observation) {
        let key = (observation.fleet.clone(), observation.agent.clone());
        let mut all = self.all.lock().expect("no holder panics");
        if all.get(&key) != Some(&observation) {
            all.insert(key, observation.clone());
            // No watcher is no error: the next one is sent everything first.
            let _ = self.changes.send(observation);
        }
    }

    /// Everything, and every change after it.
    pub fn watch(&self) -> (Vec<Observation>, broadcast::Receiver<Observation>) {
        let all = self.all.lock().expect("no holder panics");
        (all.values().cloned().collect(), self.changes.subscribe())
    }

    /// Forgets an agent that was reported gone; false when it was not.
    fn forget_gone(&self, id: &AgentId) -> bool {
        let key = (id.fleet.to_string(), id.agent.to_string());
        let mut all = self.all.lock().expect("no holder panics");
        let gone = all.get(&key).is_none_or(|observation| observation.gone);
        if gone {
            all.remove(&key);
        }
        gone
    }

    fn forget(&self) {
        self.all.lock().expect("no holder panics").clear();
    }
}

/// Why an assignment was refused. Nothing of it was taken.
#[derive(Debug, thiserror::Error)]
pub enum AssignError {
    /// It is for another node.
    #[error("this is node {0}")]
    WrongNode(NodeId),
    /// It names an epoch that is not in force.
    #[error("the epoch in force is {0}")]
    StaleEpoch(Epoch),
    /// A leader of a later term has spoken.
    #[error("a leader of term {0} has spoken")]
    StaleTerm(u64),
    /// It names an agent that cannot be.
    #[error("malformed: {0}")]
    Malformed(String),
    /// It could not be written down.
    #[error("the ledger cannot be written")]
    Ledger(#[from] io::Error),
    /// A control group cannot be made.
    #[error(transparent)]
    Group(#[from] GroupError),
}

struct Running {
    generation: u64,
    removed: bool,
    orders: mpsc::Sender<Order>,
}

struct State {
    epoch: Epoch,
    told: AssignRequest,
    ledger: Ledger,
    agents: BTreeMap<AgentId, Running>,
    tasks: JoinSet<()>,
}

/// A handle to the host. Clones share it.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Shared>,
    state: Arc<Mutex<State>>,
    group: Group,
    logs: PathBuf,
    log_bytes_max: u64,
    members: watch::Sender<Vec<Member>>,
}

/// The name of an agent's control group.
pub(crate) fn group_name(id: &AgentId) -> String {
    format!("{}.{}", id.fleet, id.agent)
}

fn key(assignment: &Assignment) -> AgentKey {
    AgentKey { fleet: assignment.fleet.clone(), agent: assignment.agent.clone() }
}

/// What the host knows after `new`: all of it, or the old with the changes.
fn fold(old: &AssignRequest, new: AssignRequest) -> AssignRequest {
    if new.complete {
        return new;
    }
    let gone: BTreeSet<(&str, &str)> =
        new.remove.iter().map(|k| (k.fleet.as_str(), k.agent.as_str())).collect();
    let mut all: BTreeMap<(String, String), Assignment> = BTreeMap::new();
    for assignment in old.put.iter().chain(&new.put) {
        if !gone.contains(&(assignment.fleet.as_str(), assignment.agent.as_str())) {
            let AgentKey { fleet, agent } = key(assignment);
            all.insert((fleet, agent), assignment.clone());
        }
    }
    AssignRequest { complete: true, put: all.into_values().collect(), remove: Vec::new(), ..new }
}

impl Host {
    /// Opens the ledger, and adopts what runs under the lease that is held. Without one nothing
    /// runs: the guard sees to it.
    ///
    /// # Errors
    /// When the ledger cannot be read or the guard is not there.
    pub async fn open(options: HostOptions) -> Result<Self, AssignError> {
        let (ledger, told) = Ledger::open(&options.data_dir.join("host"))?;
        let (changes, _) = broadcast::channel(OBSERVATIONS_BUFFERED);
        let shared = Arc::new(Shared {
            site: Site {
                cluster: options.cluster,
                node: options.node,
                node_name: options.node_name,
                runtimes: options.runtimes,
                writable: options.writable,
                hidden: vec![HOMES.into(), options.data_dir.clone()],
            },
            governor: Arc::new(Governor::new(options.starts_at_once.max(1))),
            launcher: Launcher::new(options.guard.init_socket()),
            guard: options.guard,
            limiter: options.limiter,
            observed: Observed { all: Mutex::new(BTreeMap::new()), changes },
        });
        let state =
            State { epoch: Epoch(0), told, ledger, agents: BTreeMap::new(), tasks: JoinSet::new() };
        let host = Self {
            shared,
            state: Arc::new(Mutex::new(state)),
            group: options.group,
            logs: options.data_dir.join("logs"),
            log_bytes_max: options.log_bytes_max,
            members: watch::channel(options.members).0,
        };
        host.adopt().await?;
        Ok(host)
    }

    /// Goes on with what an earlier daemon of this node was told and started, if its lease still
    /// lasts; what runs and was not told is ended.
    async fn adopt(&self) -> Result<(), AssignError> {
        let Some(lease) = self.shared.guard.current() else { return Ok(()) };
        let found = self.shared.launcher.found().await?;
        let mut state = self.state.lock().expect("no holder panics");
        let mut told = BTreeMap::new();
        if state.told.epoch == lease.epoch.0 {
            for assignment in &state.told.put {
                let id = parse_agent(&assignment.fleet, &assignment.agent)
                    .map_err(|e| AssignError::Malformed(e.to_string()))?;
                told.insert(id, assignment.clone());
            }
        }
        state.epoch = lease.epoch;
        let mut adopted: BTreeMap<AgentId, (StartKey, Child)> = BTreeMap::new();
        for child in found {
            match child.key().parse::<StartKey>() {
                // Of two starts the later is the one that may run.
                Ok(key) if told.get(&key.agent).is_some_and(|told| key.is_of(told)) => {
                    let older = adopted.get(&key.agent).is_some_and(|(k, _)| k.start > key.start);
                    if !older {
                        adopted.insert(key.agent.clone(), (key, child));
                    }
                }
                Ok(key) => self.agent_group(&key.agent)?.kill()?,
                Err(()) => tracing::error!(key = child.key(), "init runs what nobody started"),
            }
        }
        for (id, assignment) in told {
            let child = adopted.remove(&id);
            self.start_task(&mut state, id, assignment, child)?;
        }
        Ok(())
    }

    /// The epoch in force; 0 for none. After opening, that of what was adopted.
    pub fn epoch(&self) -> Epoch {
        self.state.lock().expect("no holder panics").epoch
    }

    fn agent_group(&self, id: &AgentId) -> Result<Group, GroupError> {
        self.group.child(&group_name(id))
    }

    /// What this host lacks to limit agents, if anything.
    pub fn degraded(&self) -> Option<String> {
        self.shared.limiter.lacking()
    }

    /// The runtimes of this node.
    pub fn runtimes(&self) -> &Runtimes {
        &self.shared.site.runtimes
    }

    /// The nodes to reach the cluster by, as the leader said last.
    pub fn members(&self) -> watch::Receiver<Vec<Member>> {
        self.members.subscribe()
    }

    /// What is observed.
    pub fn observed(&self) -> &Observed {
        &self.shared.observed
    }

    /// The log of an agent.
    pub fn log(&self, id: &AgentId) -> LogFile {
        let path = self.logs.join(id.fleet.as_str()).join(format!("{}.log", id.agent));
        LogFile::new(path, self.log_bytes_max)
    }

    /// Begins a new epoch. Nothing of an earlier one may run; see [`Host::fenced`].
    pub fn begin_epoch(&self, epoch: Epoch) {
        self.state.lock().expect("no holder panics").epoch = epoch;
    }

    /// Refuses a caller of an old term, or who means another node or epoch.
    ///
    /// # Errors
    /// When it is one.
    pub fn check(&self, term: u64, node: NodeId, epoch: Epoch) -> Result<(), AssignError> {
        let state = self.state.lock().expect("no holder panics");
        if node != self.shared.site.node {
            return Err(AssignError::WrongNode(self.shared.site.node));
        }
        if epoch != state.epoch || epoch.0 == 0 {
            return Err(AssignError::StaleEpoch(state.epoch));
        }
        if term < state.told.term {
            return Err(AssignError::StaleTerm(state.told.term));
        }
        Ok(())
    }

    /// Takes in what the leader says, writes it down, and sets the agents' tasks to it.
    ///
    /// # Errors
    /// When it is old, malformed or cannot be written down; nothing of it is taken then.
    pub fn assign(&self, request: AssignRequest) -> Result<(), AssignError> {
        self.check(request.term, NodeId(request.node_id), Epoch(request.epoch))?;
        if !request.members.is_empty() {
            self.members.send_if_modified(|members| {
                let changed = *members != request.members;
                members.clone_from(&request.members);
                changed
            });
        }
        let mut state = self.state.lock().expect("no holder panics");
        let told = fold(&state.told, request);
        let (mut wanted, mut outdated) = (BTreeMap::new(), BTreeSet::new());
        for assignment in &told.put {
            let id = parse_agent(&assignment.fleet, &assignment.agent)
                .map_err(|e| AssignError::Malformed(e.to_string()))?;
            let newer = state.agents.get(&id).is_none_or(|r| r.generation <= assignment.generation);
            if newer {
                wanted.insert(id, assignment.clone());
            } else {
                outdated.insert(id);
            }
        }
        state.ledger.write(&told)?;
        state.told = told;
        // A task is kept until it has reported its agent gone, so that an agent that comes back
        // meanwhile meets the same task, never a second one.
        state.agents.retain(|id, running| {
            // What is older than what runs here says nothing about it.
            if wanted.contains_key(id) || outdated.contains(id) {
                return true;
            }
            if running.removed {
                return !self.shared.observed.forget_gone(id);
            }
            running.removed = running.orders.try_send(Order::Remove).is_ok();
            true
        });
        for (id, assignment) in wanted {
            self.tell(&mut state, id, assignment)?;
        }
        while state.tasks.try_join_next().is_some() {}
        Ok(())
    }

    fn tell(
        &self,
        state: &mut State,
        id: AgentId,
        assignment: Assignment,
    ) -> Result<(), GroupError> {
        if let Some(running) = state.agents.get_mut(&id) {
            (running.generation, running.removed) = (assignment.generation, false);
            let order = Order::Assign(Box::new(assignment.clone()));
            if running.orders.try_send(order).is_ok() {
                return Ok(());
            }
        }
        self.start_task(state, id, assignment, None)
    }

    fn start_task(
        &self,
        state: &mut State,
        id: AgentId,
        assignment: Assignment,
        adopted: Option<(StartKey, Child)>,
    ) -> Result<(), GroupError> {
        let (generation, group) = (assignment.generation, self.agent_group(&id)?);
        let (orders, queue) = mpsc::channel(ORDERS_WAITING_MAX);
        let log = self.log(&id);
        let task = Task::new(id.clone(), self.shared.clone(), group, log, assignment, adopted);
        state.tasks.spawn(task.run(queue));
        state.agents.insert(id, Running { generation, removed: false, orders });
        Ok(())
    }

    /// Everything was killed because the lease is over: ends the tasks and waits for them. After
    /// it, nothing runs and nothing starts until a new epoch begins.
    pub async fn fenced(&self) {
        let tasks = {
            let mut state = self.state.lock().expect("no holder panics");
            state.epoch = Epoch(0);
            state.told.put.clear();
            // Dropping the senders is the order to end.
            state.agents.clear();
            std::mem::take(&mut state.tasks)
        };
        tasks.join_all().await;
        self.shared.observed.forget();
    }

    /// Ends every agent at once and waits until nothing of them runs.
    pub async fn kill_all(&self) {
        self.shared.guard.end();
        let mut lease = self.shared.guard.watch();
        // Ends only with the sender, which the guard's handle holds.
        let _ = lease.wait_for(Option::is_none).await;
        self.fenced().await;
    }

    /// Stops every agent, each with its runtime's drain time, and waits until all have.
    pub async fn stop_all(&self) {
        let tasks = {
            let mut state = self.state.lock().expect("no holder panics");
            // From here on the leader is refused, so nothing starts again.
            state.epoch = Epoch(0);
            for running in std::mem::take(&mut state.agents).into_values() {
                // A full queue ends the task by silence instead.
                let _ = running.orders.try_send(Order::Remove);
            }
            std::mem::take(&mut state.tasks)
        };
        tasks.join_all().await;
    }
}
