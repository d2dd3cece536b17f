//! Batching proposals: whatever waits when the last entry is committed becomes the next one. One
//! entry costs one round to a quorum's disks, however many commands it holds, so throughput grows
//! with the number of callers while a lone caller waits for nobody.

use std::time::{Duration, Instant};

use fleet_core::{
    Command, Operation, Outcome, Rejection, Request, plan::Planner, provision::Provision,
};
use fleet_raft::{Node, ProposeError};
use fleet_runtime::clock;
use fleet_types::{NodeId, limits};
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Status};

use fleet_proto::error::{from_rejection, status};

/// Commands that may wait; a caller past that is told to come back.
const WAITING_MAX: usize = 8_192;

/// Size assumed of a command that names a record and little else.
pub const SMALL: usize = 256;

/// How long an entry is put together before what is ready is proposed: applying waits meanwhile.
const BUILDING_MAX: Duration = Duration::from_millis(20);

/// An entry that is put together.
pub struct Draft<'a> {
    /// Chooses nodes, and counts what it chose.
    pub planner: Planner<'a>,
    /// Admits agents, and counts what it admitted.
    pub provision: Provision<'a>,
}

/// Makes an operation from a view of the state, or refuses. Called when the entry is put together,
/// so that placements count those decided just before.
pub type Build = Box<dyn FnOnce(&mut Draft<'_>) -> Result<Operation, Rejection> + Send>;

struct Job {
    request: Option<Request>,
    /// About how large its command will be.
    bytes: usize,
    build: Build,
    reply: oneshot::Sender<Result<Outcome, Status>>,
}

/// A handle to the proposer. Clones share it.
#[derive(Clone)]
pub struct Proposer {
    jobs: mpsc::Sender<Job>,
}

/// A status for a call this node cannot serve because it does not lead.
pub fn not_leader(leader: Option<NodeId>) -> Status {
    match leader {
        Some(leader) => {
            let message = format!("node {leader} leads now; call again");
            status(Code::Unavailable, "NOT_LEADER", message, &[("leader", &leader.to_string())])
        }
        None => {
            let message = "no leader is known: an election is under way, or a majority of the \
                           voters is out of reach";
            status(Code::Unavailable, "NO_LEADER", message, &[])
        }
    }
}

impl Proposer {
    /// Starts the proposing task.
    pub fn start(raft: Node) -> Self {
        let (jobs, queue) = mpsc::channel(WAITING_MAX);
        tokio::spawn(run(raft, queue));
        Self { jobs }
    }

    /// Commits what `build` makes, about `bytes` large, and answers what it ended in.
    ///
    /// # Errors
    /// The refusal; or `UNAVAILABLE` when this node does not lead or is overloaded; or `UNKNOWN`
    /// when the outcome is not known, and a retry with the same request id is safe.
    pub async fn commit(
        &self,
        request: Option<Request>,
        bytes: usize,
        build: Build,
    ) -> Result<Outcome, Status> {
        let (reply, answer) = oneshot::channel();
        self.jobs.try_send(Job { request, bytes, build, reply }).map_err(|_| {
            let message = "too many calls wait to be committed; try again";
            status(Code::Unavailable, "OVERLOADED", message, &[])
        })?;
        answer.await.map_err(|_| Status::unavailable("the node is stopping"))?
    }

    /// Commits an operation that needs no plan.
    ///
    /// # Errors
    /// As [`Proposer::commit`].
    pub async fn submit(&self, operation: Operation) -> Result<Outcome, Status> {
        self.commit(None, SMALL, Box::new(move |_| Ok(operation))).await
    }
}

async fn run(raft: Node, mut queue: mpsc::Receiver<Job>) {
    let mut waiting = Vec::new();
    while !waiting.is_empty() || queue.recv_many(&mut waiting, limits::BATCH_COMMANDS_MAX).await > 0
    {
        let mut bytes = 0;
        let fits = waiting.iter().take_while(|job| {
            bytes += job.bytes;
            bytes <= limits::BATCH_BYTES_MAX
        });
        let count = fits.count().max(1);
        let (mut replies, mut commands) = (Vec::with_capacity(count), Vec::with_capacity(count));
        raft.read(|state| {
            let (planner, provision) = (Planner::beside_moves(state), Provision::new(state));
            let mut draft = Draft { planner, provision };
            let (at, end) = (clock::now(), Instant::now() + BUILDING_MAX);
            let mut jobs = waiting.drain(..count);
            for job in jobs.by_ref() {
                match (job.build)(&mut draft) {
                    Ok(operation) => {
                        replies.push(job.reply);
                        commands.push(Command { at, request: job.request, operation });
                    }
                    Err(rejection) => {
                        // A caller that hung up does not want its answer.
                        let _ = job.reply.send(Err(refused(&raft, &rejection)));
                        // Nobody else is to find the room taken that it was given.
                        break;
                    }
                }
                if Instant::now() >= end {
                    break;
                }
            }
            let late: Vec<Job> = jobs.collect();
            waiting.splice(..0, late);
        });
        if commands.is_empty() {
            tokio::task::yield_now().await;
            continue;
        }
        match raft.propose(&commands).await {
            Ok(results) => {
                for (reply, result) in replies.into_iter().zip(results) {
                    // A caller that hung up does not want its answer.
                    let _ = reply.send(result.map_err(|rejection| from_rejection(&rejection)));
                }
            }
            Err(error) => {
                let failed = failed(&error);
                for reply in replies {
                    let _ = reply.send(Err(failed.clone()));
                }
            }
        }
    }
}

/// What is answered to a call that was refused by this node's view of the state.
fn refused(raft: &Node, rejection: &Rejection) -> Status {
    let leader = raft.leader();
    if leader == Some(raft.id()) { from_rejection(rejection) } else { not_leader(leader) }
}

fn failed(error: &ProposeError) -> Status {
    match error {
        ProposeError::NotLeader { leader } => not_leader(*leader),
        ProposeError::Unknown(why) => {
            let message =
                format!("the outcome is not known, retry with the same request id: {why}");
            status(Code::Unknown, "OUTCOME_UNKNOWN", message, &[])
        }
    }
}
