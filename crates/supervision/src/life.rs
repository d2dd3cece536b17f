//! The table.

use alloc::{collections::VecDeque, format, string::String, vec::Vec};

use crate::policy::Policy;

/// What is said of an agent that its node kept from starting.
pub const HINDERED: &str = "its node could not start it";

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// The kernel ended it, for its memory limit.
    MemoryLimit,
    /// Nobody is left who could tell: it ended with its guard, most likely.
    Untold,
    /// Its node kept it from starting: see [`Fault::Node`].
    Hindered,
}

impl core::fmt::Display for Exit {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Untold => f.write_str("a status that nobody was left to tell"),
            Self::Hindered => f.write_str(HINDERED),
            Self::MemoryLimit => f.write_str("a kill by the kernel: its memory limit is reached"),
        }
    }
}

/// Whose fault it is that a process could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The agent's, and it may pass.
    Agent,
    /// The agent's, and trying again is pointless until someone changes something.
    Lasting,
    /// Its node's: not held against the agent, which is tried again for as long as it takes.
    Node,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It should run.
    Want,
    /// It should not run.
    Unwant,
    /// It should be started anew, running or not.
    Restart,
    /// The governor lets it start.
    Permit,
    /// Its process runs.
    Launched,
    /// Its process was found running, or ended, from before this daemon.
    Adopted,
    /// Its process could not be made.
    LaunchFailed {
        /// Why.
        why: String,
        /// Whose fault it is.
        fault: Fault,
    },
    /// A readiness probe succeeded.
    ProbeOk,
    /// A readiness probe failed.
    ProbeFailed {
        /// Why.
        why: String,
    },
    /// A liveness probe succeeded.
    LivenessOk,
    /// A liveness probe failed.
    LivenessFailed {
        /// Why.
        why: String,
    },
    /// It takes more of something than it may, and nothing but its end keeps it from it.
    OverLimit {
        /// Of what.
        why: String,
    },
    /// Its main process, or its repair, ended.
    Exited(Exit),
    /// Its control group was seen empty.
    Emptied,
    /// Time passed; [`Life::deadline`] says when to send this.
    Time,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the governor for a permit; answer [`Event::Permit`].
    AskPermit,
    /// Give the permit, or the place in the queue, back.
    ReleasePermit,
    /// Prepare and start; answer [`Event::Launched`] or [`Event::LaunchFailed`].
    Launch,
    /// Prepare and start its repair; answer as to [`Action::Launch`].
    Repair,
    /// Send SIGTERM to the main process.
    Terminate,
    /// Kill the control group and answer [`Event::Emptied`] once it is empty.
    Kill,
}

/// However long its node could not start it, an agent is tried again after the pause of this try.
const NODE_TRIES_MAX: u32 = 5;

/// What comes after the control group is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Stop,
    Start,
    Repair,
    BackOff,
    /// As its node could not start it.
    Later,
    Park,
}

/// What may help an agent that ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cure {
    Restart,
    Repair,
    None,
}

/// Where the agent is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing runs, and nothing should.
    Stopped,
    /// It waits for the governor.
    Waiting,
    /// It is being prepared and started.
    Launching,
    /// Its process runs and was not ready yet.
    Starting,
    /// Its repair runs, once, before it is started again.
    Repairing,
    /// It answers its probe.
    Ready,
    /// It was ready and does not answer now.
    Unready,
    /// It was told to end.
    Stopping,
    /// It ended; what is left of it is being killed.
    Emptying,
    /// It ended by itself and waits to be started again.
    BackingOff,
    /// It ended too often; it waits for someone.
    CrashLooping,
}

/// What is held against an agent that ended by itself, until a healthy run or its owner forgives
/// it. Who keeps it can go on with it later: see [`Life::resume`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// When it ended, within the window of its policy, in milliseconds.
    pub crashes_ms: Vec<u64>,
    /// How often it was started again since it was healthy.
    pub tries: u32,
    /// Whether its repair was tried.
    pub repaired: bool,
    /// Whether what runs is its repair.
    pub repairing: bool,
    /// Whether what runs has been ready.
    pub ready: bool,
    /// Why it is parked, if it is.
    pub parked: Option<String>,
}

/// One agent's life.
#[derive(Clone, Debug)]
pub struct Life {
    policy: Policy,
    state: State,
    next: Next,
    permit: bool,
    since_ms: u64,
    deadline_ms: Option<u64>,
    failures: u32,
    liveness_failures: u32,
    /// Whether what is being launched is to be started anew at once.
    outdated: bool,
    /// Whether what starts next is its repair.
    repair: bool,
    /// Whether the repair was tried since the last healthy run.
    repaired: bool,
    /// Whether what is going to be adopted was ready before.
    was_ready: bool,
    tries: u32,
    /// How often its node kept it from starting, since it was healthy.
    hindered: u32,
    crashes_ms: VecDeque<u64>,
    message: String,
}

