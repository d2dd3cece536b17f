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

    /// What it is to hold: the message it came in, made complete, with those that are leaving both put,
    /// not to run, and removed.
    pub(crate) fn encode(told: &AssignRequest, leaving: &[Assignment]) -> Vec<u8> {
        let stopped = leaving.iter().map(|left| Assignment { run: false, ..left.clone() });
        let key =
            |left: &Assignment| AgentKey { fleet: left.fleet.clone(), agent: left.agent.clone() };
        match leaving {
            [] => told.encode_to_vec(),
            _ => {
                let mut stored = told.clone();
                stored.put.extend(stopped);
                stored.remove = leaving.iter().map(key).collect();
                stored.encode_to_vec()
            }
        }
    }

    /// Replaces what it holds; on disk when this returns.
    pub(crate) fn write(&self, encoded: &[u8]) -> io::Result<()> {
        private_file::write(&self.path, encoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_leaving_is_read_back_apart_from_what_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let agent = |name: &str| Assignment {
            fleet: "f".into(),
            agent: name.into(),
            run: true,
            ..Assignment::default()
        };
        let told = AssignRequest { put: vec![agent("a"), agent("b")], ..AssignRequest::default() };
        let read = || {
            let (_, told, leaving) = Ledger::open(dir.path()).unwrap();
            (told, leaving)
        };
        assert_eq!(read(), (AssignRequest::default(), vec![]));
        // As it was before there was anything to say of who is leaving.
        private_file::write(&dir.path().join("assignments"), &told.encode_to_vec()).unwrap();
        assert_eq!(read(), (told.clone(), vec![]));
        let (ledger, ..) = Ledger::open(dir.path()).unwrap();
        for leaving in [vec![], vec![agent("c")]] {
            ledger.write(&Ledger::encode(&told, &leaving)).unwrap();
            let stopped = leaving.into_iter().map(|it| Assignment { run: false, ..it }).collect();
            assert_eq!(read(), (told.clone(), stopped));
        }
        fs::write(dir.path().join("assignments"), "cut").unwrap();
        assert!(Ledger::open(dir.path()).is_err(), "what is not whole is not taken for nothing");
    }
}
