//! The daemon comes and goes; agents do not notice, and end when it stays away too long.

use std::{
    fs,
    process::{Command, Stdio},
};

use cluster_tests::{Cluster, exclusive, host_of, oracle, until};

/// A node with an agent that runs for ever and writes a line now and then.
fn node() -> (Cluster, u64) {
    let cluster = Cluster::formed(1, "default");
    cluster.ok(&["fleet", "create", "f"]);
    let script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done";
    cluster.ok(&["agent", "create", "f/a", "--runtime", "exec", "--", "/bin/sh", "-c", script]);
    let pid = cluster.agent("f/a")["pid"].as_u64().expect("a process");
    (cluster, pid)
}

/// Waits until the agent is ready again; it must be the same process, started once.
fn same(cluster: &Cluster, pid: u64) {
    cluster.wait_ready("f/a", 1, 10);
    let agent = cluster.agent("f/a");
    assert_eq!((agent["pid"].as_u64(), agent["starts"].as_u64()), (Some(pid), Some(1)), "{agent}");
}

/// Every line the agent wrote is in its log, once and in order.
fn no_line_lost(cluster: &Cluster) {
    let log = until(10, "some lines", || {
        let log = cluster.ok(&["agent", "logs", "f/a", "--lines", "10000"]);
        (log.lines().count() > 20).then_some(log)
    });
    for (position, line) in log.lines().enumerate() {
        assert_eq!(line, format!("line {}", position + 1));
    }
}

#[test]
fn a_killed_daemon_finds_its_agents_running() {
    let (mut cluster, pid) = node();
    for _ in 0..2 {
        cluster.end(1, "KILL");
        cluster.start(1);
        same(&cluster, pid);
    }
    no_line_lost(&cluster);
    assert!(cluster.log(1).contains("\"kept\":true"), "it registered for a new epoch");
}

#[test]
fn a_daemon_told_to_end_keeps_its_agents() {
    let (mut cluster, pid) = node();
    assert_eq!(cluster.end(1, "TERM"), Some(0));
    cluster.start(1);
    same(&cluster, pid);
    no_line_lost(&cluster);
}

#[test]
fn a_daemon_told_to_end_stops_its_agents_if_so_configured() {
    let (mut cluster, _) = node();
    cluster.end(1, "TERM");
    cluster.configure(1, "on_shutdown = \"stop\"\n");
    cluster.start(1);
    cluster.wait_ready("f/a", 1, 10);
    assert_eq!(cluster.end(1, "TERM"), Some(0));
    assert!(!cluster.populated(1), "an agent runs on");
}

#[test]
fn a_daemon_told_to_end_kills_its_agents_if_so_configured() {
    let (mut cluster, _) = node();
    for class in ["sticky", "pinned"] {
        let create = ["agent", "create", &format!("f/{class}"), "--class", class, "--runtime"];
        cluster.ok(&[&create[..], &["exec", "--", "/bin/sleep", "infinity"]].concat());
    }
    cluster.end(1, "TERM");
    cluster.configure(1, "on_shutdown = \"kill\"\n");
    cluster.start(1);
    cluster.wait_ready("f/a", 1, 10);
    assert_eq!(cluster.end(1, "TERM"), Some(0));
    assert!(!cluster.populated(1), "an agent runs on");
}

#[test]
fn agents_may_drain_for_longer_than_a_lease_lasts() {
    let mut cluster = Cluster::hosts(1).form(1, "fast");
    cluster.end(1, "TERM");
    cluster.configure(1, "on_shutdown = \"stop\"\n");
    cluster.start(1);
    cluster.ok(&["fleet", "create", "f"]);
    let drained = cluster.shared().join("drained");
    // The lease is one of three seconds.
    let drain = format!("for n in 1 2 3 4 5; do sleep 1; done; echo yes > {}", drained.display());
    let script = format!("trap '{drain}; exit 0' TERM; while :; do sleep 0.1; done");
    cluster.ok(&["agent", "create", "f/a", "--runtime", "exec", "--", "/bin/sh", "-c", &script]);
    assert_eq!(cluster.end(1, "TERM"), Some(0));
    assert!(drained.exists(), "it was killed while it drained");
}

