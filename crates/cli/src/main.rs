//! `fleet-cluster`: the daemon and the command line.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "printing is what a command line is for")]

mod args;
mod commands;
mod exit;
mod output;
mod session;
mod unique;

use std::{process::ExitCode, time::Duration};

use args::{Args, Command};
use clap::Parser;

/// With the C library's allocator a tenth of the work of a create was allocating. RocksDB uses this
/// one too. How it is set up stands in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code for a reader that went away, as shells have it of SIGPIPE.
const READER_GONE: i32 = 141;

/// `println!` panics when nobody reads any more, as with `| head`: that is no fault.
#[allow(clippy::disallowed_methods, reason = "a panic hook has nobody to return to")]
fn end_quietly_without_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or_default();
        if message.starts_with("failed printing to stdout") {
            std::process::exit(READER_GONE);
        }
        usual(panic);
    }));
}

/// Threads for what blocks: looks at disks and ports, HOMEs prepared.
const BLOCKING_THREADS_MAX: usize = 32;

fn main() -> ExitCode {
    end_quietly_without_reader();
    let args = Args::parse();
    if matches!(args.command, Command::Run(_)) {
        fleet_runtime::priority::raise();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // An agent that is started again is not to wait until a thread is made; nor are there to be
        // hundreds after all were adopted at once.
        .thread_keep_alive(Duration::from_secs(3_600))
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(args));
            runtime.shutdown_timeout(Duration::from_secs(1));
            result
        }
        Err(error) => Err(error.into()),
    };
    exit::code(result)
}

async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let global = args.global.clone();
    let talks = matches!(
        args.command,
        Command::Status
            | Command::Token(_)
            | Command::Node(_)
            | Command::Port(_)
            | Command::Fleet(_)
            | Command::Agent(_)
            | Command::Moves(_)
            | Command::Placement(_)
            | Command::Rebalance(_)
            | Command::Events(_)
            | Command::Plan(_)
            | Command::Apply(_)
    );
    let result = carry_out(args).await;
    if talks && result.is_ok() {
        session::learn_members(&global).await;
    }
    result
}

async fn carry_out(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Init(init) => commands::setup::init(&args.global, init),
        Command::Join(join) => commands::setup::join(join).await,
        Command::Run(run) => commands::daemon::run(run).await,
        Command::Status => commands::status::run(&args.global).await,
        Command::Token(command) => commands::token::run(&args.global, command).await,
        Command::Node(command) => commands::node::run(&args.global, command).await,
        Command::Port(command) => commands::port::run(&args.global, command).await,
        Command::Fleet(command) => commands::fleet::run(&args.global, command).await,
        Command::Agent(command) => commands::agent::run(&args.global, command).await,
        Command::Moves(command) => commands::moves::run(&args.global, command).await,
        Command::Placement(command) => commands::placement::run(&args.global, command).await,
        Command::Rebalance(command) => commands::rebalance::run(&args.global, command).await,
        Command::Events(command) => commands::events::run(&args.global, command).await,
        Command::Plan(manifest) => commands::manifest::plan(&args.global, manifest).await,
        Command::Apply(manifest) => commands::manifest::apply(&args.global, manifest).await,
        Command::Version => commands::version(),
        Command::Completion { shell } => commands::completion(shell),
    }
}
