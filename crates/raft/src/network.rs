//! The sending side of the Raft protocol, over gRPC.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use fleet_proto::raft::{
    self as wire, append_entries_response::Result as Appended, install_snapshot_request::Header,
    raft_service_client::RaftServiceClient,
};
use fleet_types::{NodeId, limits};
use futures::{Stream, StreamExt, stream};
use openraft::{
    OptionalSend,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, RaftNetworkFactory, RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
        StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
        VoteResponse,
    },
};
use tokio::{io::AsyncReadExt, runtime::Handle};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Status, transport::Channel};

use crate::{
    acknowledged::Acknowledged,
    codec::{get_log_id, get_vote, put_entry, put_log_id, put_meta, put_vote},
    snapshot::SnapshotFile,
    type_config::{Address, Snapshot, TypeConfig, Vote},
};

/// Opens a connection to a node's peer listener that fails unless that very node answers.
pub type Dial = Arc<dyn Fn(NodeId, &str) -> Result<Channel, Status> + Send + Sync>;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
type BoxedStream<'a, T> = Pin<Box<dyn Stream<Item = T> + Send + 'a>>;
type StreamItem = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// Makes connections to peers.
pub(crate) struct Network {
    pub(crate) dial: Dial,
    pub(crate) acknowledged: Arc<Acknowledged>,
    /// Where snapshots are sent: encrypting one would hold up what consensus has to say.
    pub(crate) aside: Handle,
}

/// One connection to one peer.
pub(crate) struct Peer {
    target: u64,
    address: String,
    dial: Dial,
    acknowledged: Arc<Acknowledged>,
    aside: Handle,
    client: Result<RaftServiceClient<Channel>, Status>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Address) -> Peer {
        let client = connect(&self.dial, target, &node.0);
        let (address, dial, aside) = (node.0.clone(), self.dial.clone(), self.aside.clone());
        Peer { target, address, dial, acknowledged: self.acknowledged.clone(), aside, client }
    }
}

fn connect(dial: &Dial, to: u64, address: &str) -> Result<RaftServiceClient<Channel>, Status> {
    let client = RaftServiceClient::new(dial(NodeId(to), address)?)
        .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(4 * limits::MESSAGE_BYTES_MAX);
    Ok(client)
}

fn unreachable(status: &Status) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(status))
}

impl Peer {
    fn client(&self) -> Result<RaftServiceClient<Channel>, RPCError<TypeConfig>> {
        self.client.clone().map_err(|status| unreachable(&status))
    }

