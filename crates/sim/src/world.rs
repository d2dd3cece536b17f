//! The world: true time, the log, the network, and what goes wrong.

use std::collections::{BTreeMap, VecDeque};

use fleet_core::{
    Admission, AdmitNode, AgentDraft, AgentSpec, Command, CreateAgents, CreateFleet, CreateToken,
    DeleteAgent, Desired, Drain, InitCluster, NodeAddress, NodeReport, NodeStatus, Operation,
    RegisterNode, ReleasePorts, Role, Schedulable, SetAgentDesired, SetSchedulable, State, Wants,
    apply, plan::Planner, rebalance,
};
use fleet_types::{
    AgentClass, AgentId, Epoch, FleetName, Labels, LeaseProfile, LeaseTiming, NodeId, PortRange,
    ResourceLimits, Resources, RuntimeName, Timestamp,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    invariants::{Broken, agents_run_once, ports_are_disjoint, replicas_agree, tokens_only_rise},
    leader::{Leader, should_run},
    mistake::Mistake,
    node::Machine,
    quorum::Quorum,
};

/// True time of one step, in milliseconds.
const STEP_MS: u64 = 50;
/// Longest delay of a message, in milliseconds.
const DELAY_MS_MAX: u64 = 8_000;
/// How often agents are asked to leave for drains and balance, in milliseconds.
const LEAVE_MS: u64 = 1_000;
/// How long the world may take to settle once the faults end, in milliseconds.
const SETTLE_MS: u64 = 120_000;
/// Clocks run this many thousandths fast or slow at most: the two lease margins together cover
/// 15 %, so 7 % each way is inside what is promised.
const DRIFT_PERMILLE: u64 = 70;

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Determines everything.
    pub seed: u64,
    /// Steps with faults.
    pub steps: u32,
    /// Machines.
    pub machines: u64,
    /// A planted mistake, to see that the invariants catch it.
    pub mistake: Option<Mistake>,
}

/// What a run saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Entries committed.
    pub entries: u64,
    /// Nodes fenced.
    pub fences: u64,
    /// Leader changes.
    pub elections: u64,
    /// The last digest, to compare runs of one seed.
    pub digest: u64,
}

enum Message {
    Renew { node: usize, epoch: Epoch, asked_ms: u64 },
    Grant { node: usize, epoch: Epoch, asked_ms: u64 },
    Propose(Operation),
}

struct World {
    options: Options,
    rng: ChaCha8Rng,
    now_ms: u64,
    timing: LeaseTiming,
    state: State,
    log: Vec<Command>,
    /// A replica that lags, and now and then comes back by a snapshot.
    replica: (u64, State),
    machines: Vec<Machine>,
    /// The one that can commit is the last; others only believe.
    leaders: Vec<Leader>,
    quorum: Quorum,
    mail: BTreeMap<(u64, u64), Message>,
    sent: u64,
    highest: tokens_only_rise::Highest,
    faults: bool,
    report: Report,
    /// Proposals a deposed leader may still make.
    late: VecDeque<Operation>,
}

fn exec() -> RuntimeName {
    "exec".parse().expect("a runtime name")
}

fn address() -> NodeAddress {
    NodeAddress { api: "a:1".into(), peer: "a:2".into(), lease: "a:3".into() }
}

/// Runs one world.
///
/// # Errors
/// The first broken promise, with what was seen.
pub fn run(options: Options) -> Result<Report, Broken> {
    let mut world = World::new(options);
    for _ in 0..world.options.steps {
        world.step()?;
    }
    world.faults = false;
    for machine in &mut world.machines {
        (machine.up, machine.reachable) = (true, true);
    }
    world.reopen();
    let end = world.now_ms + SETTLE_MS;
    while world.now_ms < end && !world.settled() {
        world.step()?;
    }
    if !world.settled() {
        let seen = format!("not every agent runs {SETTLE_MS} ms after the faults ended");
        return Err(Broken { promise: "the world settles", seen });
    }
    world.report.digest = world.state.digest();
    Ok(world.report)
}

