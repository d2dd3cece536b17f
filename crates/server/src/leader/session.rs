//! What the leader and one host say to each other: everything first, then every change, both ways.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fleet_client::connect_node;
use fleet_core::{
    Agent, ConfirmStopped, Desired, Key, Lifecycle, Operation, Parked, QuarantinePorts,
    RULES_OF_PARKED, Record, Rejection, ReleasePorts, ReportDoubleRun, ReportParked, Role, State,
    is_helped_by_other_ports, is_parked_anew,
};
use fleet_host::overlay;
use fleet_proto::{
    convert::{
        api::{self as convert, port_block},
        host::{agent_key, assignment, parse_agent},
    },
    host::{
        AssignRequest, Assignment, Observation, Quarantined, WatchObservedRequest,
        agent_host_service_client::AgentHostServiceClient,
    },
    v1::{self, Member, PortBlock, agent::State as AgentState},
};
use fleet_types::{AgentId, Epoch, NodeId, Revision, limits};
use tokio::sync::watch;
use tonic::{Status, transport::Channel};

use super::{
    Leader, Pace,
    observed::{is_of, is_stopped},
    router::{Mail, members},
};
use crate::{proposer::SMALL, secrets::agent_token};

/// How often what was reported and not recorded is looked for again.
const SWEEP: Duration = Duration::from_secs(1);
/// Pauses before a host that did not answer is asked again: the first, and twice as long each time up
/// to the last.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// A session with one host.
pub(super) struct Session {
    pub(super) leader: Leader,
    pub(super) term: u64,
    pub(super) node: NodeId,
    pub(super) epoch: Epoch,
    /// What changed that concerns the host.
    pub(super) mail: Arc<Mail>,
    /// The voters.
    pub(super) members: watch::Receiver<Vec<Member>>,
}

/// How many messages this process has made for hosts. A term has one leader, and that one process.
static SAID: AtomicU64 = AtomicU64::new(0);

