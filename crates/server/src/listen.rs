//! The three listeners.

use std::{future::Future, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use fleet_client::Identity;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{service::Routes, transport::Server};

use crate::gate::Gate;

/// Streams one connection may have open.
const STREAMS_MAX: u32 = 1_024;

/// Binds a listener.
///
/// # Errors
/// When the address is taken or not of this machine; the message says which listener wants it.
pub(crate) async fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("the {what} listener cannot bind {address}"))
}

/// Serves `routes` behind `gate` until `stop`.
///
/// # Errors
/// When the certificate is not usable or the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    identity: &Identity,
    clients_optional: bool,
    gate: Gate,
    routes: Routes,
    stop: impl Future<Output = ()> + Send,
) -> Result<()> {
    let incoming = TcpListenerStream::new(listener);
    let incoming = futures::StreamExt::map(incoming, |stream| {
        if let Ok(stream) = &stream {
            // Small answers are not held back; a socket that is gone fails at its next use.
            let _ = stream.set_nodelay(true);
        }
        stream
    });
    Server::builder()
        .tls_config(identity.server_tls(clients_optional))?
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_pending_accept_reset_streams(Some(20))
        .http2_max_local_error_reset_streams(Some(256))
        .http2_max_header_list_size(16 * 1024)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .layer(gate)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop)
        .await
        .context("a listener failed")
}