#[test]
fn an_agent_drains_on_under_the_daemons_that_come_meanwhile() {
    let mut cluster = Cluster::formed(1, "default");
    cluster.ok(&["fleet", "create", "f"]);
    let drained = cluster.shared().join("drained");
    let wait = "for n in 1 2 3 4 5 6 7 8 9 10; do sleep 1; done";
    let drain = format!("{wait}; echo yes > {}", drained.display());
    let script = format!("trap '{drain}; exit 0' TERM; while :; do sleep 0.1; done");
    cluster.ok(&["agent", "create", "f/a", "--runtime", "exec", "--", "/bin/sh", "-c", &script]);
    cluster.ok(&["agent", "stop", "f/a", "--no-wait"]);
    let stops = |cluster: &Cluster| {
        let said = cluster.cli(&["agent", "get", "f/a", "-o", "json", "--patience", "2"]);
        said.out.contains("STATE_STOPPING").then_some(())
    };
    // The second is told of it no more, by a leader that knows of nothing that runs.
    for _ in 0..2 {
        until(10, "it drains", || stops(&cluster));
        cluster.end(1, "KILL");
        cluster.start(1);
    }
    until(20, "it has drained", || drained.exists().then_some(()));
}

#[test]
fn how_an_agent_ended_is_learnt_by_the_next_daemon() {
    let mut cluster = Cluster::formed(1, "default");
    cluster.ok(&["fleet", "create", "f"]);
    let end = cluster.shared().join("end");
    let script = format!("until [ -e {} ]; do sleep 0.05; done; exit 7", end.display());
    cluster.ok(&["agent", "create", "f/a", "--runtime", "exec", "--", "/bin/sh", "-c", &script]);
    cluster.end(1, "KILL");
    fs::write(&end, "").unwrap();
    until(5, "the agent's end", || (!cluster.populated(1)).then_some(()));
    cluster.start(1);
    until(10, "the exit code", || {
        let said = cluster.cli(&["agent", "get", "f/a", "-o", "json", "--patience", "2"]);
        said.out.contains("exit code 7").then_some(())
    });
}

#[test]
fn agents_started_again_while_the_daemon_was_away_are_what_was_asked_for() {
    let (mut cluster, pid) = node();
    cluster.ok(&["agent", "create", "f/b", "--runtime", "exec", "--", "/bin/sleep", "infinity"]);
    cluster.ok(&["agent", "stop", "f/b"]);
    cluster.end(1, "KILL");
    cluster.start(1);
    same(&cluster, pid);
    assert_eq!(cluster.agent("f/b")["state"], "STATE_STOPPED");
    cluster.ok(&["agent", "restart", "f/a"]);
    until(10, "another process", || {
        (cluster.agent("f/a")["pid"].as_u64() != Some(pid)).then_some(())
    });
}

