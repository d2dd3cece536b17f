//! Making a node: the first of a cluster, or one more.

use fleet_client::{Context, Identity, JoinError, Token, join};
use fleet_core::NodeAddress;
use fleet_proto::v1::{JoinClusterRequest, Role};
use fleet_types::{ClusterId, LeaseProfile, NodeId, NodeName};
use rand::RngCore;

use crate::{
    data_dir::{DataDir, DataDirError, NodeFile, VoterSecrets},
    pki::{self, Authority, PkiError},
};

/// The number of the node that makes a cluster. Later numbers are log indexes, which are larger.
pub const FIRST_NODE: NodeId = NodeId(1);

/// Why a node could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The data directory is in the way.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A certificate could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The cluster did not let it in.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The cluster answered nonsense.
    #[error("the cluster's answer has no valid {0}")]
    Answer(&'static str),
    /// The name is a number.
    #[error("{0} is a number, by which nodes are named, too: give a name with a letter by --name")]
    Name(NodeName),
    /// The address is not usable.
    #[error("--advertise {value:?}: {why}")]
    Address {
        /// As given.
        value: String,
        /// Why.
        why: &'static str,
    },
}

/// Where a node is reached and binds.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its name.
    pub name: NodeName,
    /// Where others reach it.
    pub address: NodeAddress,
    /// Address its listeners bind, without port.
    pub listen: String,
}

impl Place {
    /// A node called `name`, reached at `advertise` (`host` or `host:port`); its listeners take
    /// that port and the two after it.
    ///
    /// # Errors
    /// When the name is a number; when the address has no host, or no room for three ports.
    pub fn new(name: NodeName, advertise: &str, listen: &str) -> Result<Self, SetupError> {
        /// Base port when none is given.
        const PORT: u16 = 7400;
        if name.is_number() {
            return Err(SetupError::Name(name));
        }
        let refuse = |why| SetupError::Address { value: advertise.to_owned(), why };
        let (host, port) = match advertise.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') => {
                (host, port.parse().map_err(|_| refuse("the port is not a number up to 65533"))?)
            }
            _ => (advertise, PORT),
        };
        if host.is_empty() || host == "0.0.0.0" || host == "[::]" {
            return Err(refuse("others cannot reach that; name an address of this machine"));
        }
        if !(1..=u16::MAX - 2).contains(&port) {
            return Err(refuse("three ports in a row are needed"));
        }
        let at = |offset: u16| format!("{host}:{}", port + offset);
        let address = NodeAddress { api: at(0), peer: at(1), lease: at(2) };
        Ok(Self { name, address, listen: listen.to_owned() })
    }
}

fn random_hex<const N: usize>() -> String {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    const_hex::encode(bytes)
}

/// Makes the first node of a new cluster, and the operator's context. Running its daemon makes the
/// cluster.
///
/// # Errors
/// When the directory holds a node already or cannot be written.
pub fn init(data: &DataDir, place: &Place, profile: LeaseProfile) -> Result<Context, SetupError> {
    data.claim()?;
    let cluster: ClusterId = random_hex::<8>().parse().expect("16 hexadecimal digits");
    let authority = Authority::create(&cluster)?;
    let (key_pem, request) = pki::request()?;
    let certificate_pem = authority.issue_node(FIRST_NODE, &request)?;
    let ca_pem = authority.ca_pem().to_owned();
    let identity = Identity { cluster: cluster.clone(), ca_pem, certificate_pem, key_pem };
    let mut agent_token_key = [0; 32];
    rand::rng().fill_bytes(&mut agent_token_key);
    let secrets = VoterSecrets { ca_key_pem: authority.key_pem().to_owned(), agent_token_key };
    data.save_keys(&identity, Some(&secrets))?;
    data.save(&NodeFile {
        cluster: cluster.clone(),
        node: FIRST_NODE,
        name: place.name.clone(),
        storage: random_hex::<16>(),
        address: place.address.clone(),
        listen: place.listen.clone(),
        voter: true,
        first: true,
        profile,
        members: vec![fleet_proto::v1::Member {
            node_id: FIRST_NODE.0,
            api_address: place.address.api.clone(),
            peer_address: place.address.peer.clone(),
            lease_address: place.address.lease.clone(),
            role: Role::Voter.into(),
        }],
    })?;
    let admin = authority.issue_admin()?;
    Ok(Context {
        members: Vec::new(),
        cluster: cluster.to_string(),
        endpoints: vec![place.address.api.clone()],
        ca_pem: admin.ca_pem,
        certificate_pem: admin.certificate_pem,
        key_pem: admin.key_pem,
    })
}

