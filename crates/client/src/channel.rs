//! Connections: verified, kept alive, opened on first use.

use std::time::Duration;

use fleet_types::NodeId;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::identity::{Identity, member_name, node_name};

/// A host that does not answer within this is taken for down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A silent connection is probed after this.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// A probe unanswered for this ends the connection.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

fn open(identity: &Identity, address: &str, name: String) -> Result<Channel, Status> {
    let invalid = |e: tonic::transport::Error| {
        Status::invalid_argument(format!("address {address:?} is not host:port: {e}"))
    };
    let endpoint = Endpoint::from_shared(format!("https://{address}")).map_err(invalid)?;
    let endpoint = endpoint
        .tls_config(identity.client_tls(name))
        .map_err(invalid)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024);
    Ok(endpoint.connect_lazy())
}

/// A connection to `node` at `address`. Fails at use if another machine answers there.
///
/// # Errors
/// When the address is malformed.
pub fn connect_node(identity: &Identity, node: NodeId, address: &str) -> Result<Channel, Status> {
    open(identity, address, node_name(&identity.cluster, node))
}

/// A connection to whichever node of the cluster is at `address`.
///
/// # Errors
/// When the address is malformed.
pub fn connect_any_member(identity: &Identity, address: &str) -> Result<Channel, Status> {
    open(identity, address, member_name(&identity.cluster))
}