    async fn request_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
        pre_vote: bool,
        ttl: Duration,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut request = Request::new(wire::RequestVoteRequest {
            vote: Some(put_vote(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(put_log_id),
            pre_vote,
            leadership_transfer: rpc.leadership_transfer,
            target: self.target,
        });
        request.set_timeout(ttl);
        let answer = self.client()?.request_vote(request).await.map_err(|s| unreachable(&s))?;
        let answer = answer.into_inner();
        let vote = get_vote(answer.vote).map_err(|e| RPCError::Network(NetworkError::new(&e)))?;
        let last = answer.last_log_id.map(get_log_id);
        if answer.granted && !pre_vote {
            let ago = Duration::from_millis(answer.acknowledged_ms_ago);
            self.acknowledged.voted(rpc.vote.leader_id.term, ago);
        }
        Ok(VoteResponse::new(vote, last, answer.granted))
    }
}

/// How long opening a stream may take. It may include connecting: several round trips, on a network
/// whose single ones may take longer than a heartbeat's period, for which an append is given.
const OPENING: Duration = Duration::from_secs(1);

/// An append request as sent.
pub(crate) fn put_append(
    rpc: AppendEntriesRequest<TypeConfig>,
    target: u64,
) -> wire::AppendEntriesRequest {
    wire::AppendEntriesRequest {
        vote: Some(put_vote(&rpc.vote)),
        prev_log_id: rpc.prev_log_id.as_ref().map(put_log_id),
        entries: rpc.entries.into_iter().map(put_entry).collect(),
        leader_commit: rpc.leader_commit.as_ref().map(put_log_id),
        target,
    }
}

fn get_appended(
    answer: wire::AppendEntriesResponse,
) -> Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>> {
    let broken = |e: &std::io::Error| RPCError::Network(NetworkError::new(e));
    match answer.result {
        Some(Appended::Matched(matched)) => Ok(Ok(matched.log_id.map(get_log_id))),
        Some(Appended::Conflict(id)) => Ok(Err(StreamAppendError::Conflict(get_log_id(id)))),
        Some(Appended::HigherVote(vote)) => {
            let vote = get_vote(Some(vote)).map_err(|e| broken(&e))?;
            Ok(Err(StreamAppendError::HigherVote(vote)))
        }
        None => Err(broken(&crate::codec::malformed("append answer"))),
    }
}

/// A snapshot file as a stream of messages: its description first, then its bytes.
fn chunks(
    header: Header,
    file: tokio::fs::File,
) -> impl Stream<Item = wire::InstallSnapshotRequest> + Send {
    let first = wire::InstallSnapshotRequest { header: Some(header), chunk: Vec::new() };
    let rest = stream::unfold(file, |mut file| async move {
        let mut chunk = vec![0; limits::SNAPSHOT_CHUNK_BYTES];
        match file.read(&mut chunk).await {
            Ok(0) => None,
            Ok(length) => {
                chunk.truncate(length);
                Some((wire::InstallSnapshotRequest { header: None, chunk }, file))
            }
            Err(error) => {
                // The receiver sees a file without its checksum and refuses it.
                tracing::warn!(%error, "reading a snapshot to send it failed");
                None
            }
        }
    });
    stream::once(async { first }).chain(rest)
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut answers = self.stream_append(stream::iter([rpc]), option).await?;
        let answer = answers.next().await.unwrap_or_else(|| {
            Err(RPCError::Network(NetworkError::new(&crate::codec::malformed("append answer"))))
        })?;
        Ok(match answer {
            Ok(last) => AppendEntriesResponse::PartialSuccess(last),
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    /// Requests flow without waiting for the answers to those before; answers come in order.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> Boxed<'s, Result<BoxedStream<'s, StreamItem>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let target = self.target;
        Box::pin(async move {
            // The request stream holds a lock of openraft's while it waits for entries, and hyper
            // keeps polling it after the answers are dropped; so it ends with the answers.
            let (alive, answers_dropped) = tokio::sync::oneshot::channel::<()>();
            let requests =
                input.map(move |rpc| put_append(rpc, target)).take_until(answers_dropped);
            let mut client = self.client()?;
            let limit = option.soft_ttl().max(OPENING);
            let opened = tokio::time::timeout(limit, client.append_entries(requests));
            let answers = match opened.await {
                Ok(Ok(answers)) => answers.into_inner(),
                Ok(Err(status)) => return Err(unreachable(&status)),
                Err(_) => {
                    let status = Status::deadline_exceeded("opening an append stream");
                    return Err(unreachable(&status));
                }
            };
            let items = answers.map(move |answer| {
                let _until_dropped = &alive;
                match answer {
                    Ok(answer) => get_appended(answer),
                    Err(status) => Err(unreachable(&status)),
                }
            });
            Ok(Box::pin(items) as BoxedStream<'s, StreamItem>)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.request_vote(rpc, false, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.request_vote(rpc, true, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let broken = |status: &Status| StreamingError::Unreachable(Unreachable::new(status));
        let file = tokio::fs::File::open(&snapshot.snapshot.path)
            .await
            .map_err(|e| StreamingError::Network(NetworkError::new(&e)))?;
        let header = Header {
            vote: Some(put_vote(&vote)),
            meta: Some(put_meta(&snapshot.meta)),
            target: self.target,
        };
        let (dial, target, address) = (self.dial.clone(), self.target, self.address.clone());
        let sent = AbortOnDropHandle::new(self.aside.spawn(async move {
            connect(&dial, target, &address)?.install_snapshot(chunks(header, file)).await
        }));
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = sent => {
                let answer = answer.map_err(|e| StreamingError::Network(NetworkError::new(&e)))?;
                let answer = answer.map_err(|status| broken(&status))?.into_inner();
                let vote = get_vote(answer.vote)
                    .map_err(|e| StreamingError::Network(NetworkError::new(&e)))?;
                Ok(SnapshotResponse::new(vote))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut request = Request::new(wire::TransferLeaderRequest {
            from_leader: Some(put_vote(req.from_leader())),
            to: *req.to_node_id(),
            last_log_id: req.last_log_id().map(put_log_id),
        });
        request.set_timeout(option.hard_ttl());
        self.client()?.transfer_leader(request).await.map_err(|s| unreachable(&s))?;
        Ok(Ok(()))
    }
}
