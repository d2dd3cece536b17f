//! One agent's task: feeds what happens to [`Life`] and carries out what it says.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use fleet_process::{Child, Group, LAUNCH_FAILED, LAUNCH_HINDERED, LogFile, signal_or_code, tail};
use fleet_proto::{
    host::{Assignment, Observation},
    v1::agent::State as Reported,
};
use fleet_runtime::clock::boot_ms;
use fleet_supervision::{Action, Event, Exit, HINDERED, Life, Policy, State};
use fleet_types::AgentId;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    governor::{Permit, Place},
    history::History,
    home_size::{self, HomeSize},
    host::{Kept, Shared, group_name},
    log_watch::LogWatch,
    probe,
    provision::{Plan, Refusal, block},
    runtimes::{PolicyTable, Probe, ProbeKind},
    start::{Launched, Start, empty, launch, waited},
    start_key::StartKey,
};

/// SIGKILL.
const KILL: i32 = 9;
/// What a shell returns when SIGKILL ended its command.
const KILLED_BELOW: i32 = 128 + KILL;
/// How soon after the end of a guard its agents' tasks are ended, at most: it is looked at once a
/// second.
const GUARD_MISSED: Duration = Duration::from_secs(3);
/// How long what is cut from a log is not kept, once some was.
const FLOOD: Duration = Duration::from_secs(1);
/// When a log that just was too large is looked at again.
const FLOOD_CHECK: Duration = Duration::from_millis(50);

/// Steps in which draining is reported: each is news to whoever watches.
const DRAINING_STEP_MS: u64 = 5_000;

/// What the host tells an agent's task. When the host has gone silent for good, the lease is over
/// and everything was killed.
pub(crate) enum Order {
    /// What the leader says of the agent now.
    Assign(Box<Assignment>),
    /// The agent is no longer this node's: stop it and report it gone; then end, once the host has
    /// gone silent.
    Remove,
}

type Pending<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// The future's result; never, when there is none. A finished one is taken away.
async fn finished<T>(pending: &mut Pending<T>) -> T {
    match pending {
        Some(future) => {
            let result = future.await;
            *pending = None;
            result
        }
        None => std::future::pending().await,
    }
}

pub(crate) struct Task {
    id: AgentId,
    host: Arc<Shared>,
    kept: Arc<Kept>,
    group: Group,
    log: LogFile,
    assignment: Assignment,
    life: Life,
    /// What is held against it, for a later daemon.
    history: History,
    removing: bool,
    /// What was adopted was to be restarted already.
    outdated: bool,
    starts: u32,
    plan: Option<Arc<Plan>>,
    child: Option<Child>,
    /// Kills for its memory limit before the process that runs.
    memory_kills: u64,
    permit: Option<Permit>,
    asking: Pending<Permit>,
    /// Its place in the governor's line.
    place: Option<Place>,
    /// Whether what was launched last is its repair.
    repair: bool,
    launching: Pending<Result<Launched, Refusal>>,
    emptying: Pending<()>,
    /// An end that nobody told of.
    ending: Pending<Exit>,
    probing: Pending<Result<(), String>>,
    /// Whether what was launched last was asked if it is ready.
    asked: bool,
    /// A liveness probe.
    asking_life: Pending<Result<(), String>>,
    /// What its HOME took up when it was last looked at.
    home_size: Option<HomeSize>,
    /// Looking at it.
    measuring: Pending<HomeSize>,
    watch: LogWatch,
    /// When what was cut from its log was kept last.
    cut: Option<Instant>,
    /// The line that says that another copy of its session is live.
    double_run: String,
    /// Who listens on its ports, in words; empty for nobody.
    ports_taken: String,
}

impl Task {
    pub(crate) fn new(
        id: AgentId,
        host: Arc<Shared>,
        kept: Arc<Kept>,
        group: Group,
        log: LogFile,
        assignment: Assignment,
        adopted: Option<(StartKey, Child)>,
    ) -> Self {
        let (history, past, starts) = host.histories.of(&id, &assignment);
        let life = Life::resume(policy(&host, &assignment), past);
        let starts = adopted.as_ref().map_or(starts, |(key, _)| key.start);
        let watch = LogWatch::new(&log);
        let outdated = adopted.as_ref().is_some_and(|(key, _)| key.restarts != assignment.restarts);
        Self {
            id,
            host,
            kept,
            group,
            log,
            assignment,
            life,
            history,
            removing: false,
            outdated,
            starts,
            plan: None,
            child: adopted.map(|(_, child)| child),
            memory_kills: 0,
            permit: None,
            asking: None,
            place: None,
            repair: false,
            launching: None,
            emptying: None,
            ending: None,
            probing: None,
            asked: false,
            asking_life: None,
            home_size: None,
            measuring: None,
            watch,
            cut: None,
            double_run: String::new(),
            ports_taken: String::new(),
        }
    }

