//! The receiving side of the Raft protocol, over gRPC. Checks that the caller is the node its
//! message speaks for, and that this is the node meant.

use std::{pin::Pin, sync::Arc};

use fleet_proto::raft::{
    self as wire, append_entries_response as appended, raft_service_server::RaftService,
};
use fleet_types::Principal;
use futures::{Stream, StreamExt};
use openraft::raft::{AppendEntriesRequest, StreamAppendError, VoteRequest};
use tokio::io::AsyncWriteExt;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    codec::{get_entry, get_log_id, get_meta, get_vote, put_log_id, put_vote},
    node::Inner,
    snapshot,
    type_config::{TypeConfig, Vote},
};

/// The gRPC service that answers peers. Requests must carry a [`Principal`] extension.
pub struct Service {
    pub(crate) inner: Arc<Inner>,
}

/// The node at the other end.
fn caller<T>(request: &Request<T>) -> Result<u64, Status> {
    match request.extensions().get::<Principal>() {
        Some(Principal::Node(id)) => Ok(id.0),
        _ => Err(Status::permission_denied("only nodes of the cluster may call this")),
    }
}

fn invalid(error: std::io::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

impl Service {
    /// Refuses a message for another node, or in another node's name.
    fn check(&self, caller: u64, target: u64, vote: &Vote) -> Result<(), Status> {
        if target != self.inner.id.0 {
            let id = self.inner.id;
            return Err(Status::failed_precondition(format!("this is node {id}, not {target}")));
        }
        if vote.leader_id.node_id != caller {
            return Err(Status::permission_denied("the vote is not the caller's"));
        }
        Ok(())
    }
}

fn get_append(
    message: wire::AppendEntriesRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
    Ok(AppendEntriesRequest {
        vote: get_vote(message.vote).map_err(invalid)?,
        prev_log_id: message.prev_log_id.map(get_log_id),
        entries: message
            .entries
            .into_iter()
            .map(get_entry)
            .collect::<Result<_, _>>()
            .map_err(invalid)?,
        leader_commit: message.leader_commit.map(get_log_id),
    })
}

fn put_appended(
    result: openraft::raft::StreamAppendResult<TypeConfig>,
) -> wire::AppendEntriesResponse {
    let result = match result {
        Ok(last) => {
            appended::Result::Matched(appended::Matched { log_id: last.as_ref().map(put_log_id) })
        }
        Err(StreamAppendError::Conflict(id)) => appended::Result::Conflict(put_log_id(&id)),
        Err(StreamAppendError::HigherVote(v)) => appended::Result::HigherVote(put_vote(&v)),
    };
    wire::AppendEntriesResponse { result: Some(result) }
}

type Answers = Pin<Box<dyn Stream<Item = Result<wire::AppendEntriesResponse, Status>> + Send>>;

#[tonic::async_trait]
impl RaftService for Service {
    type AppendEntriesStream = Answers;

    async fn append_entries(
        &self,
        request: Request<Streaming<wire::AppendEntriesRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let caller = caller(&request)?;
        let service = Self { inner: self.inner.clone() };
        // A message that does not decode or is not the caller's ends the stream.
        let requests = request.into_inner().scan((), move |(), message| {
            let checked = message.and_then(|message| {
                let target = message.target;
                let rpc = get_append(message)?;
                service.check(caller, target, &rpc.vote)?;
                service.inner.acknowledged.answering(rpc.vote.leader_id.term);
                Ok(rpc)
            });
            futures::future::ready(match checked {
                Ok(rpc) => Some(rpc),
                Err(status) => {
                    tracing::debug!(peer = caller, %status, "append stream ended");
                    None
                }
            })
        });
        let answers = self.inner.raft.stream_append(requests).map(|answer| {
            answer.map(put_appended).map_err(|fatal| Status::unavailable(fatal.to_string()))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn request_vote(
        &self,
        request: Request<wire::RequestVoteRequest>,
    ) -> Result<Response<wire::RequestVoteResponse>, Status> {
        let caller = caller(&request)?;
        let message = request.into_inner();
        let vote = get_vote(message.vote).map_err(invalid)?;
        self.check(caller, message.target, &vote)?;
        let mut rpc = VoteRequest::new(vote, message.last_log_id.map(get_log_id));
        rpc.leadership_transfer = message.leadership_transfer;
        let raft = &self.inner.raft;
        let answer = if message.pre_vote { raft.pre_vote(rpc).await } else { raft.vote(rpc).await };
        let answer = answer.map_err(|e| Status::unavailable(e.to_string()))?;
        // Looked at after the vote: from then on no older leader is answered.
        let ago = self.inner.acknowledged.before(vote.leader_id.term).elapsed();
        Ok(Response::new(wire::RequestVoteResponse {
            vote: Some(put_vote(&answer.vote)),
            granted: answer.vote_granted,
            last_log_id: answer.last_log_id.as_ref().map(put_log_id),
            acknowledged_ms_ago: u64::try_from(ago.as_millis()).unwrap_or(0),
        }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::InstallSnapshotRequest>>,
    ) -> Result<Response<wire::InstallSnapshotResponse>, Status> {
        let caller = caller(&request)?;
        let mut messages = request.into_inner();
        let header = messages.message().await?.and_then(|message| message.header);
        let header = header.ok_or_else(|| Status::invalid_argument("no snapshot description"))?;
        let vote = get_vote(header.vote).map_err(invalid)?;
        self.check(caller, header.target, &vote)?;
        self.inner.acknowledged.answering(vote.leader_id.term);
        let meta = get_meta(header.meta).map_err(invalid)?;
        let failed = |e: std::io::Error| Status::unavailable(format!("storing a snapshot: {e}"));
        let (file, path) = snapshot::receiving(&self.inner.snapshots).map_err(failed)?;
        let mut file = tokio::fs::File::from_std(file);
        while let Some(message) = messages.message().await? {
            file.write_all(&message.chunk).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        drop(file);
        let received = tokio::task::spawn_blocking(move || snapshot::received(path, &meta));
        let snapshot = received.await.map_err(std::io::Error::other).flatten().map_err(failed)?;
        let answer = self.inner.raft.install_full_snapshot(vote, snapshot).await;
        let answer = answer.map_err(|e| Status::unavailable(e.to_string()))?;
        Ok(Response::new(wire::InstallSnapshotResponse { vote: Some(put_vote(&answer.vote)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferLeaderRequest>,
    ) -> Result<Response<wire::TransferLeaderResponse>, Status> {
        let caller = caller(&request)?;
        let message = request.into_inner();
        let vote = get_vote(message.from_leader).map_err(invalid)?;
        self.check(caller, self.inner.id.0, &vote)?;
        let last = message.last_log_id.map(get_log_id);
        let rpc = openraft::raft::TransferLeaderRequest::new(vote, message.to, last);
        let handled = self.inner.raft.handle_transfer_leader(rpc).await;
        let accepted = handled.map_err(|e| Status::unavailable(e.to_string()))?;
        accepted.map_err(|e| Status::failed_precondition(e.to_string()))?;
        Ok(Response::new(wire::TransferLeaderResponse {}))
    }
}
