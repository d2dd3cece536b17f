//! `fleet.v1.AgentService`.

use std::{ops::Bound, pin::Pin, slice};

use fleet_client::connect_node;
use fleet_core::{
    Admission, AgentDraft, AgentSpec, Cause, CreateAgents, DeleteAgent, Desired, EvictAgents,
    Eviction, Lifecycle, NodeStatus, Operation, PendingReason, Rejection, RestartAgent,
    SetAgentDesired, State, Wants, check_create,
    explain::{Verdict, explain},
    plan::{Planner, why_pending},
    provision::Provision,
};
use fleet_host::overlay;
use fleet_proto::{
    convert::{api as convert, host::agent_key},
    error::{from_rejection, invalid_field, status},
    host::{TailLogsRequest, agent_host_service_client::AgentHostServiceClient},
    resource,
    v1::{
        Agent, BatchCreateAgentsRequest, BatchCreateAgentsResponse, CreateAgentRequest,
        CreateAgentResponse, DeleteAgentRequest, DeleteAgentResponse, ExplainAgentRequest,
        ExplainAgentResponse, GetAgentRequest, GetAgentResponse, ListAgentsRequest,
        ListAgentsResponse, MoveAgentRequest, MoveAgentResponse, NodeVerdict, Placement,
        PlanAgentsRequest, PlanAgentsResponse, RestartAgentRequest, RestartAgentResponse,
        StartAgentRequest, StartAgentResponse, StopAgentRequest, StopAgentResponse,
        TailAgentLogsRequest, TailAgentLogsResponse, agent::DesiredState,
        agent_service_server::AgentService,
    },
};
use fleet_types::{AgentId, AgentName, FleetName, NodeId, limits};
use futures::{Stream, StreamExt};
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::{
    Api,
    explain::{help, shown},
    fleet::Gives,
    idempotency, page,
};

type Logs = Pin<Box<dyn Stream<Item = Result<TailAgentLogsResponse, Status>> + Send>>;

/// An agent to be made, checked as far as it can be without the state.
pub(super) struct Wanted {
    pub(super) name: AgentName,
    pub(super) spec: AgentSpec,
    pub(super) desired: Desired,
}

/// A refusal that names the agent, of several in a call maybe, that it is for.
fn of_agent(id: &str, refusal: &Status) -> Status {
    let message = format!("agent {id:.60}: {}", refusal.message());
    Status::with_details(refusal.code(), message, refusal.details().to_vec().into())
}

impl Api {
    /// Reads the requests of a call.
    pub(super) fn parse_all(
        &self,
        requests: &[CreateAgentRequest],
        gives: &Gives,
    ) -> Result<Vec<Wanted>, Status> {
        let parse = |one: &CreateAgentRequest| {
            let wanted = self.parse(one.clone(), gives).and_then(|wanted| {
                self.check_overlay(&gives.config, &wanted)?;
                Ok(wanted)
            });
            wanted.map_err(|refusal| of_agent(&one.agent_id, &refusal))
        };
        requests.iter().map(parse).collect()
    }

