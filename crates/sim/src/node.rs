//! A simulated machine: a clock that drifts, a lease, and agents.

use std::collections::BTreeMap;

use fleet_core::State;
use fleet_supervision::{Action, Event, Life, Policy, State as LifeState};
use fleet_types::{AgentId, Epoch, Generation, LeaseTiming, NodeId};

/// An agent's process on a node.
pub(crate) struct Process {
    pub(crate) generation: Generation,
    pub(crate) life: Life,
    /// Whether user code of it can execute now.
    pub(crate) executes: bool,
}

/// A machine.
pub(crate) struct Machine {
    pub(crate) id: NodeId,
    /// Whether it runs at all. A paused one keeps its processes; a stopped one loses them.
    pub(crate) up: bool,
    pub(crate) reachable: bool,
    /// Rate of its clock, in thousandths of true time.
    pub(crate) rate_permille: u64,
    /// By how much its clock was set back.
    pub(crate) set_back_ms: u64,
    pub(crate) epoch: Epoch,
    /// When its lease ends, on its own clock.
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) processes: BTreeMap<AgentId, Process>,
}

fn policy() -> Policy {
    Policy {
        start_timeout_ms: 10_000,
        stop_timeout_ms: 500,
        backoff_min_ms: 100,
        backoff_max_ms: 2_000,
        healthy_after_ms: 5_000,
        crashes_max: 50,
        crash_window_ms: 60_000,
        probe_failures: 3,
        liveness_failures: 3,
        repair_exit_codes: Vec::new(),
        repair_timeout_ms: 1_000,
        fatal_exit_codes: Vec::new(),
    }
}

impl Machine {
    pub(crate) fn new(id: NodeId, rate_permille: u64) -> Self {
        Self {
            id,
            up: true,
            reachable: true,
            rate_permille,
            set_back_ms: 0,
            epoch: Epoch(0),
            deadline_ms: None,
            processes: BTreeMap::new(),
        }
    }

    /// Its clock at true time `now_ms`.
    pub(crate) fn clock(&self, now_ms: u64) -> u64 {
        (now_ms * self.rate_permille / 1_000).saturating_sub(self.set_back_ms)
    }

    /// Whether its lease is in force at true time `now_ms`.
    pub(crate) fn leased(&self, now_ms: u64) -> bool {
        self.deadline_ms.is_some_and(|deadline| self.clock(now_ms) < deadline)
    }

    /// A grant for what was asked at `asked_ms` of its own clock.
    pub(crate) fn granted(&mut self, epoch: Epoch, asked_ms: u64, timing: &LeaseTiming) {
        let deadline = asked_ms + timing.holder_ms();
        if epoch == self.epoch && self.deadline_ms.is_none_or(|held| held < deadline) {
            self.deadline_ms = Some(deadline);
        }
    }

    /// Ends what must end, as the machine's deadline does even while its daemon is paused.
    pub(crate) fn enforce(&mut self, now_ms: u64) {
        if self.deadline_ms.is_some() && !self.leased(now_ms) {
            self.deadline_ms = None;
            self.epoch = Epoch(0);
            self.processes.clear();
        }
    }

    /// Loses power.
    pub(crate) fn stop(&mut self) {
        self.up = false;
        self.deadline_ms = None;
        self.epoch = Epoch(0);
        self.processes.clear();
    }

    /// Sets its processes to what the leader tells it of `state`.
    pub(crate) fn reconcile(&mut self, state: &State, now_ms: u64) {
        let Some(node) = state.nodes().get(&self.id) else { return };
        if node.epoch != self.epoch || !self.leased(now_ms) {
            return;
        }
        let wanted: BTreeMap<AgentId, Generation> = state
            .placed_on(self.id)
            .filter_map(|id| state.agent(id))
            .filter(|agent| crate::leader::should_run(agent))
            .map(|agent| (agent.id.clone(), agent.generation))
            .collect();
        for (id, generation) in &wanted {
            let process = self.processes.entry(id.clone()).or_insert_with(|| Process {
                generation: *generation,
                life: Life::new(policy()),
                executes: false,
            });
            if process.generation == *generation {
                step(process, Event::Want, now_ms);
            } else if process.generation < *generation {
                process.generation = *generation;
                step(process, Event::Restart, now_ms);
            }
        }
        for (id, process) in &mut self.processes {
            if !wanted.contains_key(id) {
                step(process, Event::Unwant, now_ms);
            }
        }
    }

    /// Lets time pass for its processes; `crash` says whether one ends by itself now.
    pub(crate) fn live(&mut self, now_ms: u64, mut crash: impl FnMut() -> bool) {
        for process in self.processes.values_mut() {
            step(process, Event::Time, now_ms);
            if process.executes && process.life.state() == LifeState::Starting {
                step(process, Event::ProbeOk, now_ms);
            }
            if process.executes && crash() {
                process.executes = false;
                step(process, Event::Exited(fleet_supervision::Exit::Code(1)), now_ms);
            }
        }
    }

    /// The agents of which nothing runs here any more, with the generation that ended.
    pub(crate) fn stopped(&self) -> Vec<(AgentId, Generation)> {
        let stopped = self.processes.iter().filter(|(_, p)| p.life.state() == LifeState::Stopped);
        stopped.map(|(id, process)| (id.clone(), process.generation)).collect()
    }
}

/// Feeds an event and carries the actions out at once.
fn step(process: &mut Process, event: Event, now_ms: u64) {
    let mut events = vec![event];
    while let Some(event) = events.pop() {
        for action in process.life.on(event, now_ms, 0) {
            match action {
                Action::AskPermit => events.push(Event::Permit),
                Action::ReleasePermit => {}
                Action::Launch | Action::Repair => {
                    process.executes = true;
                    events.push(Event::Launched);
                }
                Action::Terminate => {
                    process.executes = false;
                    events.push(Event::Exited(fleet_supervision::Exit::Signal(15)));
                }
                Action::Kill => {
                    process.executes = false;
                    events.push(Event::Emptied);
                }
            }
        }
    }
}