    pub(crate) async fn run(mut self: Box<Self>, mut orders: mpsc::Receiver<Order>) {
        if self.child.is_some() {
            self.adopt().await;
        } else {
            let Some(event) = self.emptied(&mut orders).await else {
                self.fenced().await;
                return;
            };
            self.on(event);
            self.remember();
        }
        self.report();
        let mut log_check =
            std::pin::pin!(tokio::time::sleep_until(self.host.pace.next(&self.watch)));
        let mut silent = false;
        loop {
            let due = self.life.deadline().map(|at| at.saturating_sub(boot_ms()));
            let due = due.map(Duration::from_millis);
            let event = tokio::select! {
                order = orders.recv(), if !silent => match order {
                    Some(Order::Assign(assignment)) => { self.assign(*assignment); None }
                    Some(Order::Remove) => { self.removing = true; Some(Event::Unwant) }
                    None if self.removing => { silent = true; None }
                    None => { self.fenced().await; return; }
                },
                permit = finished(&mut self.asking) => {
                    self.permit = Some(permit);
                    Some(Event::Permit)
                }
                launched = finished(&mut self.launching) => Some(self.launched(launched)),
                exit = exited(&mut self.child) => self.exited(exit),
                exit = finished(&mut self.ending) => Some(Event::Exited(exit)),
                () = finished(&mut self.emptying) => Some(Event::Emptied),
                ready = finished(&mut self.probing) => Some(
                    ready.map_or_else(|why| Event::ProbeFailed { why }, |()| Event::ProbeOk),
                ),
                lives = finished(&mut self.asking_life) => Some(
                    lives.map_or_else(|why| Event::LivenessFailed { why }, |()| Event::LivenessOk),
                ),
                size = finished(&mut self.measuring) => self.measured(size),
                () = sleep(due) => Some(Event::Time),
                () = &mut log_check => {
                    let (next, grown) = self.look_at_log();
                    log_check.as_mut().reset(next);
                    // There is no news of an agent that runs, or rests, and says nothing.
                    let still = matches!(self.life.state(), State::Ready | State::BackingOff);
                    if !grown && (still || self.life.at_rest()) {
                        continue;
                    }
                    None
                }
            };
            let news = event.is_some();
            if let Some(event) = event {
                self.on(event);
            }
            self.remember();
            self.probe_next();
            self.measure_next();
            if news || !silent {
                self.report();
            }
            if silent && self.life.at_rest() {
                if let Err(error) = self.history.forget() {
                    tracing::debug!(agent = %self.id, %error, "its history stays");
                }
                self.leave();
                return;
            }
        }
    }

    /// Waits until its group is empty: what init has forgotten may have left children, which are no
    /// part of a next start, and while they run the agent is not gone. Answers what it was told
    /// until then; nothing when the host went silent.
    async fn emptied(&mut self, orders: &mut mpsc::Receiver<Order>) -> Option<Event> {
        let group = self.group.clone();
        let mut emptied = std::pin::pin!(empty(&group));
        let mut anew = false;
        loop {
            let order = tokio::select! {
                () = &mut emptied => break,
                order = orders.recv() => order?,
            };
            match order {
                // What is held against it is of what it was before.
                Order::Assign(new) => anew |= !new.run | self.take(*new),
                Order::Remove => (self.removing, anew) = (true, true),
            }
        }
        Some(match (self.assignment.run && !self.removing, anew) {
            (false, _) => Event::Unwant,
            (true, true) => Event::Restart,
            (true, false) => Event::Want,
        })
    }

