//! Agents are kept from each other, from the node and from the machine.

use std::fs;

use cluster_tests::{Cluster, until};

const ESCAPE: &str = include_str!("../agents/escape.py");

#[test]
fn every_attempt_to_escape_is_refused() {
    let cluster = Cluster::formed(1, "fast");
    cluster.ok(&["fleet", "create", "f"]);
    // A neighbour as careless as can be.
    let careless = "echo secret > ~/secret; chmod -R a+rwX ~; touch /tmp/neighbour; \
                    exec python3 -c \"import socket, time; s = socket.socket(socket.AF_UNIX); \
                    s.bind('\\0neighbour'); s.listen(); time.sleep(1e6)\"";
    cluster.ok(&["agent", "create", "f/b", "--runtime", "exec", "--", "/bin/sh", "-c", careless]);
    let home = "/var/lib/fleets/f/b";
    let guard = cluster.guard_dir(1).join("strict/socket").display().to_string();
    let keys = "/var/lib/fleet-cluster";
    let script = cluster.shared().join("escape.py");
    fs::write(&script, ESCAPE).unwrap();
    let script = script.display().to_string();
    let attempt = ["/usr/bin/env", "python3", &script, &guard, home, keys, "/var/tmp"];
    let create = ["agent", "create", "f/a", "--runtime", "exec", "--ports", "4", "--no-wait", "--"];
    cluster.ok(&[&create[..], &attempt[..]].concat());
    let log = until(20, "the last attempt", || {
        let log = cluster.ok(&["agent", "logs", "f/a", "--lines", "1000"]);
        (log.contains("done") || log.contains("Error")).then_some(log)
    });
    let attempts = log.lines().filter(|line| line.contains(": ")).count();
    assert!(attempts >= 35, "{log}");
    assert!(!log.contains("ALLOWED"), "{log}");
    assert!(log.contains("done ['own']"), "{log}");
    println!("{log}");
}
