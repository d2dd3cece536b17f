//! Many nodes lost at once: their agents wait, and an operator decides.

use cluster_tests::{Cluster, exclusive, host_of, until};

/// The agents of a host.
fn agents_on(cluster: &Cluster, host: u32, count: u32) -> Vec<String> {
    let names = (1..=count).map(|n| format!("f/a{n}"));
    names.filter(|name| host_of(&cluster.agent(name)) == host).collect()
}

fn waits(cluster: &Cluster, name: &str) -> bool {
    let agent = cluster.agent(name);
    let message = agent["stateMessage"].as_str().unwrap_or_default();
    agent["state"] == "STATE_FENCED" && message.contains("agents are not moved now")
}

#[test]
fn agents_of_too_many_lost_nodes_wait_for_them_or_for_an_operator() {
    const AGENTS: u32 = 5;
    let mut cluster = Cluster::formed(5, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    for n in 1..=AGENTS {
        let (name, script) = (format!("f/a{n}"), exclusive(&cluster.shared(), &format!("a{n}")));
        let command = ["--", "/bin/sh", "-c", &script];
        cluster.ok(&[&["agent", "create", &name, "--runtime", "exec"], &command[..]].concat());
    }
    assert!(cluster.ok(&["moves"]).contains("automatic, up to 50 %"));
    cluster.ok(&["moves", "automatic", "--lost-max", "30"]);
    let (of_4, of_5) = (agents_on(&cluster, 4, AGENTS), agents_on(&cluster, 5, AGENTS));
    assert!(!of_4.is_empty() && !of_5.is_empty(), "the agents are spread");
    cluster.point_at(&[1, 2, 3]);
    cluster.power_off(4);
    cluster.power_off(5);
    for name in of_4.iter().chain(&of_5) {
        until(30, "an agent that waits", || waits(&cluster, name).then_some(()));
    }
    let status = cluster.cli(&["status"]);
    assert!(status.out.contains("MOVES_PAUSED"), "{}", status.out);
    assert!(cluster.ok(&["moves"]).contains("paused now"));

    // A node that returns gets its own agents back, and no others.
    cluster.ok(&["moves", "never"]);
    cluster.mend(4);
    cluster.start(4);
    for name in &of_4 {
        assert_eq!(cluster.wait_ready(name, 2, 30), 4);
    }
    assert!(of_5.iter().all(|name| waits(&cluster, name)));

    cluster.ok(&["moves", "always"]);
    for name in &of_5 {
        assert_ne!(cluster.wait_ready(name, 2, 30), 5);
    }
    let overlap = std::fs::read_to_string(cluster.shared().join("overlap")).unwrap_or_default();
    assert_eq!(overlap, "", "an agent ran twice at once");
}