    /// Goes on with a process that an earlier daemon started.
    async fn adopt(&mut self) {
        let (host, id, assignment) = (self.host.clone(), self.id.clone(), self.assignment.clone());
        let prepared = waited(&self.kept, move || host.site.prepare(&id, &assignment)).await;
        match prepared {
            Ok(Ok(prepared)) => self.take_plan(Arc::new(prepared.plan)),
            Ok(Err(refusal)) | Err(refusal) => {
                tracing::warn!(agent = %self.id, why = refusal.why, "runs, and cannot be probed");
            }
        }
        tracing::info!(agent = %self.id, pid = self.child.as_ref().map_or(0, Child::pid), "adopted");
        self.on(Event::Adopted);
        if !self.assignment.run {
            self.on(Event::Unwant);
        } else if self.outdated {
            self.on(Event::Restart);
        }
    }

    fn assign(&mut self, new: Assignment) {
        let anew = self.take(new);
        match (self.assignment.run, anew) {
            (false, _) => self.on(Event::Unwant),
            (true, true) => self.on(Event::Restart),
            (true, false) => self.on(Event::Want),
        }
    }

    /// Takes in what is said of the agent; whether it is to be started anew.
    fn take(&mut self, new: Assignment) -> bool {
        let old = std::mem::replace(&mut self.assignment, new);
        self.removing = false;
        // One that had its name before had another uid.
        let of = |assignment: &Assignment| (assignment.uid, assignment.generation);
        let moved = of(&old) != of(&self.assignment);
        if moved {
            self.starts = 0;
            self.ports_taken.clear();
        }
        if old.uid != self.assignment.uid {
            self.life.follow(policy(&self.host, &self.assignment));
            self.log = self.host.log(&self.id);
            self.home_size = None;
        }
        moved || old.restarts != self.assignment.restarts
    }

    fn on(&mut self, event: Event) {
        let was = (self.life.state(), self.life.message().to_owned());
        let actions = self.life.on(event, boot_ms(), rand::random());
        let now = self.life.state();
        if was.0 != now {
            let message = self.life.message();
            tracing::debug!(agent = %self.id, from = ?was.0, to = ?now, message, "agent changed");
        }
        for action in actions {
            self.act(action);
        }
    }

    /// Keeps what is held against it.
    fn remember(&mut self) {
        if let Err(error) = self.history.keep(self.life.past(), self.starts, &self.assignment) {
            tracing::warn!(agent = %self.id, %error, "how often it ended is not kept");
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::AskPermit => {
                let priority = self.assignment.spec.as_ref().map_or(0, |spec| spec.priority);
                let ticket = self.host.governor.line_up(priority, self.assignment.uid);
                self.place = Some(ticket.place());
                self.asking = Some(Box::pin(ticket.turn()));
            }
            Action::ReleasePermit => {
                self.asking = None;
                if let Some(permit) = self.permit.take()
                    && self.life.state() == State::Ready
                {
                    permit.started();
                }
            }
            Action::Launch | Action::Repair => {
                self.repair = action == Action::Repair;
                if self.repair {
                    let why = self.life.message();
                    tracing::warn!(agent = %self.id, why, "its repair is run, once");
                }
                let start = Start {
                    id: self.id.clone(),
                    assignment: self.assignment.clone(),
                    number: self.starts + 1,
                    repair: self.repair,
                    group: self.group.clone(),
                    log: self.log.clone(),
                };
                let launching = launch(self.host.clone(), self.kept.clone(), start);
                self.launching = Some(Box::pin(launching));
            }
            Action::Terminate => {
                self.ask_no_more();
                if let Some(child) = &self.child
                    && let Err(error) = child.terminate()
                {
                    tracing::warn!(agent = %self.id, %error, "SIGTERM was not delivered");
                }
            }
            Action::Kill => {
                self.ask_no_more();
                let group = self.group.clone();
                self.emptying = Some(Box::pin(async move { empty(&group).await }));
            }
        }
    }

    fn take_plan(&mut self, plan: Arc<Plan>) {
        if plan.limits.log_bytes > 0 {
            self.log = self.log.clone().of_at_most(plan.limits.log_bytes);
        }
        self.plan = Some(plan);
    }

    fn launched(&mut self, launched: Result<Launched, Refusal>) -> Event {
        match launched {
            Ok(Launched { child, plan, memory_kills }) => {
                self.memory_kills = memory_kills;
                self.child = Some(child);
                self.asked = false;
                self.take_plan(plan);
                self.starts += u32::from(!self.repair);
                self.double_run.clear();
                self.ports_taken.clear();
                Event::Launched
            }
            Err(Refusal { why, fault, ports_taken }) => {
                // It may have been given others while this was found out.
                let taken = ports_taken == Some(block(&self.assignment));
                self.ports_taken = if taken { why.clone() } else { String::new() };
                Event::LaunchFailed { why, fault }
            }
        }
    }

