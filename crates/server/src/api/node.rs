//! `fleet.v1.NodeService`.

use std::{ops::Bound, time::Duration};

use fleet_core::{
    Drain, Evidence, FenceNode, HoldChange, HoldNode, NodeStatus, Operation, Rejection, RemoveNode,
    Role, RoleCause, Schedulable, SetRole, SetSchedulable, State, plan, voters,
};
use fleet_proto::{
    convert::{api as convert, placement},
    error::{from_rejection, invalid_field, status},
    resource,
    v1::{
        ConfirmNodeDeadRequest, ConfirmNodeDeadResponse, CordonNodeRequest, CordonNodeResponse,
        DemoteNodeRequest, DemoteNodeResponse, DrainNodeRequest, DrainNodeResponse, GetNodeRequest,
        GetNodeResponse, HoldNodeRequest, HoldNodeResponse, ListNodePortsRequest,
        ListNodePortsResponse, ListNodesRequest, ListNodesResponse, Node, PlanNodeLossRequest,
        PlanNodeLossResponse, PromoteNodeRequest, PromoteNodeResponse, ReleaseNodeRequest,
        ReleaseNodeResponse, RemoveNodeRequest, RemoveNodeResponse, UncordonNodeRequest,
        UncordonNodeResponse, node_service_server::NodeService,
    },
};
use fleet_runtime::clock::{self, raw_ms};
use fleet_types::{AgentClass, LeaseTiming, NodeId, Timestamp};
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::{Api, idempotency, loss::losses};

/// Renewals a node may have missed and still be taken for alive.
const HEARD: u64 = 2;
/// In a shorter time a node that lives may not have found a new leader.
const TERM_YOUNG_MS: u64 = 1_000;

fn timing(state: &State) -> LeaseTiming {
    LeaseTiming::of(state.cluster().map(|c| c.profile).unwrap_or_default())
}