    /// Reads a request; what it does not state is what its fleet gives, or its runtime.
    fn parse(&self, request: CreateAgentRequest, fleet: &Gives) -> Result<Wanted, Status> {
        let id = &request.agent_id;
        let name = id.parse().map_err(|e| invalid_field("INVALID_NAME", "agent_id", id, e))?;
        let agent = request.agent.unwrap_or_default();
        let desired = match agent.desired_state() {
            DesiredState::Stopped => Desired::Stopped,
            DesiredState::Running | DesiredState::Unspecified => Desired::Running,
        };
        let block_size = |name: &_| {
            let runtime = self.runtimes.get(name)?;
            Some(if fleet.ports > 0 { fleet.ports } else { runtime.ports })
        };
        let mut spec = convert::parse_agent_spec(agent.spec, block_size)?;
        if spec.priority == 0 {
            spec.priority = fleet.priority;
        }
        let runtime = self.runtimes.get(&spec.runtime);
        let least = runtime.map_or(1, |runtime| runtime.ports_min);
        if spec.ports < least {
            let why = format!("runtime {} needs {least} or more", spec.runtime);
            let (field, value) = ("agent.spec.ports", spec.ports.to_string());
            return Err(invalid_field("PORT_BLOCK_SIZE_INVALID", field, &value, why));
        }
        if spec.command.is_empty() != runtime.is_some_and(|r| !r.command.is_empty()) {
            let why = if spec.command.is_empty() { "needs a command" } else { "takes no command" };
            let why = format!("runtime {} {why}", spec.runtime);
            return Err(invalid_field("COMMAND_INVALID", "agent.spec.command", "", why));
        }
        let variables = spec.environment.keys();
        if let Some(key) = self.runtimes.reserved_variable(&spec.runtime, variables) {
            let why = format!("{key} is set by runtime {} and cannot be overridden", spec.runtime);
            return Err(invalid_field("ENVIRONMENT_INVALID", "agent.spec.environment", key, why));
        }
        let requests = runtime.map(|runtime| runtime.requests.requests()).unwrap_or_default();
        let of_runtime = Wants { requests, ..Wants::default() };
        spec.wants = std::mem::take(&mut spec.wants).or(&fleet.wants).or(&of_runtime);
        Ok(Wanted { name, spec, desired })
    }

    /// Refuses an overlay, of an agent and of its fleet, that touches what the runtime reserves.
    fn check_overlay(&self, fleet: &str, Wanted { spec, .. }: &Wanted) -> Result<(), Status> {
        if spec.config.is_empty() && fleet.is_empty() {
            return Ok(());
        }
        let invalid = |why: String| {
            invalid_field("CONFIG_INVALID", "agent.spec.config_json", &spec.config, why)
        };
        let merged = overlay::combine([fleet, spec.config.as_str()]);
        let merged = merged.map_err(|e| invalid(e.to_string()))?;
        self.runtimes.check_overlay(&spec.runtime, &merged).map_err(|e| invalid(e.to_string()))
    }

