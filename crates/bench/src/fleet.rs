//! A three-node cluster of ours on loopback.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use cluster_tests::{Keeper, cgroup_root};
use fleet_client::{Context, Identity, connect_any_member};
use fleet_proto::v1::{
    Agent, AgentSpec, CreateAgentRequest, CreateFleetRequest, GetClusterStatusRequest,
    agent::DesiredState, agent_service_client::AgentServiceClient,
    cluster_service_client::ClusterServiceClient, fleet_service_client::FleetServiceClient,
};
use fleet_types::limits::MESSAGE_BYTES_MAX;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::load::Write;

const NODES: u16 = 3;
/// Connections the clients share, as many for either system.
const CONNECTIONS: usize = 8;

pub(crate) struct Cluster {
    dir: TempDir,
    binary: PathBuf,
    daemons: Vec<Option<Child>>,
    _guards: Vec<Keeper>,
    identity: Identity,
}

fn port(node: u16) -> u16 {
    7_500 + node * 10
}

/// Where a listener of a node is: 0 the API, 1 peers, 2 leases.
pub(crate) fn address(node: u16, listener: u16) -> String {
    format!("127.0.0.1:{}", port(node) + listener)
}

/// Connections to one node's API.
pub(crate) struct Api {
    channels: Vec<Channel>,
}

impl Cluster {
    /// Starts a new cluster with a fleet in it.
    pub(crate) async fn start(binary: &Path) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let context = dir.path().join("context.json");
        let run = |args: &[&str], input: Stdio| {
            Command::new(binary)
                .args(args)
                .env("FLEET_CLUSTER_CONTEXT", &context)
                .stdin(input)
                .stderr(Stdio::null())
                .output()
        };
        let (mut daemons, mut guards) = (Vec::new(), Vec::new());
        for node in 0..NODES {
            let config = dir.path().join(format!("{node}.toml"));
            let data = dir.path().join(format!("data{node}"));
            let cgroup = format!("fleet-bench/{}n{node}", std::process::id());
            let guard_dir = dir.path().join(format!("guard{node}"));
            let text = format!(
                "data_dir = {data:?}\nport_first = 1024\nlog = \"warn,openraft=error\"\n\
                 cgroup = {cgroup:?}\nguard_dir = {guard_dir:?}\n"
            );
            let (within, group) = (|| Command::new("env"), cgroup_root().join(&cgroup));
            guards.extend(Keeper::start_all(within, binary, &guard_dir, &group));
            fs::write(&config, text)?;
            let config = config.to_string_lossy().into_owned();
            let (at, name) = (format!("127.0.0.1:{}", port(node)), format!("n{}", node + 1));
            let place = ["--advertise", &at, "--name", &name, "--config", &config, "--no-start"];
            if node == 0 {
                run(&[&["init"], &place[..]].concat(), Stdio::null())?;
            } else {
                let token = until(|| async {
                    let made = run(&["token", "create", "-q"], Stdio::null())?;
                    Ok(made.status.success().then_some(made.stdout))
                })
                .await?;
                let file = dir.path().join("token");
                fs::write(&file, token)?;
                let first = format!("127.0.0.1:{}", port(0));
                let token = ["--token-file", file.to_str().context("a path")?];
                run(&[&["join", &first], &place[..], &token[..]].concat(), Stdio::null())?;
            }
            daemons.push(Some(spawn(binary, dir.path(), node)?));
        }
        let stored = Context::load(&context)?;
        let identity = stored.identity(&context)?;
        let cluster = Self { dir, binary: binary.to_owned(), daemons, _guards: guards, identity };
        until(|| async { Ok(cluster.voters().await.filter(|n| *n == usize::from(NODES))) }).await?;
        let leader = cluster.leader().await?;
        let request = CreateFleetRequest { fleet_id: "bench".into(), ..Default::default() };
        FleetServiceClient::new(leader.channels[0].clone()).create_fleet(request).await?;
        Ok(cluster)
    }

    /// A connection to a node's API.
    pub(crate) fn channel(&self, node: u16) -> Result<Channel> {
        Ok(connect_any_member(&self.identity, &format!("127.0.0.1:{}", port(node)))?)
    }

    /// How many nodes vote.
    async fn voters(&self) -> Option<usize> {
        let request = GetClusterStatusRequest {};
        let mut client = ClusterServiceClient::new(self.channel(0).ok()?);
        let nodes = client.get_cluster_status(request).await.ok()?.into_inner().status?.nodes;
        Some(nodes.iter().filter(|node| node.votes).count())
    }

    /// The position of the node that leads.
    pub(crate) async fn leader_node(&self) -> Result<u16> {
        until(|| async {
            for node in (0..NODES).filter(|n| self.daemons[usize::from(*n)].is_some()) {
                let request = GetClusterStatusRequest {};
                let mut client = ClusterServiceClient::new(self.channel(node)?);
                let answer = client.get_cluster_status(request);
                let answer = tokio::time::timeout(Duration::from_secs(1), answer).await;
                let Ok(Ok(answer)) = answer else { continue };
                let status = answer.into_inner().status.unwrap_or_default();
                let leader = status.nodes.iter().find(|node| node.name == status.leader);
                let Some(leader) = leader else { continue };
                let number: u16 = leader.display_name.trim_start_matches('n').parse()?;
                return Ok(Some(number - 1));
            }
            Ok(None)
        })
        .await
    }

    /// Connections to the leader.
    pub(crate) async fn leader(&self) -> Result<Api> {
        self.api(self.leader_node().await?)
    }

    /// Connections to a node.
    pub(crate) fn api(&self, node: u16) -> Result<Api> {
        let channels = (0..CONNECTIONS).map(|_| self.channel(node)).collect::<Result<_>>()?;
        Ok(Api { channels })
    }

    pub(crate) fn nodes(&self) -> std::ops::Range<u16> {
        0..NODES
    }

    /// The process of a node's daemon.
    pub(crate) fn pid(&self, node: u16) -> Result<u32> {
        let daemon = self.daemons[usize::from(node)].as_ref().context("the daemon runs")?;
        Ok(daemon.id())
    }

    pub(crate) fn kill(&mut self, node: u16) -> Result<()> {
        if let Some(mut daemon) = self.daemons[usize::from(node)].take() {
            daemon.kill()?;
            daemon.wait()?;
        }
        Ok(())
    }

    pub(crate) fn restart(&mut self, node: u16) -> Result<()> {
        self.daemons[usize::from(node)] = Some(spawn(&self.binary, self.dir.path(), node)?);
        Ok(())
    }
}

