//! Links `fleet-launch` with the static half of the compiler's support library. Each start of an
//! agent loads and links that program anew, and finding one library less takes a third less time.

use std::{env, fs, path::PathBuf};

/// What the linker finds in place of the shared one.
const INSTEAD: &str = "GROUP ( -lgcc_eh -lgcc )\n";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let directory = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says so"));
    fs::write(directory.join("libgcc_s.so"), INSTEAD).expect("cargo made the directory");
    println!("cargo:rustc-link-arg-bin=fleet-launch=-L{}", directory.display());
}
