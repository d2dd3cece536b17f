//! A three-node etcd cluster on loopback, from the distribution's package, with its defaults.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tonic::{
    Status,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};

use crate::{fleet::until, load::Write, tls::Tls};

const NODES: u16 = 3;
const CONNECTIONS: usize = 8;
/// Bytes of a value.
const VALUE_BYTES: usize = 256;

/// `etcdserverpb.PutRequest`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// A message that is not looked into.
#[derive(Clone, PartialEq, prost::Message)]
struct Opaque {}

/// `etcdserverpb.ResponseHeader`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// `etcdserverpb.StatusResponse`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

async fn call<Q, A>(channel: Channel, path: &'static str, request: Q) -> Result<A, Status>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let codec = tonic_prost::ProstCodec::<Q, A>::default();
    let path = PathAndQuery::from_static(path);
    Ok(grpc.unary(tonic::Request::new(request), path, codec).await?.into_inner())
}

pub(crate) struct Cluster {
    dir: TempDir,
    /// With mutual TLS between all, or none.
    tls: Option<Tls>,
    members: Vec<Option<Child>>,
}

pub(crate) struct Api {
    channels: Vec<Channel>,
}

fn port(node: u16) -> u16 {
    7_600 + node * 10
}

impl Cluster {
    pub(crate) async fn start(tls: Option<Tls>) -> Result<Self> {
        let mut cluster = Self { dir: tempfile::tempdir()?, tls, members: vec![None, None, None] };
        for node in cluster.nodes() {
            cluster.spawn(node, "new")?;
        }
        cluster.leader_node().await?;
        Ok(cluster)
    }

    fn url(&self, port: u16) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{port}")
    }

    fn channel(&self, node: u16) -> Result<Channel> {
        let mut endpoint = Endpoint::from_shared(self.url(port(node)))?.tcp_nodelay(true);
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(tls.client())?;
        }
        Ok(endpoint.connect_lazy())
    }

    fn spawn(&mut self, node: u16, state: &str) -> Result<()> {
        let peer = |n: u16| self.url(port(n) + 1);
        let client = self.url(port(node));
        let members: Vec<String> = self.nodes().map(|n| format!("m{n}={}", peer(n))).collect();
        let data = self.dir.path().join(format!("m{node}"));
        let mut command = Command::new("etcd");
        if let Some(tls) = &self.tls {
            command.args(["--client-cert-auth", "--peer-client-cert-auth"]);
            for kind in ["", "peer-"] {
                command.arg(format!("--{kind}trusted-ca-file")).arg(tls.file("ca.pem"));
                command.arg(format!("--{kind}cert-file")).arg(tls.file("cert.pem"));
                command.arg(format!("--{kind}key-file")).arg(tls.file("key.pem"));
            }
        }
        let child = command
            .args(["--name", &format!("m{node}"), "--log-level", "error", "--logger", "zap"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer(node)])
            .args(["--initial-advertise-peer-urls", &peer(node)])
            .args(["--initial-cluster", &members.join(","), "--initial-cluster-state", state])
            .arg("--data-dir")
            .arg(data)
            .stderr(Stdio::null())
            .spawn()
            .context("etcd does not start: apt-get install etcd-server")?;
        self.members[usize::from(node)] = Some(child);
        Ok(())
    }

    pub(crate) fn nodes(&self) -> std::ops::Range<u16> {
        0..NODES
    }

    pub(crate) async fn leader_node(&self) -> Result<u16> {
        until(|| async {
            for node in self.nodes().filter(|n| self.members[usize::from(*n)].is_some()) {
                let path = "/etcdserverpb.Maintenance/Status";
                let answer = call::<_, StatusResponse>(self.channel(node)?, path, Opaque {});
                let answer = tokio::time::timeout(Duration::from_millis(500), answer).await;
                let Ok(Ok(status)) = answer else { continue };
                let own = status.header.unwrap_or_default().member_id;
                if own == status.leader && own != 0 {
                    return Ok(Some(node));
                }
            }
            Ok(None)
        })
        .await
    }

    pub(crate) async fn leader(&self) -> Result<Api> {
        self.api(self.leader_node().await?)
    }

    pub(crate) fn api(&self, node: u16) -> Result<Api> {
        Ok(Api { channels: (0..CONNECTIONS).map(|_| self.channel(node)).collect::<Result<_>>()? })
    }

    pub(crate) fn kill(&mut self, node: u16) -> Result<()> {
        if let Some(mut member) = self.members[usize::from(node)].take() {
            member.kill()?;
            member.wait()?;
        }
        Ok(())
    }

    pub(crate) fn restart(&mut self, node: u16) -> Result<()> {
        self.spawn(node, "existing")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes() {
            // What is gone cannot be killed.
            let _ = self.kill(node);
        }
    }
}

impl Api {
    pub(crate) fn writer(&self, client: usize) -> Writer {
        Writer { client, channel: self.channels[client % self.channels.len()].clone() }
    }
}

/// Puts values under new keys.
#[derive(Clone)]
pub(crate) struct Writer {
    client: usize,
    channel: Channel,
}

impl Writer {
    pub(crate) async fn put(&self, key: String) -> Result<(), Status> {
        let request = PutRequest { key: key.into_bytes(), value: vec![b'v'; VALUE_BYTES] };
        call::<_, Opaque>(self.channel.clone(), "/etcdserverpb.KV/Put", request).await.map(drop)
    }
}

impl Write for Writer {
    async fn write(&mut self, number: u64) -> Result<()> {
        Ok(self.put(format!("c{}-{number}", self.client)).await?)
    }
}
