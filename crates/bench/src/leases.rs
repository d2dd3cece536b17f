//! Thousands of workers on leases: each with a certificate, a connection and an epoch of its own,
//! renewed through the real lease service; their agent hosts answer and have nothing to run.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use fleet_client::{Identity, Token, connect_node};
use fleet_proto::{
    error::reason,
    host::{
        AssignRequest, AssignResponse, RegisterRequest, TailLogsRequest, TailLogsResponse,
        WatchObservedRequest, WatchObservedResponse,
        agent_host_service_server::{AgentHostService, AgentHostServiceServer},
        registration_service_client::RegistrationServiceClient,
    },
    lease::{RenewRequest, lease_service_client::LeaseServiceClient},
    v1::{
        ClusterStatus, CreateTokenRequest, GetClusterStatusRequest, JoinClusterRequest, PortRange,
        Resources, Role, cluster_service_client::ClusterServiceClient,
        join_service_client::JoinServiceClient, node::State,
        token_service_client::TokenServiceClient,
    },
};
use fleet_types::{LeaseProfile, LeaseTiming, NodeId, limits::TOKEN_USES_MAX};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{net::TcpListener, task::JoinSet, time::MissedTickBehavior};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring::sign::any_supported_type,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
};
use tonic::{Request, Response, Status, transport::Server};

use crate::fleet;

/// Workers that join and register at once.
const AT_ONCE: usize = 16;
/// How long is watched once all hold leases.
const WATCHED: Duration = Duration::from_secs(30);

/// Shows each caller the certificate of the worker it asks for.
#[derive(Debug, Default)]
struct Faces(Mutex<HashMap<String, Arc<CertifiedKey>>>);

impl ResolvesServerCert for Faces {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.lock().ok()?.get(hello.server_name()?).cloned()
    }
}

impl Faces {
    fn add(&self, name: String, identity: &Identity) -> Result<()> {
        let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?;
        let face = CertifiedKey::new(chain, any_supported_type(&key)?);
        self.0.lock().expect("no holder panics").insert(name, Arc::new(face));
        Ok(())
    }
}

/// An agent host that is told things and has nothing to say.
struct Quiet;

#[tonic::async_trait]
impl AgentHostService for Quiet {
    async fn assign(&self, _: Request<AssignRequest>) -> Result<Response<AssignResponse>, Status> {
        Ok(Response::new(AssignResponse {}))
    }

    type WatchObservedStream =
        Pin<Box<dyn Stream<Item = Result<WatchObservedResponse, Status>> + Send>>;

    async fn watch_observed(
        &self,
        _: Request<WatchObservedRequest>,
    ) -> Result<Response<Self::WatchObservedStream>, Status> {
        Ok(Response::new(Box::pin(stream::pending())))
    }

    type TailLogsStream = Pin<Box<dyn Stream<Item = Result<TailLogsResponse, Status>> + Send>>;

    async fn tail_logs(
        &self,
        _: Request<TailLogsRequest>,
    ) -> Result<Response<Self::TailLogsStream>, Status> {
        Err(Status::unimplemented("there are no logs"))
    }
}

/// Serves the agent hosts of all workers; where.
async fn serve_hosts(faces: Arc<Faces>) -> Result<String> {
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(faces);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let accepted = stream::unfold(listener, move |listener| {
        let acceptor = acceptor.clone();
        async move {
            let stream = listener.accept().await.map(|(stream, _)| stream);
            Some((async move { acceptor.accept(stream?).await }, listener))
        }
    });
    // One that fails its handshake comes again.
    let incoming =
        accepted.buffer_unordered(64).filter(|done| futures::future::ready(done.is_ok()));
    let incoming = Box::pin(incoming);
    tokio::spawn(async move {
        let served = Server::builder().add_service(AgentHostServiceServer::new(Quiet));
        served.serve_with_incoming(incoming).await
    });
    Ok(address)
}

