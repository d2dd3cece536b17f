//! `fleet.v1.AgentService`.

use std::{ops::Bound, pin::Pin};

use fleet_client::connect_node;
use fleet_core::{
    AgentDraft, AgentSpec, CreateAgents, DeleteAgent, Desired, NodeStatus, Operation, Rejection,
    RestartAgent, SetAgentDesired, State,
    explain::{Verdict, explain},
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
        ListAgentsResponse, NodeVerdict, RestartAgentRequest, RestartAgentResponse,
        StartAgentRequest, StartAgentResponse, StopAgentRequest, StopAgentResponse,
        TailAgentLogsRequest, TailAgentLogsResponse, agent::DesiredState,
        agent_service_server::AgentService,
    },
};
use fleet_types::{AgentId, AgentName, FleetName, NodeId, limits};
use futures::{Stream, StreamExt};
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::{Api, idempotency};

type Logs = Pin<Box<dyn Stream<Item = Result<TailAgentLogsResponse, Status>> + Send>>;

/// An agent to be made, checked as far as it can be without the state.
struct Wanted {
    name: AgentName,
    spec: AgentSpec,
    desired: Desired,
}

impl Api {
    fn parse(&self, request: CreateAgentRequest) -> Result<Wanted, Status> {
        let id = &request.agent_id;
        let name = id.parse().map_err(|e| invalid_field("INVALID_NAME", "agent_id", id, e))?;
        let agent = request.agent.unwrap_or_default();
        let desired = match agent.desired_state() {
            DesiredState::Stopped => Desired::Stopped,
            DesiredState::Running | DesiredState::Unspecified => Desired::Running,
        };
        let block_size = |name: &_| self.runtimes.get(name).map(|runtime| runtime.ports);
        let spec = convert::parse_agent_spec(agent.spec, block_size)?;
        let runtime = self.runtimes.get(&spec.runtime);
        if spec.command.is_empty() != runtime.is_some_and(|r| !r.command.is_empty()) {
            let why = if spec.command.is_empty() { "needs a command" } else { "takes no command" };
            let why = format!("runtime {} {why}", spec.runtime);
            return Err(invalid_field("COMMAND_INVALID", "agent.spec.command", "", why));
        }
        Ok(Wanted { name, spec, desired })
    }

    /// Refuses overlays that touch what the runtime reserves.
    fn check_overlays(&self, fleet: &FleetName, wanted: &[Wanted]) -> Result<(), Status> {
        let config = self.raft.read(|state| state.fleets().get(fleet).map(|f| f.config.clone()));
        let config = config.unwrap_or_default();
        for wanted in wanted.iter().filter(|w| !w.spec.config.is_empty() || !config.is_empty()) {
            let field = "agent.spec.config_json";
            let merged = overlay::combine([config.as_str(), wanted.spec.config.as_str()])
                .map_err(|e| invalid_field("CONFIG_INVALID", field, &wanted.spec.config, e))?;
            self.runtimes
                .check_overlay(&wanted.spec.runtime, &merged)
                .map_err(|e| invalid_field("CONFIG_INVALID", field, &wanted.spec.config, e))?;
        }
        Ok(())
    }

    async fn create(
        &self,
        fleet: FleetName,
        wanted: Vec<Wanted>,
        request_id: &str,
        content: &impl Message,
    ) -> Result<Vec<Agent>, Status> {
        self.check_overlays(&fleet, &wanted)?;
        let names: Vec<AgentId> = wanted
            .iter()
            .map(|w| AgentId { fleet: fleet.clone(), agent: w.name.clone() })
            .collect();
        let key = idempotency(request_id, content)?;
        let build: crate::proposer::Build = Box::new(move |planner| {
            let draft = |Wanted { name, spec, desired }| {
                let node = planner.choose(&spec);
                AgentDraft { name, spec, desired, node }
            };
            let agents = wanted.into_iter().map(draft).collect();
            Operation::CreateAgents(CreateAgents { fleet, agents })
        });
        self.proposer.commit(key, content.encoded_len(), build).await?;
        // What was committed is applied here, so no barrier is needed to see it.
        self.raft.read(|state| {
            let find = |id| state.agents().get(id).map(|agent| convert::agent(state, agent));
            let missing = |id: &AgentId| from_rejection(&Rejection::AgentUnknown(id.clone()));
            names.iter().map(|id| find(id).ok_or_else(|| missing(id))).collect()
        })
    }

