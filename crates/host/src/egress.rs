//! What killed agents leave in the kernel's queues.
//!
//! Bytes a process wrote are the kernel's to deliver after its death, too. On a node that was cut
//! off they would arrive when the cut heals: after another node started the agent. Linux tries up
//! to eight times for a TCP connection nobody holds any more, for seconds to minutes.

use std::fs;

use fleet_mutants::{Mutant, planted};

/// How often Linux repeats what an orphaned connection had queued; 0 stands for 8.
/// <https://docs.kernel.org/networking/ip-sysctl.html>
const RETRIES: &str = "/proc/sys/net/ipv4/tcp_orphan_retries";

/// Has the kernel give orphaned connections of this network namespace up at the next repetition: by
/// the time a lease is over and W with it, each was repeated before. Answers what could not be had.
pub fn silence_orphans() -> Option<String> {
    if planted(Mutant::KilledIsNotSilent) {
        return None;
    }
    let why = fs::write(RETRIES, "1").err()?;
    Some(format!("killed agents' connections may send for some time: {RETRIES}: {why}"))
}
