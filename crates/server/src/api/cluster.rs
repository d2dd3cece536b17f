//! `fleet.v1.ClusterService`.

use std::collections::BTreeMap;

use fleet_core::{MovePolicy, MoveRule, Operation, SetMovePolicy, State, plan};
use fleet_proto::{
    convert::api as convert,
    error::invalid_field,
    v1::{
        self, ClusterStatus, GetClusterStatusRequest, GetClusterStatusResponse,
        SetMovePolicyRequest, SetMovePolicyResponse, cluster_service_server::ClusterService,
        move_policy::Rule,
    },
};
use fleet_types::LeaseTiming;
use tonic::{Request, Response, Status};

use super::{Api, problems};

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
    /// How many nodes may be lost and are not fenced yet.
    pub(super) fn feared_lost(&self, state: &State) -> usize {
        let timing = state.cluster().map(|cluster| LeaseTiming::of(cluster.profile));
        timing.map_or(0, |timing| self.leases.feared_lost(state, &timing))
    }

    fn status(&self, state: &State) -> ClusterStatus {
        let cluster = state.cluster();
        let mut agents_by_state = BTreeMap::new();
        for agent in state.agents().values() {
            let mut shown = fleet_proto::v1::Agent {
                state: convert::agent_state(agent).into(),
                ..Default::default()
            };
            self.observed.complete(agent, &mut shown);
            *agents_by_state.entry(shown.state().as_str_name().to_owned()).or_insert(0) += 1;
        }
        let (nodes, moves) = (state.nodes().values(), plan::moves(state, self.feared_lost(state)));
        let raft = self.raft.status();
        ClusterStatus {
            cluster_id: cluster.map(|c| c.id.to_string()).unwrap_or_default(),
            profile: cluster.map(|c| c.profile.to_string()).unwrap_or_default(),
            leader: raft.leader.map(|id| format!("nodes/{id}")).unwrap_or_default(),
            term: raft.term,
            applied_index: *self.raft.applied_index().borrow(),
            nodes: nodes.filter_map(|node| self.show(state, node.id)).collect(),
            agents_by_state,
            agents: convert::count(state.agents().len()),
            problems: problems::find(state, &self.observed, moves),
            create_time: cluster.map(|c| convert::timestamp(c.created)),
            move_policy: cluster.map(|c| convert::move_policy(c.moves)),
            moves_paused: !moves,
        }
    }
}

#[tonic::async_trait]
impl ClusterService for Api {
    async fn get_cluster_status(
        &self,
        _: Request<GetClusterStatusRequest>,
    ) -> Result<Response<GetClusterStatusResponse>, Status> {
        let status = self.read(|state| self.status(state)).await?;
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
}
