//! One agent's life on one node, which is a whole cluster.

use std::{fs, os::unix::fs::MetadataExt, path::Path, process::Command};

use cluster_tests::{Cluster, until};

fn cluster() -> Cluster {
    let cluster = Cluster::formed(1, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    cluster
}

fn exec(cluster: &Cluster, name: &str, script: &str) {
    cluster.ok(&["agent", "create", name, "--runtime", "exec", "--", "/bin/sh", "-c", script]);
}

#[test]
fn an_agent_starts_stops_restarts_and_goes() {
    let cluster = cluster();
    exec(
        &cluster,
        "f/a",
        "echo up as $(id -u) on $(hostname) port $PORT_BASE; exec sleep infinity",
    );
    let agent = cluster.agent("f/a");
    let (pid, uid) = (agent["pid"].as_u64().unwrap(), agent["uid"].as_u64().unwrap());
    let log = cluster.ok(&["agent", "logs", "f/a"]);
    assert_eq!(log.trim(), format!("up as {uid} on agent-{uid} port 10240"));

    cluster.ok(&["agent", "restart", "f/a"]);
    until(10, "another process", || {
        (cluster.agent("f/a")["pid"].as_u64() != Some(pid)).then_some(())
    });
    assert_eq!(cluster.agent("f/a")["generation"], "1", "a restart in place is no placement");
    cluster.ok(&["agent", "stop", "f/a"]);
    assert_eq!(cluster.agent("f/a")["state"], "STATE_STOPPED");
    cluster.ok(&["agent", "start", "f/a"]);
    cluster.ok(&["agent", "delete", "f/a"]);
    assert_eq!(cluster.cli(&["agent", "get", "f/a"]).code, 4);
    assert!(cluster.folder(1, "fleets").join("f/a").exists(), "its HOME stays");
    cluster.ok(&["fleet", "delete", "f"]);
}

#[test]
fn one_made_anew_under_an_old_name_owns_what_the_old_one_left() {
    let cluster = cluster();
    let home = cluster.folder(1, "fleets").join("f/a");
    exec(
        &cluster,
        "f/a",
        "mkdir d; echo kept > d/old; ln -s /etc/passwd link; exec sleep infinity",
    );
    let link = home.join("link");
    until(10, "what it leaves", || fs::symlink_metadata(&link).ok());
    let uid = cluster.agent("f/a")["uid"].clone();
    cluster.ok(&["agent", "delete", "f/a"]);
    exec(&cluster, "f/a", "mv d/old d/new; exec sleep infinity");
    assert_ne!(cluster.agent("f/a")["uid"], uid);
    until(10, "what the new one does with it", || {
        (fs::read_to_string(home.join("d/new")).ok()? == "kept\n").then_some(())
    });
    let owner = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
    assert_eq!(u64::from(owner(&link)), cluster.agent("f/a")["uid"].as_u64().unwrap());
    assert_eq!(owner(Path::new("/etc/passwd")), 0, "a link redirects nothing");
}

#[test]
fn what_an_agent_leaves_behind_ends_with_it() {
    let cluster = cluster();
    let lock = cluster.shared().join("orphan");
    let script = format!(
        "setsid sh -c 'trap \"\" TERM HUP; exec 9>{0}; flock 9; : > {0}.held; \
         while :; do sleep 1; done' & exec sleep infinity",
        lock.display()
    );
    exec(&cluster, "f/a", &script);
    let held = lock.with_extension("held");
    until(10, "the orphan", || held.exists().then_some(()));
    let free = || {
        let flock = Command::new("flock").arg("--nonblock").arg(&lock).arg("true").status();
        flock.unwrap().success()
    };
    assert!(!free());
    cluster.ok(&["agent", "stop", "f/a"]);
    assert!(free(), "a process that called setsid and ignores SIGTERM outlived its agent");
}

#[test]
fn a_crash_loop_is_parked_with_its_reason() {
    let cluster = cluster();
    let args = ["agent", "create", "f/a", "--runtime", "exec", "--no-wait", "--", "/bin/false"];
    cluster.ok(&args);
    let message = until(10, "a reason", || {
        let agent = cluster.agent("f/a");
        let trouble =
            agent["state"] == "STATE_BACKING_OFF" || agent["state"] == "STATE_CRASH_LOOPING";
        trouble.then(|| agent["stateMessage"].as_str().unwrap().to_owned())
    });
    assert!(message.contains("exit code 1"), "{message}");
}

#[test]
fn an_agent_is_ended_by_the_signals_a_shell_expects() {
    let cluster = cluster();
    let script = "sh -c 'kill -PIPE $$; echo deaf'; echo \"status $?\"; exec sleep infinity";
    let create = ["agent", "create", "f/a", "--runtime", "exec", "--", "/bin/sh", "-c", script];
    cluster.ok(&create);
    let log = until(10, "a line", || {
        Some(cluster.ok(&["agent", "logs", "f/a"])).filter(|log| !log.is_empty())
    });
    assert_eq!(log.trim(), "status 141", "SIGPIPE is not ignored");
}

#[test]
fn one_that_waits_for_its_turn_to_start_says_so() {
    let cluster = Cluster::hosts(1);
    cluster.configure(1, "starts_at_once = 1\n");
    let cluster = cluster.form(1, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    // Never ready, so it keeps the only place for a while.
    let silent = r#"{"probe": {"kind": "tcp"}}"#;
    let create = ["agent", "create", "f/a", "--runtime", "exec", "--no-wait", "--config-file", "-"];
    let said = cluster.cli_with(&[&create[..], &["--", "/bin/sleep", "infinity"]].concat(), silent);
    assert_eq!(said.code, 0, "{said:?}");
    until(10, "a start", || (cluster.agent("f/a")["state"] == "STATE_STARTING").then_some(()));
    for (name, says) in [("f/b", "start: 0 before it"), ("f/c", "start: 1 before it")] {
        let create = ["agent", "create", name, "--runtime", "exec", "--no-wait", "--"];
        cluster.ok(&[&create[..], &["/bin/sleep", "infinity"]].concat());
        until(10, says, || {
            let agent = cluster.agent(name);
            agent["stateMessage"].as_str()?.ends_with(says).then_some(())
        });
    }
}

#[test]
fn agents_cannot_read_each_others_home() {
    let cluster = cluster();
    exec(&cluster, "f/a", "echo secret > $HOME/secret; exec sleep infinity");
    exec(
        &cluster,
        "f/b",
        "cat /var/lib/fleets/f/a/secret; ls /var/lib/fleet-cluster; exec sleep infinity",
    );
    let log = until(10, "the attempt", || {
        let log = cluster.ok(&["agent", "logs", "f/b"]);
        (log.matches("denied").count() >= 2).then_some(log)
    });
    assert!(!log.contains("secret\n"), "{log}");
}

#[test]
fn a_probe_decides_when_an_agent_is_ready() {
    let cluster = cluster();
    let script = "import http.server, os, socketserver
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ok = os.path.exists(os.environ['HOME'] + '/ready')
        self.send_response(200 if ok else 503); self.end_headers(); self.wfile.write(b'fine')
socketserver.TCPServer(('127.0.0.1', int(os.environ['PORT_BASE'])), H).serve_forever()";
    let probe = r#"{"probe": {"kind": "http", "path": "/", "body": "fine", "interval_ms": 200}}"#;
    let args = [
        "agent",
        "create",
        "f/a",
        "--runtime",
        "exec",
        "--config-file",
        "-",
        "--no-wait",
        "--",
        "python3",
        "-c",
        script,
    ];
    assert_eq!(cluster.cli_with(&args, probe).code, 0);
    let message = until(10, "an answer", || {
        let message = cluster.agent("f/a")["stateMessage"].as_str().unwrap().to_owned();
        message.contains("503").then_some(message)
    });
    assert_eq!(cluster.agent("f/a")["state"], "STATE_STARTING", "up is not ready: {message}");
    let ready = cluster.folder(1, "fleets").join("f/a/ready");
    fs::write(&ready, "").unwrap();
    cluster.wait_ready("f/a", 1, 10);
    fs::remove_file(&ready).unwrap();
    until(10, "unready", || (cluster.agent("f/a")["state"] == "STATE_UNREADY").then_some(()));
}

/// Asked a second time, it would be ready in ten minutes.
#[test]
fn one_that_is_started_again_is_asked_at_once_whether_it_is_ready() {
    let cluster = cluster();
    let probe = r#"{"probe": {"kind": "none", "starting_interval_ms": 600000}}"#;
    let create = ["agent", "create", "f/a", "--runtime", "exec", "--config-file", "-"];
    let create = [&create[..], &["--", "/bin/sleep", "infinity"]].concat();
    assert_eq!(cluster.cli_with(&create, probe).code, 0);
    let before = cluster.agent("f/a")["pid"].clone();
    std::process::Command::new("kill").args(["-9", &before.to_string()]).status().unwrap();
    until(20, "ready again", || {
        let agent = cluster.agent("f/a");
        (agent["state"] == "STATE_READY" && agent["pid"] != before).then_some(())
    });
}

#[test]
fn an_agent_has_the_standing_of_an_ordinary_process() {
    let cluster = cluster();
    let script = "cut -d' ' -f18,19,40,41 /proc/self/stat; exec sleep infinity";
    let create = ["agent", "create", "f/a", "--runtime", "exec", "--", "/bin/sh", "-c", script];
    cluster.ok(&create);
    let log = until(10, "a line", || {
        Some(cluster.ok(&["agent", "logs", "f/a"])).filter(|log| !log.is_empty())
    });
    assert_eq!(log.trim(), "20 0 0 0", "priority, nice, real-time priority, policy");
}

#[test]
fn one_that_drains_says_for_how_long() {
    let cluster = cluster();
    let script = "trap '' TERM; while :; do sleep 1; done";
    let create = ["agent", "create", "f/a", "--runtime", "exec", "--", "/bin/sh", "-c", script];
    cluster.ok(&create);
    cluster.ok(&["agent", "stop", "f/a", "--no-wait"]);
    for says in ["drains: 0 s of at most 30 s", "drains: 5 s of at most 30 s"] {
        until(20, says, || (cluster.agent("f/a")["stateMessage"] == says).then_some(()));
    }
}

#[test]
fn the_kernel_gives_agents_ports_to_nobody_who_does_not_ask_for_them() {
    let cluster = cluster();
    let reserved = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let look = ["-c", &format!("grep -qx 10240-32767 {reserved}")];
    assert!(cluster.spawn_on(1, "sh", &look).wait().unwrap().success());
}