/// Three nodes, the number of the one that runs f/a, and the command line at the others.
fn three_nodes() -> (Cluster, u32) {
    let cluster = Cluster::formed(3, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    let script = exclusive(&cluster.shared(), "a");
    cluster.ok(&["agent", "create", "f/a", "--runtime", "exec", "--", "/bin/sh", "-c", &script]);
    let host = host_of(&cluster.agent("f/a"));
    let others: Vec<u32> = (1..=3).filter(|n| *n != host).collect();
    cluster.point_at(&others);
    (cluster, host)
}

/// That f/a stays where it is, and never ran twice at once.
fn stays_alone(cluster: &Cluster, host: u32) {
    cluster.wait_active(3);
    assert_eq!(cluster.wait_ready("f/a", 2, 10), host);
    let overlap = fs::read_to_string(cluster.shared().join("overlap")).unwrap_or_default();
    assert_eq!(overlap, "", "an agent ran twice at once");
}

#[test]
fn a_daemon_that_stays_away_too_long_has_its_agents_moved() {
    let (mut cluster, away) = three_nodes();
    cluster.end(away, "KILL");
    let now_on = cluster.wait_ready("f/a", 2, 30);
    assert_ne!(now_on, away);
    cluster.start(away);
    stays_alone(&cluster, now_on);
}

#[test]
fn a_paused_daemon_and_guard_put_nothing_off() {
    let (mut cluster, paused) = three_nodes();
    // Nor may another guard come and end what this one should have.
    cluster.signal_keepers(paused, "STOP");
    cluster.signal(paused, "STOP");
    cluster.signal_guards(paused, "STOP");
    let now_on = cluster.wait_ready("f/a", 2, 30);
    assert!(!cluster.populated(paused), "the kernel did not end what the guard held");
    cluster.signal_keepers(paused, "CONT");
    cluster.signal(paused, "CONT");
    stays_alone(&cluster, now_on);
}

#[test]
fn a_guard_is_replaced_without_touching_agents() {
    let (mut cluster, pid) = node();
    for _ in 0..2 {
        let before = cluster.lease_deadline(1).unwrap();
        cluster.signal_guards(1, "HUP");
        // What stood in for the timer would have ended everything by then.
        until(20, "renewals by way of the new guard", || {
            (cluster.lease_deadline(1)? > before + 6_000).then_some(())
        });
        same(&cluster, pid);
    }
    no_line_lost(&cluster);
}

#[test]
fn agents_of_a_held_node_go_on_while_its_daemon_is_away_for_longer_than_a_lease() {
    let mut cluster = Cluster::formed(3, "aggressive");
    cluster.ok(&["fleet", "create", "f"]);
    let stamping = cluster.stamping();
    for number in 1..=3 {
        let name = format!("f/a{number}");
        let create = ["agent", "create", &name, "--runtime", "exec", "--"];
        let stamping = stamping.iter().map(String::as_str);
        cluster.ok(&create.into_iter().chain(stamping).collect::<Vec<_>>());
    }
    let held = cluster.leader() % 3 + 1;
    let others: Vec<u32> = (1..=3).filter(|host| *host != held).collect();
    cluster.point_at(&others);
    let names = (1..=3).map(|number| format!("f/a{number}"));
    let on_it = names.into_iter().find(|name| host_of(&cluster.agent(name)) == held).unwrap();
    let pid = cluster.agent(&on_it)["pid"].clone();
    let node = format!("n{held}");
    let too_long = cluster.cli(&["node", "hold", &node, "--for", "2h"]);
    assert!(too_long.code != 0 && too_long.err.contains("10 s to 60 min"), "{too_long:?}");
    cluster.ok(&["node", "hold", &node, "--for", "10s"]);
    let deadline = cluster.lease_deadline(held).unwrap();
    assert!(deadline > oracle::now_ns() / 1_000_000 + 7_000, "the guard has the long lease");
    // Ten times as long as a lease; the others hear of no fence meanwhile.
    cluster.end(held, "KILL");
    until(20, "a time longer than W", || {
        (oracle::now_ns() / 1_000_000 + 5_000 > deadline).then_some(())
    });
    assert_eq!(cluster.agent(&on_it)["generation"], "1");
    cluster.start(held);
    assert_eq!(cluster.wait_ready(&on_it, 1, 30), held);
    assert_eq!(cluster.agent(&on_it)["pid"], pid, "it was not restarted");

    // Released, and lost before the last long lease is over: the others wait for that.
    cluster.ok(&["node", "release", &node]);
    let deadline = cluster.lease_deadline(held).unwrap();
    cluster.cut(held);
    cluster.wait_ready(&on_it, 2, 60);
    assert!(oracle::now_ns() / 1_000_000 >= deadline);
    let found = oracle::overlaps(&oracle::runs(&cluster.stamps()));
    assert!(found.is_empty(), "{}", found[0]);
    cluster.mend(held);
    cluster.wait_active(3);
    assert!(!cluster.cli(&["status"]).out.contains("NODE_HELD"), "a fence ends a hold");
}

#[test]
fn a_paused_init_is_no_dead_one() {
    let (mut cluster, pid) = node();
    let (guard, init) = (cluster.guard_pids(1)[0], init(&mut cluster));
    for signal in ["STOP", "CONT"] {
        assert!(Command::new("kill").args(["-s", signal, &init]).status().unwrap().success());
        let before = cluster.lease_deadline(1).unwrap();
        until(10, "a renewal", || (cluster.lease_deadline(1)? > before).then_some(()));
        assert_eq!(cluster.guard_pids(1)[0], guard);
    }
    same(&cluster, pid);
}

/// The children of a process.
fn children(pid: &str) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    children.expect("it runs").split_whitespace().map(str::to_owned).collect()
}