/// The node with a number or a name.
pub(super) fn find(state: &State, text: &str) -> Option<NodeId> {
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

    pub(super) async fn node_id(&self, name: &str) -> Result<NodeId, Status> {
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
        drain: Option<Drain>,
    ) -> Result<Option<Node>, Status> {
        let node = self.node_id(name).await?;
        let operation = Operation::SetSchedulable(SetSchedulable { node, schedulable, drain });
        self.change(request_id, content, operation).await?;
        Ok(self.raft.read(|state| self.show(state, node)))
    }

    async fn set_role(
        &self,
        name: &str,
        request_id: &str,
        content: &impl Message,
        role: Role,
    ) -> Result<Option<Node>, Status> {
        let node = self.node_id(name).await?;
        if !self.is_done(request_id, content).await? {
            if role == Role::Worker {
                self.check_heard(self.raft.read(|state| timing(state).renew_ms))?;
            }
            let checked = self.read(|state| match role {
                Role::Voter => voters::check_promotion(state, node),
                Role::Worker => {
                    let mut lost = self.not_heard(state);
                    lost.extend(self.not_counted(state));
                    voters::check_demotion(state, node, &lost)
                }
            });
            checked.await?.map_err(|rejection| from_rejection(&rejection))?;
        }
        let cause = RoleCause::Operator;
        let operation = Operation::SetRole(SetRole { node, role, cause });
        self.change(request_id, content, operation).await?;
        Ok(self.raft.read(|state| self.show(state, node)))
    }

    /// The nodes that are taken to be up, and did not renew their lease of late.
    fn not_heard(&self, state: &State) -> Vec<NodeId> {
        let of_late_ms = HEARD * timing(state).renew_ms;
        let up = state.nodes().values().filter(|node| node.status == NodeStatus::Active);
        let heard = |id| self.leases.age_ms(id).is_some_and(|age| age < of_late_ms);
        up.map(|node| node.id).filter(|id| !heard(*id)).collect()
    }

    /// The nodes that were given a vote which Raft does not count, as they have not caught up.
    fn not_counted(&self, state: &State) -> Vec<NodeId> {
        let counted = self.raft.status().voters;
        let voters = state.nodes().values().filter(|node| node.role == Role::Voter);
        voters.map(|node| node.id).filter(|id| !counted.contains(id)).collect()
    }

    /// Refuses what rests on who was heard of, while nobody could be.
    fn check_heard(&self, renew_ms: u64) -> Result<(), Status> {
        let long_ms = (HEARD * renew_ms).max(TERM_YOUNG_MS);
        if self.leases.term_age_ms().is_some_and(|age| age >= long_ms) {
            return Ok(());
        }
        let message = "this leader has just begun, and does not know yet which nodes live";
        Err(status(Code::Unavailable, "NOT_HEARD_YET", message, &[]))
    }

    /// Returns once a node has a long lease that it asked for after `begun_ms`: when it asks again
    /// after that, it has taken it.
    async fn held_since(&self, node: NodeId, begun_ms: u64) {
        let mut first = None;
        loop {
            match (first, self.leases.held_ms(node).filter(|at| *at >= begun_ms)) {
                (Some(first), Some(next)) if next > first => return,
                (None, granted) => first = granted,
                _ => {}
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// When a drain is over, by the calendar.
fn deadline(request: &DrainNodeRequest) -> Result<Option<Timestamp>, Status> {
    let Some(after) = request.deadline else { return Ok(None) };
    let invalid = |why: &str| {
        invalid_field("DEADLINE_INVALID", "deadline", &format!("{} s", after.seconds), why)
    };
    let after = Duration::try_from(after).map_err(|_| invalid("is negative"))?;
    if after > DRAIN_MAX {
        return Err(invalid("is longer than 30 days"));
    }
    let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    Ok(Some(clock::now().plus_ms(after_ms)))
}

/// Longest time until the deadline of a drain.
const DRAIN_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Longest name of who states that a machine is off, in characters.
const STATED_BY_MAX: usize = 128;
/// How long a node may take to have a longer lease: more than two renewals.
const HOLDING: Duration = Duration::from_secs(5);
/// Pause between looks.
const LOOK: Duration = Duration::from_millis(50);

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
        let node = self.schedule(&r.name, &r.request_id, &r, Schedulable::Cordoned, None).await?;
        Ok(Response::new(CordonNodeResponse { node }))
    }

    async fn uncordon_node(
        &self,
        request: Request<UncordonNodeRequest>,
    ) -> Result<Response<UncordonNodeResponse>, Status> {
        let r = request.into_inner();
        let node = self.schedule(&r.name, &r.request_id, &r, Schedulable::Open, None).await?;
        Ok(Response::new(UncordonNodeResponse { node }))
    }

    async fn drain_node(
        &self,
        request: Request<DrainNodeRequest>,
    ) -> Result<Response<DrainNodeResponse>, Status> {
        let r = request.into_inner();
        let drain = Drain { moves_max: r.moves_at_once, deadline: deadline(&r)? };
        let schedulable = Schedulable::Draining;
        let node = self.schedule(&r.name, &r.request_id, &r, schedulable, Some(drain)).await?;
        Ok(Response::new(DrainNodeResponse { node }))
    }

    async fn promote_node(
        &self,
        request: Request<PromoteNodeRequest>,
    ) -> Result<Response<PromoteNodeResponse>, Status> {
        let r = request.into_inner();
        let node = self.set_role(&r.name, &r.request_id, &r, Role::Voter).await?;
        Ok(Response::new(PromoteNodeResponse { node }))
    }

    async fn demote_node(
        &self,
        request: Request<DemoteNodeRequest>,
    ) -> Result<Response<DemoteNodeResponse>, Status> {
        let r = request.into_inner();
        let node = self.set_role(&r.name, &r.request_id, &r, Role::Worker).await?;
        Ok(Response::new(DemoteNodeResponse { node }))
    }

    async fn list_node_ports(
        &self,
        request: Request<ListNodePortsRequest>,
    ) -> Result<Response<ListNodePortsResponse>, Status> {
        let node = self.node_id(&request.into_inner().name).await?;
        Ok(Response::new(self.raft.read(|state| placement::ports(state, node))))
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<RemoveNodeResponse>, Status> {
        let request = request.into_inner();
        if self.is_done(&request.request_id, &request).await? {
            return Ok(Response::new(RemoveNodeResponse {}));
        }
        let node = self.node_id(&request.name).await?;
        let operation = Operation::RemoveNode(RemoveNode { node });
        self.change(&request.request_id, &request, operation).await?;
        Ok(Response::new(RemoveNodeResponse {}))
    }

    async fn plan_node_loss(
        &self,
        request: Request<PlanNodeLossRequest>,
    ) -> Result<Response<PlanNodeLossResponse>, Status> {
        let node = self.node_id(&request.into_inner().name).await?;
        Ok(Response::new(self.raft.read(|state| {
            let up = |node: &fleet_core::Node| node.status == NodeStatus::Active;
            let mut lost = self.feared_lost(state);
            if state.nodes().get(&node).is_some_and(up) && !lost.contains(&node) {
                lost.push(node);
            }
            let moves_paused = !plan::moves(state, lost.len());
            let losses = losses(state, node, |node| self.observed.pace(node));
            PlanNodeLossResponse { losses, moves_paused }
        })))
    }

    async fn hold_node(
        &self,
        request: Request<HoldNodeRequest>,
    ) -> Result<Response<HoldNodeResponse>, Status> {
        let request = request.into_inner();
        let node = self.node_id(&request.name).await?;
        let lease = request.lease.unwrap_or_default();
        let lease = Duration::try_from(lease).unwrap_or_default();
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let change = HoldChange::Set { lease_ms };
        let operation = Operation::HoldNode(HoldNode { node, change });
        let begun_ms = raw_ms();
        self.change(&request.request_id, &request, operation).await?;
        if tokio::time::timeout(HOLDING, self.held_since(node, begun_ms)).await.is_err() {
            let message = format!(
                "node {node} has not taken a longer lease yet; its agents end with the usual one if \
                 its daemon stops now"
            );
            let (number, field) = (node.to_string(), "node");
            return Err(status(Code::Unavailable, "HOLD_NOT_TAKEN", message, &[(field, &number)]));
        }
        let node = self.raft.read(|state| self.show(state, node));
        Ok(Response::new(HoldNodeResponse { node }))
    }

    async fn release_node(
        &self,
        request: Request<ReleaseNodeRequest>,
    ) -> Result<Response<ReleaseNodeResponse>, Status> {
        let request = request.into_inner();
        let node = self.node_id(&request.name).await?;
        let operation = Operation::HoldNode(HoldNode { node, change: HoldChange::Release });
        self.change(&request.request_id, &request, operation).await?;
        let node = self.raft.read(|state| self.show(state, node));
        Ok(Response::new(ReleaseNodeResponse { node }))
    }

    async fn confirm_node_dead(
        &self,
        request: Request<ConfirmNodeDeadRequest>,
    ) -> Result<Response<ConfirmNodeDeadResponse>, Status> {
        let request = request.into_inner();
        if !request.powered_off {
            let why = "must be true: cut the machine's power first, then say so";
            return Err(invalid_field("NOT_POWERED_OFF", "powered_off", "false", why));
        }
        let by = request.stated_by.clone();
        if by.chars().count() > STATED_BY_MAX || by.chars().any(char::is_control) {
            let why = "is longer than 128 characters, or has control characters";
            return Err(invalid_field("STATED_BY_INVALID", "stated_by", &by, why));
        }
        let node = self.node_id(&request.name).await?;
        let known = self.raft.read(|state| {
            let profile = state.cluster()?.profile;
            Some((state.nodes().get(&node)?.clone(), LeaseTiming::of(profile).renew_ms))
        });
        let unknown = || from_rejection(&Rejection::NodeUnknown(node));
        let (fleet_core::Node { epoch, status: up, name, .. }, renew_ms) =
            known.ok_or_else(unknown)?;
        if up == NodeStatus::Joining {
            let message = format!(
                "node {name} has never been up, so nothing runs on it; `fleet-cluster node remove \
                 {name}` forgets it"
            );
            let number = node.to_string();
            let about = [("node", number.as_str())];
            return Err(status(Code::FailedPrecondition, "NODE_NOT_ACTIVE", message, &about));
        }
        if let Some(age_ms) = self.leases.age_ms(node).filter(|age| *age < HEARD * renew_ms) {
            let message = format!(
                "node {node} renewed its lease {age_ms} ms ago, so its machine has power; \
                 `fleet-cluster node drain` moves its agents off"
            );
            let field = [("node", node.to_string())];
            let field = field.each_ref().map(|(key, value)| (*key, value.as_str()));
            return Err(status(Code::FailedPrecondition, "NODE_ALIVE", message, &field));
        }
        self.check_heard(renew_ms)?;
        tracing::warn!(
            node.id = node.0,
            stated_by = by,
            "an operator states that this node has no power"
        );
        let build: crate::proposer::Build = Box::new(move |draft| {
            let moves = plan::replacements(draft.planner.state(), node, AgentClass::Pinned);
            let evidence = Evidence::Asserted { by };
            let (paused, reach) = (false, AgentClass::Pinned);
            Ok(Operation::FenceNode(FenceNode { node, epoch, evidence, moves, paused, reach }))
        });
        let key = idempotency(&request.request_id, &request)?;
        self.proposer.commit(key, request.encoded_len(), build).await?;
        let node = self.raft.read(|state| self.show(state, node));
        Ok(Response::new(ConfirmNodeDeadResponse { node }))
    }
}
