//! Placement says why.

use cluster_tests::Cluster;

#[test]
fn a_pending_agent_says_of_every_node_why_not_and_a_loss_says_who_goes_where() {
    let cluster = Cluster::formed(2, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    cluster.ok(&["node", "cordon", "n1"]);
    let create = |name: &str, class: &str, ports: &str| {
        let create = ["agent", "create", name, "--runtime", "exec", "--no-wait"];
        let spec = ["--class", class, "--ports", ports, "--stopped", "--", "/bin/true"];
        cluster.ok(&[&create[..], &spec[..]].concat());
    };
    create("f/a", "strict", "1");
    create("f/b", "pinned", "1");
    let a = cluster.ok(&["agent", "explain", "f/a"]);
    assert!(a.contains("NOT_OPEN") && a.contains("uncordon"), "{a}");
    assert!(a.contains("PLACED"), "{a}");
    cluster.ok(&["node", "cordon", "n2"]);
    create("f/c", "strict", "1");
    let c = cluster.ok(&["agent", "explain", "f/c"]);
    assert_eq!(c.matches("NOT_OPEN").count(), 2, "{c}");
    assert!(c.starts_with("f/c is pending. no node is up and open"), "{c}");
    let (_, help) = c.split_once("What would help:").unwrap();
    let ways: Vec<_> = help.trim().lines().map(str::trim).collect();
    let uncordon = |n| format!("n{n}: `fleet-cluster node uncordon n{n}`");
    let other = "or join another node with runtime exec, 1 ports";
    assert_eq!(ways, [&*uncordon(1), &*uncordon(2), other], "{c}");
    assert!(!a.contains("What would help"), "it is placed: {a}");

    let stays = cluster.ok(&["node", "plan-loss", "n2"]);
    let why = "no other node suits it and has room; of the others 1 cordoned or drained";
    assert!(stays.contains(why) && stays.contains("pinned: it stays"), "{stays}");
    cluster.ok(&["node", "uncordon", "n1"]);
    let goes = cluster.json(&["node", "plan-loss", "n2"]);
    let to: Vec<_> = goes["losses"].as_array().unwrap().iter().collect();
    assert_eq!(
        (&to[0]["agent"], &to[0]["nodeDisplayName"]),
        (&"fleets/f/agents/a".into(), &"n1".into())
    );
    assert_eq!(to[0]["after"], "3.550s");
    assert_eq!(cluster.cli(&["agent", "explain", "f/none"]).code, 4);
}

#[test]
fn an_agent_goes_only_where_the_labels_are_that_it_asks_for() {
    let mut cluster = Cluster::hosts(2);
    cluster.configure(2, "[labels]\nrack = \"r2\"\n");
    assert_eq!(cluster.init("fast").code, 0);
    cluster.start(1);
    cluster.wait_active(1);
    cluster.ok(&["fleet", "create", "f"]);
    for number in 1..=3 {
        let name = format!("f/a{number}");
        let create = ["agent", "create", &name, "--runtime", "exec", "--on", "rack=r2"];
        cluster.ok(&[&create[..], &["--no-wait", "--", "/bin/sleep", "infinity"]].concat());
    }
    let why = cluster.ok(&["agent", "explain", "f/a1"]);
    assert!(why.contains("no open node has rack=r2") && why.contains("NO_LABELS"), "{why}");
    let help = cluster.json(&["agent", "explain", "f/a1"])["help"].clone();
    assert_eq!(help[0]["reasons"], serde_json::json!(["NO_LABELS"]), "{help}");
    assert!(help[1]["message"].as_str().unwrap().contains("exec, rack=r2"), "{help}");
    let token = cluster.token(&[]);
    assert_eq!(cluster.join(2, &token).code, 0);
    cluster.start(2);
    for number in 1..=3 {
        assert_eq!(cluster.wait_ready(&format!("f/a{number}"), 1, 30), 2);
    }
}
