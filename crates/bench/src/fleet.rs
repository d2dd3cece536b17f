//! A three-node cluster of ours on loopback.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use cluster_tests::{Keeper, cgroup_root};
use fleet_client::{Context, Identity, connect_any_member};
use fleet_proto::v1::{
    Agent, AgentSpec, CreateAgentRequest, CreateFleetRequest, GetClusterStatusRequest,
    ListNodesRequest, StopAgentRequest, agent::DesiredState,
    agent_service_client::AgentServiceClient, cluster_service_client::ClusterServiceClient,
    fleet_service_client::FleetServiceClient, node_service_client::NodeServiceClient,
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
    guards: Vec<Keeper>,
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
        Self::start_of(binary, NODES).await
    }

    /// As [`Cluster::start`], of so many nodes.
    pub(crate) async fn start_of(binary: &Path, nodes: u16) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let context = dir.path().join("context.json");
        let mut guards = Vec::new();
        let at = Place { binary, dir: dir.path(), context: &context, aside: None };
        let mut daemons = Vec::new();
        for node in 0..nodes {
            daemons.push(Some(at.add(node, &mut guards).await?));
        }
        let stored = Context::load(&context)?;
        let identity = stored.identity(&context)?;
        let cluster = Self { dir, binary: binary.to_owned(), daemons, guards, identity };
        let (all, first) = (usize::from(nodes), cluster.channel(0)?);
        until(|| async { Ok(cluster.voters(&first).await.filter(|n| *n == all)) }).await?;
        let leader = cluster.leader().await?;
        let request = CreateFleetRequest { fleet_id: "bench".into(), ..Default::default() };
        FleetServiceClient::new(leader.channels[0].clone()).create_fleet(request).await?;
        Ok(cluster)
    }

    /// Joins one more node, which has its data elsewhere and of the cores what others leave.
    /// Its position.
    pub(crate) async fn add_aside(&mut self, data: &Path) -> Result<u16> {
        let context = self.dir.path().join("context.json");
        let (binary, dir, aside) = (&self.binary, self.dir.path(), Some(data));
        let at = Place { binary, dir, context: &context, aside };
        let node = u16::try_from(self.daemons.len())?;
        self.daemons.push(Some(at.add(node, &mut self.guards).await?));
        Ok(node)
    }

    /// Where a node keeps its data.
    pub(crate) fn data(&self, node: u16) -> PathBuf {
        self.dir.path().join(format!("data{node}"))
    }

    /// A connection to a node's API.
    pub(crate) fn channel(&self, node: u16) -> Result<Channel> {
        Ok(connect_any_member(&self.identity, &format!("127.0.0.1:{}", port(node)))?)
    }

    /// How many nodes vote, asked over `channel`.
    pub(crate) async fn voters(&self, channel: &Channel) -> Option<usize> {
        let mut client = NodeServiceClient::new(channel.clone());
        let nodes = client.list_nodes(ListNodesRequest::default()).await.ok()?.into_inner().nodes;
        Some(nodes.iter().filter(|node| node.votes).count())
    }

    /// The position of the node that leads.
    pub(crate) async fn leader_node(&self) -> Result<u16> {
        until(|| async {
            for node in self.nodes().filter(|n| self.daemons[usize::from(*n)].is_some()) {
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
        0..u16::try_from(self.daemons.len()).expect("a few")
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
        let daemon = spawn(Command::new(&self.binary), self.dir.path(), node)?;
        self.daemons[usize::from(node)] = Some(daemon);
        Ok(())
    }
}

/// Where the nodes of a cluster are made.
struct Place<'a> {
    binary: &'a Path,
    dir: &'a Path,
    context: &'a Path,
    /// Where it has its data, if it is to take nothing from the others: neither disk nor cores.
    aside: Option<&'a Path>,
}

impl Place<'_> {
    fn command(&self) -> Command {
        if self.aside.is_none() {
            return Command::new(self.binary);
        }
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]).arg(self.binary);
        command
    }

    fn run(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.command();
        let command = command.args(args).env("FLEET_CLUSTER_CONTEXT", self.context);
        Ok(command.stdin(Stdio::null()).stderr(Stdio::null()).output()?)
    }

    /// Makes a node and starts its guard and its daemon; the first is a new cluster, others join it.
    async fn add(&self, node: u16, guards: &mut Vec<Keeper>) -> Result<Child> {
        let config = self.dir.join(format!("{node}.toml"));
        let data = self.dir.join(format!("data{node}"));
        let data = self.aside.map_or(data, |aside| aside.join("data"));
        let cgroup = format!("fleet-bench/{}n{node}", std::process::id());
        let guard_dir = self.dir.join(format!("guard{node}"));
        let text = format!(
            "data_dir = {data:?}\nport_first = 1024\nlog = \"warn,openraft=error\"\n\
             cgroup = {cgroup:?}\nguard_dir = {guard_dir:?}\n"
        );
        let (within, group) = (|| Command::new("env"), cgroup_root().join(&cgroup));
        guards.extend(Keeper::start_all(within, self.binary, &guard_dir, &group));
        fs::write(&config, text)?;
        let config = config.to_string_lossy().into_owned();
        let (at, name) = (format!("127.0.0.1:{}", port(node)), format!("n{}", node + 1));
        let place = ["--advertise", &at, "--name", &name, "--config", &config, "--no-start"];
        if node == 0 {
            self.run(&[&["init"], &place[..]].concat())?;
        } else {
            let token = until(|| async {
                let made = self.run(&["token", "create", "-q"])?;
                Ok(made.status.success().then_some(made.stdout))
            });
            let file = self.dir.join("token");
            fs::write(&file, token.await?)?;
            let first = format!("127.0.0.1:{}", port(0));
            let token = ["--token-file", file.to_str().context("a path")?];
            self.run(&[&["join", &first], &place[..], &token[..]].concat())?;
        }
        spawn(self.command(), self.dir, node)
    }
}

fn spawn(mut command: Command, dir: &Path, node: u16) -> Result<Child> {
    let log =
        fs::File::options().create(true).append(true).open(dir.join(format!("{node}.log")))?;
    let config = dir.join(format!("{node}.toml"));
    Ok(command.arg("run").arg("--config").arg(config).stderr(log).spawn()?)
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

impl Writer {
    /// Stops an agent that does not run: an entry in the log and no more.
    pub(crate) async fn stop(&mut self, name: &str) -> Result<(), tonic::Status> {
        let name = format!("fleets/bench/agents/{name}");
        let request = StopAgentRequest { name, ..StopAgentRequest::default() };
        self.api.stop_agent(request).await.map(drop)
    }
}

impl Write for Writer {
    async fn write(&mut self, number: u64) -> Result<()> {
        Ok(self.create(format!("c{}-{number}", self.client)).await?)
    }
}
