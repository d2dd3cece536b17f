//! Whole nodes on real disks: one that is far behind, and one whose disk lost what it acknowledged.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    sync::atomic::{AtomicU32, Ordering},
};

use fleet_core::{CreateFleet, InitCluster, NodeAddress, Operation, State, Wants};
use fleet_proto::{
    raft::{
        self as wire, install_snapshot_request::Header, raft_service_client::RaftServiceClient,
        raft_service_server::RaftServiceServer,
    },
    storage,
};
use fleet_raft::{LogLimits, Node, OpenError, RaftConfig};
use fleet_types::{Labels, LeaseProfile, LeaseTiming, NodeId, Principal, Timestamp};
use futures::stream;
use prost::Message;
use tempfile::TempDir;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Code, Request,
    transport::{Endpoint, Server},
};

const LIMITS: LogLimits = LogLimits { between_snapshots: 50, kept: 10 };

async fn open(id: u64, dir: &Path) -> Result<Node, OpenError> {
    Node::open(RaftConfig {
        id: NodeId(id),
        dir: dir.to_owned(),
        timing: LeaseTiming::of(LeaseProfile::Fast),
        dial: Arc::new(|_, address| {
            let endpoint = Endpoint::from_shared(format!("http://{address}"));
            Ok(endpoint.expect("an address").connect_lazy())
        }),
        log: LIMITS,
    })
    .await
}

/// Serves `node` to the node numbered `peer`.
async fn serve(node: &Node, peer: u64) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let called = move |mut request: Request<()>| {
        request.extensions_mut().insert(Principal::Node(NodeId(peer)));
        Ok(request)
    };
    let service = RaftServiceServer::with_interceptor(node.service(), called);
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

/// A new cluster of one node.
async fn first(dir: &Path) -> Node {
    let node = open(1, dir).await.unwrap();
    let address = serve(&node, 2).await.to_string();
    node.initialize(&address).await.unwrap();
    while node.leader().is_none() {
        node.status_changed().await;
    }
    let member = |_: &str| "127.0.0.1:1".to_owned();
    propose(
        &node,
        Operation::InitCluster(InitCluster {
            cluster: "00112233445566aa".parse().unwrap(),
            profile: LeaseProfile::Fast,
            node: NodeId(1),
            name: "n1".parse().unwrap(),
            address: NodeAddress { api: member("api"), peer: address, lease: member("lease") },
            storage: "s1".into(),
        }),
    )
    .await;
    node
}

