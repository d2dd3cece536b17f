//! Machines die, are cut off, come back; agents move, and never run twice.

use std::{fs, time::Instant};

use cluster_tests::{Cluster, exclusive, host_of, until};

fn create(cluster: &Cluster, name: &str) {
    let script = exclusive(&cluster.shared(), name);
    cluster.ok(&[
        "agent",
        "create",
        &format!("f/{name}"),
        "--runtime",
        "exec",
        "--",
        "/bin/sh",
        "-c",
        &script,
    ]);
}

fn never_twice(cluster: &Cluster) {
    let overlap = fs::read_to_string(cluster.shared().join("overlap")).unwrap_or_default();
    assert_eq!(overlap, "", "an agent ran twice at once");
}

fn with_agents(count: u32) -> Cluster {
    let cluster = Cluster::formed(3, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    for n in 1..=count {
        create(&cluster, &format!("a{n}"));
    }
    cluster
}

#[test]
fn agents_of_a_dead_node_run_elsewhere_and_not_before_their_lease_is_over() {
    let mut cluster = with_agents(3);
    let lost = host_of(&cluster.agent("f/a1"));
    let alive: Vec<u32> = (1..=3).filter(|n| *n != lost).collect();
    cluster.point_at(&alive);
    cluster.power_off(lost);
    let off = Instant::now();
    let now_on = cluster.wait_ready("f/a1", 2, 30);
    let waited = off.elapsed().as_millis();
    assert_ne!(now_on, lost);
    // The last renewal came at most a period (500 ms) before the end; W is 3550 ms.
    assert!(waited >= 3_000, "placed elsewhere after {waited} ms, while it might have run");
    let evidence = cluster.agent("f/a1")["placement"]["evidence"].clone();
    assert!(evidence.as_str().unwrap().contains("lease"), "{evidence}");
    let status = cluster.cli(&["status"]);
    assert_eq!(status.code, 6);
    assert!(status.out.contains("NODE_FENCED"), "{}", status.out);

    cluster.mend(lost);
    cluster.start(lost);
    cluster.wait_active(3);
    assert_eq!(cluster.wait_ready("f/a1", 2, 10), now_on, "a node that returns takes nothing back");
    never_twice(&cluster);
}

#[test]
fn a_cut_off_node_ends_its_agents_before_they_start_elsewhere() {
    let cluster = with_agents(3);
    let cut = host_of(&cluster.agent("f/a2"));
    let alive: Vec<u32> = (1..=3).filter(|n| *n != cut).collect();
    cluster.point_at(&alive);
    cluster.cut(cut);
    cluster.wait_ready("f/a2", 2, 30);
    never_twice(&cluster);
    assert!(cluster.log(cut).contains("the lease is over"), "the cut-off node did not end them");
    cluster.mend(cut);
    cluster.wait_active(3);
    never_twice(&cluster);
}

/// Without the guard this fails: a paused daemon ends nothing.
#[test]
fn a_paused_daemons_agents_end_before_they_start_elsewhere() {
    let mut cluster = with_agents(3);
    let paused = host_of(&cluster.agent("f/a1"));
    let alive: Vec<u32> = (1..=3).filter(|n| *n != paused).collect();
    cluster.point_at(&alive);
    cluster.signal(paused, "STOP");
    let now_on = cluster.wait_ready("f/a1", 2, 30);
    never_twice(&cluster);
    cluster.signal(paused, "CONT");
    cluster.wait_active(3);
    assert_eq!(cluster.wait_ready("f/a1", 2, 10), now_on);
    never_twice(&cluster);
}

#[test]
fn a_guard_that_dies_takes_its_agents_along_and_the_node_starts_over() {
    let mut cluster = Cluster::formed(1, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    create(&cluster, "a");
    let pid = cluster.agent("f/a")["pid"].as_u64();
    cluster.signal_guards(1, "KILL");
    until(30, "another process", || {
        let agent = cluster.agent("f/a");
        (agent["state"] == "STATE_READY" && agent["pid"].as_u64() != pid).then_some(())
    });
    never_twice(&cluster);
}

#[test]
fn the_leader_dies_and_nothing_acknowledged_is_lost() {
    let mut cluster = with_agents(1);
    let leader = cluster.leader();
    let alive: Vec<u32> = (1..=3).filter(|n| *n != leader).collect();
    cluster.ok(&["fleet", "create", "acknowledged"]);
    cluster.point_at(&alive);
    cluster.end(leader, "KILL");
    until(20, "a write after the leader's death", || {
        let said = cluster.cli(&["fleet", "create", "after", "--patience", "1"]);
        (said.code == 0 || said.err.contains("FLEET_EXISTS")).then_some(())
    });
    assert!(cluster.ok(&["fleet", "list"]).contains("acknowledged"));
    assert_ne!(cluster.leader(), leader);
    never_twice(&cluster);
}

#[test]
fn a_node_whose_disk_hangs_lets_its_agents_go() {
    let cluster = Cluster::hosts(3);
    cluster.own_disk(3);
    let cluster = cluster.form(3, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    for node in ["n1", "n2"] {
        cluster.ok(&["node", "cordon", node]);
    }
    create(&cluster, "a");
    assert_eq!(host_of(&cluster.agent("f/a")), 3);
    for node in ["n1", "n2"] {
        cluster.ok(&["node", "uncordon", node]);
    }
    cluster.point_at(&[1, 2]);
    cluster.freeze_disk(3);
    let now_on = cluster.wait_ready("f/a", 2, 40);
    cluster.thaw_disk(3);
    assert_ne!(now_on, 3);
    never_twice(&cluster);
    cluster.wait_active(3);
    never_twice(&cluster);
    cluster.remove_disk(3);
}

#[test]
fn a_node_that_reaches_any_member_keeps_its_agents() {
    let cluster = with_agents(3);
    let leader = cluster.leader();
    let name = (1..=3).map(|n| format!("f/a{n}"));
    let (name, apart) = name
        .map(|name| (host_of(&cluster.agent(&name)), name))
        .find_map(|(host, name)| (host != leader).then_some((name, host)))
        .expect("an agent that is not on the leader");
    cluster.part(leader, apart);
    let before = cluster.lease_deadline(apart).unwrap();
    until(20, "leases by way of the third node", || {
        (cluster.lease_deadline(apart)? > before + 9_000).then_some(())
    });
    let agent = cluster.agent(&name);
    assert_eq!((host_of(&agent), &agent["generation"]), (apart, &"1".into()), "{agent}");
    never_twice(&cluster);
}

#[test]
fn a_machine_without_power_is_not_waited_for_when_its_operator_says_so() {
    let mut cluster = Cluster::formed(3, "default");
    cluster.ok(&["fleet", "create", "f"]);
    create(&cluster, "a");
    let lost = host_of(&cluster.agent("f/a"));
    let alive: Vec<u32> = (1..=3).filter(|n| *n != lost).collect();
    let (node, sure) = (format!("n{lost}"), "--i-have-powered-it-off");
    let unsure = cluster.cli(&["node", "confirm-dead", &node]);
    assert_eq!(unsure.code, 2, "{unsure:?}");
    let wrong = cluster.cli(&["node", "confirm-dead", &node, sure]);
    assert!(wrong.err.contains("NODE_ALIVE"), "{wrong:?}");
    cluster.point_at(&alive);
    cluster.power_off(lost);
    until(20, "the operator's word to be taken", || {
        let said = cluster.cli(&["node", "confirm-dead", &node, sure, "--patience", "2"]);
        (said.code == 0).then_some(())
    });
    assert_ne!(cluster.wait_ready("f/a", 2, 20), lost);
    let evidence = cluster.agent("f/a")["placement"]["evidence"].clone();
    let who = evidence.as_str().unwrap().strip_suffix(" stated that the old node is off");
    assert!(who.is_some_and(|who| who.contains('@')), "{evidence}");
    never_twice(&cluster);
}

#[test]
fn an_operator_is_not_bound_to_the_first_node() {
    let mut cluster = Cluster::formed(3, "fast");
    // The context that init wrote knows of one node; any command learns of the others.
    cluster.ok(&["fleet", "create", "f"]);
    cluster.power_off(1);
    until(20, "an answer from another node", || {
        let said = cluster.cli(&["fleet", "list", "--patience", "5"]);
        (said.code == 0 && said.out.contains('f')).then_some(())
    });
}

#[test]
fn all_nodes_die_at_once_and_nothing_acknowledged_is_lost() {
    let mut cluster = with_agents(2);
    for n in 0..20 {
        cluster.ok(&["fleet", "create", &format!("g{n}")]);
    }
    for number in 1..=3 {
        cluster.end(number, "KILL");
    }
    for number in 1..=3 {
        cluster.start(number);
    }
    cluster.wait_active(3);
    let fleets = cluster.json(&["fleet", "list"]);
    assert_eq!(fleets["fleets"].as_array().unwrap().len(), 21);
    for name in ["f/a1", "f/a2"] {
        until(30, "the agent's return", || {
            (cluster.agent(name)["state"] == "STATE_READY").then_some(())
        });
    }
    never_twice(&cluster);
}

#[test]
fn a_clean_stop_hands_leadership_over_first() {
    let mut cluster = with_agents(0);
    let leader = cluster.leader();
    let alive: Vec<u32> = (1..=3).filter(|n| *n != leader).collect();
    cluster.point_at(&alive);
    assert_eq!(cluster.end(leader, "TERM"), Some(0));
    cluster.ok(&["fleet", "create", "right-away", "--patience", "1"]);
    assert!(!cluster.log(leader).contains("took too long"));
}

#[test]
fn a_drained_node_is_empty_and_can_be_removed() {
    let mut cluster = with_agents(3);
    let node = host_of(&cluster.agent("f/a1"));
    let name = format!("n{node}");
    let refused = cluster.cli(&["node", "remove", &name]);
    assert_eq!(refused.code, 5);
    assert!(refused.err.contains("NODE_NOT_EMPTY"), "{refused:?}");
    cluster.ok(&["node", "drain", &name, "--timeout", "30s"]);
    let moved = cluster.wait_ready("f/a1", 2, 10);
    assert_ne!(moved, node);
    let evidence = cluster.agent("f/a1")["placement"]["evidence"].clone();
    assert!(evidence.as_str().unwrap().contains("confirmed"), "{evidence}");

    let alive: Vec<u32> = (1..=3).filter(|n| *n != node).collect();
    cluster.point_at(&alive);
    cluster.end(node, "TERM");
    until(20, "the node's removal", || {
        (cluster.cli(&["node", "remove", &name]).code == 0).then_some(())
    });
    assert_eq!(cluster.json(&["node", "list"])["nodes"].as_array().unwrap().len(), 2);
    never_twice(&cluster);
}

#[test]
fn a_fourth_node_works_without_a_vote() {
    let mut cluster = Cluster::formed(4, "fast");
    let nodes = cluster.json(&["node", "list"]);
    let nodes = nodes["nodes"].as_array().unwrap();
    let worker = nodes.iter().find(|node| node["displayName"] == "n4").unwrap();
    assert_eq!((&worker["role"], &worker["votes"]), (&"ROLE_WORKER".into(), &false.into()));
    cluster.point_at(&[4]);
    cluster.ok(&["fleet", "create", "f"]);
    for n in 1..=4 {
        create(&cluster, &format!("a{n}"));
    }
    let on_worker = (1..=4).find(|n| host_of(&cluster.agent(&format!("f/a{n}"))) == 4).unwrap();
    let name = format!("f/a{on_worker}");
    cluster.point_at(&[1, 2, 3]);
    cluster.power_off(4);
    assert_ne!(cluster.wait_ready(&name, 2, 30), 4);
    assert!(!cluster.folder(4, "data").join("ca.key").exists(), "a worker holds no CA key");
    never_twice(&cluster);
}