impl Session {
    /// Never returns, but for an address that is none.
    pub(super) async fn run(mut self, address: String) {
        let Ok(channel) = connect_node(&self.leader.identity, self.node, &address) else {
            tracing::error!(node.id = self.node.0, address, "the node's address is malformed");
            return;
        };
        let mut pause = RETRY_MIN;
        loop {
            let began = Instant::now();
            if let Err(status) = self.talk(channel.clone()).await {
                tracing::debug!(node.id = self.node.0, %status, "session with a host ended");
            }
            // One that does not answer is asked more and more seldom.
            if began.elapsed() > RETRY_MAX {
                pause = RETRY_MIN;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn talk(&mut self, channel: Channel) -> Result<(), Status> {
        let mut client = AgentHostServiceClient::new(channel)
            .max_decoding_message_size(4 * limits::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::ASSIGNMENT_BYTES_MAX);
        // What is posted from here on may be in everything already; what was before is.
        self.mail.take();
        self.members.mark_unchanged();
        let (mut sent, complete) = self.leader.raft.read(|state| self.everything(state));
        let mut role = complete.role;
        client.assign(complete).await?;
        let watch =
            WatchObservedRequest { term: self.term, node_id: self.node.0, epoch: self.epoch.0 };
        let mut reports = client.watch_observed(watch).await?.into_inner();
        let mut sweep = tokio::time::interval(SWEEP);
        let mut unused = Vec::new();
        loop {
            tokio::select! {
                () = self.mail.news() => {
                    let keys = self.mail.take();
                    let delta =
                        self.leader.raft.read(|state| self.delta(state, &keys, &mut sent));
                    if let Some(delta) = delta {
                        client.assign(delta).await?;
                    }
                }
                Ok(()) = self.members.changed() => {
                    let members = self.members.borrow_and_update().clone();
                    client.assign(AssignRequest { members, ..self.request() }).await?;
                }
                report = reports.message() => {
                    let Some(report) = report? else { return Ok(()) };
                    self.note(&report.observations);
                    if report.start_ms > 0 {
                        let at_once = usize::try_from(report.starts_at_once).unwrap_or(1).max(1);
                        let pace = Pace { at_once, start_ms: report.start_ms };
                        self.leader.observed.note_pace(self.node, pace);
                    }
                    self.confirm(&report.observations).await;
                    self.quarantine(&report.observations).await;
                    self.report_double_runs(&report.observations).await;
                    self.report_parked(&report.observations).await;
                    if report.observations.is_empty() {
                        unused = report.unused;
                        self.release(&unused).await;
                    }
                }
                _ = sweep.tick() => {
                    let now = self.leader.raft.read(|state| self.role(state)).into();
                    if now != role {
                        client.assign(AssignRequest { role: now, ..self.request() }).await?;
                        role = now;
                    }
                    self.overdue(&sent).await;
                    self.release(&unused).await;
                }
            }
        }
    }

    fn request(&self) -> AssignRequest {
        AssignRequest {
            term: self.term,
            node_id: self.node.0,
            epoch: self.epoch.0,
            number: SAID.fetch_add(1, Ordering::Relaxed) + 1,
            ..AssignRequest::default()
        }
    }

    fn assignment(&self, state: &State, agent: &Agent) -> Option<Assignment> {
        let fleet = state.fleets().get(&agent.id.fleet)?;
        let overlays = [fleet.config.as_str(), agent.spec.config.as_str()];
        let config = overlay::combine(overlays).ok()?.to_string();
        let token = agent_token(&self.leader.agent_token_key, &agent.id, agent.uid);
        assignment(agent, config, token)
    }

    /// Whether the host must know of an agent: it is to run, or to be seen stopped.
    fn concerns(&self, agent: &Agent) -> bool {
        agent.placement.as_ref().is_some_and(|placement| {
            let stopping = placement.evicting || agent.lifecycle == Lifecycle::Deleting;
            placement.node == self.node && (agent.desired == Desired::Running || stopping)
        })
    }

    /// Everything the host should know, and the agents in it.
    fn everything(&self, state: &State) -> (BTreeSet<AgentId>, AssignRequest) {
        let agents = state.placed_on(self.node).filter_map(|id| state.agent(id));
        let agents: Vec<&Agent> = agents.filter(|agent| self.concerns(agent)).collect();
        let put = agents.iter().filter_map(|agent| self.assignment(state, agent)).collect();
        let sent = agents.iter().map(|agent| agent.id.clone()).collect();
        let kept = state.quarantined(self.node).map(|kept| port_block(kept.block));
        let quarantined = Some(Quarantined { blocks: kept.collect() });
        let members = members(state);
        let role = self.role(state).into();
        (sent, AssignRequest { complete: true, put, members, quarantined, role, ..self.request() })
    }

    /// What the host is to run as. A voter that is made a worker votes until Raft has taken it out:
    /// its vote may be needed for that, and while it learns it may be about to get one.
    fn role(&self, state: &State) -> v1::Role {
        let is_member = || {
            let status = self.leader.raft.status();
            status.voters.contains(&self.node) || status.learners.contains(&self.node)
        };
        let role = state.nodes().get(&self.node).map(|node| node.role);
        match role {
            Some(Role::Worker) if is_member() => v1::Role::Voter,
            role => role.map_or(v1::Role::Unspecified, convert::role),
        }
    }

    /// What the host should know of the changed records; none when nothing.
    fn delta(
        &self,
        state: &State,
        keys: &BTreeSet<Key>,
        sent: &mut BTreeSet<AgentId>,
    ) -> Option<AssignRequest> {
        let mut request = self.request();
        for key in keys {
            match key {
                Key::Quarantine(node, base) if *node == self.node => match state.record(key) {
                    Some(Record::Quarantine(kept)) => request.kept.push(port_block(kept.block)),
                    _ => request.freed.push(u32::from(*base)),
                },
                Key::Agent(id) => {
                    let agent = state.agent(id);
                    let here = agent.filter(|agent| {
                        let placed = agent.placement.as_ref().is_some_and(|p| p.node == self.node);
                        placed && (self.concerns(agent) || sent.contains(id))
                    });
                    match here.and_then(|agent| self.assignment(state, agent)) {
                        Some(assignment) => {
                            sent.insert(id.clone());
                            request.put.push(assignment);
                        }
                        None if sent.remove(id) => request.remove.push(agent_key(id)),
                        None => {}
                    }
                }
                _ => {}
            }
        }
        let empty = request.put.is_empty()
            && request.remove.is_empty()
            && request.kept.is_empty()
            && request.freed.is_empty();
        (!empty).then_some(request)
    }

    /// Notes what is observed of the placements there are. What a node says of one that is over
    /// must not hide what another says of the next.
    fn note(&self, observations: &[Observation]) {
        let current = |state: &State, observation: &Observation| {
            let id = parse_agent(&observation.fleet, &observation.agent).ok()?;
            let agent = state.agent(&id)?;
            let here = agent.placement.as_ref()?.node == self.node;
            (here && is_of(observation, agent)).then(|| observation.clone())
        };
        let current: Vec<Observation> = self
            .leader
            .raft
            .read(|state| observations.iter().filter_map(|o| current(state, o)).collect());
        self.leader.observed.report(self.node, &current);
    }

    /// Records the stops the state waits for.
    async fn confirm(&self, observations: &[Observation]) {
        let confirms = observations.iter().filter(|observation| observation.gone);
        let confirms = confirms.filter_map(|observation| {
            let id = parse_agent(&observation.fleet, &observation.agent).ok()?;
            let awaited = self.leader.raft.read(|state| {
                let agent = state.agent(&id)?;
                let placement = agent.placement.as_ref().filter(|p| p.node == self.node)?;
                let stopping = placement.evicting || agent.lifecycle == Lifecycle::Deleting;
                (stopping && is_stopped(observation, agent)).then_some(agent.generation)
            });
            let generation = awaited?;
            let (node, epoch, said) = (self.node, self.epoch, observation.clone());
            let build: crate::proposer::Build = Box::new(move |draft| {
                // It may have been told to run again since.
                let agent = draft.planner.state().agent(&id);
                let agent = agent.filter(|agent| is_stopped(&said, agent));
                let agent = agent.ok_or(Rejection::NotStopping(id))?;
                let moves = agent.lifecycle == Lifecycle::Live;
                let next = moves.then(|| draft.planner.arrive(agent)).flatten();
                let agent = agent.id.clone();
                let confirm = ConfirmStopped { agent, generation, node, epoch, next };
                Ok(Operation::ConfirmStopped(confirm))
            });
            Some(self.leader.proposer.commit(None, SMALL, build))
        });
        // All in one entry, if they fit.
        for result in futures::future::join_all(confirms).await {
            if let Err(status) = result {
                tracing::warn!(%status, "a confirmed stop is not recorded yet");
            }
        }
    }

    /// Keeps ports from agents that something else listens on, so that their agents get others.
    async fn quarantine(&self, observations: &[Observation]) {
        for observation in observations.iter().filter(|o| !o.ports_taken.is_empty()) {
            let Ok(id) = parse_agent(&observation.fleet, &observation.agent) else { continue };
            let current = self.leader.raft.read(|state| {
                let agent = state.agent(&id)?;
                let here = agent.placement.as_ref()?.node == self.node;
                let helps = here && is_helped_by_other_ports(state, agent);
                (helps && is_of(observation, agent)).then_some(agent.generation)
            });
            let Some(generation) = current else { continue };
            let (node, epoch, by) = (self.node, self.epoch, observation.ports_taken.clone());
            let quarantine = QuarantinePorts { agent: id, generation, node, epoch, by };
            let done = self.leader.proposer.submit(Operation::QuarantinePorts(quarantine)).await;
            if let Err(status) = done {
                tracing::warn!(%status, "taken ports are not recorded yet");
            }
        }
    }

    /// Records that agents say that another copy of their session is live.
    async fn report_double_runs(&self, observations: &[Observation]) {
        for observation in observations.iter().filter(|o| !o.double_run.is_empty()) {
            let Ok(id) = parse_agent(&observation.fleet, &observation.agent) else { continue };
            let start = observation.starts;
            let news = self.leader.raft.read(|state| {
                let agent = state.agent(&id)?;
                let here = agent.placement.as_ref()?.node == self.node;
                let current = here && is_of(observation, agent);
                let told = || state.told_of_double_run(&id, agent.generation, start);
                (current && !told()).then_some(agent.generation)
            });
            let Some(generation) = news else { continue };
            let (node, epoch, line) = (self.node, self.epoch, observation.double_run.clone());
            let report = ReportDoubleRun { agent: id, generation, start, node, epoch, line };
            let done = self.leader.proposer.submit(Operation::ReportDoubleRun(report)).await;
            if let Err(status) = done {
                tracing::warn!(%status, "that an agent runs twice is not recorded yet");
            }
        }
    }

    /// Records that agents are not started again by themselves, once every voter can read that.
    async fn report_parked(&self, observations: &[Observation]) {
        if self.leader.raft.rules() < RULES_OF_PARKED {
            return;
        }
        let parked = observations.iter().filter(|o| o.state() == AgentState::CrashLooping);
        let parked = parked.filter_map(|o| {
            let agent = parse_agent(&o.fleet, &o.agent).ok()?;
            let why = o.message.chars().take(limits::QUOTE_CHARS_MAX).collect();
            Some(Parked { agent, revision: Revision(o.revision), start: o.starts, why })
        });
        let news: Vec<Parked> = self.leader.raft.read(|state| {
            let is_new = |it: &Parked| {
                let agent = state.agent(&it.agent);
                agent.is_some_and(|agent| is_parked_anew(state, agent, self.node, it.revision))
            };
            parked.filter(is_new).collect()
        });
        for agents in news.chunks(limits::PARKED_MAX) {
            let bytes = agents.iter().map(|it| SMALL + it.why.len()).sum();
            let (node, epoch, agents) = (self.node, self.epoch, agents.to_vec());
            let report = Operation::ReportParked(ReportParked { node, epoch, agents });
            let done = self.leader.proposer.commit(None, bytes, Box::new(|_| Ok(report))).await;
            if let Err(status) = done {
                tracing::warn!(%status, "that agents are parked is not recorded yet");
                return;
            }
        }
    }

    /// Lets agents have ports again that nothing uses.
    async fn release(&self, unused: &[PortBlock]) {
        let kept: Vec<fleet_types::PortBlock> = self.leader.raft.read(|state| {
            let kept = state.quarantined(self.node).map(|kept| kept.block);
            kept.filter(|block| unused.contains(&port_block(*block))).collect()
        });
        if kept.is_empty() {
            return;
        }
        let release = ReleasePorts { node: self.node, epoch: self.epoch, blocks: kept };
        if let Err(status) = self.leader.proposer.submit(Operation::ReleasePorts(release)).await {
            tracing::warn!(%status, "unused ports are not released yet");
        }
    }

    /// Looks again at what was reported and is not recorded.
    async fn overdue(&self, sent: &BTreeSet<AgentId>) {
        let overdue: Vec<Observation> = self.leader.raft.read(|state| {
            let look = |agent| {
                let is_parked = |o: &Observation| {
                    o.state() == AgentState::CrashLooping
                        && is_parked_anew(state, agent, self.node, Revision(o.revision))
                };
                let is_overdue = |o: &Observation| {
                    o.gone || !o.ports_taken.is_empty() || !o.double_run.is_empty() || is_parked(o)
                };
                self.leader.observed.look(agent, |o| is_overdue(o).then(|| o.clone())).flatten()
            };
            sent.iter().filter_map(|id| look(state.agent(id)?)).collect()
        });
        self.confirm(&overdue).await;
        self.quarantine(&overdue).await;
        self.report_double_runs(&overdue).await;
        self.report_parked(&overdue).await;
    }
}
