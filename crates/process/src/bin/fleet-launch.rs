//! `fleet-launch`: makes agents of itself. Started by `fleet-init`, never by people.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    fleet_process::serve().unwrap_or_else(|error| {
        eprintln!("fleet-launch: {error}");
        ExitCode::FAILURE
    })
}
