//! The host: what it was told, the agents' tasks, and what they report.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use fleet_process::{Child, Group, GroupError, Launcher, Limiter, LogFile};
use fleet_proto::{
    convert::{
        api::{HOMES, parse_class},
        host::parse_agent,
    },
    host::{AssignRequest, Assignment, Observation},
    v1::{Member, Role},
};
use fleet_types::{
    AgentClass, AgentId, ClusterId, Epoch, InvalidName, NodeId, NodeName, PortBlock,
};
use futures::future::join_all;
use tokio::{
    sync::{
        broadcast,
        mpsc::{self, error::TrySendError},
        watch,
    },
    task::JoinSet,
    time::Instant,
};

use crate::{
    adoption::{self, Adoption},
    agent::{Order, Task},
    disk::DiskProbe,
    governor::Governor,
    guard::Guard,
    history::Histories,
    home_size::DiskGrowth,
    ledger::Ledger,
    log_watch::Pace,
    old_logs,
    provision::Site,
    quarantine::Quarantine,
    runtimes::Runtimes,
    start_key::StartKey,
    told::Told,
};

/// Orders an agent's task may have waiting.
const ORDERS_WAITING_MAX: usize = 64;
/// How often logs of agents that left are looked for; the first time when what runs is long known.
const OLD_LOGS: Duration = Duration::from_secs(24 * 3_600);
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
    /// The disk that is on.
    pub disk: DiskProbe,
    /// The runtimes.
    pub runtimes: Runtimes,
    /// Directories every agent may write to, beside its HOME.
    pub writable: Vec<PathBuf>,
    /// How many agents may start at once.
    pub starts_at_once: usize,
    /// Largest size of one agent's log.
    pub log_bytes_max: u64,
    /// The machine's boot.
    pub boot_id: String,
    /// What keeps the agents of each class, in their order.
    pub kept: [Kept; AgentClass::ALL.len()],
    /// The nodes to reach the cluster by, as known so far.
    pub members: Vec<Member>,
}

/// What keeps the agents of one class.
pub struct Kept {
    /// Ends them when their lease does.
    pub guard: Guard,
    /// Starts them.
    pub launcher: Launcher,
    /// Keeps them to their limits.
    pub limiter: Limiter,
    /// Parent of their control groups.
    pub group: Group,
}

impl Kept {
    /// Takes away what agents left that ended while no daemon was there.
    fn remove_empty_groups(&self) {
        self.group.remove_empty();
        self.limiter.remove_empty();
    }
}

/// What agents' tasks share.
pub(crate) struct Shared {
    pub(crate) site: Site,
    pub(crate) governor: Arc<Governor>,
    pub(crate) observed: Observed,
    pub(crate) pace: Pace,
    pub(crate) histories: Histories,
    pub(crate) disk_growth: DiskGrowth,
    logs: PathBuf,
}

