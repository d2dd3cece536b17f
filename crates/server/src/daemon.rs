//! A node's daemon, from start to end.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use fleet_client::{Identity, connect_any_member, connect_node};
use fleet_core::{InitCluster, Operation};
use fleet_host::{
    Host, HostOptions, Kept, disk::DiskProbe, egress, guard::Guard, renewal::Renewal,
    reserve::reserve, runtimes::Runtimes, service::Service as HostService,
};
use fleet_process::{Group, Launcher, Limiter, capacity, disk_bytes, lacking};
use fleet_proto::{
    DESCRIPTORS,
    convert::{
        api::{HOMES, labels, port_range},
        placement::resources,
    },
    host::{
        RegisterRequest, agent_host_service_server::AgentHostServiceServer,
        registration_service_server::RegistrationServiceServer,
    },
    lease::lease_service_server::LeaseServiceServer,
    raft::raft_service_server::RaftServiceServer,
};
use fleet_raft::{LogLimits, Node, RaftConfig};
use fleet_runtime::{Config, OnShutdown, VERSION};
use fleet_types::{AgentClass, Epoch, LeaseTiming, NodeId, limits};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::{service::RoutesBuilder, transport::Channel};

use crate::{
    api::{self, Api},
    data_dir::{DataDir, NodeFile},
    gate::{Admits, Gate, Route},
    leader::{Leader, Observed},
    lease_service,
    leases::Leases,
    listen::{bind, serve},
    office,
    proposer::{Proposer, not_leader},
    registration::{self, Office},
    session::Session,
};

/// How long handing leadership over may take on a clean stop.
const HANDOVER: Duration = Duration::from_secs(2);
/// How long the guard may take to be there.
const GUARD: Duration = Duration::from_secs(10);
/// Pause between looks for it.
const LOOK: Duration = Duration::from_millis(50);
/// How long open calls may take to end on a clean stop.
const GOODBYE: Duration = Duration::from_secs(2);

/// How a daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Told,
    /// It is to start anew, for its node has another role. Its agents go on.
    Anew,
}

/// A running node.
struct Daemon {
    config: Config,
    data: DataDir,
    me: NodeFile,
    identity: Identity,
    timing: LeaseTiming,
    stop: CancellationToken,
}

/// Runs the node in the configured data directory until it is told to end.
///
/// # Errors
/// When it cannot start, or has to stop because its storage failed.
pub async fn run(config: Config) -> Result<Ended> {
    let data = DataDir::new(&config.data_dir);
    let me = data.load()?;
    let identity = data.identity(&me.cluster)?;
    let timing = LeaseTiming::of(me.profile);
    let stop = CancellationToken::new();
    Daemon { config, data, me, identity, timing, stop }.run().await
}

/// Consensus and what rests on it; voters only.
struct Voting {
    raft: Node,
    proposer: Proposer,
    api: Arc<Api>,
}

impl Daemon {
    async fn run(self) -> Result<Ended> {
        let runtimes = Runtimes::load(&self.config.runtime_dirs, &self.config.runtime_variables)?;
        let leases = Arc::new(Leases::default());
        let voting = if self.me.voter { Some(self.vote(&leases, &runtimes).await?) } else { None };
        let ended = self.serve(voting.as_ref(), &leases, runtimes).await;
        self.stop.cancel();
        // RocksDB must be closed before the process ends, for whatever reason it does.
        if let Some(voting) = voting
            && tokio::time::timeout(GOODBYE, voting.raft.shutdown()).await.is_err()
        {
            tracing::warn!("raft took too long to stop");
        }
        ended
    }

