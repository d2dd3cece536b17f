//! A joiner's first contact with a cluster it has no certificate of.

use std::{sync::Arc, time::Duration};

use base64::Engine;
use fleet_proto::v1::{
    JoinClusterRequest, JoinClusterResponse, join_service_client::JoinServiceClient,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tonic::{
    Status,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use crate::token::Token;

/// How long first contact may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a machine did not get in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nothing answers at the address.
    #[error("nothing answers at {address}: {source}; is a node's daemon running there?")]
    Unreachable {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something answers, but it is no cluster.
    #[error("{address} is not a fleet-cluster API port: {source}")]
    NotACluster {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// A cluster answers, but not the one the token is for. The secret was not sent.
    #[error(
        "the cluster at {address} is not the one the token was made by (its CA differs); the \
         token's secret was not sent"
    )]
    ForeignCluster {
        /// The address.
        address: String,
    },
    /// The cluster refused.
    #[error("{}", .0.message())]
    Refused(#[source] Status),
}

impl JoinError {
    /// A stable code for programs.
    pub fn reason(&self) -> String {
        match self {
            Self::Unreachable { .. } => "UNREACHABLE".into(),
            Self::NotACluster { .. } => "NOT_A_CLUSTER".into(),
            Self::ForeignCluster { .. } => "CA_MISMATCH".into(),
            Self::Refused(status) => {
                fleet_proto::error::reason(status).unwrap_or_else(|| "REFUSED".into())
            }
        }
    }
}

/// Accepts any chain, for reading it: nothing is sent over a connection made with this.
#[derive(Debug)]
struct ReadOnly(Arc<CryptoProvider>);

impl ServerCertVerifier for ReadOnly {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate with the token's hash from the chain the server at `address` shows.
async fn fetch_ca(address: &str, token: &Token) -> Result<Vec<u8>, JoinError> {
    let unreachable = |source| JoinError::Unreachable { address: address.to_owned(), source };
    let not_a_cluster = |source| JoinError::NotACluster { address: address.to_owned(), source };
    let timed_out = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(address))
        .await
        .map_err(|_| unreachable(timed_out()))?
        .map_err(unreachable)?;
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| not_a_cluster(std::io::Error::other(e)))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ReadOnly(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("member.fleet").expect("a DNS name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connection = tokio::time::timeout(PATIENCE, connector.connect(name, stream))
        .await
        .map_err(|_| not_a_cluster(timed_out()))?
        .map_err(not_a_cluster)?;
    let chain = connection.get_ref().1.peer_certificates().unwrap_or_default();
    chain
        .iter()
        .find(|certificate| Sha256::digest(certificate.as_ref())[..] == token.ca_sha256)
        .map(|certificate| certificate.to_vec())
        .ok_or_else(|| JoinError::ForeignCluster { address: address.to_owned() })
}

/// DER as PEM.
fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|c| std::str::from_utf8(c).expect("ASCII")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Joins the cluster at `address`: checks that it is the one the token was made by, and only then
/// shows it the secret.
///
/// # Errors
/// When nothing answers, it is another cluster, or it refuses.
pub async fn join(
    address: &str,
    token: &Token,
    mut request: JoinClusterRequest,
) -> Result<JoinClusterResponse, JoinError> {
    let ca = pem(&fetch_ca(address, token).await?);
    // The cluster's id is not known yet, so the name every node of any cluster bears is asked for;
    // the pinned CA signs for one cluster only.
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name("join.fleet");
    let refused = |e: tonic::transport::Error| JoinError::Refused(Status::from_error(e.into()));
    let channel = Endpoint::from_shared(format!("https://{address}"))
        .and_then(|endpoint| endpoint.tls_config(tls))
        .map_err(refused)?
        .connect_timeout(PATIENCE)
        .connect()
        .await
        .map_err(refused)?;
    request.token_id = token.id.to_string();
    request.token_secret = const_hex::encode(token.secret);
    let mut request = tonic::Request::new(request);
    request.set_timeout(PATIENCE);
    let answer = JoinServiceClient::new(channel).join_cluster(request).await;
    Ok(answer.map_err(JoinError::Refused)?.into_inner())
}
