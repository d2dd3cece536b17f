//! What is wrong is refused by name, with a stable reason, and nothing is half made.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cluster_tests::{Cluster, Said, until};

fn refused(said: &Said, code: i32, reason: &str) {
    assert_eq!(said.code, code, "{said:?}");
    assert!(said.err.contains(&format!("[{reason}]")), "wanted {reason}: {said:?}");
}

#[test]
fn requests_that_cannot_be_right() {
    let cluster = Cluster::formed(1, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    refused(&cluster.cli(&["fleet", "create", "F_x"]), 1, "INVALID_NAME");
    refused(&cluster.cli(&["fleet", "create", "f"]), 5, "FLEET_EXISTS");
    refused(&cluster.cli(&["fleet", "create", "g", "-l", "a b=c"]), 1, "INVALID_LABEL");
    refused(
        &cluster.cli_with(&["fleet", "create", "g", "--config-file", "-"], "{"),
        1,
        "CONFIG_INVALID",
    );
    refused(
        &cluster.cli_with(&["fleet", "create", "g", "--config-file", "-"], "[]"),
        1,
        "CONFIG_INVALID",
    );
    refused(&cluster.cli(&["fleet", "delete", "none"]), 4, "FLEET_NOT_FOUND");
    assert!(!cluster.ok(&["fleet", "list"]).contains('g'), "a refused fleet was made");

    let exec = |name: &str, more: &[&str]| {
        let mut args = vec!["agent", "create", name, "--runtime", "exec", "--stopped"];
        args.extend(more);
        args.extend(["--", "/bin/sleep", "1"]);
        cluster.cli(&args)
    };
    refused(&exec("none/a", &[]), 4, "FLEET_NOT_FOUND");
    assert_eq!(exec("f/A", &[]).code, 1);
    assert_eq!(exec("f/a", &[]).code, 0);
    refused(&exec("f/a", &[]), 5, "AGENT_EXISTS");
    refused(&exec("f/b", &["--ports", "100"]), 1, "PORT_BLOCK_SIZE_INVALID");
    refused(&exec("f/b", &["-e", "FLEET_X=1"]), 1, "ENVIRONMENT_INVALID");
    let unknown = ["agent", "create", "f/b", "--runtime", "docker", "--stopped"];
    refused(&cluster.cli(&unknown), 1, "RUNTIME_UNKNOWN");
    let reserved = ["agent", "create", "f/b", "--runtime", "openclaw", "--config-file", "-"];
    let narrow = ["agent", "create", "f/b", "--runtime", "openclaw", "--ports", "64"];
    let said = cluster.cli(&narrow);
    refused(&said, 1, "PORT_BLOCK_SIZE_INVALID");
    assert!(said.err.contains("128"), "{said:?}");
    let said = cluster
        .cli(&[&reserved[..5], &["-e", "OPENCLAW_GATEWAY_PORT=20500", "--stopped"]].concat());
    refused(&said, 1, "ENVIRONMENT_INVALID");
    assert!(said.err.contains("set by runtime openclaw"), "{said:?}");
    let said = cluster.cli_with(&reserved, r#"{"gateway": {"port": 1}}"#);
    refused(&said, 1, "CONFIG_INVALID");
    assert!(said.err.contains("gateway.port"), "{said:?}");
    refused(&cluster.cli(&["node", "get", "none"]), 4, "NODE_NOT_FOUND");
    refused(&cluster.cli(&["token", "create", "--ttl", "8d"]), 1, "TOKEN_TERMS_INVALID");
    let share = ["moves", "automatic", "--lost-max", "101"];
    refused(&cluster.cli(&share), 1, "LOST_PERCENT_INVALID");
    assert_eq!(cluster.json(&["agent", "list"])["agents"].as_array().unwrap().len(), 1);
}

#[test]
fn an_agent_whose_runtime_is_missing_waits_and_says_so() {
    let cluster = Cluster::formed(1, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    cluster.ok(&["agent", "create", "f/a", "--runtime", "openclaw", "--no-wait"]);
    let agent = cluster.agent("f/a");
    assert_eq!(agent["state"], "STATE_PENDING");
    assert_eq!(agent["stateMessage"], "no open node has runtime openclaw");
    assert!(cluster.log(1).contains("runtime openclaw cannot run here"));
}

#[test]
fn machines_that_may_not_join() {
    let mut cluster = Cluster::formed(1, "fast");
    let foreign = Cluster::formed(1, "fast").token(&[]);
    cluster.add_hosts(3);
    assert!(cluster.join(2, "FC1.zz").err.contains("not a join token"));
    let said = cluster.join(2, &foreign);
    refused(&said, 3, "CA_MISMATCH");
    assert!(said.err.contains("secret was not sent"), "{said:?}");

    let token = cluster.token(&[]);
    refused(&cluster.join_at(2, &token, "10.87.0.1:7999"), 3, "UNREACHABLE");
    let mut other =
        cluster.spawn_on(1, "python3", &["-m", "http.server", "7990", "--bind", "10.87.0.1"]);
    until(10, "another server", || {
        let said = cluster.join_at(2, &token, "10.87.0.1:7990");
        said.err.contains("[NOT_A_CLUSTER]").then_some(())
    });
    other.kill().unwrap();
    other.wait().unwrap();

    assert_eq!(cluster.join(2, &token).code, 0, "nothing above spoiled the token");
    refused(&cluster.join(3, &token), 5, "TOKEN_USED_UP");
    let short = cluster.token(&["--ttl", "1s"]);
    until(10, "the token's end", || {
        cluster.ok(&["token", "list"]).contains("expired").then_some(())
    });
    refused(&cluster.join(3, &short), 5, "TOKEN_EXPIRED");
    let revoked = cluster.token(&[]);
    cluster.ok(&["token", "revoke", revoked.split('.').nth(2).unwrap()]);
    refused(&cluster.join(3, &revoked), 5, "TOKEN_UNKNOWN");
    let garbled = cluster.token(&[]).replace(['0', '1'], "2");
    assert_ne!(cluster.join(3, &garbled).code, 0);
    assert!(!cluster.folder(3, "data").join("node.json").exists(), "something was half made");

    let again = cluster.join(2, &cluster.token(&[]));
    assert_eq!(again.code, 1);
    assert!(again.err.contains("already belongs to node"), "{again:?}");
    assert_eq!(cluster.json(&["node", "list"])["nodes"].as_array().unwrap().len(), 2);
}

#[test]
fn a_data_directory_that_is_not_the_nodes() {
    let mut cluster = Cluster::formed(3, "fast");
    cluster.end(3, "TERM");
    let data = cluster.folder(3, "data");
    let file = data.join("node.json");
    let text = fs::read_to_string(&file).unwrap();
    let storage = text.split("\"storage\": \"").nth(1).unwrap()[..32].to_owned();
    fs::write(&file, text.replace(&storage, &"0".repeat(32))).unwrap();
    cluster.start(3);
    until(20, "the refusal", || cluster.log(3).contains("wiped or belongs").then_some(()));
    cluster.end(3, "KILL");

    fs::remove_dir_all(data.join("raft")).unwrap();
    fs::remove_file(&file).unwrap();
    let said = cluster.on(3, &["run"], "");
    assert_eq!(said.code, 1);
    assert!(said.err.contains("holds no node"), "{said:?}");
    let token = cluster.token(&[]);
    refused(&cluster.join(3, &token), 5, "NODE_NAME_TAKEN");
}

#[test]
fn configurations_that_cannot_be() {
    let cluster = Cluster::hosts(1);
    let check = |toml: &str| {
        cluster.configure(1, toml);
        cluster.on(1, &["run", "--check-config"], "")
    };
    let wrong = |toml: &str, says: &str| {
        let said = check(toml);
        assert_eq!(said.code, 1, "{toml}: {said:?}");
        assert!(said.err.contains(says), "{toml}: {said:?}");
    };
    wrong("port_frist = 1", "port_frist");
    wrong("port_first = 3000\nport_last = 2000", "before the first");
    wrong("port_first = 80\nport_last = 2000", "belong to the system");
    wrong("port_first = 20000\nport_last = 40000", "ip_local_port_range");
    wrong("[labels]\n\"a b\" = \"c\"", "label");
    assert_eq!(check("port_first = 20000").code, 0);
}

#[test]
fn no_leader_is_said_and_no_cluster_too() {
    let mut cluster = Cluster::formed(3, "fast");
    cluster.end(2, "KILL");
    cluster.end(3, "KILL");
    let said = cluster.cli(&["status", "--patience", "4"]);
    assert_eq!(said.code, 3, "{said:?}");
    cluster.end(1, "KILL");
    let said = cluster.cli(&["status", "--patience", "1"]);
    assert_eq!(said.code, 3);
    assert!(said.err.contains("hint"), "{said:?}");
}

/// Starts a host anew, its data directory on a disk of 4 MiB.
fn on_a_small_disk(cluster: &mut Cluster, host: u32) -> PathBuf {
    cluster.end(host, "TERM");
    let data = cluster.folder(host, "data");
    let script = format!(
        "cp -a {0} {0}.old && mount -t tmpfs -o size=4m tmpfs {0} && cp -a {0}.old/. {0}/",
        data.display()
    );
    let mounted = std::process::Command::new("sh").args(["-c", &script]).status().expect("a shell");
    assert!(mounted.success());
    cluster.start(host);
    cluster.wait_active(host);
    data
}

fn unmount(data: &Path) {
    assert!(std::process::Command::new("umount").arg(data).status().expect("umount").success());
}

#[test]
fn a_full_disk_stops_its_node_and_nobody_else() {
    let mut cluster = Cluster::formed(3, "fast");
    let data = on_a_small_disk(&mut cluster, 3);
    let _ = fs::write(data.join("fill"), vec![0_u8; 8 << 20]);
    let code = {
        let mut n = 0;
        until(60, "the full node's end", || {
            n += 1;
            // Large enough to be soon too much for what the database has set aside for its log.
            let create = ["fleet", "create", &format!("g{n}"), "--config-file", "-"];
            let config = format!("{{\"text\": \"{}\"}}", "x".repeat(16 << 10));
            assert_eq!(cluster.cli_with(&create, &config).code, 0);
            cluster.daemon_ended(3)
        })
    };
    assert_ne!(code, 0, "a node that cannot write must not end as if all were well");
    assert!(cluster.log(3).contains("space"), "it does not say why");
    let fleets = cluster.json(&["fleet", "list"])["fleets"].as_array().unwrap().len();
    fs::remove_file(data.join("fill")).unwrap();
    cluster.start(3);
    cluster.wait_active(3);
    assert_eq!(cluster.json(&["fleet", "list"])["fleets"].as_array().unwrap().len(), fleets);
    cluster.end(3, "KILL");
    unmount(&data);
}

#[test]
fn a_worker_with_a_full_disk_lets_its_agents_go() {
    let mut cluster = Cluster::formed(4, "fast");
    let data = on_a_small_disk(&mut cluster, 4);
    cluster.ok(&["fleet", "create", "f"]);
    let names: Vec<String> = (1..=4).map(|n| format!("f/a{n}")).collect();
    for name in &names {
        let create = ["agent", "create", name, "--runtime", "exec", "--", "/bin/sleep", "infinity"];
        cluster.ok(&create);
    }
    let there = names.iter().find(|name| cluster.wait_ready(name, 1, 30) == 4);
    let there = there.expect("one of four agents on the fourth of four nodes");
    let registered = |cluster: &Cluster| {
        let events = cluster.json(&["events", "--node", "n4"])["events"].as_array().cloned();
        let events = events.unwrap_or_default();
        events.iter().filter(|event| event["reason"] == "NODE_REGISTERED").count()
    };
    let before = registered(&cluster);
    let _ = fs::write(data.join("fill"), vec![0_u8; 8 << 20]);
    assert_ne!(cluster.wait_ready(there, 2, 60), 4);
    assert_eq!(registered(&cluster), before, "it came back, its disk still full");
    assert!(cluster.log(4).contains("the disk takes no writes"), "it does not say why");
    fs::remove_file(data.join("fill")).unwrap();
    cluster.wait_active(4);
    cluster.end(4, "KILL");
    unmount(&data);
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    let script = format!("{} completion bash | head -c 1", cluster_tests::binary().display());
    let said = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stderr), "");
}