    async fn create(
        &self,
        fleet: FleetName,
        requests: &[CreateAgentRequest],
        how: How<'_>,
        content: &impl Message,
    ) -> Result<Vec<Agent>, Status> {
        let (bytes, most) = (content.encoded_len(), limits::MESSAGE_BYTES_MAX);
        if bytes > most {
            let why = format!("the call has {bytes} bytes; at most {most} can be made at once");
            return Err(invalid_field("LIMIT_REACHED", "requests", &bytes.to_string(), why));
        }
        let gives = self.read_to_commit(|state| Gives::of(state, &fleet)).await?;
        let gives = gives.unwrap_or_default();
        let wanted = self.parse_all(requests, &gives)?;
        let names: Vec<AgentId> = wanted
            .iter()
            .map(|w| AgentId { fleet: fleet.clone(), agent: w.name.clone() })
            .collect();
        let key = idempotency(how.request_id, content)?;
        let admission = admission(how.allow_overcommit);
        let plan = move |planner: &mut Planner<'_>| {
            let draft = |Wanted { name, spec, desired }| {
                let node = planner.choose(&fleet, &spec);
                AgentDraft { name, spec, desired, node }
            };
            let agents = wanted.into_iter().map(draft).collect();
            CreateAgents { fleet, agents, admission }
        };
        if how.validate_only {
            return self.rehearse(plan).await;
        }
        let request = key.clone();
        let build: crate::proposer::Build = Box::new(move |draft| {
            let state = draft.planner.state();
            let op = plan(&mut draft.planner);
            // What is refused anyway, or was carried out before, is for the entry to answer.
            if !carried_out(state, request.as_ref()) && check_create(state, &op).is_ok() {
                let drafts = op.agents.iter().map(|draft| (&op.fleet, draft));
                draft.provision.admit(drafts, op.admission)?;
            }
            Ok(Operation::CreateAgents(op))
        });
        let made = self.proposer.commit(key.clone(), content.encoded_len(), build).await;
        if let Err(refusal) = made {
            // A new leader may have refused before it applied all that the last one committed.
            let settled = refusal.code() != Code::ResourceExhausted;
            if settled || !self.read(|state| carried_out(state, key.as_ref())).await? {
                return Err(refusal);
            }
        }
        // What was committed is applied here, so no barrier is needed to see it.
        self.raft.read(|state| find_all(state, &names))
    }

    /// What a call would make: agents that have a node, or the reason why none, and no ports yet.
    async fn rehearse(
        &self,
        plan: impl FnOnce(&mut Planner<'_>) -> CreateAgents,
    ) -> Result<Vec<Agent>, Status> {
        let rehearsed = self.read(|state| {
            let op = plan(&mut Planner::beside_moves(state));
            let drafts = op.agents.iter().map(|draft| (&op.fleet, draft));
            check_create(state, &op)
                .and_then(|()| Provision::new(state).admit(drafts, op.admission))
                .map_err(|rejection| from_rejection(&rejection))?;
            Ok(op.agents.iter().map(|draft| rehearsed(state, &op.fleet, draft)).collect())
        });
        rehearsed.await?
    }

    async fn agent(&self, id: AgentId) -> Result<Agent, Status> {
        let found = self
            .read(|state| {
                state.agent(&id).map(|agent| {
                    let mut shown = convert::agent(state, agent);
                    self.observed.complete(agent, &mut shown);
                    shown
                })
            })
            .await?;
        found.ok_or_else(|| from_rejection(&Rejection::AgentUnknown(id)))
    }

    async fn set_desired(
        &self,
        name: &str,
        request_id: &str,
        content: &impl Message,
        desired: Desired,
    ) -> Result<Option<Agent>, Status> {
        let agent = resource::parse_agent("name", name)?;
        let operation =
            Operation::SetAgentDesired(SetAgentDesired { agent: agent.clone(), desired });
        self.change(request_id, content, operation).await?;
        Ok(Some(self.agent(agent).await?))
    }
}

pub(super) const fn admission(allow_overcommit: bool) -> Admission {
    if allow_overcommit { Admission::Overcommit } else { Admission::SurviveLoss }
}

/// Whether a call was carried out before.
fn carried_out(state: &State, request: Option<&fleet_core::Request>) -> bool {
    let known = request.and_then(|request| state.requests().get(&request.id));
    known.zip(request).is_some_and(|(known, request)| known.fingerprint == request.fingerprint)
}

/// How agents are to be made.
struct How<'a> {
    request_id: &'a str,
    allow_overcommit: bool,
    validate_only: bool,
}

/// All of these agents, in this order.
fn find_all(state: &State, names: &[AgentId]) -> Result<Vec<Agent>, Status> {
    let find = |id| state.agent(id).map(|agent| convert::agent(state, agent));
    let missing = |id: &AgentId| from_rejection(&Rejection::AgentUnknown(id.clone()));
    names.iter().map(|id| find(id).ok_or_else(|| missing(id))).collect()
}

/// An agent that would be made.
pub(super) fn rehearsed(state: &State, fleet: &FleetName, draft: &AgentDraft) -> Agent {
    let placement = draft.node.map(|id| {
        let node = state.nodes().get(&id).map(|node| node.name.to_string());
        Placement {
            node: format!("nodes/{id}"),
            node_display_name: node.unwrap_or_default(),
            ..Placement::default()
        }
    });
    let why = || match why_pending(state, fleet, &draft.spec) {
        PendingReason::RoomKept => {
            "no node has room for it beside the agents before it, and those on their way".into()
        }
        reason => convert::pending(reason, &draft.spec),
    };
    Agent {
        name: resource::agent(&AgentId { fleet: fleet.clone(), agent: draft.name.clone() }),
        spec: Some(convert::agent_spec(&draft.spec)),
        state_message: if placement.is_some() { String::new() } else { why() },
        placement,
        ..Agent::default()
    }
}

