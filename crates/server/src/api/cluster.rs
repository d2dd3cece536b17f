//! `fleet.v1.ClusterService`.

use fleet_core::{
    Cause, MovePolicy, MoveRule, Operation, Outcome, SetMovePolicy, SetPlacementPolicy, State,
    What, admission, plan, rebalance,
};
use fleet_proto::{
    convert::{api as convert, placement},
    error::{invalid_field, status},
    v1::{
        self, AgentMove, ClusterStatus, GetClusterStatusRequest, GetClusterStatusResponse,
        PlanRebalanceRequest, PlanRebalanceResponse, SetMovePolicyRequest, SetMovePolicyResponse,
        SetPlacementPolicyRequest, SetPlacementPolicyResponse, StartRebalanceRequest,
        StartRebalanceResponse, cluster_service_server::ClusterService, move_policy::Rule,
    },
};
use fleet_types::{LeaseTiming, NodeId, Revision, limits};
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::{Api, census::Census, idempotency, problems};
use crate::leader::{Observed, moving};

fn parse(policy: &v1::MovePolicy) -> Result<MovePolicy, Status> {
    let rule = match policy.rule() {
        Rule::Automatic => MoveRule::Automatic,
        Rule::Always => MoveRule::Always,
        Rule::Never => MoveRule::Never,
        Rule::Unspecified => {
            let (field, value) = ("move_policy.rule", policy.rule.to_string());
            let why = "use RULE_AUTOMATIC, RULE_ALWAYS or RULE_NEVER";
            return Err(invalid_field("MOVE_RULE_INVALID", field, &value, why));
        }
    };
    let lost_percent_max = u8::try_from(policy.lost_percent_max).ok().filter(|p| *p <= 100);
    let lost_percent_max = lost_percent_max.ok_or_else(|| {
        let (field, value) = ("move_policy.lost_percent_max", policy.lost_percent_max.to_string());
        invalid_field("LOST_PERCENT_INVALID", field, &value, "use 0 to 100")
    })?;
    Ok(MovePolicy { rule, lost_percent_max })
}

impl Api {
    /// The nodes that may be lost and are not fenced yet.
    pub(super) fn feared_lost(&self, state: &State) -> Vec<NodeId> {
        let timing = state.cluster().map(|cluster| LeaseTiming::of(cluster.profile));
        timing.map(|timing| self.leases.feared_lost(state, &timing)).unwrap_or_default()
    }

    /// Refuses a rebalance while as many agents are on the move as the policy allows. A retry begins
    /// nothing.
    async fn check_free_moves(&self, request: &StartRebalanceRequest) -> Result<(), Status> {
        let free = self.read(|state| free_moves(state, &self.observed)).await?;
        if free > 0 || self.is_done(&request.request_id, request).await? {
            return Ok(());
        }
        let message = "as many agents are on the move as may be at once (`fleet-cluster placement \
                       set --moves-at-once`): wait for them, or say how many more";
        Err(status(Code::FailedPrecondition, "ENOUGH_MOVES", message, &[]))
    }

    fn status(&self, state: &State, census: Census) -> ClusterStatus {
        let cluster = state.cluster();
        let moves = plan::moves(state, self.feared_lost(state).len());
        let nodes = state.nodes().values();
        let raft = self.raft.status();
        ClusterStatus {
            cluster_id: cluster.map(|c| c.id.to_string()).unwrap_or_default(),
            profile: cluster.map(|c| c.profile.to_string()).unwrap_or_default(),
            leader: raft.leader.map(|id| format!("nodes/{id}")).unwrap_or_default(),
            term: raft.term,
            applied_index: *self.raft.applied_index().borrow(),
            nodes: nodes.filter_map(|node| self.show(state, node.id)).collect(),
            agents_by_state: census.by_state,
            agents: convert::count(state.agents().len()),
            problems: problems::find(state, moves, &self.leases.refused())
                .into_iter()
                .chain(census.problems)
                .collect(),
            create_time: cluster.map(|c| convert::timestamp(c.created)),
            move_policy: cluster.map(|c| convert::move_policy(c.moves)),
            moves_paused: !moves,
            placement_policy: Some(placement::policy(state.placement_policy())),
            headroom: admission::headroom(state).map(placement::headroom).collect(),
            imbalance_percent: placement::percent(rebalance::imbalance(state)),
        }
    }
}

#[tonic::async_trait]
impl ClusterService for Api {
    async fn get_cluster_status(
        &self,
        _: Request<GetClusterStatusRequest>,
    ) -> Result<Response<GetClusterStatusResponse>, Status> {
        self.linearize().await?;
        let census = self.census().await?;
        let status = self.raft.read(|state| self.status(state, census));
        Ok(Response::new(GetClusterStatusResponse { status: Some(status) }))
    }