impl Shared {
    /// The log of an agent.
    pub(crate) fn log(&self, id: &AgentId) -> LogFile {
        let path = self.logs.join(id.fleet.as_str()).join(format!("{}.log", id.agent));
        LogFile::new(path, self.site.log_bytes_max)
    }
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
        let gone = all.get(&key).is_some_and(|observation| observation.gone);
        if gone {
            all.remove(&key);
        }
        gone
    }

    fn forget(&self, agents: &BTreeSet<AgentId>) {
        let keys = agents.iter().map(|id| (id.fleet.to_string(), id.agent.to_string()));
        let mut all = self.all.lock().expect("no holder panics");
        keys.for_each(|key| drop(all.remove(&key)));
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
    /// The leader has said more since.
    #[error("the leader has said more since")]
    Late,
    /// It names an agent that cannot be.
    #[error("it names an agent that cannot be")]
    Malformed(#[from] InvalidName),
    /// An agent's task has not come to its earlier orders yet.
    #[error("agent {0} is behind with what it was told; say everything again")]
    Busy(AgentId),
    /// It could not be written down.
    #[error("the ledger cannot be written")]
    Ledger(#[from] io::Error),
    /// A control group cannot be made.
    #[error(transparent)]
    Group(#[from] GroupError),
}

/// Whom a leader means.
struct Addressee {
    term: u64,
    node: NodeId,
    epoch: Epoch,
}

impl Addressee {
    /// Refuses a caller who means another than this one.
    fn check(&self, meant: &Self) -> Result<(), AssignError> {
        if meant.node != self.node {
            return Err(AssignError::WrongNode(self.node));
        }
        if meant.epoch != self.epoch || meant.epoch.0 == 0 {
            return Err(AssignError::StaleEpoch(self.epoch));
        }
        if meant.term < self.term {
            return Err(AssignError::StaleTerm(self.term));
        }
        Ok(())
    }
}

struct Running {
    class: AgentClass,
    /// Its uid, which one of the same name before did not have, and its generation: the higher, the
    /// later.
    which: (u32, u64),
    /// The last change it was told of.
    revision: u64,
    removed: bool,
    orders: mpsc::Sender<Order>,
}

struct State {
    epoch: Epoch,
    told: Told,
    ledger: Ledger,
    agents: BTreeMap<AgentId, Running>,
    /// By class.
    tasks: [JoinSet<()>; AgentClass::ALL.len()],
}

impl State {
    /// Writes down what the leader says of agents, if it is news, and takes it in.
    fn take_in(&mut self, request: &AssignRequest, disk: &DiskProbe) -> Result<(), AssignError> {
        let change = self.told.change(request, |id| self.agents.contains_key(id))?;
        if self.told.is_changed_by(&change) {
            let written = self.ledger.add(&self.told, &change);
            disk.needs(self.ledger.unwritten());
            written.inspect_err(|error| {
                tracing::error!(%error, "what the leader says is not written down, nor followed");
            })?;
        }
        Ok(self.told.fold(change)?)
    }

    /// What was told of agents whose task could not be made, or broke down.
    fn without_task(&self) -> Vec<Assignment> {
        let has_task = |id| self.agents.get(id).is_some_and(|it| !it.orders.is_closed());
        let without = self.told.agents.iter().filter(|(id, _)| !has_task(id));
        without.map(|(_, told)| told.clone()).collect()
    }
}

/// A handle to the host. Clones share it.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Shared>,
    disk: DiskProbe,
    state: Arc<Mutex<State>>,
    kept: Arc<[Arc<Kept>; AgentClass::ALL.len()]>,
    members: watch::Sender<Vec<Member>>,
    quarantine: Arc<Quarantine>,
    role: watch::Sender<Role>,
}

/// The name of an agent's control group.
pub(crate) fn group_name(id: &AgentId) -> String {
    format!("{}.{}", id.fleet, id.agent)
}

/// The class of an agent; what cannot be read is kept as strictly as can be.
fn class(assignment: &Assignment) -> AgentClass {
    let class = assignment.spec.as_ref().and_then(|spec| parse_class(spec.class));
    class.unwrap_or_default()
}

fn which(assignment: &Assignment) -> (u32, u64) {
    (assignment.uid, assignment.generation)
}

/// Whether a leader has said more since it said this: a call may outlast its connection, and be carried
/// out after later ones.
fn is_late(told: &Told, new: &AssignRequest) -> bool {
    let is_of = (told.term, told.epoch) == (new.term, new.epoch);
    new.number > 0 && is_of && new.number <= told.number
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
        let histories =
            Histories { directory: options.data_dir.join("history"), boot: options.boot_id };
        histories.sweep();
        let shared = Arc::new(Shared {
            site: Site {
                cluster: options.cluster,
                node: options.node,
                node_name: options.node_name,
                runtimes: options.runtimes,
                writable: options.writable,
                hidden: vec![HOMES.into(), options.data_dir.clone()],
                log_bytes_max: options.log_bytes_max,
            },
            governor: Arc::new(Governor::new(
                options.starts_at_once.max(1),
                options.data_dir.join("start-ms"),
            )),
            observed: Observed { all: Mutex::new(BTreeMap::new()), changes },
            pace: Pace::new(),
            histories,
            disk_growth: DiskGrowth::start(Path::new(HOMES)),
            logs: options.data_dir.join("logs"),
        });
        let (agents, tasks) = (BTreeMap::new(), Default::default());
        let state = State { epoch: Epoch(0), told, ledger, agents, tasks };
        let host = Self {
            shared,
            disk: options.disk,
            state: Arc::new(Mutex::new(state)),
            kept: Arc::new(options.kept.map(Arc::new)),
            members: watch::channel(options.members).0,
            quarantine: Arc::new(Quarantine::start()),
            role: watch::channel(Role::Unspecified).0,
        };
        for class in AgentClass::ALL {
            host.adopt(class).await?;
            if class > AgentClass::Strict {
                tokio::spawn(host.clone().restart_when_ended(class));
            }
        }
        tokio::spawn(host.clone().remove_old_logs());
        Ok(host)
    }

    /// Never returns.
    async fn remove_old_logs(self) {
        let mut period = tokio::time::interval_at(Instant::now() + OLD_LOGS, OLD_LOGS);
        loop {
            period.tick().await;
            let host = self.clone();
            let removing = tokio::task::spawn_blocking(move || {
                old_logs::remove(&host.shared.logs, |agent| {
                    host.state.lock().expect("no holder panics").agents.contains_key(agent)
                });
            });
            if let Err(error) = removing.await {
                tracing::warn!(%error, "old logs are not removed");
            }
        }
    }

    fn kept(&self, class: AgentClass) -> &Arc<Kept> {
        &self.kept[class as usize]
    }

    /// Goes on with what an earlier daemon of this node was told and started, if its lease still
    /// lasts; what runs and was not told is ended.
    async fn adopt(&self, of: AgentClass) -> Result<(), AssignError> {
        let kept = self.kept(of);
        let Some(lease) = kept.guard.current() else {
            kept.remove_empty_groups();
            return Ok(());
        };
        let found = kept.launcher.found().await?;
        kept.remove_empty_groups();
        let mut state = self.state.lock().expect("no holder panics");
        let mut told = BTreeMap::new();
        // What outlasts the node's lease is told under later epochs than it was started.
        if state.told.epoch == lease.epoch.0 || of > AgentClass::Strict {
            let all = state.told.agents.iter().chain(&state.told.leaving);
            let of_class = all.filter(|(_, told)| class(told) == of);
            told.extend(of_class.map(|(id, told)| (id.clone(), told.clone())));
        }
        if of == AgentClass::Strict {
            state.epoch = lease.epoch;
        }
        let found = found.into_iter().filter_map(|child| match child.key().parse::<StartKey>() {
            Ok(key) => Some((key, child)),
            Err(()) => {
                tracing::error!(key = child.key(), "init runs what nobody started");
                None
            }
        });
        let Adoption { mut adopted, strays, over } = adoption::sort(found, &told);
        for agent in strays {
            self.agent_group(of, &agent)?.kill()?;
        }
        over.iter().for_each(|child| kept.launcher.forget(child));
        for (id, assignment) in told {
            let child = adopted.remove(&id);
            let group = self.agent_group(of, &id)?;
            // What may run elsewhere since is started by what the leader says now.
            let is_certain = state.told.epoch == lease.epoch.0 && state.ledger.is_whole();
            if child.is_none() && !is_certain {
                group.kill()?;
                continue;
            }
            if child.is_some()
                && let Err(error) = kept.guard.cover_adopted(&group)
            {
                tracing::error!(agent = %id, %error, "it could not send for long: started anew");
                group.kill()?;
            }
            let is_leaving = state.told.leaving.contains_key(&id);
            if is_leaving && child.is_none() {
                group.kill()?;
                continue;
            }
            self.start_task(&mut state, id.clone(), assignment, child)?;
            if is_leaving && let Some(running) = state.agents.get_mut(&id) {
                running.removed = running.orders.try_send(Order::Remove).is_ok();
            }
        }
        Ok(())
    }

    /// The epoch in force; 0 for none. After opening, that of what was adopted.
    pub fn epoch(&self) -> Epoch {
        self.state.lock().expect("no holder panics").epoch
    }

    fn agent_group(&self, class: AgentClass, id: &AgentId) -> Result<Group, GroupError> {
        self.kept(class).group.child(&group_name(id))
    }

    /// What this host lacks to limit agents, if anything.
    pub fn degraded(&self) -> Option<String> {
        self.kept(AgentClass::Strict).limiter.lacking()
    }

    /// The runtimes of this node.
    pub fn runtimes(&self) -> &Runtimes {
        &self.shared.site.runtimes
    }

    /// The nodes to reach the cluster by, as the leader said last.
    pub fn members(&self) -> watch::Receiver<Vec<Member>> {
        self.members.subscribe()
    }

    /// This node's role, as the leader said last; unspecified before it did.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.role.subscribe()
    }

    /// What is observed.
    pub fn observed(&self) -> &Observed {
        &self.shared.observed
    }

    /// How many agents start at once, and how long a start took of late.
    pub(crate) fn pace(&self) -> (usize, Option<Duration>) {
        self.shared.governor.pace()
    }

    /// The ports kept from agents that nothing uses.
    pub(crate) fn unused_ports(&self) -> watch::Receiver<Vec<PortBlock>> {
        self.quarantine.unused()
    }

    /// The log of an agent.
    pub fn log(&self, id: &AgentId) -> LogFile {
        self.shared.log(id)
    }

    /// The disk that what it is told is written to.
    pub fn disk(&self) -> &DiskProbe {
        &self.disk
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
        self.admit(&state, term, node, epoch)
    }

    fn admit(
        &self,
        state: &State,
        term: u64,
        node: NodeId,
        epoch: Epoch,
    ) -> Result<(), AssignError> {
        let here =
            Addressee { term: state.told.term, node: self.shared.site.node, epoch: state.epoch };
        here.check(&Addressee { term, node, epoch })
    }

    /// Takes in what the leader says, writes it down, and sets the agents' tasks to it.
    ///
    /// # Errors
    /// When it is old, malformed or cannot be written down; nothing of it is taken then.
    pub fn assign(&self, request: AssignRequest) -> Result<(), AssignError> {
        // Until all is done: an epoch that ends, or a later leader, comes before it or after it.
        let mut state = self.state.lock().expect("no holder panics");
        self.admit(&state, request.term, NodeId(request.node_id), Epoch(request.epoch))?;
        if is_late(&state.told, &request) {
            return Err(AssignError::Late);
        }
        if !request.members.is_empty() {
            self.members.send_if_modified(|members| {
                let changed = *members != request.members;
                members.clone_from(&request.members);
                changed
            });
        }
        if request.role() != Role::Unspecified {
            self.role.send_replace(request.role());
        }
        self.quarantine.note(&request);
        state.take_in(&request, &self.disk)?;
        let State { told, agents, .. } = &mut *state;
        // A task is kept until it has reported its agent gone, so that an agent that comes back
        // meanwhile meets the same task, never a second one.
        for id in told.leaving.keys() {
            let Some(running) = agents.get_mut(id) else { continue };
            if !running.removed {
                running.removed = running.orders.try_send(Order::Remove).is_ok();
            } else if self.shared.observed.forget_gone(id) {
                agents.remove(id);
            }
        }
        let told = request.put.into_iter().chain(state.without_task());
        let told = told.map(|assignment| self.tell(&mut state, assignment));
        // One that is behind keeps no other from what it is told.
        let behind = told.filter_map(Result::err).fold(None, |first, error| first.or(Some(error)));
        for tasks in &mut state.tasks {
            while tasks.try_join_next().is_some() {}
        }
        behind.map_or(Ok(()), Err)
    }

    fn tell(&self, state: &mut State, assignment: Assignment) -> Result<(), AssignError> {
        let id = parse_agent(&assignment.fleet, &assignment.agent)?;
        // What is older than what runs here says nothing about it.
        if state.agents.get(&id).is_some_and(|running| running.which > which(&assignment)) {
            return Ok(());
        }
        if let Some(running) = state.agents.get(&id)
            && running.class != class(&assignment)
            && running.removed
            && self.shared.observed.forget_gone(&id)
        {
            state.agents.remove(&id);
        }
        if let Some(running) = state.agents.get_mut(&id) {
            if running.class != class(&assignment) {
                // One of that name before. Its task has another guard, and starts nothing else.
                running.removed = running.removed || running.orders.try_send(Order::Remove).is_ok();
                return Err(AssignError::Busy(id));
            }
            let told = (which(&assignment), assignment.revision, false);
            if (running.which, running.revision, running.removed) == told
                && assignment.revision > 0
                && !running.orders.is_closed()
            {
                return Ok(());
            }
            let order = Order::Assign(Box::new(assignment.clone()));
            match running.orders.try_send(order) {
                Ok(()) => {
                    (running.which, running.revision, running.removed) = told;
                    return Ok(());
                }
                // A second task beside it could start what the first still ends.
                Err(TrySendError::Full(_)) => return Err(AssignError::Busy(id)),
                Err(TrySendError::Closed(_)) => {}
            }
        }
        Ok(self.start_task(state, id, assignment, None)?)
    }

    fn start_task(
        &self,
        state: &mut State,
        id: AgentId,
        assignment: Assignment,
        adopted: Option<(StartKey, Child)>,
    ) -> Result<(), GroupError> {
        let (which, class) = (which(&assignment), class(&assignment));
        let revision = assignment.revision;
        let (group, log) = (self.agent_group(class, &id)?, self.log(&id));
        let (orders, queue) = mpsc::channel(ORDERS_WAITING_MAX);
        let (shared, kept) = (self.shared.clone(), self.kept(class).clone());
        let task = Task::new(id.clone(), shared, kept, group, log, assignment, adopted);
        state.tasks[class as usize].spawn(Box::new(task).run(queue));
        state.agents.insert(id, Running { class, which, revision, removed: false, orders });
        Ok(())
    }

    /// The node's lease is over, and every agent that does not outlast it was killed: ends their
    /// tasks and waits for them. After it, nothing of them runs and nothing starts until a new
    /// epoch begins.
    pub async fn fenced(&self) {
        self.state.lock().expect("no holder panics").epoch = Epoch(0);
        self.ended(AgentClass::Strict).await;
    }

    /// Every agent of a class was killed: ends their tasks and waits for them.
    async fn ended(&self, of: AgentClass) {
        let (tasks, ended) = {
            let mut state = self.state.lock().expect("no holder panics");
            let of_class =
                |(id, running): (&AgentId, &Running)| (running.class == of).then(|| id.clone());
            let ended: BTreeSet<AgentId> = state.agents.iter().filter_map(of_class).collect();
            // Dropping the senders is the order to end.
            state.agents.retain(|_, running| running.class != of);
            (std::mem::take(&mut state.tasks[of as usize]), ended)
        };
        tasks.join_all().await;
        self.shared.observed.forget(&ended);
    }

    /// Agents that outlast the node's lease end with their own, or with their guard. Those that
    /// should run still are started again under the next one.
    async fn restart_when_ended(self, of: AgentClass) {
        let mut lease = self.kept(of).guard.watch();
        // Each ends only with the sender, which the guard's handle holds.
        while lease.wait_for(Option::is_some).await.is_ok() {
            let _ = lease.wait_for(Option::is_none).await;
            self.ended(of).await;
            let _ = lease.wait_for(Option::is_some).await;
            if let Err(error) = self.start_told(of) {
                tracing::error!(class = %of, %error, "its agents were not started again");
            }
        }
    }

    /// Starts the tasks of a class that are missing for what was told under the epoch in force.
    fn start_told(&self, of: AgentClass) -> Result<(), AssignError> {
        let mut state = self.state.lock().expect("no holder panics");
        if state.told.epoch != state.epoch.0 {
            return Ok(());
        }
        let missing = |(id, told): &(&AgentId, &Assignment)| {
            class(told) == of && !state.agents.contains_key(id)
        };
        let missing = state.told.agents.iter().filter(missing);
        let missing: Vec<_> = missing.map(|(id, told)| (id.clone(), told.clone())).collect();
        // One that cannot be made keeps no other from it, and is tried when the leader says more.
        let made =
            missing.into_iter().map(|(id, told)| self.start_task(&mut state, id, told, None));
        Ok(made.collect::<Vec<_>>().into_iter().collect::<Result<(), GroupError>>()?)
    }

    /// Ends every agent at once and waits until nothing of them runs.
    pub async fn kill_all(&self) {
        // From here on nothing is started again, though a guard that is there anew may be renewed.
        self.state.lock().expect("no holder panics").epoch = Epoch(0);
        let ended = AgentClass::ALL.into_iter().zip(&*self.kept).map(|(class, kept)| {
            let mut lease = kept.guard.watch();
            kept.guard.end();
            async move {
                // Ends only with the sender, which the guard's handle holds.
                let _ = lease.wait_for(Option::is_none).await;
                self.ended(class).await;
            }
        });
        join_all(ended).await;
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
        for tasks in tasks {
            tasks.join_all().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_leader_said_before_is_refused_when_it_comes_late() {
        let said =
            |term, epoch, number| AssignRequest { term, epoch, number, ..AssignRequest::default() };
        let mut told = Told::default();
        told.fold(said(5, 7, 3)).unwrap();
        for (new, late) in [
            (said(5, 7, 2), true),
            (said(5, 7, 3), true),
            (said(5, 7, 4), false),
            (said(6, 7, 1), false),
            (said(5, 8, 1), false),
            (said(5, 7, 0), false),
        ] {
            assert_eq!(is_late(&told, &new), late, "{new:?}");
        }
    }

    #[test]
    fn a_placement_for_another_node_or_of_the_past_is_refused() {
        let at = |term, node, epoch| Addressee { term, node: NodeId(node), epoch: Epoch(epoch) };
        let here = at(5, 1, 7);
        assert!(here.check(&at(5, 1, 7)).is_ok());
        assert!(here.check(&at(6, 1, 7)).is_ok(), "a later leader");
        assert!(matches!(here.check(&at(5, 2, 7)), Err(AssignError::WrongNode(NodeId(1)))));
        for epoch in [0, 6, 8] {
            let refused = here.check(&at(5, 1, epoch));
            assert!(matches!(refused, Err(AssignError::StaleEpoch(Epoch(7)))), "{epoch}");
        }
        assert!(matches!(here.check(&at(4, 1, 7)), Err(AssignError::StaleTerm(5))));
        assert!(at(5, 1, 0).check(&at(5, 1, 0)).is_err(), "without a lease nothing is placed");
    }
}
