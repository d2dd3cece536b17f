//! What outlasts a node's lease stays where it is, and still never runs twice.

use std::{fs, path::Path};

use cluster_tests::{Cluster, host_of, oracle, until};

const CLASSES: [&str; 3] = ["strict", "sticky", "pinned"];

/// Three hosts with an agent of each class on each; the one of a class that is on `host`.
fn with_agents() -> Cluster {
    let cluster = Cluster::formed(3, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    let stamping = cluster.stamping();
    for class in CLASSES {
        for number in 1..=3 {
            let name = format!("f/{class}{number}");
            let create = ["agent", "create", &name, "--runtime", "exec", "--class", class, "--"];
            let stamping = stamping.iter().map(String::as_str);
            cluster.ok(&create.into_iter().chain(stamping).collect::<Vec<_>>());
        }
    }
    cluster
}

fn agent_on(cluster: &Cluster, host: u32, class: &str) -> String {
    let names = (1..=3).map(|number| format!("f/{class}{number}"));
    names.into_iter().find(|name| host_of(&cluster.agent(name)) == host).expect("one on each host")
}

fn pid(cluster: &Cluster, name: &str) -> u64 {
    until(30, &format!("{name} ready"), || {
        let agent = cluster.agent(name);
        (agent["state"] == "STATE_READY").then(|| agent["pid"].as_u64()).flatten()
    })
}

fn runs(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn sticky_and_pinned_agents_live_through_a_cut_and_leave_a_dead_machine() {
    let mut cluster = with_agents();
    let cut = cluster.leader() % 3 + 1;
    let [strict, sticky, pinned] = CLASSES.map(|class| agent_on(&cluster, cut, class));
    let (old, stays) = (pid(&cluster, &strict), [&sticky, &pinned].map(|n| pid(&cluster, n)));
    let others: Vec<u32> = (1..=3).filter(|host| *host != cut).collect();
    cluster.cut(cut);
    cluster.point_at(&others);
    cluster.wait_ready(&strict, 2, 30);
    assert!(!runs(old));
    // A daemon that comes back while its node is cut off finds them, too.
    cluster.end(cut, "KILL");
    cluster.start(cut);
    until(20, "the daemon adopts what outlasts the lease", || {
        let log = cluster.log(cut);
        (log.matches("\"adopted\"").count() >= 2).then_some(())
    });
    assert!(stays.into_iter().all(runs));
    let agent = cluster.agent(&sticky);
    assert_eq!((&agent["state"], host_of(&agent)), (&"STATE_UNKNOWN".into(), cut), "{agent}");
    assert_eq!(agent["stateMessage"], format!("its node n{cut} is out of reach"));
    let why = cluster.ok(&["agent", "explain", &sticky]);
    assert!(why.contains(&format!("`fleet-cluster node confirm-dead n{cut}`")), "{why}");

    cluster.mend(cut);
    for (name, was) in [&sticky, &pinned].into_iter().zip(stays) {
        assert_eq!(cluster.wait_ready(name, 1, 30), cut);
        assert_eq!(pid(&cluster, name), was, "{name} was not restarted");
    }

    cluster.power_off(cut);
    let (node, sure) = (format!("n{cut}"), "--i-have-powered-it-off");
    until(20, "the operator's word is taken", || {
        (cluster.cli(&["node", "confirm-dead", &node, sure]).code == 0).then_some(())
    });
    for name in [&sticky, &pinned] {
        assert_ne!(cluster.wait_ready(name, 2, 30), cut);
    }
    let found = oracle::overlaps(&oracle::runs(&cluster.stamps()));
    assert!(found.is_empty(), "{}", found[0]);
}

/// What a node still knows of the one before, its class and its generation, is nothing to it.
#[test]
fn an_agent_with_the_name_of_one_that_was_deleted_is_another() {
    let cluster = Cluster::formed(3, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    for other in ["n2", "n3"] {
        cluster.ok(&["node", "cordon", other]);
    }
    let mut foreign = Vec::new();
    // Its ports stay taken, so that its node hears nothing more of it before the next one.
    let mut create = |class: &str| {
        let what = ["--runtime", "exec", "--class", class, "--", "/usr/bin/env", "sleep", "1000"];
        cluster.ok(&[&["agent", "create", "f/a"][..], &what[..]].concat());
        assert_eq!(cluster.wait_ready("f/a", 1, 20), 1);
        let groups = format!("/proc/{}/cgroup", pid(&cluster, "f/a"));
        let groups = fs::read_to_string(groups).unwrap();
        assert!(groups.contains(&format!("/{class}/")), "{class}: {groups}");
        let port = cluster.agent("f/a")["placement"]["portBlock"]["base"].to_string();
        let python = |code: &str| cluster.spawn_on(1, "python3", &["-c", code]);
        foreign.push(python(&format!(
            "import socket, time; s = socket.create_server(('', {port})); time.sleep(600)"
        )));
        until(10, "the listener", || {
            let connect = format!("import socket; socket.create_connection(('127.0.0.1', {port}))");
            python(&connect).wait().unwrap().success().then_some(())
        });
    };
    for class in ["pinned", "strict", "pinned", "strict"] {
        create(class);
        cluster.ok(&["agent", "delete", "f/a"]);
    }
    create("strict");
    cluster.ok(&["node", "uncordon", "n2"]);
    for (generation, to) in [(2, 2), (3, 1)] {
        cluster.ok(&["agent", "move", "f/a", "--to", &format!("n{to}")]);
        assert_eq!(cluster.wait_ready("f/a", generation, 20), to);
    }
    cluster.ok(&["node", "cordon", "n2"]);
    cluster.ok(&["agent", "delete", "f/a"]);
    create("strict");
    for mut foreign in foreign {
        foreign.kill().unwrap();
    }
}

/// In the profile of the shortest leases that takes a hundred seconds.
#[test]
fn a_sticky_agent_of_a_node_that_stays_cut_off_moves_by_itself_and_never_runs_twice() {
    let cluster = Cluster::formed(3, "aggressive");
    cluster.ok(&["fleet", "create", "f"]);
    let stamping = cluster.stamping();
    for number in 1..=3 {
        let name = format!("f/sticky{number}");
        let create = ["agent", "create", &name, "--runtime", "exec", "--class", "sticky", "--"];
        let stamping = stamping.iter().map(String::as_str);
        cluster.ok(&create.into_iter().chain(stamping).collect::<Vec<_>>());
    }
    let cut = cluster.leader() % 3 + 1;
    let sticky = agent_on(&cluster, cut, "sticky");
    let old = pid(&cluster, &sticky);
    let others: Vec<u32> = (1..=3).filter(|host| *host != cut).collect();
    cluster.cut(cut);
    cluster.point_at(&others);
    assert_ne!(cluster.wait_ready(&sticky, 2, 180), cut);
    assert!(!runs(old), "its guard let it run on");
    let found = oracle::overlaps(&oracle::runs(&cluster.stamps()));
    assert!(found.is_empty(), "{}", found[0]);
}

#[test]
fn a_guard_that_ends_takes_only_its_own_class_along() {
    let mut cluster = Cluster::formed(1, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    let stamping = cluster.stamping();
    for class in CLASSES {
        let name = format!("f/{class}");
        let create = ["agent", "create", &name, "--runtime", "exec", "--class", class, "--"];
        let stamping = stamping.iter().map(String::as_str);
        cluster.ok(&create.into_iter().chain(stamping).collect::<Vec<_>>());
    }
    let before = CLASSES.map(|class| pid(&cluster, &format!("f/{class}")));
    let guard = cluster.guard_pids(1)[1];
    std::process::Command::new("kill").args(["-9", &guard.to_string()]).status().unwrap();
    until(20, "the sticky agent ended", || (!runs(before[1])).then_some(()));
    until(30, "the sticky agent is started again", || {
        let agent = cluster.agent("f/sticky");
        let anew = agent["pid"].as_u64().is_some_and(|pid| pid > 0 && pid != before[1]);
        (agent["state"] == "STATE_READY" && anew).then_some(())
    });
    assert_eq!(cluster.agent("f/sticky")["generation"], "1");
    for (class, was) in [("strict", before[0]), ("pinned", before[2])] {
        assert_eq!(pid(&cluster, &format!("f/{class}")), was, "{class}");
    }
}

#[test]
fn a_node_that_may_end_agents_late_gets_no_strict_ones() {
    let mut cluster = Cluster::hosts(2);
    assert_eq!(cluster.init("fast").code, 0);
    cluster.guards_without_priority(1);
    cluster.start(1);
    cluster.wait_active(1);
    cluster.ok(&["fleet", "create", "f"]);
    for class in CLASSES {
        let name = format!("f/{class}");
        let create = ["agent", "create", &name, "--runtime", "exec", "--class", class];
        cluster.ok(&[&create[..], &["--no-wait", "--", "/bin/sleep", "infinity"]].concat());
    }
    for class in ["sticky", "pinned"] {
        pid(&cluster, &format!("f/{class}"));
    }
    let waits = cluster.agent("f/strict");
    assert_eq!(waits["state"], "STATE_PENDING");
    assert!(waits["stateMessage"].as_str().unwrap().contains("strict"), "{waits}");
    let status = cluster.cli(&["status"]).out;
    assert!(status.contains("gets no strict agents: guard: no real-time priority"), "{status}");

    let token = cluster.token(&[]);
    assert_eq!(cluster.join(2, &token).code, 0);
    cluster.start(2);
    assert_eq!(cluster.wait_ready("f/strict", 1, 30), 2);
}

#[test]
fn what_a_guard_lacks_is_noticed_while_the_daemon_runs() {
    let mut cluster = Cluster::formed(2, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    cluster.ok(&["agent", "create", "f/a", "--runtime", "exec", "--", "/bin/sleep", "infinity"]);
    let host = host_of(&cluster.agent("f/a"));
    cluster.guards_without_priority(host);
    assert_ne!(cluster.wait_ready("f/a", 2, 30), host);
    let status = cluster.cli(&["status"]).out;
    assert!(status.contains("gets no strict agents: guard: no real-time priority"), "{status}");
}