    async fn serve(
        &self,
        voting: Option<&Voting>,
        leases: &Arc<Leases>,
        runtimes: Runtimes,
    ) -> Result<Ended> {
        let range = self.config.port_range()?;
        let own_labels = self.config.labels()?;
        let (available, missing) = runtimes.available();
        for why in missing {
            tracing::info!("{why}");
        }
        let agents = Group::root()?.child(&self.config.cgroup.to_string_lossy())?;
        let leased = egress::can_be_leased(&agents);
        if let Err(why) = &leased {
            tracing::warn!(why, "killed agents are silenced as connections without an owner are");
        }
        let mut guards = Vec::new();
        for class in AgentClass::ALL {
            guards.push(self.guard(class, leased.is_ok()).await?);
        }
        let host = self.host(runtimes, &guards).await?;

        self.listen(voting, &host, leases).await?;
        let reserved = self.config.data_dir.join("reserved-ports");
        let degraded = lacking().into_iter().chain(host.degraded());
        let degraded = degraded.chain(egress::restrict(&leased)).chain(reserve(range, &reserved));
        let degraded: Vec<String> = degraded.collect();
        for why in &degraded {
            tracing::warn!(why, "degraded");
        }
        let about = RegisterRequest {
            node_id: self.me.node.0,
            storage_id: self.me.storage.clone(),
            port_range: Some(port_range(range)),
            runtimes: available.iter().map(|(k, v)| (k.to_string(), v.clone())).collect(),
            labels: labels(&own_labels),
            version: VERSION.into(),
            rules: fleet_core::RULES,
            boot_id: boot_id(),
            held_epoch: 0,
            degraded,
            unfit: Vec::new(),
            capacity: Some(resources(capacity())),
            disk_bytes: disk_bytes(Path::new(HOMES)),
        };
        if let Some(voting) = voting {
            self.bootstrap(voting).await?;
        }
        let (ready, session, epoch) = self.hold_lease(&host, guards, about)?;
        let remembering = self.remember_members(&host);
        let ended = tokio::select! {
            told = self.until_told_to_end(voting, ready) => told.map(|()| Ended::Told)?,
            secrets = office::changed(&self.me, &self.identity, &host) => {
                // Else it could write down the old role over the new.
                remembering.abort();
                let _ = remembering.await;
                let members = host.members().borrow().clone();
                let me = NodeFile { members, ..self.me.clone() };
                self.data.change_role(&me, secrets.as_ref())?;
                tracing::info!(node.id = me.node.0, votes = secrets.is_some(), "role changed");
                Ended::Anew
            }
        };
        // The lease is still renewed while agents drain, but none is asked for anew.
        session.abort();
        self.end(voting, &host, ended, epoch).await;
        Ok(ended)
    }

    async fn vote(&self, leases: &Arc<Leases>, runtimes: &Runtimes) -> Result<Voting> {
        let secrets = self.data.voter_secrets()?;
        let authority = self.data.authority(&self.me.cluster)?;
        let identity = self.identity.clone();
        let raft = Node::open(RaftConfig {
            id: self.me.node,
            dir: self.data.raft(),
            timing: self.timing,
            dial: Arc::new(move |node, address| connect_node(&identity, node, address)),
            log: LogLimits::default(),
        })
        .await?;
        let proposer = Proposer::start(raft.clone());
        let observed = Arc::new(Observed::default());
        let leader = Leader {
            raft: raft.clone(),
            proposer: proposer.clone(),
            leases: leases.clone(),
            timing: self.timing,
            identity: self.identity.clone(),
            agent_token_key: secrets.agent_token_key,
            observed: observed.clone(),
        };
        tokio::spawn(leader.run());
        let api = Arc::new(Api {
            raft: raft.clone(),
            proposer: proposer.clone(),
            leases: leases.clone(),
            observed,
            runtimes: runtimes.clone(),
            authority,
            secrets,
            identity: self.identity.clone(),
            settled: AtomicU64::new(0),
        });
        Ok(Voting { raft, proposer, api })
    }

    /// The guard of a class, which may be starting too.
    async fn guard(&self, class: AgentClass, leases_egress: bool) -> Result<Guard> {
        let socket = self.config.guard_dir.join(class.as_str()).join("socket");
        let end = Instant::now() + GUARD;
        loop {
            match Guard::connect(class, &socket, leases_egress) {
                Ok(guard) => return Ok(guard),
                Err(_) if Instant::now() < end => tokio::time::sleep(LOOK).await,
                Err(error) => {
                    let socket = socket.display();
                    bail!(
                        "no guard answers at {socket} ({error}): start fleet-guard@{class} first"
                    );
                }
            }
        }
    }

