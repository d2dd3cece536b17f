//! `run`.

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use fleet_runtime::{Config, telemetry};
use fleet_server::Ended;

use crate::args::{CONFIG, Run};

/// Runs the daemon until it is told to end.
pub async fn run(args: Run) -> Result<ExitCode> {
    let config = Config::load(&args.config, args.config != Path::new(CONFIG))?;
    if args.print_config {
        print!("{}", config.to_toml());
        return Ok(ExitCode::SUCCESS);
    }
    config.port_range()?;
    config.labels()?;
    if args.check_config {
        eprintln!("{} is valid", args.config.display());
        return Ok(ExitCode::SUCCESS);
    }
    telemetry::start(&config.log);
    match fleet_server::run(config).await? {
        Ended::Told => Ok(ExitCode::SUCCESS),
        Ended::Anew => start_anew(),
    }
}

/// Becomes the daemon once more, in the same process: whoever watches over it sees no end.
fn start_anew() -> Result<ExitCode> {
    // By this name even a program that was replaced or removed is found.
    let mut command = Command::new("/proc/self/exe");
    let error = command.arg0("fleet-cluster").args(std::env::args_os().skip(1)).exec();
    Err(error).context("starting anew failed")
}
