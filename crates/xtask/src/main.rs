//! The project's own chores: `cargo xtask --help`.
#![allow(clippy::print_stdout, reason = "a chore reports on standard output")]

mod check;
mod dependencies;
mod gen_proto;
mod simulate;
mod tidy;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own chores")]
enum Chore {
    /// Everything that must hold before a change lands. Changes nothing.
    Check {
        /// Leave the tests out.
        #[arg(long)]
        no_tests: bool,
    },
    /// Formats the code and regenerates what is generated.
    Fix,
    /// Regenerates the Rust of proto/.
    GenProto,
    /// Runs simulated worlds.
    Sim(simulate::Args),
    /// Runs real daemons under random faults and asks the agents whether two of them ever ran at
    /// once.
    Chaos {
        /// Passed on; --help shows what there is.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measures the built release binary, beside the alternatives.
    Bench {
        /// Passed on; --help shows what there is.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    match Chore::parse() {
        Chore::Check { no_tests } => check::run(&root, no_tests),
        Chore::Fix => check::fix(&root),
        Chore::GenProto => gen_proto::write(&root),
        Chore::Sim(args) => simulate::run(&args),
        Chore::Chaos { args } => check::chaos(&root, &args),
        Chore::Bench { args } => check::bench(&root, &args),
    }
}