    fn exited(&mut self, exit: std::process::ExitStatus) -> Option<Event> {
        let child = self.child.take();
        child.iter().for_each(|child| self.kept.launcher.forget(child));
        if child.is_some_and(|child| !child.was_told_of()) {
            // It ended with its guard, most likely, and so does this task in a moment.
            let passed = if self.removing { Duration::ZERO } else { GUARD_MISSED };
            self.ending = Some(Box::pin(async move {
                tokio::time::sleep(passed).await;
                Exit::Untold
            }));
            return None;
        }
        let kills = self.kept.limiter.memory_kills(&group_name(&self.id));
        Some(Event::Exited(match signal_or_code(exit) {
            // Where the kernel ends one process of the group, a shell says so of what it ran.
            Ok(KILL) | Err(KILLED_BELOW) if kills > self.memory_kills => Exit::MemoryLimit,
            Ok(signal) => Exit::Signal(signal),
            Err(code) if code == i32::from(LAUNCH_HINDERED) && self.launcher_said() => {
                Exit::Hindered
            }
            Err(code) => Exit::Code(code),
        }))
    }

    fn ask_no_more(&mut self) {
        (self.probing, self.asking_life) = (None, None);
    }

    /// Starts the next probes when they are due and none is under way.
    fn probe_next(&mut self) {
        let Some(plan) = self.plan.clone().filter(|_| self.life.probed()) else {
            self.ask_no_more();
            return;
        };
        let starting = self.life.state() == State::Starting;
        let probe = &plan.probe;
        // One that is taken to answer is not asked twice.
        if self.probing.is_none() && (starting || probe.kind != ProbeKind::None) {
            let pace = if starting { probe.starting_interval_ms } else { probe.interval_ms };
            let first = starting && !self.asked;
            self.asked = true;
            self.probing = Some(self.probe(&plan, probe, if first { 0 } else { pace }));
        }
        if let Some(liveness) = &plan.liveness
            && !starting
            && self.asking_life.is_none()
        {
            self.asking_life = Some(self.probe(&plan, liveness, liveness.interval_ms));
        }
    }

