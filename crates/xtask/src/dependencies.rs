//! Who may depend on whom. Dependencies point inward; a pure crate depends on nothing that does
//! anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use anyhow::{Result, bail};
use serde_json::Value;

/// Each crate of the workspace with the crates of the workspace it may depend on.
const TABLE: &[(&str, &[&str])] = &[
    ("base2histogram", &[]),
    ("fleet-types", &[]),
    ("fleet-core", &["fleet-types"]),
    ("fleet-supervision", &["fleet-types"]),
    ("fleet-proto", &["fleet-types", "fleet-core"]),
    ("fleet-runtime", &["fleet-types"]),
    ("fleet-process", &["fleet-types", "fleet-guard", "fleet-init"]),
    ("fleet-init", &[]),
    ("fleet-mutants", &[]),
    ("fleet-guard", &["fleet-types", "fleet-mutants"]),
    ("fleet-client", &["fleet-types", "fleet-proto"]),
    ("fleet-raft", &["fleet-types", "fleet-core", "fleet-proto"]),
    (
        "fleet-host",
        &[
            "fleet-types",
            "fleet-supervision",
            "fleet-proto",
            "fleet-runtime",
            "fleet-guard",
            "fleet-mutants",
            "fleet-process",
            "fleet-client",
        ],
    ),
    (
        "fleet-server",
        &[
            "fleet-types",
            "fleet-core",
            "fleet-proto",
            "fleet-runtime",
            "fleet-process",
            "fleet-client",
            "fleet-raft",
            "fleet-host",
            "fleet-mutants",
        ],
    ),
    (
        "fleet-cluster",
        &[
            "fleet-types",
            "fleet-proto",
            "fleet-runtime",
            "fleet-process",
            "fleet-client",
            "fleet-server",
        ],
    ),
    ("fleet-sim", &["fleet-types", "fleet-core", "fleet-supervision"]),
    ("xtask", &["fleet-sim"]),
    ("fleet-bench", &["fleet-types", "fleet-core", "fleet-client", "fleet-proto", "cluster-tests"]),
    ("cluster-tests", &[]),
];

/// Crates that are `no_std` outside tests, and depend on no crate from elsewhere but plain data.
const PURE: &[&str] = &["fleet-types", "fleet-core", "fleet-supervision"];
/// Crates from elsewhere that are data and nothing else: `no_std`, no I/O, no clock.
const DATA: &[&str] = &["smallvec", "smol_str"];

/// Crates from elsewhere that only one crate here may name.
const ONLY: &[(&str, &str)] = &[("openraft", "fleet-raft"), ("rocksdb", "fleet-raft")];

fn metadata(root: &Path) -> Result<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Compares the workspace with the table.
pub fn check(root: &Path) -> Result<()> {
    let metadata = metadata(root)?;
    let table: BTreeMap<&str, &[&str]> = TABLE.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(allowed) = table.get(name) else {
            wrong.push(format!("{name} is not in the table"));
            continue;
        };
        let normal = package["dependencies"].as_array().into_iter().flatten();
        let normal: BTreeSet<&str> = normal
            .filter(|dependency| dependency["kind"].is_null())
            .filter_map(|dependency| dependency["name"].as_str())
            .collect();
        for dependency in normal {
            if table.contains_key(dependency) {
                if !allowed.contains(&dependency) {
                    wrong.push(format!("{name} may not depend on {dependency}"));
                }
            } else if PURE.contains(&name) && !DATA.contains(&dependency) {
                wrong.push(format!("{name} is pure and may not depend on {dependency}"));
            }
            let only = ONLY.iter().find(|(foreign, _)| *foreign == dependency);
            if let Some((foreign, owner)) = only
                && *owner != name
            {
                wrong.push(format!("only {owner} may depend on {foreign}, not {name}"));
            }
        }
    }
    for name in PURE {
        let short = name.trim_start_matches("fleet-");
        let text = std::fs::read_to_string(root.join(format!("crates/{short}/src/lib.rs")))?;
        if !text.contains("no_std") {
            wrong.push(format!("{name} is not no_std"));
        }
    }
    // Where nothing fits the stand-in any more, cargo only warns, and the original is back.
    let locked = std::fs::read_to_string(root.join("Cargo.lock"))?;
    if locked.matches("name = \"base2histogram\"").count() != 1 {
        wrong.push("openraft does not use the base2histogram in crates/histogram".into());
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n")) }
}