/// How an agent would be moved. Refused when it would not get there: it would stop for nothing.
fn movable(state: &State, id: &AgentId, to: Option<NodeId>) -> Result<Eviction, Status> {
    let unknown = || from_rejection(&Rejection::AgentUnknown(id.clone()));
    let agent = state.agent(id).ok_or_else(unknown)?;
    let refuse = |reason, message: String| {
        let name = resource::agent(id);
        Err(status(Code::FailedPrecondition, reason, message, &[("agent", &name)]))
    };
    let called = |id| state.nodes().get(&id).map_or_else(String::new, |node| node.name.to_string());
    if agent.lifecycle == Lifecycle::Deleting {
        return Err(from_rejection(&Rejection::AgentDeleting(id.clone())));
    }
    let Some(placement) = &agent.placement else {
        return refuse("AGENT_NOT_PLACED", format!("agent {id} has no placement"));
    };
    let from = called(placement.node);
    let eviction = Eviction { agent: id.clone(), generation: agent.generation, to };
    if placement.evicting && to.is_some() && placement.next != to {
        let next = placement.next.map_or("another node".into(), called);
        let message = format!("agent {id} is leaving {from} for {next}; move it once it is there");
        return refuse("AGENT_LEAVING", message);
    }
    if placement.evicting {
        return Ok(eviction);
    }
    if state.nodes().get(&placement.node).is_none_or(|node| node.status != NodeStatus::Active) {
        let message = format!(
            "its node {from} is out of reach, so nobody can say that agent {id} has stopped; bring \
             it back, or power it off and run `fleet-cluster node confirm-dead {from}`"
        );
        return refuse("NODE_NOT_ACTIVE", message);
    }
    let mut planner = Planner::away_from(state, placement.node, id);
    let Some(to) = to else {
        let message = format!(
            "no other node suits agent {id} and has room that is not kept for others on their way; \
             `agent explain` says why"
        );
        return match planner.choose(&id.fleet, &agent.spec) {
            None => refuse("NOWHERE_TO_GO", message),
            to => Ok(Eviction { to, ..eviction }),
        };
    };
    let mut verdicts = explain(state, agent).into_iter();
    let Some((_, verdict)) = verdicts.find(|(node, _)| *node == to) else {
        return Err(from_rejection(&Rejection::NodeUnknown(to)));
    };
    if !matches!(verdict, Verdict::Suits { .. }) {
        let NodeVerdict { reason, message, .. } = shown(state, agent, to, &verdict);
        let message = format!("node {} does not suit: {reason}: {message}", called(to));
        return refuse("NODE_DOES_NOT_SUIT", message);
    }
    if !planner.take_if_suits(to, &id.fleet, &agent.spec) {
        let why = "its room is kept for agents on their way there";
        return refuse("NODE_DOES_NOT_SUIT", format!("node {} does not suit: {why}", called(to)));
    }
    Ok(eviction)
}

#[tonic::async_trait]
impl AgentService for Api {
    async fn create_agent(
        &self,
        request: Request<CreateAgentRequest>,
    ) -> Result<Response<CreateAgentResponse>, Status> {
        let request = request.into_inner();
        let fleet = resource::parse_fleet("parent", &request.parent)?;
        let how = How {
            request_id: &request.request_id,
            allow_overcommit: request.allow_overcommit,
            validate_only: request.validate_only,
        };
        let agents = self.create(fleet, slice::from_ref(&request), how, &request).await?;
        Ok(Response::new(CreateAgentResponse { agent: agents.into_iter().next() }))
    }