    /// What keeps the agents of a guard's class.
    fn kept(&self, root: &Group, guard: &Guard) -> Result<Kept> {
        let below = self.config.cgroup.join(guard.class().as_str());
        Ok(Kept {
            group: root.child(&below.to_string_lossy())?,
            limiter: Limiter::new(root.path(), &below),
            launcher: Launcher::new(guard.init_socket())
                .context("the launcher is missing; it is installed beside fleet-cluster")?,
            guard: guard.clone(),
        })
    }

    async fn host(&self, runtimes: Runtimes, guards: &[Guard]) -> Result<Host> {
        let root = Group::root()?;
        let kept = guards.iter().map(|guard| self.kept(&root, guard));
        let kept: Vec<Kept> = kept.collect::<Result<_>>()?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let starts_at_once =
            if self.config.starts_at_once == 0 { cores } else { self.config.starts_at_once };
        // Twice as often as it must have succeeded.
        let period = Duration::from_millis(self.timing.lease_ms / 4);
        let options = HostOptions {
            cluster: self.me.cluster.clone(),
            node: self.me.node,
            node_name: self.me.name.clone(),
            data_dir: self.config.data_dir.clone(),
            disk: DiskProbe::start(&self.config.data_dir, period)?,
            runtimes,
            writable: self.config.writable_paths.clone(),
            starts_at_once,
            log_bytes_max: self.config.log_bytes_max,
            boot_id: boot_id(),
            kept: kept.try_into().map_err(|_| anyhow!("not a guard for each class"))?,
            members: self.me.members.clone(),
        };
        Host::open(options).await.context("the agent host does not open")
    }

    fn address(&self, advertised: &str) -> Result<SocketAddr> {
        let port = advertised.rsplit_once(':').map(|(_, port)| port).unwrap_or_default();
        let text = format!("{}:{port}", self.me.listen);
        text.parse().with_context(|| format!("listen address {text:?}"))
    }

