//! Two copies of an agent never execute at once, by the agents' own account; and each scenario, run
//! with a mistake planted, shows that it would have noticed.
//!
//! Mistakes are planted by a feature that `cargo xtask check` turns on; without it the tests that
//! plant one fail.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use cluster_tests::{
    Cluster, host_of,
    oracle::{Overlap, overlaps, runs},
    until,
};

fn cluster(count: u32, mutant: Option<&'static str>) -> Cluster {
    Cluster::hosts(count).plant(mutant).form(count, "fast")
}

/// Of the profile.
const LEASE_MS: u64 = 3_000;

/// Creates `f/a1`, which stamps, on a certain one of `count` hosts.
fn place(cluster: &Cluster, count: u32, host: u32) {
    place_command(cluster, count, host, &cluster.stamping());
}

/// Creates `f/a1` on a certain one of `count` hosts.
fn place_command(cluster: &Cluster, count: u32, host: u32, command: &[impl AsRef<str>]) {
    let others: Vec<String> = (1..=count).filter(|n| *n != host).map(|n| format!("n{n}")).collect();
    others.iter().for_each(|name| drop(cluster.ok(&["node", "cordon", name])));
    cluster.ok(&["fleet", "create", "f"]);
    let create = ["agent", "create", "f/a1", "--runtime", "exec", "--"];
    let command = command.iter().map(AsRef::as_ref);
    cluster.ok(&create.into_iter().chain(command).collect::<Vec<_>>());
    assert_eq!(host_of(&cluster.agent("f/a1")), host);
    others.iter().for_each(|name| drop(cluster.ok(&["node", "uncordon", name])));
}

/// What the agents say, once `f/a1` was ready elsewhere.
fn verdict(cluster: &Cluster) -> Vec<Overlap> {
    cluster.wait_ready("f/a1", 2, 30);
    overlaps(&runs(&cluster.stamps()))
}

/// The leader and another node are lost at the same moment; the other one still runs its agents.
fn leader_and_node_are_lost_together(mutant: Option<&'static str>) -> Vec<Overlap> {
    let mut cluster = cluster(4, mutant);
    place(&cluster, 4, 4);
    let leader = cluster.leader();
    cluster.point_at(&(1..=3).filter(|n| *n != leader).collect::<Vec<_>>());
    cluster.cut(4);
    cluster.power_off(leader);
    verdict(&cluster)
}

/// The leader and another node are cut off from the rest together, so that node is heard, by one
/// who may lead no more.
fn node_is_cut_off_with_the_leader(mutant: Option<&'static str>) -> Vec<Overlap> {
    let cluster = cluster(4, mutant);
    place(&cluster, 4, 4);
    let leader = cluster.leader();
    let rest: Vec<u32> = (1..=3).filter(|n| *n != leader).collect();
    cluster.point_at(&rest);
    rest.iter().for_each(|n| [leader, 4].iter().for_each(|cut| cluster.part(*cut, *n)));
    verdict(&cluster)
}

/// Everything that could end agents is paused, and nothing can start another guard.
fn node_is_paused(mutant: Option<&'static str>) -> Vec<Overlap> {
    let mut cluster = cluster(3, mutant);
    place(&cluster, 3, 3);
    cluster.point_at(&[1, 2]);
    cluster.signal_keepers(3, "STOP");
    cluster.signal(3, "STOP");
    cluster.signal_guards(3, "STOP");
    let overlaps = verdict(&cluster);
    cluster.signal_keepers(3, "CONT");
    overlaps
}

fn assert_none(overlaps: &[Overlap]) {
    assert!(overlaps.is_empty(), "{}", overlaps[0]);
}

fn assert_caught(overlaps: &[Overlap]) {
    let overlap = overlaps.first().expect("the mistake was not noticed, or never planted");
    eprintln!("noticed: {overlap}");
}

#[test]
fn losing_leader_and_node_together_doubles_nothing() {
    assert_none(&leader_and_node_are_lost_together(None));
}

#[test]
fn mutant_new_leader_does_not_wait_is_noticed() {
    assert_caught(&leader_and_node_are_lost_together(Some("new-leader-does-not-wait")));
}

#[test]
fn a_node_that_a_deposed_leader_hears_doubles_nothing() {
    assert_none(&node_is_cut_off_with_the_leader(None));
}

#[test]
fn mutant_grants_without_quorum_is_noticed() {
    assert_caught(&node_is_cut_off_with_the_leader(Some("grants-without-quorum")));
}

#[test]
fn mutant_round_before_receipt_is_noticed() {
    assert_caught(&node_is_cut_off_with_the_leader(Some("round-before-receipt")));
}

#[test]
fn a_paused_node_doubles_nothing() {
    assert_none(&node_is_paused(None));
}

#[test]
fn mutant_no_pid_namespace_is_noticed() {
    assert_caught(&node_is_paused(Some("no-pid-namespace")));
}

/// Says its generation to the receiver, a hundred times a second.
const TALKS: &str = "
import os, socket, time
peer = socket.create_connection(('10.87.0.254', 9000))
while True:
    peer.sendall((os.environ['FLEET_GENERATION'] + '\\n').encode())
    time.sleep(0.01)
";

/// Writes the generations it hears, one at a time, to the file it is told.
const HEARS: &str = "
import socket, sys, threading
heard = open(sys.argv[1], 'a', buffering=1)
def hear(peer):
    with peer:
        for line in peer.makefile():
            heard.write(line)
door = socket.create_server(('10.87.0.254', 9000))
while True:
    threading.Thread(target=hear, args=[door.accept()[0]], daemon=True).start()
";

