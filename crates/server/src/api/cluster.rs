//! `fleet.v1.ClusterService`.

use std::collections::BTreeMap;

use fleet_core::State;
use fleet_proto::{
    convert::api as convert,
    v1::{
        ClusterStatus, GetClusterStatusRequest, GetClusterStatusResponse,
        cluster_service_server::ClusterService,
    },
};
use tonic::{Request, Response, Status};

use super::{Api, problems};

impl Api {
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
        let nodes = state.nodes().values();
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
            problems: problems::find(state, &self.observed),
            create_time: cluster.map(|c| convert::timestamp(c.created)),
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
}
