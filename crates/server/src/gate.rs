//! What every request passes first: who is calling, may they, and is this the node to answer.
//!
//! The certificate was checked by TLS; here it becomes a [`Principal`] the services can look at. A
//! call to the public API that reaches a node that does not lead is passed on to the leader as it
//! is, streams included, so callers need not know who leads.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use fleet_types::{ClusterId, Principal};
use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::{
    Status,
    body::Body,
    transport::{
        Channel,
        server::{TcpConnectInfo, TlsConnectInfo},
    },
};
use tower::{Layer, Service};

use crate::pki;

/// Set on calls one node passes on for another; the value counts how often.
const PASSED_ON: &str = "fleet-passed-on";
/// A call is passed on at most this often: a worker to a voter, the voter to the leader.
const PASSED_ON_MAX: u32 = 2;
/// Certificates whose holder is remembered.
const REMEMBERED_MAX: usize = 1_024;

/// Who may call a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admits {
    /// Operators, nodes that pass their calls on, and joiners at the joining service.
    Operators,
    /// Nodes of the cluster.
    Nodes,
}

/// Where a call goes that this node does not answer itself.
pub type Route = Arc<dyn Fn() -> Result<Option<Channel>, Status> + Send + Sync>;

/// The layer.
#[derive(Clone)]
pub struct Gate {
    cluster: ClusterId,
    admits: Admits,
    route: Route,
    known: Arc<Mutex<HashMap<Vec<u8>, Option<Principal>>>>,
}

impl Gate {
    /// Lets in whom `admits` says. `route` answers none when this node should answer itself.
    pub fn new(cluster: ClusterId, admits: Admits, route: Route) -> Self {
        Self { cluster, admits, route, known: Arc::default() }
    }

    /// A gate for a listener whose calls are never passed on.
    pub fn for_nodes(cluster: ClusterId) -> Self {
        Self::new(cluster, Admits::Nodes, Arc::new(|| Ok(None)))
    }

    fn principal(&self, request: &Request<Body>) -> Option<Principal> {
        let connection = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>()?;
        let certificates = connection.peer_certs()?;
        let der = certificates.first()?.as_ref();
        let mut known = self.known.lock().expect("no holder panics");
        if let Some(principal) = known.get(der) {
            return *principal;
        }
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        let principal = pki::principal(&self.cluster, der);
        known.insert(der.to_vec(), principal);
        principal
    }

    /// Whether a call may go on, and who makes it.
    fn admit(&self, request: &Request<Body>) -> Result<Option<Principal>, Status> {
        let principal = self.principal(request);
        let passed_on = hops(request.headers()) > 0;
        let joining = request.uri().path().starts_with("/fleet.v1.JoinService/");
        let allowed = match (self.admits, principal) {
            (Admits::Nodes, Some(Principal::Node(_))) => true,
            (Admits::Nodes, _) => false,
            (Admits::Operators, Some(Principal::Admin)) => !passed_on,
            (Admits::Operators, Some(Principal::Node(_))) => passed_on,
            (Admits::Operators, None) => joining && !passed_on,
        };
        if allowed {
            return Ok(principal);
        }
        let (message, way_out) = match principal {
            None => (
                "no client certificate of this cluster was shown",
                "use the context that init wrote",
            ),
            Some(_) => ("the certificate does not allow this call", "use an operator's context"),
        };
        let message = format!("{message}; {way_out}");
        let code = if principal.is_none() {
            tonic::Code::Unauthenticated
        } else {
            tonic::Code::PermissionDenied
        };
        Err(fleet_proto::error::status(code, "NOT_ALLOWED", message, &[]))
    }
}

fn hops(headers: &HeaderMap) -> u32 {
    let value = headers.get(PASSED_ON).and_then(|value| value.to_str().ok());
    value.map_or(0, |text| text.parse().unwrap_or(PASSED_ON_MAX))
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: self.clone(), inner }
    }
}

/// A service behind a [`Gate`].
#[derive(Clone)]
pub struct Gated<S> {
    gate: Gate,
    inner: S,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let refuse = |status: Status| -> Answer<S::Error> {
            Box::pin(async move { Ok(status.into_http()) })
        };
        let principal = match self.gate.admit(&request) {
            Ok(principal) => principal,
            Err(status) => return refuse(status),
        };
        let elsewhere = if request.uri().path().starts_with("/fleet.v1.") {
            match (self.gate.route)() {
                Ok(channel) => channel,
                Err(status) => return refuse(status),
            }
        } else {
            None
        };
        if let Some(mut channel) = elsewhere {
            let hops = hops(request.headers());
            if hops >= PASSED_ON_MAX {
                return refuse(crate::proposer::not_leader(None));
            }
            request.headers_mut().insert(PASSED_ON, HeaderValue::from(hops + 1));
            return Box::pin(async move {
                let answer = match std::future::poll_fn(|cx| channel.poll_ready(cx)).await {
                    Ok(()) => channel.call(request).await,
                    Err(error) => Err(error),
                };
                Ok(answer.unwrap_or_else(|error| {
                    let message = format!("the leader is out of reach from here: {error}");
                    let code = tonic::Code::Unavailable;
                    fleet_proto::error::status(code, "NO_LEADER", message, &[]).into_http()
                }))
            });
        }
        if let Some(principal) = principal {
            request.extensions_mut().insert(principal);
        }
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        Box::pin(async move { inner.call(request).await })
    }
}
