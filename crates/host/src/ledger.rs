//! What a host was told last, on disk, so that after a restart it still refuses what is older.
//! It is never a reason to start anything.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use fleet_client::private_file;
use fleet_proto::host::AssignRequest;
use prost::Message;

/// The file.
pub(crate) struct Ledger {
    path: PathBuf,
}

impl Ledger {
    /// Opens the ledger in `dir` and answers what it held. The last assignment is stored as the
    /// message it came in, made complete.
    pub(crate) fn open(dir: &Path) -> io::Result<(Self, AssignRequest)> {
        fs::create_dir_all(dir)?;
        let path = dir.join("assignments");
        let held = match fs::read(&path) {
            Ok(bytes) => AssignRequest::decode(&*bytes).map_err(io::Error::other)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => AssignRequest::default(),
            Err(e) => return Err(e),
        };
        Ok((Self { path }, held))
    }

    /// Replaces what it holds; on disk when this returns.
    pub(crate) fn write(&self, told: &AssignRequest) -> io::Result<()> {
        private_file::write(&self.path, &told.encode_to_vec())
    }
}
