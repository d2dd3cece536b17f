//! `fleet-launch`: becomes one agent. Started for every agent by `fleet-init`, never by
//! people; small, because each start loads and links it anew.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let Err(error) = fleet_process::become_agent();
    eprintln!("fleet-launch: {error}");
    ExitCode::from(fleet_process::LAUNCH_FAILED)
}
