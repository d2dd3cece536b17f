//! A certificate for a peer of the comparison, of the kind our nodes have: ECDSA P-256.

use std::{fs, path::PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// A CA and one certificate, which serves as server, peer and client alike.
pub(crate) struct Tls {
    dir: TempDir,
    ca: String,
    certificate: String,
    key: String,
}

impl Tls {
    /// Makes them, for the loopback address.
    pub(crate) fn new() -> Result<Self> {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let issuer = Issuer::new(ca.clone(), KeyPair::generate()?);
        let ca = ca.self_signed(issuer.key())?.pem();
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()])?;
        let certificate = certificate.signed_by(&key, &issuer)?.pem();
        let (dir, key) = (tempfile::tempdir()?, key.serialize_pem());
        for (name, text) in [("ca.pem", &ca), ("cert.pem", &certificate), ("key.pem", &key)] {
            fs::write(dir.path().join(name), text)?;
        }
        Ok(Self { dir, ca, certificate, key })
    }

    /// The file `name`: `ca.pem`, `cert.pem` or `key.pem`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// For a client.
    pub(crate) fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .identity(Identity::from_pem(&self.certificate, &self.key))
    }
}
