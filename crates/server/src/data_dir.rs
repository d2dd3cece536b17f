//! What a node keeps about itself: who it is, in which cluster, and its keys.
//!
//! ```text
//! node.json        who this node is and how to reach the cluster
//! node.key .crt    its identity                        (0600)
//! ca.crt           the cluster's CA
//! ca.key           the CA's key, voters only           (0600)
//! agent-token.key  voters only; see `secrets`          (0600)
//! raft/            log, state, snapshots; voters only
//! joining          until the cluster has answered: what this directory's id is made from
//! host/            what the host was told last
//! logs/            agents' output
//! ```

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use fleet_client::{Identity, private_file};
use fleet_core::NodeAddress;
use fleet_proto::v1::{self, Member};
use fleet_types::{ClusterId, LeaseProfile, NodeId, NodeName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::pki::Authority;

/// What a directory's id is made from while it joins.
const JOINING: &str = "joining";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// There is no node in it.
    #[error(
        "{} holds no node: run `fleet-cluster init` for a new cluster or `fleet-cluster join` for \
         an existing one",
        .0.display()
    )]
    Missing(PathBuf),
    /// There is one already.
    #[error(
        "{path} already belongs to node {node} of cluster {cluster}; a node cannot change its \
         cluster. To start over, stop the daemon and remove the directory",
        path = path.display()
    )]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// The node in it.
        node: NodeId,
        /// Its cluster.
        cluster: ClusterId,
    },
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// A node as it is known to itself.
#[derive(Clone, Debug)]
pub struct NodeFile {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Random id of the data directory.
    pub storage: String,
    /// Where others reach it.
    pub address: NodeAddress,
    /// Address its listeners bind, without port.
    pub listen: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it is the node that made the cluster.
    pub first: bool,
    /// Timings of the cluster.
    pub profile: LeaseProfile,
    /// The nodes to reach the cluster by.
    pub members: Vec<Member>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    cluster: String,
    node: u64,
    name: String,
    storage: String,
    api_address: String,
    peer_address: String,
    lease_address: String,
    listen: String,
    voter: bool,
    first: bool,
    profile: String,
    members: Vec<StoredMember>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredMember {
    node: u64,
    api_address: String,
    peer_address: String,
    lease_address: String,
}

/// The secrets only voters hold.
#[derive(Clone)]
pub struct VoterSecrets {
    /// The CA's private key, PEM.
    pub ca_key_pem: String,
    /// Key from which agents' gateway tokens are derived.
    pub agent_token_key: [u8; 32],
}

impl VoterSecrets {
    /// As they travel to a new voter.
    pub fn to_wire(&self) -> v1::VoterSecrets {
        v1::VoterSecrets {
            ca_key_pem: self.ca_key_pem.clone(),
            agent_token_key: const_hex::encode(self.agent_token_key),
        }
    }

    /// As they came; none when they are malformed.
    pub fn from_wire(secrets: v1::VoterSecrets) -> Option<Self> {
        let agent_token_key = const_hex::decode_to_array(secrets.agent_token_key).ok()?;
        Some(Self { ca_key_pem: secrets.ca_key_pem, agent_token_key })
    }
}

/// A node's data directory.
#[derive(Clone, Debug)]
pub struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// The directory at `path`.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where Raft keeps its log.
    pub fn raft(&self) -> PathBuf {
        self.path.join("raft")
    }

    fn failed(&self, name: &str) -> impl FnOnce(io::Error) -> DataDirError {
        let path = self.path.join(name);
        move |source| DataDirError::Io { path, source }
    }

    fn read(&self, name: &str) -> Result<String, DataDirError> {
        fs::read_to_string(self.path.join(name)).map_err(self.failed(name))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), DataDirError> {
        private_file::write(&self.path.join(name), text.as_bytes()).map_err(self.failed(name))
    }