impl Life {
    /// An agent of which nothing runs.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            state: State::Stopped,
            next: Next::Start,
            permit: false,
            since_ms: 0,
            deadline_ms: None,
            failures: 0,
            liveness_failures: 0,
            outdated: false,
            repair: false,
            repaired: false,
            was_ready: false,
            tries: 0,
            hindered: 0,
            crashes_ms: VecDeque::new(),
            message: String::new(),
        }
    }

    /// An agent of which nothing runs, or what is going to be [`Event::Adopted`], with a past.
    pub fn resume(policy: Policy, past: Past) -> Self {
        let mut life = Self::new(policy);
        life.crashes_ms = past.crashes_ms.into();
        (life.tries, life.repaired, life.repair) = (past.tries, past.repaired, past.repairing);
        life.was_ready = past.ready;
        if let Some(why) = past.parked {
            (life.state, life.message) = (State::CrashLooping, why);
        }
        life
    }

    /// What is held against it; the default when nothing is.
    pub fn past(&self) -> Past {
        let parked = self.state == State::CrashLooping;
        let due = self.repair && matches!(self.state, State::Waiting | State::Launching);
        Past {
            crashes_ms: self.crashes_ms.iter().copied().collect(),
            tries: self.tries,
            repaired: self.repaired && !due,
            repairing: self.state == State::Repairing,
            ready: matches!(self.state, State::Ready | State::Unready),
            parked: parked.then(|| self.message.clone()),
        }
    }

    /// Goes on by another policy: of an agent that takes the place of this one.
    pub fn follow(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it is there, in words; may be empty.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// When [`Event::Time`] is due, on the clock events are stamped with.
    pub fn deadline(&self) -> Option<u64> {
        self.deadline_ms
    }

    /// While it is told to end: for how long, and how long it may take.
    pub fn draining_ms(&self, now_ms: u64) -> Option<(u64, u64)> {
        let draining = self.state == State::Stopping;
        draining.then(|| (now_ms.saturating_sub(self.since_ms), self.policy.stop_timeout_ms))
    }

    /// Whether nothing of it runs and nothing will by itself.
    pub fn at_rest(&self) -> bool {
        matches!(self.state, State::Stopped | State::CrashLooping)
    }

    /// Whether its process should be probed.
    pub fn probed(&self) -> bool {
        matches!(self.state, State::Starting | State::Ready | State::Unready)
    }

    fn enter(&mut self, state: State, now_ms: u64) {
        self.state = state;
        self.since_ms = now_ms;
        self.deadline_ms = None;
    }

    fn release(&mut self, actions: &mut Vec<Action>) {
        if core::mem::take(&mut self.permit) {
            actions.push(Action::ReleasePermit);
        }
    }

    fn wait(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        self.enter(State::Waiting, now_ms);
        self.permit = true;
        self.repair = false;
        actions.push(Action::AskPermit);
    }

    fn pause(&mut self, pause_ms: u64, now_ms: u64, actions: &mut Vec<Action>) {
        if pause_ms == 0 {
            self.wait(now_ms, actions);
        } else {
            self.enter(State::BackingOff, now_ms);
            self.deadline_ms = Some(now_ms + pause_ms);
        }
    }

    fn stop(&mut self, next: Next, now_ms: u64, actions: &mut Vec<Action>) {
        self.release(actions);
        self.enter(State::Stopping, now_ms);
        self.next = next;
        self.deadline_ms = Some(now_ms + self.policy.stop_timeout_ms);
        actions.push(Action::Terminate);
    }

    fn empty(&mut self, next: Next, now_ms: u64, actions: &mut Vec<Action>) {
        self.release(actions);
        self.enter(State::Emptying, now_ms);
        self.next = next;
        actions.push(Action::Kill);
    }

    /// Notes an end nobody asked for and says what follows.
    fn crashed(&mut self, cure: Cure, now_ms: u64) -> Next {
        let healthy = self.state == State::Ready
            && now_ms.saturating_sub(self.since_ms) >= self.policy.healthy_after_ms;
        if healthy {
            self.forget_crashes();
        }
        self.crashes_ms.push_back(now_ms);
        let window = now_ms.saturating_sub(self.policy.crash_window_ms);
        self.crashes_ms.retain(|at| *at >= window);
        let crashes = u32::try_from(self.crashes_ms.len()).unwrap_or(u32::MAX);
        match cure {
            Cure::Repair if !self.repaired => Next::Repair,
            Cure::Repair | Cure::None => Next::Park,
            Cure::Restart if crashes >= self.policy.crashes_max => Next::Park,
            Cure::Restart => Next::BackOff,
        }
    }

    fn forget_crashes(&mut self) {
        (self.tries, self.hindered) = (0, 0);
        self.repaired = false;
        self.crashes_ms.clear();
    }

    fn forgive(&mut self) {
        self.forget_crashes();
        self.message.clear();
    }

    /// Takes in what happened at `now_ms` and says what to do. `jitter` is a fresh random number.
    pub fn on(&mut self, event: Event, now_ms: u64, jitter: u32) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Want => self.on_want(now_ms, &mut actions),
            Event::Unwant => self.on_unwant(now_ms, &mut actions),
            Event::Restart => self.on_restart(now_ms, &mut actions),
            Event::Permit => {
                if self.state == State::Waiting {
                    self.enter(State::Launching, now_ms);
                    self.outdated = false;
                    actions.push(if self.repair { Action::Repair } else { Action::Launch });
                }
            }
            Event::Launched => self.on_launched(now_ms, &mut actions),
            Event::Adopted => {
                if matches!(self.state, State::Stopped | State::CrashLooping) {
                    self.begin(now_ms);
                    if self.was_ready && self.state == State::Starting {
                        self.become_ready(now_ms);
                    }
                }
            }
            Event::LaunchFailed { why, fault } => {
                self.on_launch_failed(why, fault, now_ms, &mut actions);
            }
            Event::ProbeOk => self.on_probe_ok(now_ms, &mut actions),
            Event::ProbeFailed { why } => self.on_probe_failed(why),
            Event::LivenessOk => self.liveness_failures = 0,
            Event::LivenessFailed { why } => self.on_liveness_failed(&why, now_ms, &mut actions),
            Event::OverLimit { why } => self.on_over_limit(why, now_ms, &mut actions),
            Event::Exited(exit) => self.on_exited(exit, now_ms, &mut actions),
            Event::Emptied => self.on_emptied(now_ms, jitter, &mut actions),
            Event::Time => self.on_time(now_ms, &mut actions),
        }
        actions
    }

    fn on_want(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        match self.state {
            State::Stopped => self.wait(now_ms, actions),
            State::Stopping | State::Emptying | State::Launching if self.next == Next::Stop => {
                self.next = Next::Start;
            }
            _ => {}
        }
    }

    fn on_unwant(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        match self.state {
            State::Stopped => {}
            State::Waiting | State::BackingOff | State::CrashLooping => {
                self.release(actions);
                self.forgive();
                self.enter(State::Stopped, now_ms);
            }
            // What is being launched is stopped as soon as it is there.
            State::Launching | State::Stopping | State::Emptying => self.next = Next::Stop,
            State::Starting | State::Repairing | State::Ready | State::Unready => {
                self.message.clear();
                self.stop(Next::Stop, now_ms, actions);
            }
        }
    }

    fn on_restart(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        self.forgive();
        match self.state {
            State::Stopped | State::BackingOff | State::CrashLooping => self.wait(now_ms, actions),
            State::Waiting => {}
            State::Launching => (self.next, self.outdated) = (Next::Start, true),
            State::Stopping | State::Emptying => self.next = Next::Start,
            State::Starting | State::Repairing | State::Ready | State::Unready => {
                self.stop(Next::Start, now_ms, actions);
            }
        }
    }

    fn on_launched(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        if self.state != State::Launching {
            return;
        }
        if self.next == Next::Stop || self.outdated {
            self.stop(self.next, now_ms, actions);
        } else {
            self.begin(now_ms);
        }
    }

    /// Its process runs, or its repair does.
    fn begin(&mut self, now_ms: u64) {
        self.failures = 0;
        self.liveness_failures = 0;
        let (state, timeout_ms) = match self.repair {
            true => (State::Repairing, self.policy.repair_timeout_ms),
            false => (State::Starting, self.policy.start_timeout_ms),
        };
        self.enter(state, now_ms);
        self.deadline_ms = Some(now_ms + timeout_ms);
    }

    fn on_launch_failed(
        &mut self,
        why: String,
        fault: Fault,
        now_ms: u64,
        actions: &mut Vec<Action>,
    ) {
        if self.state != State::Launching {
            return;
        }
        let told = self.next == Next::Stop || self.outdated;
        // A repair that did not run is due still.
        self.repaired &= !self.repair;
        let next = match fault {
            _ if told => self.next,
            Fault::Agent => self.crashed(Cure::Restart, now_ms),
            Fault::Lasting => self.crashed(Cure::None, now_ms),
            Fault::Node => Next::Later,
        };
        self.message = why;
        self.empty(next, now_ms, actions);
    }

    fn on_probe_ok(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        self.failures = 0;
        match self.state {
            State::Starting => {
                self.release(actions);
                self.become_ready(now_ms);
            }
            // It is to be well for the whole of a healthy period.
            State::Unready => self.become_ready(now_ms),
            _ => {}
        }
    }

    fn become_ready(&mut self, now_ms: u64) {
        self.message.clear();
        self.enter(State::Ready, now_ms);
        let is_held = self.tries > 0 || self.hindered > 0 || self.repaired;
        if is_held || !self.crashes_ms.is_empty() {
            self.deadline_ms = Some(now_ms + self.policy.healthy_after_ms);
        }
    }

    fn on_probe_failed(&mut self, why: String) {
        match self.state {
            State::Starting | State::Unready => self.message = why,
            State::Ready => {
                self.failures += 1;
                if self.failures >= self.policy.probe_failures {
                    self.message = why;
                    self.state = State::Unready;
                }
            }
            _ => {}
        }
    }

    fn on_liveness_failed(&mut self, why: &str, now_ms: u64, actions: &mut Vec<Action>) {
        if !matches!(self.state, State::Ready | State::Unready) {
            return;
        }
        self.liveness_failures += 1;
        if self.liveness_failures >= self.policy.liveness_failures {
            self.message = format!("it runs and does not answer: {why}");
            let next = self.crashed(Cure::Restart, now_ms);
            self.stop(next, now_ms, actions);
        }
    }

    fn on_over_limit(&mut self, why: String, now_ms: u64, actions: &mut Vec<Action>) {
        if matches!(self.state, State::Starting | State::Ready | State::Unready) {
            self.message = why;
            // It would go on taking while it drains.
            self.empty(Next::Park, now_ms, actions);
        }
    }

    fn on_exited(&mut self, exit: Exit, now_ms: u64, actions: &mut Vec<Action>) {
        match self.state {
            State::Starting | State::Ready | State::Unready => {
                let cure = match exit {
                    Exit::Code(code) if self.policy.repair_exit_codes.contains(&code) => {
                        Cure::Repair
                    }
                    Exit::Code(code) if self.policy.fatal_exit_codes.contains(&code) => Cure::None,
                    _ => Cure::Restart,
                };
                self.message = format!("ended by itself with {exit}");
                let next = match exit {
                    // It is not held against it.
                    Exit::Untold => Next::Start,
                    Exit::Hindered => {
                        self.message = HINDERED.into();
                        Next::Later
                    }
                    _ => self.crashed(cure, now_ms),
                };
                self.empty(next, now_ms, actions);
            }
            // It is due still.
            State::Repairing if exit == Exit::Hindered => {
                self.repaired = false;
                self.message = HINDERED.into();
                self.empty(Next::Later, now_ms, actions);
            }
            // Whatever it could do is done: the next start tells.
            State::Repairing => self.empty(Next::Start, now_ms, actions),
            State::Stopping => self.empty(self.next, now_ms, actions),
            _ => {}
        }
    }

    fn on_emptied(&mut self, now_ms: u64, jitter: u32, actions: &mut Vec<Action>) {
        if self.state != State::Emptying {
            return;
        }
        match self.next {
            Next::Stop => {
                self.forgive();
                self.enter(State::Stopped, now_ms);
            }
            Next::Start => self.wait(now_ms, actions),
            Next::Repair => {
                self.wait(now_ms, actions);
                (self.repair, self.repaired) = (true, true);
            }
            Next::BackOff => {
                self.tries += 1;
                self.pause(self.policy.pause_ms(self.tries - 1, jitter), now_ms, actions);
            }
            Next::Later => {
                self.hindered = (self.hindered + 1).min(NODE_TRIES_MAX + 1);
                self.pause(self.policy.pause_ms(self.hindered - 1, jitter), now_ms, actions);
            }
            Next::Park => {
                self.enter(State::CrashLooping, now_ms);
                self.message =
                    format!("{}; parked: restart it once the cause is mended", self.message);
            }
        }
        self.next = Next::Start;
    }

    fn on_time(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        if self.deadline_ms.is_none_or(|deadline| now_ms < deadline) {
            return;
        }
        self.deadline_ms = None;
        match self.state {
            State::Starting => {
                let why = core::mem::take(&mut self.message);
                let seconds = self.policy.start_timeout_ms / 1_000;
                self.message = format!("not ready within {seconds} s: {why}");
                let next = self.crashed(Cure::Restart, now_ms);
                self.stop(next, now_ms, actions);
            }
            State::Repairing => self.stop(Next::Start, now_ms, actions),
            // It has run for long enough to be taken for healthy.
            State::Ready => self.forget_crashes(),
            State::Stopping => self.empty(self.next, now_ms, actions),
            State::BackingOff => self.wait(now_ms, actions),
            _ => {}
        }
    }
}
