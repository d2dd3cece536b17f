//! A test agent: writes when it first and when it last executed to a map of its own, every
//! millisecond, until it is killed; [`cluster_tests::oracle`] reads it. `fleet-stamp DIRECTORY
//! [GO]`: it takes its time until there is a file named GO.
//!
//! A page of a file outlives whoever wrote to it, so the last word is never lost.

use std::{env, fs::File, io, path::Path, thread::sleep, time::Duration};

use cluster_tests::oracle::now_ns;
use memmap2::MmapMut;

/// Pace before and after GO.
const CALM: Duration = Duration::from_millis(500);
const BUSY: Duration = Duration::from_millis(1);

fn main() -> io::Result<()> {
    let mut args = env::args().skip(1);
    let directory = args.next().ok_or(io::ErrorKind::InvalidInput)?;
    let mut go = args.next();
    let named = |name| env::var(name).map_err(io::Error::other);
    let (agent, generation) = (named("FLEET_AGENT")?, named("FLEET_GENERATION")?);
    let first = now_ns();
    let path = Path::new(&directory).join(format!("{agent}.{generation}.{first}"));
    let file = File::options().read(true).write(true).create_new(true).open(path)?;
    file.set_len(16)?;
    // SAFETY: nobody cuts the file, and whoever reads it meanwhile copies it.
    let mut stamps = unsafe { MmapMut::map_mut(&file)? };
    stamps[..8].copy_from_slice(&first.to_le_bytes());
    loop {
        stamps[8..].copy_from_slice(&now_ns().to_le_bytes());
        go = go.filter(|go| !Path::new(go).exists());
        sleep(if go.is_some() { CALM } else { BUSY });
    }
}
