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

    let stays = cluster.ok(&["node", "plan-loss", "n2"]);
    assert!(
        stays.contains("no other node suits it") && stays.contains("pinned: it stays"),
        "{stays}"
    );
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