/// Joins the cluster at `address`. Unless it lets this machine in, nothing is written but what makes
/// another try the same one.
///
/// # Errors
/// When the directory holds a node already, or the cluster refuses.
pub async fn join_cluster(
    data: &DataDir,
    place: &Place,
    address: &str,
    token: &Token,
) -> Result<NodeFile, SetupError> {
    data.claim()?;
    let (key_pem, request) = pki::request()?;
    let storage = data.storage_id(&place.name, &place.address)?;
    let answer = join(
        address,
        token,
        JoinClusterRequest {
            node_name: place.name.to_string(),
            api_address: place.address.api.clone(),
            peer_address: place.address.peer.clone(),
            lease_address: place.address.lease.clone(),
            storage_id: storage.clone(),
            certificate_request_pem: request,
            rules: fleet_core::RULES,
            ..JoinClusterRequest::default()
        },
    )
    .await?;
    let cluster: ClusterId =
        answer.cluster_id.parse().map_err(|_| SetupError::Answer("cluster id"))?;
    let voter = answer.role() == Role::Voter;
    let profile = answer.profile.parse().map_err(|_| SetupError::Answer("profile"))?;
    let secrets = match answer.voter_secrets {
        Some(secrets) => {
            Some(VoterSecrets::from_wire(secrets).ok_or(SetupError::Answer("agent token key"))?)
        }
        None if voter => return Err(SetupError::Answer("voter secrets")),
        None => None,
    };
    let identity = Identity {
        cluster: cluster.clone(),
        ca_pem: answer.ca_certificate_pem,
        certificate_pem: answer.certificate_pem,
        key_pem,
    };
    data.save_keys(&identity, secrets.as_ref())?;
    let node = NodeFile {
        cluster,
        node: NodeId(answer.node_id),
        name: place.name.clone(),
        storage,
        address: place.address.clone(),
        listen: place.listen.clone(),
        voter,
        first: false,
        profile,
        members: answer.members,
    };
    data.save(&node)?;
    data.joined()?;
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(advertise: &str) -> Result<Place, SetupError> {
        Place::new("n1".parse().unwrap(), advertise, "0.0.0.0")
    }

    #[test]
    fn addresses_get_three_ports() {
        assert_eq!(place("10.0.0.1").unwrap().address.lease, "10.0.0.1:7402");
        assert_eq!(place("host:9000").unwrap().address.peer, "host:9001");
        assert_eq!(place("[::1]:9000").unwrap().address.api, "[::1]:9000");
        for bad in ["", "0.0.0.0", "h:65534", "h:0", "h:x"] {
            assert!(place(bad).is_err(), "{bad}");
        }
        let numbered = Place::new("71".parse().unwrap(), "10.0.0.1", "0.0.0.0");
        assert!(matches!(numbered, Err(SetupError::Name(_))));
    }

    #[test]
    fn a_join_that_is_tried_again_is_the_same_one() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(&dir.path().join("data"));
        let id = |at: &str| {
            data.claim().unwrap();
            let place = place(at).unwrap();
            data.storage_id(&place.name, &place.address).unwrap()
        };
        let first = id("10.0.0.1");
        assert_eq!(first.len(), 32);
        assert_eq!(id("10.0.0.1"), first);
        assert_ne!(id("10.0.0.2"), first);
        data.joined().unwrap();
        assert_ne!(id("10.0.0.1"), first);
    }

    #[test]
    fn a_directory_holds_one_node_only() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(&dir.path().join("data"));
        let place = place("10.0.0.1").unwrap();
        init(&data, &place, LeaseProfile::Default).unwrap();
        let again = init(&data, &place, LeaseProfile::Default);
        assert!(matches!(again, Err(SetupError::DataDir(DataDirError::Occupied { .. }))));
    }
}