    async fn set_move_policy(
        &self,
        request: Request<SetMovePolicyRequest>,
    ) -> Result<Response<SetMovePolicyResponse>, Status> {
        let request = request.into_inner();
        let policy = parse(&request.move_policy.unwrap_or_default())?;
        let operation = Operation::SetMovePolicy(SetMovePolicy { policy });
        self.change(&request.request_id, &request, operation).await?;
        let now = self.raft.read(|state| state.cluster().map(|c| convert::move_policy(c.moves)));
        Ok(Response::new(SetMovePolicyResponse { move_policy: now }))
    }

    async fn set_placement_policy(
        &self,
        request: Request<SetPlacementPolicyRequest>,
    ) -> Result<Response<SetPlacementPolicyResponse>, Status> {
        let request = request.into_inner();
        let policy = placement::parse_policy(request.placement_policy.clone().unwrap_or_default())?;
        let operation = Operation::SetPlacementPolicy(SetPlacementPolicy { policy });
        self.change(&request.request_id, &request, operation).await?;
        let now = self.raft.read(|state| placement::policy(state.placement_policy()));
        Ok(Response::new(SetPlacementPolicyResponse { placement_policy: Some(now) }))
    }

    async fn plan_rebalance(
        &self,
        request: Request<PlanRebalanceRequest>,
    ) -> Result<Response<PlanRebalanceResponse>, Status> {
        let limit = moves_max(request.into_inner().moves_max)?;
        let planned = self.read(|state| {
            let (moves, after) = rebalance::plan(state, limit);
            PlanRebalanceResponse {
                moves: shown(state, &moves),
                imbalance_percent: placement::percent(rebalance::imbalance(state)),
                imbalance_after_percent: placement::percent(after),
            }
        });
        Ok(Response::new(planned.await?))
    }

    async fn start_rebalance(
        &self,
        request: Request<StartRebalanceRequest>,
    ) -> Result<Response<StartRebalanceResponse>, Status> {
        let request = request.into_inner();
        let limit = match request.moves_max {
            0 => {
                self.check_free_moves(&request).await?;
                None
            }
            some => Some(moves_max(some)?),
        };
        let (chosen, moves) = tokio::sync::oneshot::channel();
        let observed = self.observed.clone();
        let build: crate::proposer::Build = Box::new(move |draft| {
            let state = draft.planner.state();
            let limit = limit.unwrap_or_else(|| free_moves(state, &observed));
            let moves = rebalance::moves(state, limit);
            let evict = rebalance::carry_out(state, &moves, Cause::Operator);
            // Who hung up does not want to know.
            let _ = chosen.send(shown(state, &moves));
            Ok(Operation::EvictAgents(evict))
        });
        let key = idempotency(&request.request_id, &request)?;
        let moves = match self.proposer.commit(key, request.encoded_len(), build).await? {
            Outcome::Repeated(begun) => self.raft.read(|state| begun_at(state, begun)),
            _ => moves.await.unwrap_or_default(),
        };
        Ok(Response::new(StartRebalanceResponse { moves }))
    }
}

/// The most moves of one call.
fn moves_max(asked: u32) -> Result<usize, Status> {
    let most = limits::EVICTIONS_MAX;
    match usize::try_from(asked) {
        Ok(0) => Ok(most),
        Ok(moves) if moves <= most => Ok(moves),
        _ => {
            let why = format!("at most {most} moves a call");
            Err(invalid_field("LIMIT_REACHED", "moves_max", &asked.to_string(), why))
        }
    }
}

/// How many more agents may be on the move, by the policy.
fn free_moves(state: &State, observed: &Observed) -> usize {
    usize::from(state.placement_policy().moves_max).saturating_sub(moving(state, observed))
}

/// The moves that operators began at a revision.
fn begun_at(state: &State, begun: Revision) -> Vec<AgentMove> {
    let events = state.events().values().rev().take_while(|event| event.revision >= begun);
    let evicted = What::AgentEvicted { cause: Cause::Operator };
    let of_call = events.filter(|event| event.revision == begun && event.what == evicted);
    let moves = of_call.filter_map(|event| {
        let agent = event.agent.clone()?;
        let placement = state.agent(&agent)?.placement.as_ref()?;
        let to = if placement.evicting { placement.next? } else { placement.node };
        Some(rebalance::Move { agent, from: event.node?, to }).filter(|it| it.from != it.to)
    });
    shown(state, &moves.collect::<Vec<_>>())
}

fn shown(state: &State, moves: &[rebalance::Move]) -> Vec<AgentMove> {
    moves.iter().map(|it| placement::agent_move(state, it)).collect()
}