fn spawn(binary: &Path, dir: &Path, node: u16) -> Result<Child> {
    let log =
        fs::File::options().create(true).append(true).open(dir.join(format!("{node}.log")))?;
    let config = dir.join(format!("{node}.toml"));
    Ok(Command::new(binary).arg("run").arg("--config").arg(config).stderr(log).spawn()?)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes() {
            // What is gone cannot be killed.
            let _ = self.kill(node);
        }
    }
}

/// Waits until `look` finds something.
pub(crate) async fn until<T, F>(mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("waited in vain for 30 s")
}

impl Api {
    /// A client.
    pub(crate) fn writer(&self, client: usize) -> Writer {
        Writer { client, api: self.agents(client) }
    }

    /// A client of the agent service.
    pub(crate) fn agents(&self, client: usize) -> AgentServiceClient<Channel> {
        AgentServiceClient::new(self.channels[client % self.channels.len()].clone())
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
            .max_decoding_message_size(4 * MESSAGE_BYTES_MAX)
    }
}

/// Creates agents that are placed and not started.
#[derive(Clone)]
pub(crate) struct Writer {
    client: usize,
    api: AgentServiceClient<Channel>,
}

impl Writer {
    /// Creates one agent; its name must be new.
    pub(crate) async fn create(&mut self, name: String) -> Result<(), tonic::Status> {
        let spec = AgentSpec {
            runtime: "exec".into(),
            command: vec!["/bin/true".into()],
            ports: 1,
            ..AgentSpec::default()
        };
        let agent = Agent {
            spec: Some(spec),
            desired_state: DesiredState::Stopped.into(),
            ..Agent::default()
        };
        let request = CreateAgentRequest {
            parent: "fleets/bench".into(),
            agent_id: name,
            agent: Some(agent),
            // More than would survive a loss: that is not what is measured.
            allow_overcommit: true,
            ..CreateAgentRequest::default()
        };
        let agent = self.api.create_agent(request).await?.into_inner().agent.unwrap_or_default();
        if agent.placement.is_none() {
            return Err(tonic::Status::internal(agent.state_message));
        }
        Ok(())
    }
}

impl Write for Writer {
    async fn write(&mut self, number: u64) -> Result<()> {
        Ok(self.create(format!("c{}-{number}", self.client)).await?)
    }
}
