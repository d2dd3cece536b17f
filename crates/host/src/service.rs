//! The host's gRPC service, for leaders.

use std::{pin::Pin, time::Duration};

use fleet_proto::{
    convert::{api::port_block, host::parse_agent},
    error::status,
    host::{
        AssignRequest, AssignResponse, Observation, TailLogsRequest, TailLogsResponse,
        WatchObservedRequest, WatchObservedResponse, agent_host_service_server::AgentHostService,
    },
};
use fleet_types::{Epoch, NodeId, PortBlock, Principal};
use futures::{Stream, StreamExt, stream};
use tokio::{runtime::Handle, sync::broadcast::error::RecvError};
use tonic::{Code, Request, Response, Status};

use crate::host::{AssignError, Host};

/// Most lines a log request may start with.
const LINES_MAX: u32 = 10_000;
/// How often a followed log is looked at. Its writers are foreign processes, which announce
/// nothing.
const FOLLOW: Duration = Duration::from_millis(250);
/// Observations sent in one message.
const OBSERVATIONS_PER_MESSAGE: usize = 500;

/// The service.
pub struct Service {
    host: Host,
    /// Where agents are supervised. Calls may be answered on a thread that has no time for it.
    runtime: Handle,
}

impl Service {
    /// Serves `host`, whose agents are supervised where this is called. Requests must carry a
    /// [`Principal`].
    pub fn new(host: Host) -> Self {
        Self { host, runtime: Handle::current() }
    }
}

/// Does what waits for a disk.
async fn blocking<T: Send + 'static>(
    runtime: &Handle,
    act: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    let done = runtime.spawn_blocking(act).await;
    done.map_err(|_| Status::unavailable("the node is stopping"))
}

fn from_nodes_only<T>(request: &Request<T>) -> Result<(), Status> {
    match request.extensions().get::<Principal>() {
        Some(Principal::Node(_)) => Ok(()),
        _ => Err(Status::permission_denied("only nodes of the cluster may call this")),
    }
}

fn refused(error: &AssignError) -> Status {
    let (code, reason) = match error {
        AssignError::WrongNode(_) => (Code::FailedPrecondition, "WRONG_NODE"),
        AssignError::StaleEpoch(_) => (Code::FailedPrecondition, "STALE_EPOCH"),
        AssignError::StaleTerm(_) => (Code::FailedPrecondition, "STALE_TERM"),
        AssignError::Late => (Code::Aborted, "LATE"),
        AssignError::Malformed(_) => (Code::InvalidArgument, "MALFORMED"),
        AssignError::Busy(_) => (Code::Unavailable, "AGENT_BEHIND"),
        AssignError::Ledger(_) => (Code::Unavailable, "LEDGER_FAILED"),
        AssignError::Group(_) => (Code::Unavailable, "CONTROL_GROUP_FAILED"),
    };
    let source = std::error::Error::source(error).map(|e| format!(": {e}")).unwrap_or_default();
    status(code, reason, format!("{error}{source}"), &[])
}

type Watch = Pin<Box<dyn Stream<Item = Result<WatchObservedResponse, Status>> + Send>>;
type Logs = Pin<Box<dyn Stream<Item = Result<TailLogsResponse, Status>> + Send>>;

fn message(host: &Host, observations: Vec<Observation>) -> Result<WatchObservedResponse, Status> {
    let (at_once, start) = host.pace();
    let start_ms = start.map_or(0, |start| u64::try_from(start.as_millis()).unwrap_or(u64::MAX));
    let starts_at_once = u32::try_from(at_once).unwrap_or(u32::MAX);
    Ok(WatchObservedResponse { observations, unused: Vec::new(), start_ms, starts_at_once })
}

fn unused(blocks: &[PortBlock]) -> Result<WatchObservedResponse, Status> {
    let unused = blocks.iter().map(|block| port_block(*block)).collect();
    Ok(WatchObservedResponse { unused, ..WatchObservedResponse::default() })
}