/// A node is cut off, and mended once its agent runs elsewhere; whether the copy that was killed
/// was heard after the new one.
fn dead_are_heard(mutant: Option<&'static str>) -> bool {
    let cluster = cluster(3, mutant);
    let heard_path = cluster.shared().join("heard");
    let heard = || fs::read_to_string(&heard_path).unwrap_or_default();
    let mut receiver =
        cluster.spawn_at_switch("python3", &["-c", HEARS, &heard_path.to_string_lossy()]);
    place_command(&cluster, 3, 3, &["/usr/bin/python3", "-c", TALKS]);
    until(10, "the first copy to be heard", || heard().contains('1').then_some(()));
    cluster.point_at(&[1, 2]);
    cluster.cut(3);
    cluster.wait_ready("f/a1", 2, 30);
    until(10, "the second copy to be heard", || heard().contains('2').then_some(()));
    cluster.mend(3);
    until(120, "the end of the first copy's connection", || {
        cluster.connections(3, "10.87.0.254:9000").is_empty().then_some(())
    });
    let after = heard().split_once('2').is_some_and(|(_, later)| later.contains('1'));
    let _ = receiver.kill();
    let _ = receiver.wait();
    after
}

/// The lease that what it sends has is renewed by the daemon there is.
#[test]
fn an_agent_is_heard_under_the_next_daemon() {
    is_heard_under_the_next_daemon(None);
}

/// And taken away by one that has none to give.
#[test]
fn an_agent_is_heard_under_a_daemon_that_leases_nothing() {
    is_heard_under_the_next_daemon(Some("no-egress-lease"));
}

fn is_heard_under_the_next_daemon(mutant: Option<&'static str>) {
    let mut cluster = cluster(1, None);
    let heard_path = cluster.shared().join("heard");
    let heard = || fs::read_to_string(&heard_path).unwrap_or_default().len();
    let mut receiver =
        cluster.spawn_at_switch("python3", &["-c", HEARS, &heard_path.to_string_lossy()]);
    place_command(&cluster, 1, 1, &["/usr/bin/python3", "-c", TALKS]);
    until(10, "the agent to be heard", || (heard() > 0).then_some(()));
    cluster.end(1, "KILL");
    let lease = cluster.lease_deadline(1).expect("the guard holds it");
    cluster = cluster.plant(mutant);
    cluster.start(1);
    until(30, "a lease that begins after the end of that one", || {
        cluster.lease_deadline(1).filter(|later| *later > lease + LEASE_MS)
    });
    let before = heard();
    until(10, "the agent to be heard still", || (heard() > before + 100).then_some(()));
    let _ = receiver.kill();
    let _ = receiver.wait();
    assert_eq!(cluster.agent("f/a1")["generation"], "1", "it was started anew");
}

#[test]
fn the_dead_are_silent() {
    assert!(!dead_are_heard(None), "a killed agent's bytes arrived after its successor's");
}

#[test]
fn the_dead_are_silent_by_the_lease_alone() {
    assert!(!dead_are_heard(Some("orphans-repeat")), "bytes were sent after the lease");
}

#[test]
fn the_dead_are_silent_where_the_kernel_keeps_no_lease() {
    assert!(!dead_are_heard(Some("no-egress-lease")), "what was queued was sent later");
}

#[test]
fn mutant_killed_is_not_silent_is_noticed() {
    assert!(dead_are_heard(Some("killed-is-not-silent")), "not noticed, or never planted");
}

/// Loops that have a core for themselves as far as ordinary processes go.
struct Hogs(Vec<Child>);

impl Hogs {
    fn start(core: &str) -> Self {
        let hog = |_| {
            let mut command = Command::new("taskset");
            command.args(["--cpu-list", core, "nice", "-n", "-20"]);
            command.args(["sh", "-c", "while :; do :; done"]).spawn().expect("taskset")
        };
        Self((0..16).map(hog).collect())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }
}

fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).stdout(Stdio::null()).status();
    assert!(done.expect(program).success(), "{program} {args:?}");
}

/// The deadline comes while ordinary processes leave the guard's core to nobody, but the agent has
/// their priority. Takes two cores.
fn guard_is_due_on_a_busy_core(mutant: Option<&'static str>) -> Vec<Overlap> {
    const CORE: &str = "1";
    let mut cluster = cluster(3, mutant);
    place(&cluster, 3, 3);
    cluster.point_at(&[1, 2]);
    let agent = cluster.agent("f/a1")["pid"].as_u64().expect("a process").to_string();
    for pid in cluster.guard_pids(3).iter().map(u32::to_string).chain([agent.clone()]) {
        run("taskset", &["--all-tasks", "--cpu-list", "--pid", CORE, &pid]);
    }
    run("renice", &["-n", "-20", "-p", &agent]);
    let hogs = Hogs::start(CORE);
    cluster.signal(3, "STOP");
    cluster.wait_ready("f/a1", 2, 30);
    let first = Path::new("/proc").join(agent);
    until(30, "the end of the first copy", || (!first.exists()).then_some(()));
    drop(hogs);
    overlaps(&runs(&cluster.stamps()))
}

#[test]
fn the_guard_never_waits_for_the_processor() {
    assert_none(&guard_is_due_on_a_busy_core(None));
}

#[test]
fn mutant_no_realtime_priority_is_noticed() {
    // A process that wakes up seldom is at times let in before others, whatever their priority.
    let mut turns = (0..3).map(|_| guard_is_due_on_a_busy_core(Some("no-realtime-priority")));
    assert_caught(&turns.find(|overlaps| !overlaps.is_empty()).unwrap_or_default());
}