/// With the mistake, if it is one of states.
#[cfg(feature = "planted")]
fn planted(mut state: State, mistake: Option<Mistake>) -> State {
    if mistake == Some(Mistake::AcceptsOldEpochs) {
        state.plant_stale_epochs();
    }
    state
}

#[cfg(not(feature = "planted"))]
fn planted(state: State, _: Option<Mistake>) -> State {
    state
}

impl World {
    fn new(options: Options) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        let mut timing = LeaseTiming::of(LeaseProfile::Default);
        if options.mistake == Some(Mistake::WaitsTooShort) {
            // The holder keeps to the true ones.
            timing.lease_ms /= 2;
            timing.kill_and_drain_ms = 0;
        }
        let drift = 1_000 - DRIFT_PERMILLE..=1_000 + DRIFT_PERMILLE;
        let first = Leader::new(1, 0, 0, rng.random_range(drift), timing.patience_ms());
        let state = planted(State::default(), options.mistake);
        let mut world = Self {
            options,
            rng,
            now_ms: 0,
            timing,
            state: state.clone(),
            log: Vec::new(),
            replica: (0, state),
            machines: Vec::new(),
            leaders: vec![first],
            quorum: Quorum::default(),
            mail: BTreeMap::new(),
            sent: 0,
            highest: tokens_only_rise::Highest::default(),
            faults: true,
            report: Report::default(),
            late: VecDeque::new(),
        };
        world.found();
        world
    }

    /// Makes the cluster, its nodes and a fleet.
    fn found(&mut self) {
        self.commit(Operation::InitCluster(InitCluster {
            cluster: "0123456789abcdef".parse().expect("a cluster id"),
            profile: LeaseProfile::Default,
            node: NodeId(1),
            name: "n1".parse().expect("a node name"),
            address: address(),
            storage: "s1".into(),
        }));
        self.commit(Operation::CreateFleet(CreateFleet {
            fleet: "f".parse().expect("a fleet name"),
            config: String::new(),
            labels: Labels::default(),
            wants: Wants::default(),
            ports: 0,
            priority: 0,
        }));
        for n in 2..=self.options.machines {
            let token = format!("{n:012x}").parse::<fleet_types::TokenId>().expect("a token id");
            self.commit(Operation::CreateToken(CreateToken {
                token: token.clone(),
                secret_sha256: [1; 32],
                role: Role::Voter,
                ttl_ms: 60_000,
                uses: 1,
            }));
            self.commit(Operation::AdmitNode(AdmitNode {
                token,
                secret_sha256: [1; 32],
                name: format!("n{n}").parse().expect("a node name"),
                address: address(),
                storage: format!("s{n}"),
            }));
        }
        let ids: Vec<NodeId> = self.state.nodes().keys().copied().collect();
        for id in ids {
            let rate = self.rng.random_range(1_000 - DRIFT_PERMILLE..=1_000 + DRIFT_PERMILLE);
            self.machines.push(Machine::new(id, rate));
        }
    }

    fn commit(&mut self, operation: Operation) {
        let fence = matches!(operation, Operation::FenceNode(_));
        let command = Command { at: Timestamp(self.now_ms), request: None, operation };
        self.log.push(command.clone());
        let index = self.log.len() as u64;
        let applied = apply(&mut self.state, index, &command);
        self.report.entries += 1;
        self.report.fences += u64::from(fence && applied.is_ok());
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.faults && self.rng.random_range(0..1_000) < percent
    }

    /// Sends a message: late, lost or doubled while there are faults.
    fn send(&mut self, make: impl Fn() -> Message) {
        let copies = if self.chance(100) { 0 } else { 1 + u64::from(self.chance(50)) };
        for _ in 0..copies {
            let slow = self.chance(100);
            let delay = self.rng.random_range(1..=if slow { DELAY_MS_MAX } else { 100 });
            self.sent += 1;
            self.mail.insert((self.now_ms + delay, self.sent), make());
        }
    }

    fn step(&mut self) -> Result<(), Broken> {
        self.now_ms += STEP_MS;
        self.go_wrong();
        self.users();
        while let Some(entry) = self.mail.first_entry() {
            if entry.key().0 > self.now_ms {
                break;
            }
            let message = entry.remove();
            self.deliver(message);
        }
        self.lead();
        for n in 0..self.machines.len() {
            self.host(n);
        }
        self.replicate()?;
        agents_run_once::check(&self.machines)?;
        ports_are_disjoint::check(&self.state)?;
        self.highest.check(&self.state)
    }

    fn go_wrong(&mut self) {
        if self.chance(10) {
            self.elect();
        }
        for n in 0..self.machines.len() {
            if self.chance(3) {
                self.machines[n].stop();
            } else if self.chance(5) {
                self.machines[n].reachable = !self.machines[n].reachable;
            } else if self.chance(5) {
                (self.machines[n].up, self.machines[n].reachable) = (true, true);
            }
            if self.options.mistake == Some(Mistake::WallClock) && self.chance(5) {
                self.machines[n].set_back_ms += 5_000;
            }
        }
    }

    /// A new leader; the old one may go on believing for a while.
    fn elect(&mut self) {
        self.report.elections += 1;
        let rate = self.rng.random_range(1_000 - DRIFT_PERMILLE..=1_000 + DRIFT_PERMILLE);
        let term = 1 + self.report.elections;
        let elected = self.quorum.elect(term, &mut self.rng);
        let answered_ms = match self.options.mistake {
            Some(Mistake::NewLeaderDoesNotWait) => 0,
            Some(Mistake::CountsFromTheOldestAnswer) => elected.oldest_ms,
            _ => elected.newest_ms,
        };
        // No promise may rest on it.
        let patience_ms = self.rng.random_range(0..=self.timing.patience_ms());
        // Its voters measure how long ago that was, by clocks of their own.
        let voters_rate = self.rng.random_range(1_000 - DRIFT_PERMILLE..=1_000 + DRIFT_PERMILLE);
        let ago_ms = (self.now_ms - answered_ms) * voters_rate / 1_000;
        self.leaders.push(Leader::new(term, self.now_ms, ago_ms, rate, patience_ms));
        if self.leaders.len() > 2 {
            self.leaders.remove(0);
        }
    }

    /// What operators and tools ask for.
    fn users(&mut self) {
        if self.chance(60) {
            let name = self.rng.random_range(0..20);
            let mut planner = Planner::beside_moves(&self.state);
            let spec = AgentSpec {
                runtime: exec(),
                config: String::new(),
                command: Vec::new(),
                environment: BTreeMap::new(),
                ports: 16,
                labels: Labels::default(),
                limits: ResourceLimits::default(),
                class: AgentClass::Strict,
                priority: 0,
                wants: Wants::default(),
            };
            let fleet: FleetName = "f".parse().expect("a fleet name");
            let draft = AgentDraft {
                name: format!("a{name}").parse().expect("an agent name"),
                node: planner.choose(&fleet, &spec),
                spec,
                desired: Desired::Running,
            };
            let (agents, admission) = (vec![draft], Admission::SurviveLoss);
            let create = Operation::CreateAgents(CreateAgents { fleet, agents, admission });
            self.send(|| Message::Propose(create.clone()));
        }
        let agents: Vec<AgentId> = self.state.agents().keys().cloned().collect();
        if let Some(agent) = agents.get(self.rng.random_range(0..agents.len().max(1))) {
            let operation = match self.rng.random_range(0..60) {
                0 if self.faults => Operation::DeleteAgent(DeleteAgent { agent: agent.clone() }),
                1 if self.faults => Operation::SetAgentDesired(SetAgentDesired {
                    agent: agent.clone(),
                    desired: if self.rng.random() { Desired::Running } else { Desired::Stopped },
                }),
                _ => return,
            };
            self.send(|| Message::Propose(operation.clone()));
        }
        if self.chance(5) {
            let node = self.machines[self.rng.random_range(0..self.machines.len())].id;
            let schedulable = match self.rng.random_range(0..3) {
                0 => Schedulable::Cordoned,
                1 => Schedulable::Draining,
                _ => Schedulable::Open,
            };
            let drain = self.rng.random::<bool>().then_some(Drain { moves_max: 1, deadline: None });
            let set = SetSchedulable { node, schedulable, drain };
            self.commit(Operation::SetSchedulable(set));
        }
    }

    fn reopen(&mut self) {
        let nodes: Vec<NodeId> = self.state.nodes().keys().copied().collect();
        for node in nodes {
            let schedulable = Schedulable::Open;
            let set = SetSchedulable { node, schedulable, drain: None };
            self.commit(Operation::SetSchedulable(set));
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Propose(operation) => self.commit(operation),
            Message::Renew { node, epoch, asked_ms } => {
                let id = self.machines[node].id;
                let asked = self.rng.random_range(0..self.leaders.len());
                let leader = &mut self.leaders[asked];
                let confirmed = match self.options.mistake {
                    Some(Mistake::GrantsWithoutQuorum) => true,
                    // Whoever is deposed by now had its answers before.
                    Some(Mistake::RoundBeforeReceipt) => {
                        leader.confirmed_ms + DELAY_MS_MAX >= self.now_ms
                    }
                    _ => self.quorum.confirms(leader.term, self.now_ms, &mut self.rng),
                };
                if confirmed && leader.hears(&self.state, id, epoch, self.now_ms) {
                    self.send(|| Message::Grant { node, epoch, asked_ms });
                }
            }
            Message::Grant { node, epoch, asked_ms } => {
                let machine = &mut self.machines[node];
                if machine.up && machine.reachable {
                    let late = self.options.mistake == Some(Mistake::CountsFromTheGrant);
                    let asked_ms = if late { machine.clock(self.now_ms) } else { asked_ms };
                    machine.granted(epoch, asked_ms, &LeaseTiming::of(LeaseProfile::Default));
                }
            }
        }
    }

    fn lead(&mut self) {
        let timing = self.timing;
        let believers = self.leaders.len();
        for n in 0..believers {
            let fence = self.leaders[n].fence(&self.state, &timing, self.now_ms);
            let Some(fence) = fence else { continue };
            if n + 1 == believers {
                self.commit(fence);
            } else {
                // A deposed leader's proposal may reach the log late, through its successor.
                self.late.push_back(fence);
            }
        }
        if self.chance(20)
            && let Some(late) = self.late.pop_front()
        {
            // Its vote is old, so what it proposed can only be an entry the new leader repeats;
            // apply must refuse it by its epoch.
            if let Operation::FenceNode(fence) = &late
                && let Some(node) = self.state.nodes().get(&fence.node)
                && node.epoch != fence.epoch
            {
                self.commit(late);
            }
        }
        let place =
            self.leaders.last().and_then(|leader| leader.place(&self.state, &timing, self.now_ms));
        if let Some(place) = place {
            self.commit(place);
        }
        if self.now_ms.is_multiple_of(LEAVE_MS) {
            let drains =
                rebalance::drains(&self.state, Timestamp(self.now_ms), &rebalance::Arriving::new());
            for evict in drains
                .into_iter()
                .chain(rebalance::automatic(&self.state, &rebalance::Arriving::new()))
            {
                self.commit(Operation::EvictAgents(evict));
            }
        }
    }

    /// A machine says that nothing uses the ports that are kept from agents.
    fn release(&mut self, node: NodeId) {
        let blocks: Vec<_> = self.state.quarantined(node).map(|kept| kept.block).collect();
        let epoch = self.state.nodes().get(&node).map_or(Epoch(0), |node| node.epoch);
        if !blocks.is_empty() {
            self.commit(Operation::ReleasePorts(ReleasePorts { node, epoch, blocks }));
        }
    }

    fn host(&mut self, n: usize) {
        let now_ms = self.now_ms;
        self.machines[n].enforce(now_ms);
        if !self.machines[n].up || !self.machines[n].reachable {
            return;
        }
        let id = self.machines[n].id;
        let registered = self.state.nodes().get(&id).is_some_and(|node| {
            node.status == NodeStatus::Active && node.epoch == self.machines[n].epoch
        });
        if !registered && self.machines[n].deadline_ms.is_none() {
            self.machines[n].processes.clear();
            self.register(n);
        } else if registered && now_ms % 1_000 < STEP_MS {
            let (epoch, asked_ms) = (self.machines[n].epoch, self.machines[n].clock(now_ms));
            self.send(|| Message::Renew { node: n, epoch, asked_ms });
        }
        let crash = self.chance(2);
        self.machines[n].reconcile(&self.state, now_ms);
        let mut crashes = usize::from(crash);
        self.machines[n].live(now_ms, || {
            let crashes_now = crashes > 0;
            crashes = crashes.saturating_sub(1);
            crashes_now
        });
        let stopped = self.machines[n].stopped();
        let confirm =
            self.leaders.last().and_then(|leader| leader.confirm(&self.state, id, &stopped));
        if let Some(confirm) = confirm
            && registered
        {
            self.commit(confirm);
        }
        if registered && self.rng.random_range(0..40) == 0 {
            self.release(id);
        }
        let state = &self.state;
        self.machines[n]
            .processes
            .retain(|id, process| state.agents().contains_key(id) || process.executes);
    }

    fn register(&mut self, n: usize) {
        let id = self.machines[n].id;
        let Some(node) = self.state.nodes().get(&id) else { return };
        let report = NodeReport {
            port_range: PortRange::new(10_240, 10_751).expect("a port range"),
            runtimes: BTreeMap::from([(exec(), "-".to_owned())]),
            capacity: Resources::default(),
            disk_bytes: 0,
            labels: Labels::default(),
            version: "sim".into(),
            boot: "boot".into(),
            degraded: Vec::new(),
            unfit: Vec::new(),
            rules: fleet_core::RULES,
        };
        let storage = node.storage.clone();
        self.commit(Operation::RegisterNode(RegisterNode {
            node: id,
            storage,
            held: None,
            report,
        }));
        let epoch = self.state.nodes().get(&id).map_or(Epoch(0), |node| node.epoch);
        self.machines[n].epoch = epoch;
        if let Some(leader) = self.leaders.last_mut() {
            leader.hears(&self.state, id, epoch, self.now_ms);
        }
    }

    fn replicate(&mut self) -> Result<(), Broken> {
        if self.chance(30) {
            let restored = planted(State::restore(self.state.records()), self.options.mistake);
            self.replica = (self.log.len() as u64, restored);
        }
        let behind = if self.chance(500) { 3 } else { 1_000 };
        for _ in 0..behind {
            let at = usize::try_from(self.replica.0).unwrap_or(usize::MAX);
            let Some(command) = self.log.get(at) else { break };
            self.replica.0 += 1;
            // Outcomes are the leader's to report; a replica only applies.
            let _ = apply(&mut self.replica.1, self.replica.0, command);
        }
        if self.replica.0 == self.log.len() as u64 {
            replicas_agree::check(self.replica.0, &self.state, &self.replica.1)?;
        }
        Ok(())
    }

    /// Whether every agent that should run does, once, where it is placed.
    fn settled(&self) -> bool {
        self.state.agents().values().all(|agent| {
            let Some(placement) = &agent.placement else { return false };
            let machine = self.machines.iter().find(|machine| machine.id == placement.node);
            let process = machine.and_then(|machine| machine.processes.get(&agent.id));
            let runs = process.is_some_and(|p| p.executes && p.generation == agent.generation);
            runs == should_run(agent)
        })
    }
}