/// The init of a host's first guard.
fn init(cluster: &mut Cluster) -> String {
    children(&cluster.guard_pids(1)[0].to_string()).remove(0)
}

/// The launcher of an init.
fn launcher(init: &str) -> Option<String> {
    let is_one = |pid: &String| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "fleet-launch\n")
    };
    children(init).into_iter().find(is_one)
}

#[test]
fn a_launcher_that_hangs_is_ended_and_starts_nothing_later() {
    let (mut cluster, pid) = node();
    let init = init(&mut cluster);
    let first = launcher(&init).expect("one that started the agent");
    assert!(Command::new("kill").args(["-s", "STOP", &first]).status().unwrap().success());
    let create = ["agent", "create", "f/b", "--runtime", "exec", "--no-wait"];
    cluster.ok(&[&create[..], &["--", "/bin/sh", "-c", "echo here; exec sleep infinity"]].concat());
    cluster.wait_ready("f/b", 1, 60);
    assert_ne!(launcher(&init), Some(first));
    assert_eq!(cluster.ok(&["agent", "logs", "f/b"]).matches("here").count(), 1);
    same(&cluster, pid);
}

/// An init of before a rolling upgrade gives it the agent's specification as its input.
#[test]
fn a_launcher_without_a_socket_becomes_the_agent_itself() {
    let program = cluster_tests::binary().with_file_name("fleet-launch");
    let done = Command::new(program).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(125), "{said}");
    assert!(said.contains("EOF while parsing"), "{said}");
}

#[test]
fn a_launcher_that_ended_is_started_anew() {
    let (mut cluster, pid) = node();
    let init = init(&mut cluster);
    let launcher = || launcher(&init);
    let first = launcher().expect("one that started the agent");
    assert!(Command::new("kill").args(["-s", "KILL", &first]).status().unwrap().success());
    until(10, "its end", || launcher().is_none().then_some(()));
    same(&cluster, pid);
    cluster.ok(&["agent", "restart", "f/a"]);
    assert_ne!(cluster.agent("f/a")["pid"].as_u64(), Some(pid));
    let second = launcher().expect("another");
    cluster.ok(&["agent", "restart", "f/a"]);
    assert_eq!(launcher(), Some(second), "it stays");
}

#[test]
fn all_that_ended_at_once_and_lost_their_parents_are_collected() {
    let (mut cluster, _) = node();
    let script = "for n in 1 2 3; do (setsid sleep 2 &); done; echo here; exec sleep infinity";
    cluster.ok(&["agent", "create", "f/b", "--runtime", "exec", "--", "/bin/sh", "-c", script]);
    until(10, "its output", || {
        cluster.ok(&["agent", "logs", "f/b"]).contains("here").then_some(())
    });
    let init = init(&mut cluster);
    let signal = |signal| Command::new("kill").args(["-s", signal, &init]).status().unwrap();
    let ended = || {
        let stats = children(&init).into_iter().map(|pid| format!("/proc/{pid}/stat"));
        stats.filter(|stat| fs::read_to_string(stat).is_ok_and(|s| s.contains(") Z "))).count()
    };
    // The kernel keeps one signal of a kind.
    assert!(signal("STOP").success());
    until(10, "their ends", || (ended() == 3).then_some(()));
    assert!(signal("CONT").success());
    until(10, "none that ended", || (ended() == 0).then_some(()));
}