    async fn listen(
        &self,
        voting: Option<&Voting>,
        host: &Host,
        leases: &Arc<Leases>,
    ) -> Result<()> {
        let cluster = &self.me.cluster;
        let raft = voting.map(|voting| voting.raft.clone());

        let mut peer = RoutesBuilder::default();
        peer.add_service(
            AgentHostServiceServer::new(HostService::new(host.clone()))
                .max_decoding_message_size(limits::ASSIGNMENT_BYTES_MAX),
        );
        let proposer = voting.map(|voting| voting.proposer.clone());
        let office = voting.map(|voting| Office {
            raft: voting.raft.clone(),
            secrets: voting.api.secrets.clone(),
        });
        let register = registration::Service { proposer, leases: leases.clone(), office };
        peer.add_service(RegistrationServiceServer::new(register));
        if let Some(raft) = &raft {
            peer.add_service(
                RaftServiceServer::new(raft.service())
                    .max_decoding_message_size(4 * limits::MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(limits::MESSAGE_BYTES_MAX),
            );
        }
        // Consensus and what its peers say to it are on one thread.
        let here = Handle::current();
        let on = raft.as_ref().map_or(&here, Node::thread);
        let address = self.address(&self.me.address.peer)?;
        let listener = on.spawn(bind("peer", address)).await??;
        let gate = Gate::for_nodes(cluster.clone());
        self.spawn(on, listener, false, gate, peer);

        let mut api = RoutesBuilder::default();
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status("", tonic_health::ServingStatus::Serving).await;
        api.add_service(health_service);
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .build_v1()?;
        api.add_service(reflection);
        if let Some(voting) = voting {
            api::add_services(&mut api, &voting.api);
        }
        let listener = bind("API", self.address(&self.me.address.api)?).await?;
        let gate = Gate::new(cluster.clone(), Admits::Operators, self.route(raft.clone(), host));
        self.spawn(&here, listener, true, gate, api);

        let (leases, identity) = (leases.clone(), self.identity.clone());
        let service = lease_service::Service::new(raft, leases, self.timing, identity);
        let address = self.address(&self.me.address.lease)?;
        self.listen_for_leases(address, service)
    }

    fn spawn(
        &self,
        on: &Handle,
        listener: tokio::net::TcpListener,
        clients_optional: bool,
        gate: Gate,
        routes: RoutesBuilder,
    ) {
        let (identity, stop) = (self.identity.clone(), self.stop.clone());
        on.spawn(async move {
            let routes = routes.routes();
            let stopped = stop.clone().cancelled_owned();
            if let Err(error) =
                serve(listener, &identity, clients_optional, gate, routes, stopped).await
            {
                tracing::error!("{error:#}");
                stop.cancel();
            }
        });
    }

    /// Leases are answered on a thread of their own, so that no other load can delay them.
    fn listen_for_leases(
        &self,
        address: SocketAddr,
        service: lease_service::Service,
    ) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = std::net::TcpListener::bind(address)
            .with_context(|| format!("the lease listener cannot bind {address}"))?;
        listener.set_nonblocking(true)?;
        let (identity, cluster) = (self.identity.clone(), self.me.cluster.clone());
        let stop = self.stop.clone();
        std::thread::Builder::new().name("lease-serve".into()).spawn(move || {
            let mut routes = RoutesBuilder::default();
            routes.add_service(LeaseServiceServer::new(service));
            let gate = Gate::for_nodes(cluster);
            let stopped = stop.clone().cancelled_owned();
            let serving = async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                serve(listener, &identity, false, gate, routes.routes(), stopped).await
            };
            if let Err(error) = runtime.block_on(serving) {
                tracing::error!("{error:#}");
                stop.cancel();
            }
        })?;
        Ok(())
    }

    /// Where calls go that this node does not answer: to the leader, or from a worker to a voter.
    fn route(&self, raft: Option<Node>, host: &Host) -> Route {
        let identity = self.identity.clone();
        let members = host.members();
        let channels: std::sync::Mutex<std::collections::BTreeMap<NodeId, (String, Channel)>> =
            std::sync::Mutex::default();
        let turn = std::sync::atomic::AtomicUsize::new(0);
        Arc::new(move || {
            let known = |node: NodeId, address: &str| {
                let mut channels = channels.lock().expect("no holder panics");
                match channels.get(&node) {
                    Some((at, channel)) if at == address => Ok(Some(channel.clone())),
                    _ => {
                        let channel = connect_any_member(&identity, address)?;
                        channels.insert(node, (address.to_owned(), channel.clone()));
                        Ok(Some(channel))
                    }
                }
            };
            let Some(raft) = &raft else {
                let members = members.borrow().clone();
                let turn = turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let member = members.get(turn % members.len().max(1));
                let member = member.ok_or_else(|| not_leader(None))?;
                return known(NodeId(member.node_id), &member.api_address);
            };
            let leader = raft.leader().ok_or_else(|| not_leader(None))?;
            if leader == raft.id() {
                return Ok(None);
            }
            let address =
                raft.read(|state| state.nodes().get(&leader).map(|n| n.address.api.clone()));
            known(leader, &address.ok_or_else(|| not_leader(Some(leader)))?)
        })
    }

    /// Makes the cluster, on the node that `init` was run on.
    async fn bootstrap(&self, voting: &Voting) -> Result<()> {
        if !self.me.first || voting.raft.read(|state| state.cluster().is_some()) {
            return Ok(());
        }
        voting.raft.initialize(&self.me.address.peer).await?;
        let operation = Operation::InitCluster(InitCluster {
            cluster: self.me.cluster.clone(),
            profile: self.me.profile,
            node: self.me.node,
            name: self.me.name.clone(),
            address: self.me.address.clone(),
            storage: self.me.storage.clone(),
        });
        while voting.raft.read(|state| state.cluster().is_none()) {
            if let Err(status) = voting.proposer.submit(operation.clone()).await
                && status.code() != tonic::Code::Unavailable
            {
                bail!("making the cluster failed: {}", status.message());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tracing::info!(cluster = %self.me.cluster, "cluster made");
        Ok(())
    }

    /// Starts registering and renewing; answers when the node holds its first lease. Renewing ends with
    /// the epoch's sender.
    fn hold_lease(
        &self,
        host: &Host,
        guards: Vec<Guard>,
        about: RegisterRequest,
    ) -> Result<(watch::Receiver<bool>, tokio::task::AbortHandle, watch::Sender<Epoch>)> {
        let (epoch, epochs) = watch::channel(Epoch(0));
        let (refused, refusals) = mpsc::channel(16);
        let (ready, readiness) = watch::channel(false);
        let guard = guards[AgentClass::Strict as usize].clone();
        for guard in guards {
            Renewal {
                identity: self.identity.clone(),
                node: self.me.node,
                timing: self.timing,
                members: host.members(),
                epoch: epochs.clone(),
                guard,
                disk: host.disk().clone(),
                refused: refused.clone(),
            }
            .start()?;
        }
        let session = Session {
            identity: self.identity.clone(),
            host: host.clone(),
            guard,
            disk: host.disk().clone(),
            about,
            epoch: epoch.clone(),
            refused: refusals,
            ready,
        };
        Ok((readiness, tokio::spawn(session.run()).abort_handle(), epoch))
    }

    /// Keeps the members on disk, so that the node finds its cluster after a restart.
    fn remember_members(&self, host: &Host) -> JoinHandle<()> {
        let (data, me, mut members) = (self.data.clone(), self.me.clone(), host.members());
        tokio::spawn(async move {
            while members.changed().await.is_ok() {
                let members = members.borrow_and_update().clone();
                if let Err(error) = data.save(&NodeFile { members, ..me.clone() }) {
                    tracing::warn!(%error, "the members of the cluster were not written down");
                }
            }
        })
    }

    async fn until_told_to_end(
        &self,
        voting: Option<&Voting>,
        mut ready: watch::Receiver<bool>,
    ) -> Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let failed = async {
            match voting {
                Some(voting) => voting.raft.failed().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(failed);
        let announce = async {
            // Ends only with the sender, which the session holds.
            let _ = ready.wait_for(|ready| *ready).await;
            tracing::info!(node.id = self.me.node.0, "this node is ready");
            if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
                tracing::warn!(%error, "the service manager was not told");
            }
            std::future::pending::<()>().await
        };
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            () = self.stop.cancelled() => bail!("a listener failed"),
            why = &mut failed => bail!("node {} must stop: raft storage failed: {why}", self.me.node),
            () = announce => Ok(()),
        }
    }

    /// Ends, with what `epoch` renews.
    async fn end(
        &self,
        voting: Option<&Voting>,
        host: &Host,
        ended: Ended,
        epoch: watch::Sender<Epoch>,
    ) {
        tracing::info!(?ended, "ending");
        if let Some(voting) = voting {
            voting.raft.transfer_leadership(HANDOVER).await;
        }
        match self.config.on_shutdown {
            _ if ended == Ended::Anew => tracing::info!("the agents go on"),
            OnShutdown::Keep if !system_stops() => tracing::info!("the agents go on"),
            OnShutdown::Keep | OnShutdown::Stop => host.stop_all().await,
            OnShutdown::Kill => {
                epoch.send_replace(Epoch(0));
                host.kill_all().await;
            }
        }
    }
}

/// Whether the service manager is taking the whole system down.
fn system_stops() -> bool {
    let asked = std::process::Command::new("systemctl").arg("is-system-running").output();
    asked.is_ok_and(|said| said.stdout.trim_ascii() == b"stopping")
}

/// The kernel's boot id; empty when it cannot be read.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
