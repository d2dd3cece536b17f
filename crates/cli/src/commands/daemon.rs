//! `run`.

use std::{ffi::CString, os::unix::ffi::OsStringExt, path::Path, process::ExitCode};

use anyhow::{Context as _, Result};
use fleet_runtime::{Config, telemetry};
use fleet_server::Ended;
use nix::unistd::execv;

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
    let arguments = std::env::args_os().skip(1).map(|argument| CString::new(argument.into_vec()));
    let arguments = std::iter::once(Ok(c"fleet-cluster".to_owned())).chain(arguments);
    let arguments = arguments.collect::<Result<Vec<CString>, _>>()?;
    // By this name even a program that was replaced or removed is found. Not the standard library's
    // call: that heeds SIGPIPE from a moment before, in which another thread may write to a peer
    // that is gone and so end the process.
    let Err(error) = execv(c"/proc/self/exe", &arguments);
    Err(error).context("starting anew failed")
}