    async fn agent(&self, id: AgentId) -> Result<Agent, Status> {
        let found = self
            .read(|state| {
                state.agents().get(&id).map(|agent| {
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

/// What a node is to an agent, for people.
fn shown(state: &State, agent: &fleet_core::Agent, id: NodeId, verdict: Verdict) -> NodeVerdict {
    let node = state.nodes().get(&id);
    let (suits, reason, message) = match verdict {
        Verdict::Here => {
            let why = agent.placement.as_ref().map(|p| convert::evidence(&p.evidence));
            (true, "PLACED", format!("it is here: {}", why.unwrap_or_default()))
        }
        Verdict::Suits { agents } => {
            let why = "of nodes that suit, the one with the fewest agents is taken";
            (true, "SUITS", format!("it could run here, beside {agents} agents; {why}"))
        }
        Verdict::NotUp(NodeStatus::Fenced) => {
            (false, "NOT_UP", "the node is out of reach and was fenced".into())
        }
        Verdict::NotUp(_) => (false, "NOT_UP", "the node has not registered yet".into()),
        Verdict::NotOpen(_) => {
            let what = "the node is cordoned or drained; `fleet-cluster node uncordon` opens it";
            (false, "NOT_OPEN", what.into())
        }
        Verdict::NoRuntime => {
            (false, "NO_RUNTIME", format!("runtime {} cannot run there", agent.spec.runtime))
        }
        Verdict::NoLabels => {
            let labels = convert::node_labels(&agent.spec);
            (false, "NO_LABELS", format!("the node has not {labels}"))
        }
        Verdict::Unfit => {
            let why = node.and_then(|node| node.report.as_ref()).map(|r| r.unfit.join(", "));
            (false, "UNFIT", format!("it keeps no strict agents: {}", why.unwrap_or_default()))
        }
        Verdict::NoPorts { free } => {
            let ports = agent.spec.ports;
            (false, "NO_PORTS", format!("no block of {ports} ports is free, of {free} free ports"))
        }
    };
    NodeVerdict {
        node: format!("nodes/{id}"),
        node_display_name: node.map(|node| node.name.to_string()).unwrap_or_default(),
        suits,
        reason: reason.into(),
        message,
    }
}

#[tonic::async_trait]
impl AgentService for Api {
    async fn create_agent(
        &self,
        request: Request<CreateAgentRequest>,
    ) -> Result<Response<CreateAgentResponse>, Status> {
        let request = request.into_inner();
        let fleet = resource::parse_fleet("parent", &request.parent)?;
        let wanted = vec![self.parse(request.clone())?];
        let agents = self.create(fleet, wanted, &request.request_id, &request).await?;
        Ok(Response::new(CreateAgentResponse { agent: agents.into_iter().next() }))
    }

    async fn explain_agent(
        &self,
        request: Request<ExplainAgentRequest>,
    ) -> Result<Response<ExplainAgentResponse>, Status> {
        let id = resource::parse_agent("name", &request.into_inner().name)?;
        let agent = self.agent(id.clone()).await?;
        let verdicts = self.raft.read(|state| {
            let agent = state.agents().get(&id)?;
            let verdicts = explain(state, agent).into_iter();
            Some(verdicts.map(|(node, verdict)| shown(state, agent, node, verdict)).collect())
        });
        let verdicts = verdicts.unwrap_or_default();
        Ok(Response::new(ExplainAgentResponse { agent: Some(agent), verdicts }))
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
        let parse = |one: &CreateAgentRequest| {
            if !one.parent.is_empty() && one.parent != request.parent {
                let why = "differs from the parent of the batch";
                return Err(invalid_field("PARENT_MISMATCH", "requests.parent", &one.parent, why));
            }
            self.parse(one.clone())
        };
        let wanted = request.requests.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let agents = self.create(fleet, wanted, &request.request_id, &request).await?;
        Ok(Response::new(BatchCreateAgentsResponse { agents }))
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
        let agents: Vec<Agent> = self
            .read(|state| {
                let agents = state.agents().range((start, Bound::Unbounded));
                let wanted = agents
                    .map(|(_, agent)| agent)
                    .take_while(|agent| fleet.as_ref().is_none_or(|f| agent.id.fleet == *f));
                let show = |agent: &fleet_core::Agent| {
                    let mut shown = convert::agent(state, agent);
                    self.observed.complete(agent, &mut shown);
                    shown
                };
                wanted.take(size).map(show).collect()
            })
            .await?;
        let full = agents.len() == size;
        let next_page_token =
            agents.last().filter(|_| full).map(|a| a.name.clone()).unwrap_or_default();
        Ok(Response::new(ListAgentsResponse { agents, next_page_token }))
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
                let agent = state.agents().get(&id)?;
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
