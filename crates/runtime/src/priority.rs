//! The daemon's priority over the agents beside it.

/// Nice value of the daemon; agents have 0.
const NICE: i32 = -10;

/// Raises the calling thread, and the threads it makes from now on, above ordinary processes:
/// agents that use every core must not delay elections and leases. Without the right to do so
/// nothing changes.
pub fn raise() {
    if rustix::process::setpriority_process(None, NICE).is_err() {
        eprintln!("fleet-cluster: no priority over agents; a busy machine may cause elections");
    }
}
