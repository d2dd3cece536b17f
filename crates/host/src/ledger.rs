//! What a host was told last, on disk, so that after a restart it still refuses what is older.
//! It is never a reason to start anything.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use fleet_client::private_file;
use fleet_proto::host::{AgentKey, AssignRequest, Assignment};
use prost::Message;

/// The file.
pub(crate) struct Ledger {
    path: PathBuf,
}

impl Ledger {
    /// Opens the ledger in `dir` and answers what it held: what was told, and of agents that are not
    /// told of any more what was told last.
    pub(crate) fn open(dir: &Path) -> io::Result<(Self, AssignRequest, Vec<Assignment>)> {
        fs::create_dir_all(dir)?;
        let path = dir.join("assignments");
        let mut held = match fs::read(&path) {
            Ok(bytes) => AssignRequest::decode(&*bytes).map_err(io::Error::other)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => AssignRequest::default(),
            Err(e) => return Err(e),
        };
        let removed = std::mem::take(&mut held.remove);
        let is_leaving = |told: &Assignment| {
            removed.iter().any(|key| (&key.fleet, &key.agent) == (&told.fleet, &told.agent))
        };
        let (leaving, put) = std::mem::take(&mut held.put).into_iter().partition(is_leaving);
        Ok((Self { path }, AssignRequest { put, ..held }, leaving))
    }

    /// Replaces what it holds; on disk when this returns. It is stored as the message it came in, made
    /// complete, with those that are leaving both put, not to run, and removed.
    pub(crate) fn write(&self, told: &AssignRequest, leaving: &[Assignment]) -> io::Result<()> {
        let stopped = leaving.iter().map(|left| Assignment { run: false, ..left.clone() });
        let key =
            |left: &Assignment| AgentKey { fleet: left.fleet.clone(), agent: left.agent.clone() };
        let bytes = match leaving {
            [] => told.encode_to_vec(),
            _ => {
                let mut stored = told.clone();
                stored.put.extend(stopped);
                stored.remove = leaving.iter().map(key).collect();
                stored.encode_to_vec()
            }
        };
        private_file::write(&self.path, &bytes)
    }
}
