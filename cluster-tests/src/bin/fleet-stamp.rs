//! A test agent: writes when it first and when it last executed to a file of its own, every
//! millisecond, until it is killed. `fleet-stamp DIRECTORY`, read by [`cluster_tests::oracle`].
//!
//! A page in the kernel's cache outlives whoever wrote to it, so the last word is never lost.

use std::{env, fs::File, io, os::unix::fs::FileExt, path::Path, thread::sleep, time::Duration};

use cluster_tests::oracle::now_ns;

fn main() -> io::Result<()> {
    let directory = env::args().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    let named = |name| env::var(name).map_err(io::Error::other);
    let (agent, generation) = (named("FLEET_AGENT")?, named("FLEET_GENERATION")?);
    let first = now_ns();
    let file =
        File::create_new(Path::new(&directory).join(format!("{agent}.{generation}.{first}")))?;
    file.write_all_at(&first.to_le_bytes(), 0)?;
    loop {
        file.write_all_at(&now_ns().to_le_bytes(), 8)?;
        sleep(Duration::from_millis(1));
    }
}