/// What all workers share.
struct Site {
    cluster: fleet::Cluster,
    leader: u16,
    leader_id: NodeId,
    tokens: Vec<Token>,
    faces: Arc<Faces>,
    hosts: String,
    granted: AtomicU64,
    refused: AtomicU64,
}

impl Site {
    async fn join(&self, number: usize) -> Result<(NodeId, Identity, String)> {
        let token = &self.tokens[number / TOKEN_USES_MAX as usize];
        let key = rcgen::KeyPair::generate()?;
        let certificate_request = rcgen::CertificateParams::default().serialize_request(&key)?;
        let storage_id = format!("{number:032x}");
        let api = self.cluster.channel(self.leader)?;
        let request = JoinClusterRequest {
            rules: fleet_core::RULES,
            token_id: token.id.to_string(),
            token_secret: hex(&token.secret),
            node_name: format!("w{number}"),
            api_address: self.hosts.clone(),
            peer_address: self.hosts.clone(),
            lease_address: self.hosts.clone(),
            storage_id: storage_id.clone(),
            certificate_request_pem: certificate_request.pem()?,
        };
        let answer = JoinServiceClient::new(api).join_cluster(request).await?.into_inner();
        let identity = Identity {
            cluster: answer.cluster_id.parse()?,
            ca_pem: answer.ca_certificate_pem,
            certificate_pem: answer.certificate_pem,
            key_pem: key.serialize_pem(),
        };
        let node = NodeId(answer.node_id);
        self.faces.add(format!("node-{node}.{}.fleet", identity.cluster), &identity)?;
        Ok((node, identity, storage_id))
    }

    async fn register(&self, node: NodeId, identity: &Identity, storage: String) -> Result<u64> {
        let channel = connect_node(identity, self.leader_id, &fleet::address(self.leader, 1))?;
        let about = RegisterRequest {
            node_id: node.0,
            storage_id: storage,
            port_range: Some(PortRange { first: 10_240, last: 32_767 }),
            runtimes: [("exec".to_owned(), "-".to_owned())].into(),
            version: "bench".into(),
            capacity: Some(Resources { memory_bytes: 1 << 36, cpu_millis: 16_000 }),
            ..RegisterRequest::default()
        };
        Ok(RegistrationServiceClient::new(channel).register(about).await?.into_inner().epoch)
    }

