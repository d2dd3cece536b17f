//! `run`.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use fleet_runtime::{Config, telemetry};

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
    fleet_server::run(config).await?;
    Ok(ExitCode::SUCCESS)
}
