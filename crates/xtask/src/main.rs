//! The project's own chores: `cargo xtask --help`.

mod gen_proto;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own chores")]
enum Chore {
    /// Regenerates the Rust of proto/.
    GenProto,
}

fn main() -> Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    match Chore::parse() {
        Chore::GenProto => gen_proto::write(&root),
    }
}
