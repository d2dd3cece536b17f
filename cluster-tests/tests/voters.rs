//! Who votes: by hand, and by itself when a voter is lost.

use cluster_tests::{Cluster, until};
use serde_json::Value;

/// The hosts that vote, and those of them that are up.
fn voters(cluster: &Cluster) -> Option<(Vec<String>, usize)> {
    let said = cluster.cli(&["node", "list", "-o", "json", "--patience", "2"]);
    let nodes: Value = serde_json::from_str(&said.out).ok()?;
    // What Raft counts: a vote that is taken counts until Raft has taken it out.
    let voters = nodes["nodes"].as_array()?.iter().filter(|node| node["votes"] == true);
    let voters: Vec<&Value> = voters.collect();
    let up = voters.iter().filter(|node| node["state"] == "STATE_ACTIVE").count();
    let name = |node: &&Value| node["displayName"].as_str().unwrap_or_default().to_owned();
    Some((voters.iter().map(name).collect(), up))
}

fn wait_voters(cluster: &Cluster, seconds: u64, wanted: &[&str]) {
    until(seconds, &format!("{wanted:?} vote"), || {
        let (names, up) = voters(cluster)?;
        (names == wanted && up == wanted.len()).then_some(())
    });
}

#[test]
fn a_lost_voter_is_replaced_and_agents_go_on() {
    let mut cluster = Cluster::formed(4, "fast");
    wait_voters(&cluster, 10, &["n1", "n2", "n3"]);
    cluster.ok(&["fleet", "create", "f"]);
    for number in 1..=4 {
        let name = format!("f/a{number}");
        cluster.ok(&[
            "agent",
            "create",
            &name,
            "--runtime",
            "exec",
            "--",
            "/bin/sleep",
            "infinity",
        ]);
    }
    let on_worker = |cluster: &Cluster| {
        let agents = cluster.json(&["agent", "list"]);
        let agents = agents["agents"].as_array().unwrap().clone();
        let here = |agent: &&Value| agent["placement"]["nodeDisplayName"] == "n4";
        let found = agents.iter().find(here).unwrap().clone();
        (found["name"].clone(), found["pid"].clone())
    };
    let before = on_worker(&cluster);
    let leader = cluster.leader();
    let lost = if leader == 3 { 2 } else { 3 };
    cluster.power_off(lost);
    let left: Vec<String> =
        (1..=4).filter(|n| *n != lost).map(|number| format!("n{number}")).collect();
    let left: Vec<&str> = left.iter().map(String::as_str).collect();
    wait_voters(&cluster, 90, &left);
    assert_eq!(on_worker(&cluster), before, "the new voter's agents went on");
    let events = cluster.ok(&["node", "events", "n4"]);
    assert!(events.contains("made voter: a voter is gone for long"), "{events}");

    // With a vote of its own it makes up for the loss of another.
    let next = *left.iter().find(|name| **name != format!("n{leader}") && **name != "n4").unwrap();
    let next: u32 = next.trim_start_matches('n').parse().unwrap();
    cluster.power_off(next);
    cluster.ok(&["fleet", "create", "g"]);

    // Those that come back are workers, and one gets a vote again as there is an odd number.
    for number in [lost, next] {
        cluster.mend(number);
        cluster.start(number);
    }
    until(120, "three voters again", || {
        let (names, up) = voters(&cluster)?;
        (names.len() == 3 && up == 3).then_some(())
    });
}

#[test]
fn votes_are_given_and_taken_by_hand() {
    let cluster = Cluster::formed(4, "fast");
    wait_voters(&cluster, 10, &["n1", "n2", "n3"]);
    let fourth = cluster.cli(&["node", "promote", "n4"]);
    assert!(fourth.code == 5 && fourth.err.contains("ENOUGH_VOTERS"), "{fourth:?}");
    cluster.ok(&["node", "demote", &format!("n{}", cluster.leader())]);
    until(30, "another leads", || voters(&cluster).filter(|(names, _)| !names.is_empty()));
    // Another may be chosen in its place, but not itself.
    let demoted = until(60, "three voters without it", || {
        let (names, up) = voters(&cluster)?;
        (names.len() == 3 && up == 3 && names.contains(&"n4".to_owned())).then_some(names)
    });
    let out = (1..=3).map(|n| format!("n{n}")).find(|name| !demoted.contains(name)).unwrap();
    let secrets = cluster.folder(out.trim_start_matches('n').parse().unwrap(), "data");
    until(10, "no secrets left", || (!secrets.join("ca.key").exists()).then_some(()));
    cluster.ok(&["node", "demote", &demoted[0]]);
    wait_voters(&cluster, 30, &[&demoted[1], &demoted[2]]);
    let last = cluster.cli(&["node", "demote", &demoted[1]]);
    assert_eq!(last.code, 0, "one voter is a majority of one: {last:?}");
    assert!(last.err.contains("the cluster stops with the loss of any"), "{last:?}");
    wait_voters(&cluster, 30, &[&demoted[2]]);
    let only = cluster.cli(&["node", "demote", &demoted[2]]);
    assert!(only.code == 5 && only.err.contains("LAST_NODE"), "{only:?}");
    cluster.ok(&["node", "promote", &out]);
    cluster.ok(&["node", "promote", &demoted[0]]);
    until(30, "three voters", || {
        let (names, up) = voters(&cluster)?;
        (names.len() == 3 && up == 3).then_some(())
    });
    let even = cluster.cli(&["placement", "set", "--voters", "4"]);
    assert!(even.code == 1 && even.err.contains("VOTER_COUNT_INVALID"), "{even:?}");
}