#[test]
fn no_process_has_the_number_of_one_from_before_its_guard_ended() {
    let mut cluster = Cluster::formed(1, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    let create = ["agent", "create", "f/a", "--runtime", "exec", "--"];
    cluster.ok(&[&create[..], &["/bin/sleep", "infinity"]].concat());
    // In the innermost namespace, see proc_pid_status(5).
    let number = |cluster: &Cluster| {
        let pid = cluster.agent("f/a")["pid"].as_u64().filter(|pid| *pid > 0)?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.to_owned();
        Some((pid, numbers.split_whitespace().next_back()?.to_owned()))
    };
    let before = until(10, "its process", || number(&cluster));
    cluster.signal_guards(1, "KILL");
    let after = until(30, "another process", || number(&cluster).filter(|it| it.0 != before.0));
    assert_ne!(before.1, after.1);
}

#[test]
fn a_second_guard_does_not_start() {
    let (mut cluster, pid) = node();
    let guard = cluster.guard_pids(1)[0];
    let arguments = fs::read_to_string(format!("/proc/{guard}/cmdline")).unwrap();
    let mut arguments = arguments.trim_end_matches('\0').split('\0');
    let second = Command::new(arguments.next().unwrap()).args(arguments).output().unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("another guard is running"), "{said}");
    same(&cluster, pid);
}

/// What a caller with another uid hears from a socket it was let near, after saying `request`.
const STRANGER: &str = "import os, socket, sys
directory, name, kind, request = sys.argv[1:]
os.chdir(directory)
os.chmod('.', 0o711)
os.chmod(name, 0o777)
os.seteuid(65534)
s = socket.socket(socket.AF_UNIX, getattr(socket, kind))
s.connect(name)
s.settimeout(10)
try:
  s.sendall(request.encode())
  print('heard', s.recv(100))
except (ConnectionResetError, BrokenPipeError):
  print('heard', b'')";

#[test]
fn guard_and_init_hear_root_alone() {
    let (cluster, pid) = node();
    let directory = cluster.guard_dir(1).join("strict");
    for (name, kind, request) in
        [("socket", "SOCK_STREAM", "end\n"), ("init", "SOCK_SEQPACKET", "list")]
    {
        let directory = directory.to_str().unwrap();
        let stranger = ["-c", STRANGER, directory, name, kind, request];
        let said = Command::new("python3").args(stranger).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout), "heard b''\n", "{said:?}");
    }
    same(&cluster, pid);
}

#[test]
fn what_is_left_of_a_stopped_agent_is_ended_by_the_next_daemon() {
    let (mut cluster, _) = node();
    cluster.ok(&["agent", "stop", "f/a"]);
    cluster.end(1, "KILL");
    let mut left = Command::new("sleep").arg("infinity").spawn().unwrap();
    let group = cluster.agent_group(1, "f.a");
    fs::write(group.join("cgroup.procs"), left.id().to_string()).unwrap();
    assert!(cluster.populated(1));
    cluster.start(1);
    until(10, "the end of what was left", || left.try_wait().unwrap());
}

#[test]
fn a_hold_ends_once_its_last_long_lease_is_over() {
    let cluster = Cluster::formed(1, "aggressive");
    let held = || cluster.cli(&["status"]).out.contains("NODE_HELD");
    cluster.ok(&["node", "hold", "n1", "--for", "10s"]);
    assert!(held());
    cluster.ok(&["node", "release", "n1"]);
    assert!(held(), "long leases may be under way");
    until(30, "the end of the hold", || (!held()).then_some(()));
    let again = cluster.cli(&["node", "release", "n1"]);
    assert!(again.err.contains("is not held"), "{again:?}");
}
