//! The commands, one file a noun.

pub mod agent;
pub mod daemon;
pub mod events;
pub mod fleet;
pub mod manifest;
pub mod moves;
pub mod node;
pub mod placement;
pub mod port;
pub mod rebalance;
pub mod setup;
pub mod status;
pub mod token;

use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory;

use crate::args::Args;

/// `version`.
pub fn version() -> Result<ExitCode> {
    println!("fleet-cluster {}", fleet_runtime::VERSION);
    Ok(ExitCode::SUCCESS)
}

/// `completion`.
pub fn completion(shell: clap_complete::Shell) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "fleet-cluster", &mut script);
    print!("{}", String::from_utf8(script)?);
    Ok(ExitCode::SUCCESS)
}