    /// Renews for ever, each period; registers again when its lease was ended.
    async fn renew(&self, node: NodeId, identity: Identity, storage: String, period: Duration) {
        let address = fleet::address(self.leader, 2);
        let Ok(channel) = connect_node(&identity, self.leader_id, &address) else { return };
        let mut client = LeaseServiceClient::new(channel);
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut epoch = 0;
        loop {
            ticks.tick().await;
            if epoch == 0 {
                epoch = self.register(node, &identity, storage.clone()).await.unwrap_or(0);
                continue;
            }
            let nonce = self.granted.load(Ordering::Relaxed);
            let renew = RenewRequest { node_id: node.0, epoch, nonce, relayed: false };
            match client.renew(renew).await {
                Ok(_) => self.granted.fetch_add(1, Ordering::Relaxed),
                Err(status) => {
                    let over = reason(&status).as_deref() == Some("LEASE_REFUSED");
                    epoch = if over { 0 } else { epoch };
                    self.refused.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    }
}

impl Site {
    /// Lets so many workers join; each renews from then on.
    async fn fill(self: Arc<Self>, workers: usize, period: Duration) -> Result<JoinSet<()>> {
        let renewing = Mutex::new(JoinSet::new());
        let made = stream::iter(0..workers).map(|number| {
            let (site, renewing) = (self.clone(), &renewing);
            async move {
                let (node, identity, storage) = site.join(number).await?;
                let mut renewing = renewing.lock().expect("no holder panics");
                renewing.spawn(async move { site.renew(node, identity, storage, period).await });
                anyhow::Ok(())
            }
        });
        made.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        Ok(renewing.into_inner().expect("no holder panics"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Processor seconds and resident bytes of a process.
fn usage(pid: u32) -> Result<(f64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(") ").context("a process's state")?.1;
    let fields: Vec<&str> = rest.split(' ').collect();
    // After the name and the state, 12 and 13 are user and system time in hundredths, 22 is pages.
    let number = |n: usize| fields.get(n).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    Ok(((number(11) + number(12)) as f64 / 100.0, number(21) * 4096))
}

fn active(status: &ClusterStatus) -> usize {
    status.nodes.iter().filter(|node| node.state() == State::Active).count()
}

/// Prints what workers cost their leader.
pub(crate) async fn run(binary: &Path, sizes: &[usize]) -> Result<()> {
    // Each has connections of its own, at both ends.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    println!(
        "\nworkers on leases, default profile: a renewal a second each, over a connection each\n"
    );
    println!(
        "| workers | renewals /s | not granted | entries written in {:.0} s | leader, of a core \
         | µs a renewal | leader's memory a worker KiB |\n|---|---|---|---|---|---|---|",
        WATCHED.as_secs_f64()
    );
    for workers in sizes {
        one(binary, *workers).await?;
    }
    Ok(())
}

/// One size: a row of the table.
async fn one(binary: &Path, workers: usize) -> Result<()> {
    let cluster = fleet::Cluster::start(binary).await?;
    let leader = cluster.leader_node().await?;
    let api = cluster.channel(leader)?;
    let status = || async {
        let mut client = ClusterServiceClient::new(api.clone()).max_decoding_message_size(1 << 28);
        let answer = client.get_cluster_status(GetClusterStatusRequest {}).await?;
        answer.into_inner().status.context("a status")
    };
    let leader_id: u64 = status().await?.leader.trim_start_matches("nodes/").parse()?;
    let mut tokens = Vec::new();
    for _ in 0..workers.div_ceil(TOKEN_USES_MAX as usize) {
        let request =
            CreateTokenRequest { role: Role::Worker.into(), uses: TOKEN_USES_MAX, ttl: None };
        let made = TokenServiceClient::new(api.clone()).create_token(request).await?;
        tokens.push(made.into_inner().secret.parse()?);
    }
    let faces = Arc::new(Faces::default());
    let hosts = serve_hosts(faces.clone()).await?;
    let (granted, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let leader_id = NodeId(leader_id);
    let site =
        Arc::new(Site { cluster, leader, leader_id, tokens, faces, hosts, granted, refused });
    let before = usage(site.cluster.pid(leader)?)?.1;

    let period = Duration::from_millis(LeaseTiming::of(LeaseProfile::Default).renew_ms);
    let mut renewing = site.clone().fill(workers, period).await?;
    // Until all hold one, and the joining is forgotten.
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        if active(&status().await?) > workers {
            break;
        }
    }
    tokio::time::sleep(Duration::from_secs(10)).await;

    let (pid, index) = (site.cluster.pid(leader)?, status().await?.applied_index);
    let (cpu, _) = usage(pid)?;
    let (grants, refusals) =
        (site.granted.load(Ordering::Relaxed), site.refused.load(Ordering::Relaxed));
    tokio::time::sleep(WATCHED).await;
    let (cpu_after, memory) = usage(pid)?;
    let grants = site.granted.load(Ordering::Relaxed) - grants;
    let refusals = site.refused.load(Ordering::Relaxed) - refusals;
    let after = status().await?;
    let held = active(&after);
    ensure!(held > workers, "{held} nodes hold a lease");
    let seconds = WATCHED.as_secs_f64();
    let cpu = cpu_after - cpu;
    // Each holds the site, and the next one has its addresses.
    renewing.shutdown().await;
    println!(
        "| {workers} | {:.0} | {refusals} | {} | {:.2} | {:.0} | {} |",
        grants as f64 / seconds,
        after.applied_index - index,
        cpu / seconds,
        cpu * 1e6 / grants as f64,
        (memory - before) / 1024 / workers as u64,
    );
    Ok(())
}