    async fn explain_agent(
        &self,
        request: Request<ExplainAgentRequest>,
    ) -> Result<Response<ExplainAgentResponse>, Status> {
        let id = resource::parse_agent("name", &request.into_inner().name)?;
        let agent = self.agent(id.clone()).await?;
        let found = self.raft.read(|state| {
            let agent = state.agent(&id)?;
            let verdicts = explain(state, agent);
            let shown = verdicts.iter().map(|(node, verdict)| shown(state, agent, *node, verdict));
            Some((shown.collect(), help(state, agent)))
        });
        let (verdicts, help) = found.unwrap_or_default();
        Ok(Response::new(ExplainAgentResponse { agent: Some(agent), verdicts, help }))
    }

    async fn batch_create_agents(
        &self,
        request: Request<BatchCreateAgentsRequest>,
    ) -> Result<Response<BatchCreateAgentsResponse>, Status> {
        let request = request.into_inner();
        let fleet = resource::parse_fleet("parent", &request.parent)?;
        if request.requests.len() > limits::AGENTS_PER_CALL_MAX {
            let why = format!("at most {} agents a call", limits::AGENTS_PER_CALL_MAX);
            let value = request.requests.len().to_string();
            return Err(invalid_field("LIMIT_REACHED", "requests", &value, why));
        }
        let strays =
            |one: &&CreateAgentRequest| !one.parent.is_empty() && one.parent != request.parent;
        if let Some(stray) = request.requests.iter().find(strays) {
            let why = "differs from the parent of the batch";
            return Err(invalid_field("PARENT_MISMATCH", "requests.parent", &stray.parent, why));
        }
        let how = How {
            request_id: &request.request_id,
            allow_overcommit: request.allow_overcommit,
            validate_only: request.validate_only,
        };
        let agents = self.create(fleet, &request.requests, how, &request).await?;
        Ok(Response::new(BatchCreateAgentsResponse { agents }))
    }

    async fn plan_agents(
        &self,
        request: Request<PlanAgentsRequest>,
    ) -> Result<Response<PlanAgentsResponse>, Status> {
        let agents = self.plan(request.into_inner()).await?;
        Ok(Response::new(PlanAgentsResponse { agents }))
    }

