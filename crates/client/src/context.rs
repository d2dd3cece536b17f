//! The file that tells the CLI which cluster to talk to, and as whom. Mode 0600: it holds a key.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{identity::Identity, private_file};

/// Endpoints and credentials of one cluster.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// The cluster's id.
    pub cluster: String,
    /// `host:port` of nodes' public API; any of them answers.
    pub endpoints: Vec<String>,
    /// The same, as learnt from the cluster: they are tried first, and replaced as nodes come and
    /// go. The first answered last.
    #[serde(default)]
    pub members: Vec<String>,
    /// Certificate of the cluster's CA, PEM.
    pub ca_pem: String,
    /// Own certificate, PEM.
    pub certificate_pem: String,
    /// Own private key, PEM.
    pub key_pem: String,
}

/// Why a context cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// There is none.
    #[error(
        "no cluster to talk to: {} does not exist; run `fleet-cluster init` here, copy the file \
         from the node where it ran, or name it with --context",
        .0.display()
    )]
    Missing(PathBuf),
    /// Other users can read it.
    #[error("{} holds a private key and is open to others: chmod 600 it", .0.display())]
    Exposed(PathBuf),
    /// It cannot be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// It is not a context.
    #[error("{path} is not a context file: {why}", path = .0.display(), why = .1)]
    Malformed(PathBuf, String),
}

impl Context {
    /// Reads a context file.
    ///
    /// # Errors
    /// When it is missing, open to others, or not a context.
    pub fn load(path: &Path) -> Result<Self, ContextError> {
        let read = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => ContextError::Missing(path.to_owned()),
            _ => ContextError::Read(path.to_owned(), e),
        };
        let mode = fs::metadata(path).map_err(read)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(ContextError::Exposed(path.to_owned()));
        }
        let text = fs::read_to_string(path).map_err(read)?;
        serde_json::from_str(&text)
            .map_err(|e| ContextError::Malformed(path.to_owned(), e.to_string()))
    }

    /// Writes the context file with mode 0600, making its directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        private_file::write(path, text.as_bytes())
    }

    /// The identity in it.
    ///
    /// # Errors
    /// When the cluster id is malformed.
    pub fn identity(&self, path: &Path) -> Result<Identity, ContextError> {
        let malformed =
            |e: fleet_types::InvalidId| ContextError::Malformed(path.to_owned(), e.to_string());
        Ok(Identity {
            cluster: self.cluster.parse().map_err(malformed)?,
            ca_pem: self.ca_pem.clone(),
            certificate_pem: self.certificate_pem.clone(),
            key_pem: self.key_pem.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposed_and_malformed_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("context.json");
        assert!(matches!(Context::load(&path), Err(ContextError::Missing(_))));
        fs::write(&path, "{}").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Context::load(&path), Err(ContextError::Exposed(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Context::load(&path), Err(ContextError::Malformed(..))));
    }
}