    /// Refuses a directory that holds a node already; makes it otherwise.
    ///
    /// # Errors
    /// When it is occupied or cannot be made.
    pub fn claim(&self) -> Result<(), DataDirError> {
        match self.load() {
            Err(DataDirError::Missing(_)) => {}
            Err(error) => return Err(error),
            Ok(node) => {
                let path = self.path.clone();
                return Err(DataDirError::Occupied {
                    path,
                    node: node.node,
                    cluster: node.cluster,
                });
            }
        }
        fs::create_dir_all(&self.path).map_err(self.failed("."))?;
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&self.path, private).map_err(self.failed("."))
    }

    /// The id of this directory as that of the node called `name` at `address`: random, and the
    /// same at every try to join, since a cluster knows by it a joiner that its answer did not
    /// reach. A try under another name or address is another node.
    ///
    /// # Errors
    /// When what it is made from cannot be read or written.
    pub fn storage_id(
        &self,
        name: &NodeName,
        address: &NodeAddress,
    ) -> Result<String, DataDirError> {
        let seed = match self.read(JOINING) {
            Err(DataDirError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let seed = const_hex::encode(rand::random::<[u8; 16]>());
                self.write(JOINING, &seed)?;
                seed
            }
            read => read?,
        };
        let id = Sha256::digest(format!("{seed} {name} {}", address.api));
        Ok(const_hex::encode(id.first_chunk::<16>().expect("32 bytes")))
    }

    /// Forgets what [`DataDir::storage_id`] made the id from: the node has it.
    ///
    /// # Errors
    /// When that cannot be removed.
    pub fn joined(&self) -> Result<(), DataDirError> {
        fs::remove_file(self.path.join(JOINING)).map_err(self.failed(JOINING))
    }

    /// Reads who this node is.
    ///
    /// # Errors
    /// When there is no node, or its file is damaged.
    pub fn load(&self) -> Result<NodeFile, DataDirError> {
        let path = self.path.join("node.json");
        if !path.exists() {
            return Err(DataDirError::Missing(self.path.clone()));
        }
        let text = self.read("node.json")?;
        parse(&text).map_err(|why| DataDirError::Damaged { path, why })
    }

    /// Writes who this node is. Written last when a node is made: it makes the others count.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, node: &NodeFile) -> Result<(), DataDirError> {
        let member = |m: &Member| StoredMember {
            node: m.node_id,
            api_address: m.api_address.clone(),
            peer_address: m.peer_address.clone(),
            lease_address: m.lease_address.clone(),
        };
        let stored = Stored {
            cluster: node.cluster.to_string(),
            node: node.node.0,
            name: node.name.to_string(),
            storage: node.storage.clone(),
            api_address: node.address.api.clone(),
            peer_address: node.address.peer.clone(),
            lease_address: node.address.lease.clone(),
            listen: node.listen.clone(),
            voter: node.voter,
            first: node.first,
            profile: node.profile.to_string(),
            members: node.members.iter().map(member).collect(),
        };
        let text = serde_json::to_string_pretty(&stored).expect("plain values have a JSON form");
        self.write("node.json", &text)
    }

    /// Writes the node's keys.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn save_keys(
        &self,
        identity: &Identity,
        secrets: Option<&VoterSecrets>,
    ) -> Result<(), DataDirError> {
        self.write("node.key", &identity.key_pem)?;
        self.write("node.crt", &identity.certificate_pem)?;
        self.write("ca.crt", &identity.ca_pem)?;
        if let Some(secrets) = secrets {
            self.save_secrets(secrets)?;
        }
        Ok(())
    }

    fn save_secrets(&self, secrets: &VoterSecrets) -> Result<(), DataDirError> {
        self.write("ca.key", &secrets.ca_key_pem)?;
        self.write("agent-token.key", &const_hex::encode(secrets.agent_token_key))
    }

    /// Makes the node a voter, with what voters hold, or a worker, without it. A worker that was a
    /// voter keeps its log: what it voted for must not be forgotten if it votes again.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn change_role(
        &self,
        node: &NodeFile,
        secrets: Option<&VoterSecrets>,
    ) -> Result<(), DataDirError> {
        if let Some(secrets) = secrets {
            self.save_secrets(secrets)?;
        }
        let voter = secrets.is_some();
        // It is first only as long as it votes: the cluster is made.
        self.save(&NodeFile { voter, first: node.first && voter, ..node.clone() })?;
        if !voter {
            for name in ["ca.key", "agent-token.key"] {
                fs::remove_file(self.path.join(name)).map_err(self.failed(name))?;
            }
        }
        Ok(())
    }

    /// Reads the node's identity.
    ///
    /// # Errors
    /// When a file is missing.
    pub fn identity(&self, cluster: &ClusterId) -> Result<Identity, DataDirError> {
        Ok(Identity {
            cluster: cluster.clone(),
            ca_pem: self.read("ca.crt")?,
            certificate_pem: self.read("node.crt")?,
            key_pem: self.read("node.key")?,
        })
    }

    /// Reads what only voters hold.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn voter_secrets(&self) -> Result<VoterSecrets, DataDirError> {
        let key = self.read("agent-token.key")?;
        let agent_token_key = const_hex::decode_to_array(key.trim()).map_err(|e| {
            let path = self.path.join("agent-token.key");
            DataDirError::Damaged { path, why: e.to_string() }
        })?;
        Ok(VoterSecrets { ca_key_pem: self.read("ca.key")?, agent_token_key })
    }

    /// The cluster's CA, on voters.
    ///
    /// # Errors
    /// When a file is missing.
    pub fn authority(&self, cluster: &ClusterId) -> Result<Authority, DataDirError> {
        let (ca, key) = (self.read("ca.crt")?, self.read("ca.key")?);
        Ok(Authority::from_pem(cluster.clone(), ca, key))
    }
}

fn parse(text: &str) -> Result<NodeFile, String> {
    let stored: Stored = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let member = |m: StoredMember| Member {
        node_id: m.node,
        api_address: m.api_address,
        peer_address: m.peer_address,
        lease_address: m.lease_address,
        role: fleet_proto::v1::Role::Voter.into(),
    };
    Ok(NodeFile {
        cluster: stored.cluster.parse().map_err(|e| format!("cluster: {e}"))?,
        node: NodeId(stored.node),
        name: stored.name.parse().map_err(|e| format!("name: {e}"))?,
        storage: stored.storage,
        address: NodeAddress {
            api: stored.api_address,
            peer: stored.peer_address,
            lease: stored.lease_address,
        },
        listen: stored.listen,
        voter: stored.voter,
        first: stored.first,
        profile: stored.profile.parse().map_err(|e| format!("profile: {e}"))?,
        members: stored.members.into_iter().map(member).collect(),
    })
}
