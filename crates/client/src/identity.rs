//! A certificate, its key, and the CA that both ends trust.

use fleet_types::{ClusterId, NodeId};
use tonic::transport::{Certificate, ClientTlsConfig, ServerTlsConfig};

/// What one side of a connection proves itself with.
#[derive(Clone)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// Certificate of the cluster's CA, PEM.
    pub ca_pem: String,
    /// Own certificate, PEM.
    pub certificate_pem: String,
    /// Own private key, PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// The DNS name in every node's certificate.
pub fn member_name(cluster: &ClusterId) -> String {
    format!("member.{cluster}.fleet")
}

/// The DNS name in one node's certificate alone.
pub fn node_name(cluster: &ClusterId, node: NodeId) -> String {
    format!("node-{node}.{cluster}.fleet")
}

impl Identity {
    fn pair(&self) -> tonic::transport::Identity {
        tonic::transport::Identity::from_pem(&self.certificate_pem, &self.key_pem)
    }

    /// TLS for calling a server whose certificate must bear `name`.
    pub(crate) fn client_tls(&self, name: String) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca_pem))
            .identity(self.pair())
            .domain_name(name)
    }

    /// TLS for serving. With `clients_optional`, callers without a certificate get in too, and the
    /// services must tell them apart.
    pub fn server_tls(&self, clients_optional: bool) -> ServerTlsConfig {
        // The chain carries the CA, so that a joiner can compare it with its token.
        let chain = format!("{}{}", self.certificate_pem, self.ca_pem);
        ServerTlsConfig::new()
            .identity(tonic::transport::Identity::from_pem(chain, &self.key_pem))
            .client_ca_root(Certificate::from_pem(&self.ca_pem))
            .client_auth_optional(clients_optional)
            .timeout(std::time::Duration::from_secs(5))
    }
}