    async fn get_agent(
        &self,
        request: Request<GetAgentRequest>,
    ) -> Result<Response<GetAgentResponse>, Status> {
        let id = resource::parse_agent("name", &request.into_inner().name)?;
        Ok(Response::new(GetAgentResponse { agent: Some(self.agent(id).await?) }))
    }

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let request = request.into_inner();
        let (size, after) = convert::parse_page(request.page_size, &request.page_token)?;
        let all = matches!(request.parent.as_str(), "" | "fleets/-");
        let fleet =
            if all { None } else { Some(resource::parse_fleet("parent", &request.parent)?) };
        let after = after.map(|token| resource::parse_agent("page_token", token)).transpose()?;
        let start = match (after, &fleet) {
            (Some(after), _) => Bound::Excluded(after),
            (None, Some(fleet)) => {
                let agent = "0".parse().expect("the smallest text that is a name");
                Bound::Included(AgentId { fleet: fleet.clone(), agent })
            }
            (None, None) => Bound::Unbounded,
        };
        let (agents, more) = self
            .read(|state| {
                let agents = state.agents().range((start, Bound::Unbounded));
                let wanted = agents
                    .map(|(_, agent)| agent.as_ref())
                    .take_while(|agent| fleet.as_ref().is_none_or(|f| agent.id.fleet == *f));
                let show = |agent: &fleet_core::Agent| {
                    let mut shown = convert::agent(state, agent);
                    self.observed.complete(agent, &mut shown);
                    shown
                };
                page(wanted.map(show), size)
            })
            .await?;
        let next_page_token =
            agents.last().filter(|_| more).map(|a| a.name.clone()).unwrap_or_default();
        Ok(Response::new(ListAgentsResponse { agents, next_page_token }))
    }

    async fn move_agent(
        &self,
        request: Request<MoveAgentRequest>,
    ) -> Result<Response<MoveAgentResponse>, Status> {
        let request = request.into_inner();
        let id = resource::parse_agent("name", &request.name)?;
        let to = match request.node.as_str() {
            "" => None,
            name => Some(self.node_id(name).await?),
        };
        // A retry would find the agent where it was to go.
        if self.is_done(&request.request_id, &request).await? {
            return Ok(Response::new(MoveAgentResponse { agent: Some(self.agent(id).await?) }));
        }
        let eviction = self.read(|state| movable(state, &id, to)).await??;
        let evict = EvictAgents { agents: vec![eviction], cause: Cause::Operator };
        self.change(&request.request_id, &request, Operation::EvictAgents(evict)).await?;
        Ok(Response::new(MoveAgentResponse { agent: Some(self.agent(id).await?) }))
    }

    async fn start_agent(
        &self,
        request: Request<StartAgentRequest>,
    ) -> Result<Response<StartAgentResponse>, Status> {
        let r = request.into_inner();
        let agent = self.set_desired(&r.name, &r.request_id, &r, Desired::Running).await?;
        Ok(Response::new(StartAgentResponse { agent }))
    }

    async fn stop_agent(
        &self,
        request: Request<StopAgentRequest>,
    ) -> Result<Response<StopAgentResponse>, Status> {
        let r = request.into_inner();
        let agent = self.set_desired(&r.name, &r.request_id, &r, Desired::Stopped).await?;
        Ok(Response::new(StopAgentResponse { agent }))
    }

    async fn restart_agent(
        &self,
        request: Request<RestartAgentRequest>,
    ) -> Result<Response<RestartAgentResponse>, Status> {
        let request = request.into_inner();
        let agent = resource::parse_agent("name", &request.name)?;
        let operation = Operation::RestartAgent(RestartAgent { agent: agent.clone() });
        self.change(&request.request_id, &request, operation).await?;
        Ok(Response::new(RestartAgentResponse { agent: Some(self.agent(agent).await?) }))
    }

    async fn delete_agent(
        &self,
        request: Request<DeleteAgentRequest>,
    ) -> Result<Response<DeleteAgentResponse>, Status> {
        let request = request.into_inner();
        let agent = resource::parse_agent("name", &request.name)?;
        let operation = Operation::DeleteAgent(DeleteAgent { agent });
        self.change(&request.request_id, &request, operation).await?;
        Ok(Response::new(DeleteAgentResponse {}))
    }

    type TailAgentLogsStream = Logs;

    async fn tail_agent_logs(
        &self,
        request: Request<TailAgentLogsRequest>,
    ) -> Result<Response<Logs>, Status> {
        let request = request.into_inner();
        let id = resource::parse_agent("name", &request.name)?;
        let host = self
            .read(|state| {
                let agent = state.agent(&id)?;
                let node = state.nodes().get(&agent.placement.as_ref()?.node)?;
                Some((node.id, node.address.peer.clone()))
            })
            .await?;
        let Some((node, address)) = host else {
            self.agent(id).await?;
            let message = "the agent has no placement, so no host has its log";
            return Err(status(Code::FailedPrecondition, "AGENT_NOT_PLACED", message, &[]));
        };
        let channel = connect_node(&self.identity, node, &address)?;
        let mut client = AgentHostServiceClient::new(channel);
        let TailAgentLogsRequest { lines, follow, .. } = request;
        let asked = TailLogsRequest { agent: Some(agent_key(&id)), lines, follow };
        let log = client.tail_logs(asked).await?.into_inner();
        let log = log.map(|part| part.map(|part| TailAgentLogsResponse { data: part.data }));
        Ok(Response::new(Box::pin(log)))
    }
}
