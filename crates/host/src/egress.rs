//! What leaves the node: nothing of killed agents, and nothing to where clouds hand out secrets.

use std::{fs, io, path::Path, process::Command};

use fleet_mutants::{Mutant, planted};
use fleet_process::{EgressLease, Group};
use fleet_types::limits::{AGENT_UID_FIRST, AGENT_UID_LAST};

/// How often Linux repeats what an orphaned connection had queued; 0 stands for 8.
/// <https://docs.kernel.org/networking/ip-sysctl.html>
const ORPHAN_RETRIES: &str = "/proc/sys/net/ipv4/tcp_orphan_retries";
/// There where the kernel speaks IPv6.
const IPV6: &str = "/proc/net/if_inet6";
/// Where clouds tell a machine its credentials, and whoever else asks on it.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>
const METADATA: [(&str, &str); 2] = [("-4", "169.254.169.254"), ("-6", "fd00:ec2::254")];

/// Sets this network namespace up for agents; answers what could not be had.
///
/// Bytes a process wrote are the kernel's to deliver after its death, too. On a node that was cut
/// off they would arrive when the cut heals: after another node started the agent. Two things are
/// in the way of those of agents that a lease's end killed, and either is enough; `leased` is the
/// one.
pub fn restrict(leased: &Result<(), String>) -> Vec<String> {
    let loud = leased.as_ref().err().zip(silence_orphans().err()).map(|(lease, orphans)| {
        format!("killed agents' connections may send for some time: {lease}; {orphans}")
    });
    loud.into_iter().chain(refuse_metadata()).collect()
}

/// Whether the kernel can drop what sockets of groups in `agents` send once a lease is over; or why
/// not.
pub fn can_be_leased(agents: &Group) -> Result<(), String> {
    if [Mutant::KilledIsNotSilent, Mutant::NoEgressLease].into_iter().any(planted) {
        return Err("no lease on what agents send".into());
    }
    let tried = || {
        let group = agents.child("tried").map_err(io::Error::other)?;
        let covered = EgressLease::new(0).and_then(|lease| lease.cover(&group));
        group.remove().map_err(io::Error::other)?;
        covered
    };
    tried().map_err(|why| format!("no lease on what agents send: bpf: {why}"))
}

/// Has connections that nobody holds any more given up at the next repetition: by the time a lease
/// is over, what is still queued was repeated before. And their ports are free soon.
fn silence_orphans() -> Result<(), String> {
    if planted(Mutant::KilledIsNotSilent) {
        return Ok(());
    }
    let times = if planted(Mutant::OrphansRepeat) { "6" } else { "1" };
    fs::write(ORPHAN_RETRIES, times).map_err(|why| format!("{ORPHAN_RETRIES}: {why}"))
}

/// A rule of the kernel's routing for agents' uids alone.
fn refuse_metadata() -> Option<String> {
    let uids = format!("{AGENT_UID_FIRST}-{AGENT_UID_LAST}");
    for (family, address) in METADATA {
        if family == "-6" && !Path::new(IPV6).exists() {
            continue;
        }
        let rule = [family, "rule", "add", "uidrange", &uids, "to", address, "prohibit"];
        let why = match Command::new("ip").args(rule).output() {
            Ok(done) if done.status.success() => continue,
            Ok(done) => String::from_utf8_lossy(&done.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        // From the daemon's last start.
        if !why.contains("File exists") {
            return Some(format!("agents can reach the machine's metadata: ip rule: {why}"));
        }
    }
    None
}
