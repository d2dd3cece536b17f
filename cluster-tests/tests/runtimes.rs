//! What a runtime's definition promises beyond starting and stopping.

use std::{fs, process::Command};

use cluster_tests::{Cluster, until};
use serde_json::Value;

/// A one-node cluster with one more runtime: `command`, a shell script, and `more` of the
/// definition.
fn cluster(command: &str, more: &str) -> Cluster {
    with_agent(host(command, more))
}

/// As [`cluster`], before anything runs.
fn host(command: &str, more: &str) -> Cluster {
    let cluster = Cluster::hosts(1);
    let runtimes = cluster.folder(1, "runtimes");
    fs::create_dir_all(&runtimes).expect("a folder of ours");
    let definition = format!(
        "name = \"custom\"\ndescription = \"for a test\"\nports = 1\n\
         command = [\"/bin/sh\", \"-c\", {command:?}]\n{more}"
    );
    fs::write(runtimes.join("custom.toml"), definition).expect("a file of ours");
    cluster.configure(1, &format!("runtime_dirs = [{runtimes:?}]\n"));
    cluster
}

fn with_agent(host: Cluster) -> Cluster {
    let cluster = host.form(1, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    cluster.ok(&["agent", "create", "f/a", "--runtime", "custom", "--no-wait"]);
    cluster
}

const REPAIR: &str = "[probe]\nkind = \"none\"\n\
                      [repair]\nexit_codes = [78]\ntimeout_s = 10\n\
                      command = [\"/bin/sh\", \"-c\", \"echo $HOME >> {home}/repairs\"]\n";

fn repairs(cluster: &Cluster) -> usize {
    let path = cluster.folder(1, "fleets").join("f/a/repairs");
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// What events of a kind say of the agent.
fn messages(cluster: &Cluster, reason: &str) -> Vec<String> {
    let events = cluster.json(&["events", "--agent", "f/a"]);
    let told = events["events"].as_array().into_iter().flatten();
    let told = told.filter(|event| event["reason"] == reason);
    told.filter_map(|event| Some(event["message"].as_str()?.to_owned())).collect()
}

#[test]
fn what_was_parked_stays_so_when_the_daemon_comes_back() {
    let mut cluster = cluster("echo >> starts; exit 78", REPAIR);
    let starts = cluster.folder(1, "fleets").join("f/a/starts");
    let starts = || fs::read(&starts).map_or(0, |text| text.len());
    let parked = |cluster: &Cluster| {
        until(20, "parked", || {
            let said = cluster.cli(&["agent", "get", "f/a", "-o", "json", "--patience", "2"]);
            let parked = said.out.contains("exit code 78; parked: restart it");
            parked.then_some((starts(), repairs(cluster)))
        })
    };
    assert_eq!(parked(&cluster), (2, 1), "started, repaired, started again, given up");
    let told = |cluster: &Cluster| messages(cluster, "AGENT_PARKED");
    let first = until(10, "an event", || told(&cluster).pop());
    assert!(first.contains("after start 2: ") && first.contains("exit code 78"), "{first}");
    cluster.end(1, "KILL");
    cluster.start(1);
    cluster.wait_active(1);
    assert_eq!(parked(&cluster), (2, 1), "and nothing since");
    assert_eq!(told(&cluster), [first]);
    cluster.ok(&["agent", "restart", "f/a", "--no-wait"]);
    until(20, "another start and another repair", || (starts() >= 4).then_some(()));
    assert_eq!(parked(&cluster), (4, 2));
    until(10, "another event", || (told(&cluster).len() == 2).then_some(()));
}

#[test]
fn what_a_full_disk_keeps_from_starting_is_started_once_there_is_room() {
    let more = "[config]\npath = \"config.json\"\n[probe]\nkind = \"none\"\n";
    let host = host("exec sleep infinity", more);
    let homes = host.folder(1, "fleets");
    let small = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"];
    let mounted = Command::new("mount").args(small).arg(&homes).status();
    assert!(mounted.expect("mount").success());
    let cluster = with_agent(host);
    cluster.wait_ready("f/a", 1, 20);
    let _ = fs::write(homes.join("fill"), vec![0_u8; 2 << 20]);
    let pid = cluster.agent("f/a")["pid"].to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().expect("kill").success());
    let why = until(20, "a start that fails", || {
        let agent = cluster.agent("f/a");
        (agent["state"] == "STATE_BACKING_OFF").then(|| agent["stateMessage"].to_string())
    });
    assert!(why.contains("its node could not start it") && why.contains("No space left"), "{why}");
    fs::remove_file(homes.join("fill")).expect("a file of ours");
    cluster.wait_ready("f/a", 1, 30);
    drop(cluster);
    assert!(Command::new("umount").arg(&homes).status().expect("umount").success());
}

#[test]
fn an_exit_that_asks_for_repair_gets_it_and_another_start() {
    let cluster = cluster("test -e repairs || exit 78; exec sleep infinity", REPAIR);
    until(10, "a repair and another start", || {
        let agent = cluster.agent("f/a");
        (agent["state"] == "STATE_READY" && agent["starts"] == 2).then_some(())
    });
    assert_eq!(repairs(&cluster), 1);
    assert!(cluster.log(1).contains("its repair is run, once"));
}

#[test]
fn what_its_repair_does_not_cure_is_parked() {
    let cluster = cluster("exit 78", REPAIR);
    let message = until(10, "f/a parked", || {
        let agent = cluster.agent("f/a");
        let parked = agent["state"] == "STATE_CRASH_LOOPING";
        parked.then(|| agent["stateMessage"].as_str().unwrap().to_owned())
    });
    assert!(message.contains("exit code 78"), "{message}");
    assert_eq!(repairs(&cluster), 1);
}

#[test]
fn an_agent_that_runs_and_does_not_answer_is_started_again() {
    let liveness = "[probe]\nkind = \"none\"\n\
                    [liveness]\nkind = \"http\"\ninterval_ms = 200\ntimeout_ms = 500\n\
                    [policy]\nstop_timeout_s = 1\n";
    let cluster = cluster("exec python3 -m http.server -b 127.0.0.1 $PORT_BASE", liveness);
    cluster.wait_ready("f/a", 1, 10);
    let pid = cluster.agent("f/a")["pid"].clone();
    assert!(
        Command::new("/bin/kill").args(["-STOP", &pid.to_string()]).status().unwrap().success()
    );
    until(20, "another process", || {
        let agent = cluster.agent("f/a");
        (agent["state"] == "STATE_READY" && agent["pid"] != pid).then_some(())
    });
}

#[test]
fn an_agent_that_hears_of_another_copy_is_reported_with_both_placements() {
    let talk = "echo a session elsewhere; exec sleep infinity";
    let more = "double_run = [\"session elsewhere\"]\n[probe]\nkind = \"none\"\n";
    let cluster = cluster(talk, more);
    let problem = until(10, "a problem", || {
        let said = cluster.cli(&["status", "-o", "json"]);
        let status: Value = serde_json::from_str(&said.out).ok()?;
        let problems = status["status"]["problems"].as_array()?.clone();
        problems.into_iter().find(|problem| problem["reason"] == "AGENT_RUNS_TWICE")
    });
    let message = problem["message"].as_str().unwrap_or_default();
    assert!(message.contains("f/a (generation 1 on n1)"), "{message}");
    assert!(message.contains("a session elsewhere"), "{message}");
    assert_eq!(cluster.agent("f/a")["doubleRun"], "a session elsewhere");
    let alarms = || messages(&cluster, "AGENT_RUNS_TWICE");
    let first = until(10, "an event", || alarms().pop());
    let message = "at generation 1, says another copy of its session is live: a session elsewhere";
    assert_eq!(first, message);
    cluster.ok(&["agent", "restart", "f/a"]);
    until(20, "another event, of the next start", || (alarms().len() == 2).then_some(()));
    assert!(cluster.log(1).contains("another copy is live"));
}
