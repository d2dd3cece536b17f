//! `fleet-guard`: ends a node's agents when its lease does, though the daemon be dead or paused.
//!
//! Usage: `fleet-guard SOCKET CGROUP strict|sticky|pinned`, one for each class of agents
//!
//! One thread, no runtime. The guard holds the lease: a kernel timer on `CLOCK_BOOTTIME` that
//! kills the guard itself when the lease is over. Its child, `fleet-init`, is PID 1 of a PID
//! namespace and dies with it; the kernel then kills everything in that namespace. So the end needs
//! no instruction of ours, and pausing either process does not put it off. Whoever supervises the
//! guard starts it anew: a new guard ends what an earlier one may have left in CGROUP and holds no
//! lease, so nothing may run.
//!
//! The daemon speaks with the guard over SOCKET, a line a request and a line an answer; it lets in
//! root only.
//!
//! ```text
//! begin                        a renewal begins now               nonce N
//! grant N EPOCH LEASE_MS       it was granted for so long         as status
//! raise LEASE_MS               grants may be so long from now on  as status
//! end                          the lease ends now                 ending
//! status                       what is held                       held EPOCH DEADLINE_MS, or empty
//! ```
//!
//! Refused: a nonce that is not outstanding, another epoch than the one held (but a later one where
//! agents outlast the node's lease), a lease longer than the class allows, an earlier deadline. A
//! status goes on with `degraded` or `unfit` and why, when something that keeps the end in time
//! could not be had. What is held also stands in the file `status` beside the socket. SIGHUP
//! replaces the program of the guard by what is at its path now, with the lease kept and no agent
//! touched.
//!
//! Not here: starting agents (`fleet-init`), what an agent is given and kept from (the launcher),
//! renewing (the daemon).
#![deny(unsafe_code)]

mod book;
mod guard;
mod stand_in;

use std::{io, path::PathBuf, process::ExitCode};

use fleet_guard::Lease;

fn run() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| {
        text.parse::<u64>().map_err(|_| io::Error::other(format!("{text:?} is not a number")))
    };
    let [socket, group, class, rest @ ..] = args.as_slice() else {
        return Err(io::Error::other("usage: fleet-guard SOCKET CGROUP strict|sticky|pinned"));
    };
    let start = match rest {
        [] => guard::Start::Fresh,
        // As SIGHUP starts it; not for people.
        ["resume", epoch, deadline_ms] => {
            let (epoch, deadline_ms) = (number(epoch)?, number(deadline_ms)?);
            guard::Start::Replaced((deadline_ms > 0).then_some(Lease { epoch, deadline_ms }))
        }
        _ => return Err(io::Error::other("too many arguments")),
    };
    let options = guard::Options {
        socket: PathBuf::from(socket),
        group: PathBuf::from(group),
        class: class.parse().map_err(io::Error::other)?,
    };
    guard::run(options, start)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet-guard: {error}");
            ExitCode::FAILURE
        }
    }
}
