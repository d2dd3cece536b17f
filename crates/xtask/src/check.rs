//! `cargo xtask check` and its writing twin, `fix`.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Result, bail};

use crate::{dependencies, gen_proto, tidy};

fn cargo(root: &Path, args: &[&str], env: &[(&str, &str)]) -> Result<()> {
    let started = Instant::now();
    println!("── cargo {}", args.join(" "));
    let status = Command::new(env!("CARGO"))
        .args(args)
        .envs(env.iter().copied())
        .current_dir(root)
        .status()?;
    if !status.success() {
        bail!("cargo {} failed", args.join(" "));
    }
    println!("   {} s", started.elapsed().as_secs());
    Ok(())
}

/// The feature that lets tests plant mistakes in what they test.
const PLANTED: &str = "fleet-mutants/planted,fleet-sim/planted";

/// The programs of a node.
const OURS: [&str; 8] =
    ["-p", "fleet-cluster", "-p", "fleet-guard", "-p", "fleet-init", "-p", "fleet-process"];

/// Builds what the cluster tests run.
pub fn tested_binaries(root: &Path) -> Result<()> {
    let packages = [&OURS[..], &["-p", "cluster-tests"]].concat();
    let features = ["-p", "fleet-mutants", "-p", "fleet-sim", "--features", PLANTED];
    cargo(root, &[&["build"], &packages[..], &features[..]].concat(), &[])
}

/// Real clusters under random faults.
pub fn chaos(root: &Path, args: &[String]) -> Result<()> {
    tested_binaries(root)?;
    let run = ["run", "-q", "-p", "cluster-tests", "--bin", "chaos", "--"];
    let args: Vec<&str> = run.into_iter().chain(args.iter().map(String::as_str)).collect();
    cargo(root, &args, &[])
}

/// Checks everything.
pub fn run(root: &Path, no_tests: bool) -> Result<()> {
    println!("── tidy");
    tidy::check(root)?;
    println!("── dependency table");
    dependencies::check(root)?;
    println!("── generated code");
    gen_proto::check(root)?;
    cargo(root, &["fmt", "--all", "--check"], &[])?;
    cargo(root, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    let warnings = [("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links")];
    cargo(root, &["doc", "--workspace", "--no-deps", "--document-private-items"], &warnings)?;
    if !no_tests {
        tested_binaries(root)?;
        cargo(root, &["test", "--workspace", "--features", PLANTED], &[])?;
    }
    println!("all is well");
    Ok(())
}

/// Builds the release binary and measures it. The load comes from a release build, too: an
/// unoptimised client would be what is measured.
pub fn bench(root: &Path, args: &[String]) -> Result<()> {
    let bench = ["-p", "fleet-bench", "-p", "cluster-tests"];
    cargo(root, &[&["build", "--release"], &OURS[..], &bench[..]].concat(), &[])?;
    let run = ["run", "--release", "-q", "-p", "fleet-bench", "--"];
    let args: Vec<&str> = run.into_iter().chain(args.iter().map(String::as_str)).collect();
    cargo(root, &args, &[])
}

/// Formats and regenerates.
pub fn fix(root: &Path) -> Result<()> {
    gen_proto::write(root)?;
    cargo(root, &["fmt", "--all"], &[])
}