    fn probe(
        &self,
        plan: &Plan,
        probe: &Probe,
        pause_ms: u64,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> {
        let (probe, variables) = (probe.clone(), plan.variables.clone());
        let block = block(&self.assignment);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            probe::run(&probe, block, &variables).await
        })
    }

    /// Looks at what its HOME takes up, where that is limited.
    fn measure_next(&mut self) {
        let Some(plan) = self.plan.clone().filter(|_| self.life.probed()) else {
            self.measuring = None;
            return;
        };
        let most = plan.limits.home_bytes;
        if most > 0 && self.measuring.is_none() {
            let disk = &self.host.disk_growth;
            let last = *self.home_size.get_or_insert_with(|| HomeSize::unknown(disk));
            let next = home_size::next(disk.clone(), plan.home.clone(), most, last);
            self.measuring = Some(Box::pin(next));
        }
    }

    fn measured(&mut self, size: HomeSize) -> Option<Event> {
        self.home_size = Some(size).filter(|size| size.bytes.is_some());
        let Some(bytes) = size.bytes else {
            let why = "its HOME has files too deep in directories to be counted".into();
            return Some(Event::OverLimit { why });
        };
        let most = self.plan.as_ref()?.limits.home_bytes;
        let mib = |bytes: u64| bytes >> 20;
        let why = || format!("its HOME holds {} MiB and may hold {}", mib(bytes), mib(most));
        (most > 0 && bytes > most).then(|| Event::OverLimit { why: why() })
    }

    fn report(&self) {
        let state = match self.life.state() {
            State::Stopped => Reported::Stopped,
            State::Waiting | State::Launching => Reported::Provisioning,
            State::Starting | State::Repairing => Reported::Starting,
            State::Ready => Reported::Ready,
            State::Unready => Reported::Unready,
            State::Stopping | State::Emptying => Reported::Stopping,
            State::BackingOff => Reported::BackingOff,
            State::CrashLooping => Reported::CrashLooping,
        };
        let mut message = self.life.message().to_owned();
        if let Some(place) = self.place.filter(|_| self.life.state() == State::Waiting) {
            message = self.host.governor.describe(place);
        }
        if self.life.state() == State::Repairing {
            message = format!("its repair runs: it {message}");
        }
        if let Some((passed, most)) = self.life.draining_ms(boot_ms()) {
            let passed = passed / DRAINING_STEP_MS * DRAINING_STEP_MS;
            let drains = format!("drains: {} s of at most {} s", passed / 1_000, most / 1_000);
            message = if message.is_empty() { drains } else { format!("{message}; {drains}") };
        }
        if self.life.at_rest() || self.life.state() == State::BackingOff {
            message = self.explained(message);
        }
        self.host.observed.report(Observation {
            fleet: self.id.fleet.to_string(),
            agent: self.id.agent.to_string(),
            generation: self.assignment.generation,
            state: state.into(),
            message,
            pid: self.child.as_ref().map_or(0, Child::pid),
            starts: self.starts,
            double_run: self.double_run.clone(),
            ports_taken: self.ports_taken.clone(),
            uid: self.assignment.uid,
            revision: self.assignment.revision,
            gone: self.life.state() == State::Stopped && (self.removing || !self.assignment.run),
        });
    }

    /// The last line of its log.
    fn last_line(&self) -> String {
        let last = tail(self.log.path(), 1).map(|(bytes, _)| bytes).unwrap_or_default();
        String::from_utf8_lossy(&last).trim().to_owned()
    }

    /// Whether its launcher spoke last, as far as there was room for it, and not what it is.
    fn launcher_said(&self) -> bool {
        let last = self.last_line();
        last.is_empty() || last.contains("fleet-launch: ")
    }

    /// What a failed launcher said, in place of its exit code.
    fn explained(&self, message: String) -> String {
        let failed = format!("exit code {LAUNCH_FAILED}");
        if !message.contains(&failed) && message != HINDERED {
            return message;
        }
        format!("{message}: {}", self.last_line())
    }

    /// Reads what is new in the log and keeps it small; when to look again, and whether there was
    /// anything.
    fn look_at_log(&mut self) -> (Instant, bool) {
        let grown = self.watch.grown(&self.log);
        if grown {
            self.watch_log();
            // Copying what is written by the second would be work for all to wait for.
            // What an agent ended with is kept.
            let floods = self.child.is_some() && self.cut.is_some_and(|cut| cut.elapsed() < FLOOD);
            match self.log.cap(!floods) {
                Ok(true) => {
                    self.watch.begin();
                    self.cut = self.cut.filter(|_| floods).or_else(|| Some(Instant::now()));
                    return (Instant::now() + FLOOD_CHECK, true);
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(agent = %self.id, %error, "keeping the log small failed");
                }
            }
        }
        (self.host.pace.next(&self.watch), grown)
    }

    fn watch_log(&mut self) {
        let Some(plan) = &self.plan else { return };
        if let Some(line) = self.watch.look(&self.log, &plan.double_run) {
            let (generation, node) = (self.assignment.generation, &self.host.site.node_name);
            tracing::error!(agent = %self.id, generation, %node, line, "another copy is live");
            self.double_run = line;
        }
    }

    /// Everything was killed; what is left is to collect the process.
    async fn fenced(&mut self) {
        if let Some(launching) = self.launching.take()
            && let Ok(launched) = launching.await
        {
            self.child = Some(launched.child);
        }
        // Unless it was launched under the next guard meanwhile.
        empty(&self.group).await;
        if let Some(child) = &mut self.child {
            child.wait().await;
        }
        self.leave();
    }

    /// Takes the empty control group away.
    fn leave(&self) {
        self.kept.limiter.remove(&group_name(&self.id));
        if let Err(error) = self.group.remove() {
            tracing::debug!(agent = %self.id, %error, "its control group stays");
        }
    }
}

async fn sleep(due: Option<Duration>) {
    match due {
        Some(due) => tokio::time::sleep(due).await,
        None => std::future::pending().await,
    }
}

async fn exited(child: &mut Option<Child>) -> std::process::ExitStatus {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

/// How an agent is supervised.
fn policy(host: &Shared, assignment: &Assignment) -> Policy {
    let definition = host.site.definition(assignment);
    definition.map_or_else(
        |_| PolicyTable::default().policy(None),
        |definition| definition.policy.policy(definition.repair.as_ref()),
    )
}