async fn propose(node: &Node, operation: Operation) {
    let command = fleet_core::Command { at: Timestamp(1), request: None, operation };
    let results = node.propose(&[command]).await.unwrap();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

async fn fleets(node: &Node, range: std::ops::Range<u32>) {
    for number in range {
        let fleet = format!("f{number}").parse().unwrap();
        let (config, labels, wants) = (String::new(), Labels::default(), Wants::default());
        let create = CreateFleet { fleet, config, labels, wants, ports: 0, priority: 0 };
        propose(node, Operation::CreateFleet(create)).await;
    }
}

fn digest(node: &Node) -> u64 {
    node.read(State::digest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_far_behind_is_sent_a_snapshot() {
    let dir = TempDir::new().unwrap();
    let (one, two) = (dir.path().join("1"), dir.path().join("2"));
    let leader = first(&one).await;
    fleets(&leader, 0..200).await;
    let snapshots = || fs::read_dir(one.join("snapshots")).unwrap().count();
    while snapshots() == 0 {
        tokio::task::yield_now().await;
    }
    fleets(&leader, 200..220).await;

    let late = open(2, &two).await.unwrap();
    let address = serve(&late, 1).await.to_string();
    leader.add_voter(NodeId(2), &address).await.unwrap();
    fleets(&leader, 220..230).await;
    let mut applied = late.applied_index();
    let goal = *leader.applied_index().borrow();
    applied.wait_for(|index| *index >= goal).await.unwrap();
    assert_eq!(digest(&late), digest(&leader));
    assert_ne!(fs::read_dir(two.join("snapshots")).unwrap().count(), 0, "it came entry by entry");

    let again = opened_again(&two, goal).await;
    assert_eq!(digest(&again), digest(&leader), "what was installed is not what was stored");
    for node in [leader, late, again] {
        node.shutdown().await;
    }
}

/// The messages by which node 1 sends a snapshot file.
fn messages(file: &[u8]) -> Vec<wire::InstallSnapshotRequest> {
    let length = u32::from_le_bytes(file[..4].try_into().unwrap()) as usize;
    let meta = storage::SnapshotMeta::decode(&file[4..4 + length]).unwrap();
    let vote = storage::Vote { term: 1, node_id: 1, committed: true };
    let header = Header { vote: Some(vote), meta: Some(meta), target: 2 };
    let first = wire::InstallSnapshotRequest { header: Some(header), chunk: Vec::new() };
    let rest = file.chunks(file.len().div_ceil(2));
    let chunk = |part: &[u8]| wire::InstallSnapshotRequest { header: None, chunk: part.to_vec() };
    std::iter::once(first).chain(rest.map(chunk)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_arrives_broken_is_refused_and_harms_no_other() {
    let dir = TempDir::new().unwrap();
    let (one, two) = (dir.path().join("1"), dir.path().join("2"));
    let leader = first(&one).await;
    fleets(&leader, 0..60).await;
    let finished = || {
        let mut files = fs::read_dir(one.join("snapshots")).unwrap().map(|e| e.unwrap().path());
        files.find(|path| path.extension().is_some_and(|e| e == "snapshot"))
    };
    let snapshot = loop {
        match finished() {
            Some(path) => break fs::read(path).unwrap(),
            None => tokio::task::yield_now().await,
        }
    };
    let late = open(2, &two).await.unwrap();
    let address = serve(&late, 1).await;
    let client = RaftServiceClient::connect(format!("http://{address}")).await.unwrap();
    let send = async |messages| client.clone().install_snapshot(stream::iter(messages)).await;

    let whole = messages(&snapshot);
    let (slow, arriving) = tokio::sync::mpsc::channel(1);
    let mut other = client.clone();
    let first =
        tokio::spawn(async move { other.install_snapshot(ReceiverStream::new(arriving)).await });
    slow.send(whole[0].clone()).await.unwrap();
    slow.send(whole[1].clone()).await.unwrap();
    let stored = || {
        let files = fs::read_dir(two.join("snapshots")).unwrap().map(|e| e.unwrap().path());
        files.collect::<Vec<_>>()
    };
    while stored().is_empty() {
        tokio::task::yield_now().await;
    }

    let mut flipped = snapshot.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for broken in [whole[..2].to_vec(), messages(&flipped)] {
        let refused = send(broken).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    }
    let mut another = whole.clone();
    let meta = another[0].header.as_mut().unwrap().meta.as_mut().unwrap();
    meta.last_log_id.as_mut().unwrap().index += 1;
    assert_eq!(send(another).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(*late.applied_index().borrow(), 0);

    slow.send(whole[2].clone()).await.unwrap();
    drop(slow);
    first.await.unwrap().unwrap();
    late.applied_index().wait_for(|index| *index > 0).await.unwrap();
    assert_eq!(stored().len(), 1, "{:?}", stored());
    for node in [leader, late] {
        node.shutdown().await;
    }
}

/// What a power cut would leave of a node's directory, which is still open here.
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").args([from, to]).status().unwrap().success());
}

/// A second node 2 on what the first has stored, once that has all up to `goal`: an entry is applied
/// first and stored right after.
async fn opened_again(dir: &Path, goal: u64) -> Node {
    for attempt in 0.. {
        let again = dir.with_file_name(format!("again{attempt}"));
        copy(dir, &again);
        let again = open(2, &again).await.unwrap();
        if *again.applied_index().borrow() >= goal {
            return again;
        }
        again.shutdown().await;
    }
    unreachable!("attempts do not end")
}

/// The index that a node's mark says was acknowledged.
fn acknowledged(dir: &Path) -> u64 {
    let mark = fs::read(dir.join("acknowledged")).unwrap();
    mark.get(..8).map_or(0, |index| u64::from_le_bytes(index.try_into().unwrap()))
}

/// Cuts the newest file of the log to half, as a disk that lied about its syncs would.
fn damage(dir: &Path) {
    let logs = fs::read_dir(dir.join("db")).unwrap().map(|entry| entry.unwrap().path());
    let newest: PathBuf = logs.filter(|p| p.extension().is_some_and(|e| e == "log")).max().unwrap();
    let length = fs::metadata(&newest).unwrap().len();
    fs::File::options().write(true).open(newest).unwrap().set_len(length / 2).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_what_it_acknowledged_refuses_to_take_part() {
    let dir = TempDir::new().unwrap();
    let (whole, damaged) = (dir.path().join("whole"), dir.path().join("damaged"));
    let node = first(&whole).await;
    fleets(&node, 0..40).await;
    // The mark is written at most so often, after an entry.
    for number in 40.. {
        if acknowledged(&whole) >= 40 {
            break;
        }
        fleets(&node, number..number + 1).await;
    }
    copy(&whole, &damaged);
    damage(&damaged);
    let refused = open(1, &damaged).await.err().expect("it took part");
    assert!(matches!(refused, OpenError::LostEntries { .. }), "{refused:?}");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_comes_again_at_once_does_not_keep_applying_out() {
    const READS: u32 = 3_000;
    let dir = TempDir::new().unwrap();
    let node = first(dir.path()).await;
    let (reading, reads) = (node.clone(), Arc::new(AtomicU32::new(0)));
    let count = reads.clone();
    let reader = std::thread::spawn(move || {
        while count.fetch_add(1, Ordering::Relaxed) < READS {
            // About as long as a page of a large state takes.
            reading
                .read(|_| std::hint::black_box((0..50_000).map(std::hint::black_box).sum::<u32>()));
        }
    });
    fleets(&node, 0..20).await;
    let before_the_last = reads.load(Ordering::Relaxed);
    reader.join().unwrap();
    node.shutdown().await;
    assert!(before_the_last < READS, "twenty entries waited for {before_the_last} reads");
}
