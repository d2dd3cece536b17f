//! `fleet.v1.NodeService`.

use std::ops::Bound;

use fleet_core::{Operation, Rejection, RemoveNode, Schedulable, SetSchedulable, State};
use fleet_proto::{
    convert::api as convert,
    error::{from_rejection, invalid_field, status},
    resource,
    v1::{
        CordonNodeRequest, CordonNodeResponse, DrainNodeRequest, DrainNodeResponse, GetNodeRequest,
        GetNodeResponse, ListNodesRequest, ListNodesResponse, Node, RemoveNodeRequest,
        RemoveNodeResponse, UncordonNodeRequest, UncordonNodeResponse,
        node_service_server::NodeService,
    },
};
use fleet_types::NodeId;
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::Api;

/// The node with a number or a name.
fn find(state: &State, text: &str) -> Option<NodeId> {
    let by_name = || state.nodes().values().find(|node| node.name.as_str() == text);
    let by_number = text.parse().ok().and_then(|id| state.nodes().get(&NodeId(id)));
    by_number.or_else(by_name).map(|node| node.id)
}

impl Api {
    pub(super) fn show(&self, state: &State, id: NodeId) -> Option<Node> {
        let node = state.nodes().get(&id)?;
        let votes = self.raft.status().voters.contains(&id);
        Some(convert::node(state, node, self.leases.age_ms(id), votes))
    }

    async fn node_id(&self, name: &str) -> Result<NodeId, Status> {
        let text = resource::parse_simple("name", "nodes", name)?;
        let found = self.read(|state| find(state, text)).await?;
        found.ok_or_else(|| {
            let message = format!("no node {text}; `fleet-cluster node list` shows them");
            status(Code::NotFound, "NODE_NOT_FOUND", message, &[("field", "name"), ("value", text)])
        })
    }

    async fn schedule(
        &self,
        name: &str,
        request_id: &str,
        content: &impl Message,
        schedulable: Schedulable,
    ) -> Result<Option<Node>, Status> {
        let node = self.node_id(name).await?;
        let operation = Operation::SetSchedulable(SetSchedulable { node, schedulable });
        self.change(request_id, content, operation).await?;
        Ok(self.raft.read(|state| self.show(state, node)))
    }
}

#[tonic::async_trait]
impl NodeService for Api {
    async fn get_node(
        &self,
        request: Request<GetNodeRequest>,
    ) -> Result<Response<GetNodeResponse>, Status> {
        let id = self.node_id(&request.into_inner().name).await?;
        let node = self.raft.read(|state| self.show(state, id));
        let node = node.ok_or_else(|| from_rejection(&Rejection::NodeUnknown(id)))?;
        Ok(Response::new(GetNodeResponse { node: Some(node) }))
    }

    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let request = request.into_inner();
        let (size, after) = convert::parse_page(request.page_size, &request.page_token)?;
        let after = match after.map(|token| resource::parse_simple("page_token", "nodes", token)) {
            None => Bound::Unbounded,
            Some(token) => {
                let token = token?;
                let invalid = |e| invalid_field("INVALID_RESOURCE_NAME", "page_token", token, e);
                Bound::Excluded(NodeId(token.parse().map_err(invalid)?))
            }
        };
        let nodes: Vec<Node> = self
            .read(|state| {
                let page = state.nodes().range((after, Bound::Unbounded)).take(size);
                page.filter_map(|(id, _)| self.show(state, *id)).collect()
            })
            .await?;
        let full = nodes.len() == size;
        let next_page_token =
            nodes.last().filter(|_| full).map(|n| n.name.clone()).unwrap_or_default();
        Ok(Response::new(ListNodesResponse { nodes, next_page_token }))
    }

    async fn cordon_node(
        &self,
        request: Request<CordonNodeRequest>,
    ) -> Result<Response<CordonNodeResponse>, Status> {
        let r = request.into_inner();
        let node = self.schedule(&r.name, &r.request_id, &r, Schedulable::Cordoned).await?;
        Ok(Response::new(CordonNodeResponse { node }))
    }

    async fn uncordon_node(
        &self,
        request: Request<UncordonNodeRequest>,
    ) -> Result<Response<UncordonNodeResponse>, Status> {
        let r = request.into_inner();
        let node = self.schedule(&r.name, &r.request_id, &r, Schedulable::Open).await?;
        Ok(Response::new(UncordonNodeResponse { node }))
    }

    async fn drain_node(
        &self,
        request: Request<DrainNodeRequest>,
    ) -> Result<Response<DrainNodeResponse>, Status> {
        let r = request.into_inner();
        let node = self.schedule(&r.name, &r.request_id, &r, Schedulable::Draining).await?;
        Ok(Response::new(DrainNodeResponse { node }))
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<RemoveNodeResponse>, Status> {
        let request = request.into_inner();
        let node = self.node_id(&request.name).await?;
        let operation = Operation::RemoveNode(RemoveNode { node });
        self.change(&request.request_id, &request, operation).await?;
        Ok(Response::new(RemoveNodeResponse {}))
    }
}