#[tonic::async_trait]
impl AgentHostService for Service {
    async fn assign(
        &self,
        request: Request<AssignRequest>,
    ) -> Result<Response<AssignResponse>, Status> {
        from_nodes_only(&request)?;
        let (host, request) = (self.host.clone(), request.into_inner());
        let assigned = blocking(&self.runtime, move || host.assign(request)).await?;
        assigned.map_err(|e| refused(&e))?;
        Ok(Response::new(AssignResponse {}))
    }

    type WatchObservedStream = Watch;

    async fn watch_observed(
        &self,
        request: Request<WatchObservedRequest>,
    ) -> Result<Response<Watch>, Status> {
        from_nodes_only(&request)?;
        let about = request.into_inner();
        self.host
            .check(about.term, NodeId(about.node_id), Epoch(about.epoch))
            .map_err(|e| refused(&e))?;
        let (all, changes) = self.host.observed().watch();
        let first =
            all.chunks(OBSERVATIONS_PER_MESSAGE).map(|part| message(&self.host, part.to_vec()));
        let first: Vec<_> = first.collect();
        let mut ports = self.host.unused_ports();
        ports.mark_changed();
        let watch = (self.host.clone(), changes, ports);
        let rest = stream::unfold(watch, |(host, mut changes, mut ports)| async move {
            let received = tokio::select! {
                received = changes.recv() => received,
                Ok(()) = ports.changed() => {
                    let unused = unused(&ports.borrow_and_update());
                    return Some((unused, (host, changes, ports)));
                }
            };
            let mut news = match received {
                Ok(observation) => vec![observation],
                // The watcher comes back and is sent everything.
                Err(RecvError::Lagged(_)) => {
                    let lagged = Status::out_of_range("too slow; watch again");
                    return Some((Err(lagged), (host, changes, ports)));
                }
                Err(RecvError::Closed) => return None,
            };
            while news.len() < OBSERVATIONS_PER_MESSAGE {
                let Ok(observation) = changes.try_recv() else { break };
                news.push(observation);
            }
            Some((message(&host, news), (host, changes, ports)))
        });
        Ok(Response::new(Box::pin(stream::iter(first).chain(rest))))
    }

    type TailLogsStream = Logs;

    async fn tail_logs(&self, request: Request<TailLogsRequest>) -> Result<Response<Logs>, Status> {
        from_nodes_only(&request)?;
        let request = request.into_inner();
        let agent = request.agent.unwrap_or_default();
        let id = parse_agent(&agent.fleet, &agent.agent)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let lines = if request.lines == 0 { 100 } else { request.lines.min(LINES_MAX) };
        let path = self.host.log(&id).path().to_owned();
        let failed = |e: std::io::Error| Status::unavailable(format!("reading the log: {e}"));
        let (of, lines) = (path.clone(), usize::try_from(lines).unwrap_or(0));
        let read = blocking(&self.runtime, move || fleet_process::tail(&of, lines)).await?;
        let (data, position) = read.map_err(failed)?;
        let first = stream::iter([Ok(TailLogsResponse { data })]);
        if !request.follow {
            return Ok(Response::new(Box::pin(first)));
        }
        let runtime = self.runtime.clone();
        let rest = stream::unfold((path, position), move |(path, mut position)| {
            let runtime = runtime.clone();
            async move {
                loop {
                    tokio::time::sleep(FOLLOW).await;
                    let from = path.clone();
                    let look = move || fleet_process::read_from(&from, position);
                    match blocking(&runtime, look).await.and_then(|read| read.map_err(failed)) {
                        Ok((data, next)) if !data.is_empty() => {
                            return Some((Ok(TailLogsResponse { data }), (path, next)));
                        }
                        Ok((_, next)) => position = next,
                        Err(status) => return Some((Err(status), (path, position))),
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(first.chain(rest))))
    }
}
