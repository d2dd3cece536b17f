//! Turns `proto/` into Rust, without `protoc`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use prost::Message;

fn sources(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}

fn generate(root: &Path, out: &Path) -> Result<()> {
    let include = root.join("proto");
    let mut files = Vec::new();
    sources(&include, &mut files)?;
    let descriptors = protox::compile(&files, [&include])?;
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // An entry's commands go from disk to every follower unchanged: shared rather than copied.
    let shared = ".fleet.internal.storage.v1.LogEntry.batch";
    let build = tonic_prost_build::configure().btree_map(".").bytes(shared);
    build.out_dir(out).compile_fds(descriptors)?;
    Ok(())
}

/// Writes the generated code to `crates/proto/src/gen`.
pub fn write(root: &Path) -> Result<()> {
    let out = root.join("crates/proto/src/gen");
    fs::create_dir_all(&out)?;
    generate(root, &out)
}

/// Fails when the committed code is not what `proto/` gives.
pub fn check(root: &Path) -> Result<()> {
    let fresh = tempfile::tempdir()?;
    generate(root, fresh.path())?;
    for entry in fs::read_dir(fresh.path())? {
        let entry = entry?;
        let committed = root.join("crates/proto/src/gen").join(entry.file_name());
        if fs::read(entry.path())? != fs::read(&committed).unwrap_or_default() {
            bail!("{} is not current: run `cargo xtask gen-proto`", committed.display());
        }
    }
    Ok(())
}
