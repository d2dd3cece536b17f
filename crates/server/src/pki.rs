//! The cluster's certificate authority, and who a certificate says its holder is.
//!
//! One CA per cluster. A node's certificate names the node in a DNS name (so that a caller reaches
//! the node it meant or nobody) and in a URI (so that a server knows who called). Private keys are
//! made where they are used and never travel; a joiner sends a signing request.

use fleet_client::{
    Identity,
    identity::{member_name, node_name},
};
use fleet_types::{ClusterId, NodeId, Principal};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, date_time_ymd,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// First year and last year certificates are valid in. Starting in the past lets a machine whose
/// clock is wrong at boot still reach its cluster.
const VALID: (i32, i32) = (2020, 2040);

/// A certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
#[error("certificate: {0}")]
pub struct PkiError(String);

impl From<rcgen::Error> for PkiError {
    fn from(error: rcgen::Error) -> Self {
        Self(error.to_string())
    }
}

/// The cluster's CA.
#[derive(Clone)]
pub struct Authority {
    cluster: ClusterId,
    ca_pem: String,
    key_pem: String,
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    params.not_before = date_time_ymd(VALID.0, 1, 1);
    params.not_after = date_time_ymd(VALID.1, 1, 1);
    params
}

fn uri(text: String) -> Result<SanType, PkiError> {
    Ok(SanType::URI(text.try_into()?))
}

impl Authority {
    /// A new CA.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn create(cluster: &ClusterId) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = params(&format!("fleet-cluster {cluster} CA"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_pem = params.self_signed(&key)?.pem();
        Ok(Self { cluster: cluster.clone(), ca_pem, key_pem: key.serialize_pem() })
    }

    /// The CA kept in files.
    pub fn from_pem(cluster: ClusterId, ca_pem: String, key_pem: String) -> Self {
        Self { cluster, ca_pem, key_pem }
    }

    /// Its certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Its private key, PEM. For voters' private files only.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// SHA-256 of its certificate, which join tokens carry.
    ///
    /// # Errors
    /// When the stored certificate is not one.
    pub fn sha256(&self) -> Result<[u8; 32], PkiError> {
        use sha2::Digest;
        let (_, pem) = x509_parser::pem::parse_x509_pem(self.ca_pem.as_bytes())
            .map_err(|e| PkiError(e.to_string()))?;
        Ok(sha2::Sha256::digest(&pem.contents).into())
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<String, PkiError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let issuer = Issuer::from_ca_cert_pem(&self.ca_pem, KeyPair::from_pem(&self.key_pem)?)?;
        Ok(params.signed_by(key, &issuer)?.pem())
    }

    /// A certificate for `node`, for the key in a signing request. Nothing else of the request is
    /// believed.
    ///
    /// # Errors
    /// When the request is malformed or not signed by its key.
    pub fn issue_node(&self, node: NodeId, request_pem: &str) -> Result<String, PkiError> {
        let request = CertificateSigningRequestParams::from_pem(request_pem)?;
        let mut params = params(&format!("node {node}"));
        let names =
            [node_name(&self.cluster, node), member_name(&self.cluster), "join.fleet".to_owned()];
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
        }
        params.subject_alt_names.push(uri(format!("fleet://{}/node/{node}", self.cluster))?);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, &request.public_key)
    }

    /// An identity for operators.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn issue_admin(&self) -> Result<Identity, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = params("admin");
        params.subject_alt_names = vec![uri(format!("fleet://{}/admin", self.cluster))?];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate_pem = self.sign(params, &key)?;
        Ok(Identity {
            cluster: self.cluster.clone(),
            ca_pem: self.ca_pem.clone(),
            certificate_pem,
            key_pem: key.serialize_pem(),
        })
    }
}

/// A new key and a request to sign it: (key PEM, request PEM).
///
/// # Errors
/// When no key can be made.
pub fn request() -> Result<(String, String), PkiError> {
    let key = KeyPair::generate()?;
    let request = params("joining node").serialize_request(&key)?;
    Ok((key.serialize_pem(), request.pem()?))
}

/// Who the holder of a certificate of `cluster` is. The signature was checked by TLS.
pub fn principal(cluster: &ClusterId, der: &[u8]) -> Option<Principal> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| {
        let GeneralName::URI(uri) = name else { return None };
        let rest = uri.strip_prefix(&format!("fleet://{cluster}/"))?;
        match rest.split_once('/') {
            None if rest == "admin" => Some(Principal::Admin),
            Some(("node", id)) => Some(Principal::Node(NodeId(id.parse().ok()?))),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(pem: &str) -> Vec<u8> {
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
    }

    #[test]
    fn certificates_say_who_holds_them() {
        let cluster: ClusterId = "0123456789abcdef".parse().unwrap();
        let other: ClusterId = "fedcba9876543210".parse().unwrap();
        let authority = Authority::create(&cluster).unwrap();
        let (_, request) = request().unwrap();
        let node = der(&authority.issue_node(NodeId(7), &request).unwrap());
        assert_eq!(principal(&cluster, &node), Some(Principal::Node(NodeId(7))));
        assert_eq!(principal(&other, &node), None);
        let admin = der(&authority.issue_admin().unwrap().certificate_pem);
        assert_eq!(principal(&cluster, &admin), Some(Principal::Admin));
    }

    #[test]
    fn a_garbled_request_is_refused() {
        let authority = Authority::create(&"0123456789abcdef".parse().unwrap()).unwrap();
        assert!(authority.issue_node(NodeId(7), "not a request").is_err());
    }
}
