//! Where agents go, how they move, and that the cluster says why.

use cluster_tests::{Cluster, host_of, until};
use serde_json::Value;

const SLEEPS: [&str; 3] = ["--", "/bin/sleep", "infinity"];

fn create(cluster: &Cluster, name: &str, more: &[&str]) -> cluster_tests::Said {
    let create = ["agent", "create", name, "--runtime", "exec"];
    cluster.cli(&[&create[..], more, &SLEEPS[..]].concat())
}

fn host(cluster: &Cluster, name: &str) -> u32 {
    host_of(&cluster.agent(name))
}

/// The reasons of an agent's events, the latest first.
fn told(cluster: &Cluster, name: &str) -> Vec<String> {
    let events = cluster.json(&["agent", "events", name]);
    let events = events["events"].as_array().cloned().unwrap_or_default();
    let reasons = events.iter().map(|event| event["reason"].as_str().unwrap_or_default());
    reasons.map(ToOwned::to_owned).collect()
}

#[test]
fn what_could_not_survive_a_loss_is_refused_and_room_is_shown() {
    let mut cluster = Cluster::hosts(2);
    cluster.configure(1, "port_first = 20032\nport_last = 20159\n");
    cluster.configure(2, "port_first = 20032\nport_last = 20159\n");
    cluster = cluster.form(2, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    let half = ["--ports", "64", "--no-wait"];
    for name in ["f/a", "f/b"] {
        assert_eq!(create(&cluster, name, &half).code, 0);
    }
    assert_ne!(host(&cluster, "f/a"), host(&cluster, "f/b"), "the least full node is taken");
    let refused = create(&cluster, "f/c", &half);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(refused.err.contains("N_MINUS_ONE_VIOLATION"), "{refused:?}");
    assert!(refused.err.contains("--allow-overcommit"), "{refused:?}");
    let status = cluster.cli(&["status"]).out;
    assert!(status.contains("room if the largest node is lost:"), "{status}");
    assert!(status.contains("0 ports"), "{status}");

    let rehearsed =
        create(&cluster, "f/c", &[&half[..], &["--allow-overcommit", "--dry-run"]].concat());
    assert_eq!(rehearsed.code, 0, "{rehearsed:?}");
    assert_eq!(cluster.cli(&["agent", "get", "f/c"]).code, 4, "a rehearsal makes nothing");
    let made = create(&cluster, "f/c", &[&half[..], &["--allow-overcommit"]].concat());
    assert_eq!(made.code, 0, "{made:?}");

    let wide = create(&cluster, "f/d", &["--ports", "256", "--no-wait", "--allow-overcommit"]);
    assert!(
        wide.err.contains("REQUEST_TOO_LARGE") && wide.err.contains("more than 64"),
        "{wide:?}"
    );
    let huge = create(&cluster, "f/d", &["--request-memory", "900000G", "--no-wait"]);
    assert!(huge.err.contains("REQUEST_TOO_LARGE"), "{huge:?}");
    let torn = create(&cluster, "f/d", &["--on", "rack=a", "--spread-by", "rack", "--no-wait"]);
    assert!(torn.err.contains("CONSTRAINTS_CONTRADICT"), "{torn:?}");
    let bad = create(&cluster, "f/d", &["--runtime-version", "new", "--no-wait"]);
    assert!(bad.err.contains("VERSION_INVALID") && bad.err.contains("2026.9.6"), "{bad:?}");
    let old = create(
        &cluster,
        "f/d",
        &["--runtime-version", "3.1", "--ports", "1", "--no-wait", "--allow-overcommit"],
    );
    assert_eq!(old.code, 0, "{old:?}");
    let why = cluster.ok(&["agent", "explain", "f/d"]);
    assert!(why.contains("OLD_RUNTIME") && why.contains("3.1 or newer"), "{why}");
}

#[test]
fn a_range_that_orphans_ports_is_refused_where_it_is_seen() {
    let mut cluster = Cluster::hosts(2);
    let ports = |first: u32| format!("port_first = {first}\nport_last = {}\n", first + 127);
    cluster.configure(2, &ports(20_032));
    cluster = cluster.form(2, "default");
    cluster.ok(&["fleet", "create", "f"]);
    cluster.ok(&["node", "cordon", "n1"]);
    assert_eq!(create(&cluster, "f/a", &["--allow-overcommit"]).code, 0);
    let pid = cluster.agent("f/a")["pid"].clone();
    let refused = |cluster: &Cluster| {
        let said = cluster.cli(&["status", "-o", "json"]).out;
        let status: Value = serde_json::from_str(&said).ok()?;
        let problems = status["status"]["problems"].as_array().cloned().unwrap_or_default();
        Some(problems.into_iter().find(|problem| problem["reason"] == "NODE_REFUSED"))
    };
    for (first, is_refused) in [(20_480, true), (20_032, false)] {
        cluster.end(2, "KILL");
        cluster.configure(2, &ports(first));
        cluster.start(2);
        let problem = until(30, "the refusal known", || {
            let known = refused(&cluster)?;
            (known.is_some() == is_refused).then_some(known)
        });
        let message = problem.unwrap_or_default()["message"].as_str().unwrap_or("").to_owned();
        assert_eq!(
            message.contains("(n2) may not register: agents on node"),
            is_refused,
            "{message}"
        );
        assert_eq!(message.contains("the old range back"), is_refused, "{message}");
    }
    cluster.wait_ready("f/a", 1, 30);
    assert_eq!(cluster.agent("f/a")["pid"], pid, "it ran on all the while");
}

#[test]
fn what_would_find_no_piece_large_enough_after_a_loss_is_refused() {
    let mut cluster = Cluster::hosts(3);
    for node in 1..=3 {
        cluster.configure(node, "port_first = 20032\nport_last = 20095\n");
    }
    cluster = cluster.form(3, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    assert_eq!(create(&cluster, "f/a", &["--ports", "64", "--no-wait"]).code, 0);
    assert_eq!(create(&cluster, "f/b", &["--ports", "16", "--no-wait"]).code, 0);
    // There is room for it and by the sums there would be: 128 ports for 96. But with an agent on
    // each node the block of 64 would have none to go to.
    let refused = create(&cluster, "f/c", &["--ports", "16", "--no-wait"]);
    assert_eq!(refused.code, 5, "{refused:?}");
    let why = &refused.err;
    assert!(why.contains("N_MINUS_ONE_VIOLATION") && why.contains("suits f/a"), "{why}");
    assert_eq!(cluster.cli(&["agent", "get", "f/c"]).code, 4, "nothing is made");
    let over = create(&cluster, "f/c", &["--ports", "16", "--no-wait", "--allow-overcommit"]);
    assert_eq!(over.code, 0, "{over:?}");
}

#[test]
fn agents_move_by_hand_by_drain_and_for_balance() {
    let mut cluster = Cluster::formed(3, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    cluster.ok(&["placement", "set", "--rebalance", "false"]);
    for number in 1..=6 {
        assert_eq!(create(&cluster, &format!("f/a{number}"), &[]).code, 0);
    }
    let from = host(&cluster, "f/a1");
    let to = from % 3 + 1;
    cluster.ok(&["agent", "move", "f/a1", "--to", &format!("n{to}")]);
    assert_eq!(cluster.wait_ready("f/a1", 2, 30), to);
    assert_eq!(told(&cluster, "f/a1"), ["AGENT_PLACED", "AGENT_EVICTED", "AGENT_PLACED"]);
    let here = cluster.cli(&["agent", "move", "f/a1", "--to", &format!("n{to}")]);
    assert!(here.code == 5 && here.err.contains("NODE_DOES_NOT_SUIT"), "{here:?}");

    cluster.ok(&["node", "drain", "n3", "--at-once", "1"]);
    let node = cluster.json(&["node", "get", "n3"]);
    assert_eq!(
        (&node["node"]["agents"], &node["node"]["drain"]["agentsLeft"]),
        (&0.into(), &0.into())
    );
    cluster.ok(&["node", "drain", "n2", "--at-once", "0", "--no-wait"]);
    let last = cluster.cli(&["node", "drain", "n1", "--no-wait"]);
    assert!(last.code == 5 && last.err.contains("NOWHERE_TO_GO"), "{last:?}");
    for node in ["n2", "n3"] {
        cluster.ok(&["node", "uncordon", node]);
    }
    until(30, "every agent ready", || {
        let agents = cluster.json(&["agent", "list"]);
        let agents = agents["agents"].as_array().unwrap().clone();
        agents.iter().all(|agent| agent["state"] == "STATE_READY").then_some(())
    });

    let plan = cluster.json(&["rebalance", "--dry-run"]);
    let moves = plan["moves"].as_array().unwrap().clone();
    assert!(!moves.is_empty(), "{plan}");
    assert!(moves.iter().all(|it| it["toDisplayName"] == "n3" || it["toDisplayName"] == "n2"));
    let begun = cluster.json(&["rebalance", "--moves", "100"]);
    assert_eq!(begun["moves"], plan["moves"], "what was shown is what is done");
    until(30, "two agents a node", || {
        let nodes = cluster.json(&["node", "list"]);
        let nodes = nodes["nodes"].as_array().unwrap().clone();
        nodes.iter().all(|node| node["agents"] == 2).then_some(())
    });
    let nothing = cluster.json(&["rebalance", "--dry-run"]);
    assert_eq!(nothing["moves"], Value::Array(Vec::new()), "{nothing}");
    cluster.power_off(3);
}

#[test]
fn taken_ports_are_named_and_their_agent_gets_others() {
    let mut cluster = Cluster::hosts(1);
    cluster.configure(1, "port_first = 20000\nport_last = 20063\n");
    cluster = cluster.form(1, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    let hold = "import socket, time; s = socket.socket(); s.bind(('0.0.0.0', 20005)); s.listen(); time.sleep(600)";
    let mut foreign = cluster.spawn_on(1, "python3", &["-c", hold]);
    until(10, "the listener", || {
        let status = cluster
            .spawn_on(
                1,
                "python3",
                &["-c", "import socket; socket.create_connection(('127.0.0.1', 20005))"],
            )
            .wait();
        status.unwrap().success().then_some(())
    });
    assert_eq!(create(&cluster, "f/a", &[]).code, 0);
    let agent = cluster.agent("f/a");
    assert_eq!(agent["placement"]["portBlock"]["base"], 20_016, "{agent}");
    assert!(told(&cluster, "f/a").contains(&"PORTS_QUARANTINED".to_owned()));
    let why = cluster.ok(&["agent", "explain", "f/a"]);
    assert!(why.contains("moved (something else listened on its ports)"), "{why}");
    let ports = cluster.ok(&["node", "ports", "n1"]);
    let holder = format!("port 20005 is taken by pid {} (python3)", foreign.id());
    assert!(ports.contains("quarantined") && ports.contains(&holder), "{ports}");

    foreign.kill().unwrap();
    foreign.wait().unwrap();
    let free = || {
        let ports = cluster.json(&["node", "ports", "n1"]);
        let quarantined = ports["quarantined"].as_u64();
        (quarantined == Some(0)).then(|| ports["free"].as_u64().unwrap())
    };
    assert_eq!(until(90, "the ports free again", free), 48);
    cluster.ok(&["agent", "delete", "f/a"]);
    assert_eq!(until(90, "its ports free again", free), 64);
    let gone = cluster.ok(&["events", "--fleet", "f"]);
    assert!(gone.contains("AGENT_DELETED"), "{gone}");
}

#[test]
fn a_manifest_is_planned_and_applied() {
    let cluster = Cluster::formed(1, "fast");
    let manifest = "
fleets:
  shop:
    wants: {memory_bytes: 1000000}
    ports: 4
    priority: 7
    agents:
      a: {runtime: exec, command: [/bin/sleep, infinity]}
      b: {runtime: exec, command: [/bin/sleep, infinity], priority: 3}
";
    let run = |verb: &str, text: &str| cluster.cli_with(&[verb, "-f", "-"], text);
    let plan = run("plan", manifest);
    assert_eq!(plan.code, 1, "{plan:?}");
    assert!(plan.out.contains("create fleet") && plan.out.contains("shop/b"), "{plan:?}");
    assert_eq!(plan.out.matches("on n1").count(), 2, "{plan:?}");
    let many = |n| format!("      a{n}: {{runtime: exec, command: [/bin/sleep, infinity]}}\n");
    let many: String = (0..2_000).map(many).collect();
    let plan_of_many = run("plan", &format!("fleets:\n  many:\n    agents:\n{many}"));
    assert_eq!(plan_of_many.code, 1, "{}", plan_of_many.err);
    let waits = plan_of_many.out.matches("waits: no node has room for it beside").count();
    let placed = plan_of_many.out.matches("on n1").count();
    assert!(waits > 0 && placed > 1_000 && waits + placed == 2_000, "{waits} and {placed}");
    let applied = run("apply", manifest);
    assert_eq!(applied.code, 0, "{applied:?}");
    let again = run("plan", manifest);
    assert_eq!((again.code, again.out.trim()), (0, "nothing would change"), "{again:?}");
    let spec = cluster.agent("shop/a")["spec"].clone();
    assert_eq!(spec["requests"]["memoryBytes"], "1000000");
    assert_eq!((&spec["ports"], &spec["priority"]), (&4.into(), &7.into()), "as its fleet says");
    assert_eq!(cluster.agent("shop/b")["spec"]["priority"], 3, "its own wins");
    let other = run("plan", &manifest.replace("priority: 3", "priority: 4"));
    assert!(other.code == 1 && other.out.contains("priority differ"), "{other:?}");
    let refused = run("apply", &manifest.replace("priority: 3", "priority: 4"));
    assert!(refused.code == 1 && refused.err.contains("nothing was made"), "{refused:?}");
    let fleet = manifest.replace("memory_bytes: 1000000", "memory_bytes: 2000000");
    let other = run("plan", &fleet);
    assert!(other.code == 1 && other.out.contains("cannot change fleet"), "{other:?}");
    assert_eq!(run("apply", &fleet).code, 1);
    let silent = manifest.replace("    wants: {memory_bytes: 1000000}\n", "");
    assert_eq!(run("plan", &silent).code, 0, "what is not stated is left alone");
    let wrong = run("plan", "fleets: {shop: {agnets: {}}}");
    assert!(wrong.code == 2 && wrong.err.contains("agnets"), "{wrong:?}");
    let large = "x".repeat(4_000);
    let variables: String = (0..60).map(|n| format!("V{n}: {large}, ")).collect();
    let agent = |n| {
        format!(
            "      a{n}: {{runtime: exec, command: [/bin/true], environment: {{{variables}}}}}\n"
        )
    };
    let agents: String = (0..40).map(agent).collect();
    let manifest_of_large = format!("fleets:\n  large:\n    agents:\n{agents}");
    assert_eq!(run("apply", &manifest_of_large).code, 0, "in several calls");
    let again = run("plan", &manifest_of_large);
    assert_eq!((again.code, again.out.trim()), (0, "nothing would change"), "{}", again.err);
    let named = run("plan", &manifest.replace("      b:", "      c: {runtime: none}\n      b:"));
    assert!(named.code == 2 && named.err.contains("agent c: "), "{named:?}");
    let unreachable = cluster.cli_with(&["plan", "-f", "-", "--context", "/nonexistent"], manifest);
    assert_eq!(unreachable.code, 2, "{unreachable:?}");
}

#[test]
fn two_hundred_agents_on_one_node_share_no_port() {
    let cluster = Cluster::formed(1, "fast");
    let agent = |n| format!("      a{n}: {{runtime: exec, command: [/bin/sleep, infinity]}}\n");
    let agents: String = (1..=200).map(agent).collect();
    let manifest = format!("fleets:\n  f:\n    agents:\n{agents}");
    let applied = cluster.cli_with(&["apply", "-f", "-"], &manifest);
    assert_eq!(applied.code, 0, "{applied:?}");
    let ready = until(120, "two hundred agents ready", || {
        let agents = cluster.json(&["agent", "list"])["agents"].as_array().cloned()?;
        let all = agents.iter().all(|agent| agent["state"] == "STATE_READY");
        (all && agents.len() == 200).then_some(agents)
    });
    let mut taken = std::collections::BTreeSet::new();
    for agent in ready {
        let block = &agent["placement"]["portBlock"];
        let base = block["base"].as_u64().unwrap();
        for port in base..base + block["size"].as_u64().unwrap() {
            assert!(taken.insert(port), "port {port} of {} is another's", agent["name"]);
        }
    }
    assert_eq!(taken.len(), 200 * 16);
    let ports = &cluster.json(&["port", "list"])[0];
    assert_eq!((&ports["owned"], &ports["quarantined"]), (&3200.into(), &0.into()));
}

/// How many agents each of these hosts has, once all are ready.
fn spread(cluster: &Cluster, hosts: &[&str]) -> Vec<u64> {
    until(120, "two hundred agents ready", || {
        let agents = cluster.json(&["agent", "list"])["agents"].as_array().cloned()?;
        (agents.iter().all(|agent| agent["state"] == "STATE_READY")).then_some(())
    });
    let agents = |name: &&str| cluster.json(&["node", "get", name])["node"]["agents"].clone();
    hosts.iter().map(|name| agents(name).as_u64().unwrap_or(0)).collect()
}

#[test]
fn five_nodes_share_two_hundred_agents_through_a_loss_a_return_and_a_drain() {
    const ALL: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];
    let mut cluster = Cluster::formed(5, "fast");
    cluster.ok(&["placement", "set", "--rebalance", "false"]);
    let agent = |n| format!("      a{n}: {{runtime: exec, command: [/bin/sleep, infinity]}}\n");
    let agents: String = (1..=200).map(agent).collect();
    let manifest = format!("fleets:\n  f:\n    agents:\n{agents}");
    let applied = cluster.cli_with(&["apply", "-f", "-"], &manifest);
    assert_eq!(applied.code, 0, "{applied:?}");
    assert_eq!(spread(&cluster, &ALL), [40; 5]);
    let explained = cluster.ok(&["agent", "explain", "f/a1"]);
    assert!(explained.contains("it is here, beside 39 agents"), "{explained}");
    assert_eq!(explained.matches("it could run here").count(), 4, "{explained}");

    let leader = cluster.leader();
    let (lost, name) = if leader == 5 { (4, "n4") } else { (5, "n5") };
    let plan = cluster.json(&["node", "plan-loss", name]);
    let losses = plan["losses"].as_array().unwrap().clone();
    assert_eq!(losses.len(), 40, "{plan}");
    let one = losses[0]["agent"].as_str().unwrap().trim_start_matches("fleets/");
    let one = one.replace("/agents/", "/");
    assert!(losses.iter().all(|it| it["nodeDisplayName"] != "" && it["after"] != Value::Null));
    cluster.power_off(lost);
    until(60, "the node fenced", || {
        let node = cluster.json(&["node", "get", name]);
        (node["node"]["state"] == "STATE_FENCED").then_some(())
    });
    let rest: Vec<&str> = ALL.into_iter().filter(|other| *other != name).collect();
    assert_eq!(spread(&cluster, &rest), [50; 4]);
    for it in losses {
        let agent = it["agent"].as_str().unwrap().trim_start_matches("fleets/");
        let now = cluster.agent(&agent.replace("/agents/", "/"));
        assert_eq!(now["placement"]["nodeDisplayName"], it["nodeDisplayName"], "as was shown");
    }

    let explained = cluster.ok(&["agent", "explain", &one]);
    assert!(explained.contains("the lease of the old node ran out"), "{explained}");
    assert!(explained.contains("NOT_UP"), "{explained}");
    let plan = cluster.json(&["node", "plan-loss", rest[0]]);
    assert_eq!(plan["losses"].as_array().map(Vec::len), Some(50), "{plan}");

    cluster.mend(lost);
    cluster.start(lost);
    cluster.wait_active(5);
    let explained = cluster.ok(&["agent", "explain", &one]);
    assert!(explained.contains("it is less full now than the node"), "{explained}");
    let plan = cluster.json(&["rebalance", "--dry-run"]);
    let [now, after] = ["imbalancePercent", "imbalanceAfterPercent"].map(|key| plan[key].as_u64());
    assert!(after < now, "{plan}");
    let moves = plan["moves"].as_array().unwrap().clone();
    assert!(moves.len() >= 36 && moves.iter().all(|it| it["toDisplayName"] == name), "{plan}");
    cluster.ok(&["rebalance", "--moves", "100"]);
    until(120, "the moves carried out", || {
        let plan = cluster.json(&["rebalance", "--dry-run"]);
        let node = cluster.json(&["node", "get", name]);
        let all = node["node"]["agents"].as_u64() == Some(moves.len() as u64);
        (all && plan["moves"] == Value::Array(Vec::new())).then_some(())
    });
    let even = spread(&cluster, &ALL);
    assert!(even.iter().all(|agents| (38..=42).contains(agents)), "{even:?}");

    cluster.ok(&["node", "drain", "n3", "--at-once", "10"]);
    let even = spread(&cluster, &ALL);
    assert!(
        even[2] == 0 && even.iter().filter(|n| (48..=52).contains(*n)).count() == 4,
        "{even:?}"
    );
    let explained = cluster.ok(&["agent", "explain", "f/a1"]);
    assert!(explained.contains("NOT_OPEN"), "{explained}");
    let moved = moves[0]["agent"].as_str().unwrap().trim_start_matches("fleets/");
    let explained = cluster.ok(&["agent", "explain", &moved.replace("/agents/", "/")]);
    assert!(explained.contains("moved (an operator moves it)"), "{explained}");
    let plan = cluster.ok(&["node", "plan-loss", "n1"]);
    assert!(!plan.contains("no other node suits it"), "{plan}");
}
