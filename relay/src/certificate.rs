//! What a relay shows of itself: certificates from files, or one made with the node's own key.

use std::{path::PathBuf, sync::Arc};

use mhc_protocol::SecretKey;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ED25519};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
};

/// A PKCS #8 private key of Ed25519 (RFC 8410), up to the seed.
const PKCS8_OF_SEED: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A certificate chain and its key, in PEM.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Why there is no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file can't be read, or isn't what it should be.
    #[error("{path}: {reason}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Certificate and key don't belong together, or are of a kind that isn't known.
    #[error("certificate and key: {0}")]
    Unfit(String),
}

impl CertificateFiles {
    /// Reads both.
    pub fn load(&self) -> Result<ServerConfig, CertificateError> {
        let unreadable = |path: &PathBuf, reason: String| CertificateError::File { path: path.clone(), reason };
        let chain = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unreadable(&self.certificate, error.to_string()))?;
        if chain.is_empty() {
            return Err(unreadable(&self.certificate, "no certificate in PEM".into()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| unreadable(&self.key, error.to_string()))?;
        server(chain, key)
    }
}

/// A certificate that the node signs for itself: who knows the node needs nobody else's word.
pub(crate) fn of_node(key: &SecretKey) -> Result<ServerConfig, CertificateError> {
    let unfit = |error: rcgen::Error| CertificateError::Unfit(error.to_string());
    let pkcs8 = PrivatePkcs8KeyDer::from([PKCS8_OF_SEED.as_slice(), &key.seed()].concat());
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ED25519).map_err(unfit)?;
    let mut params = CertificateParams::new(vec![format!("{}.node.invalid", key.node().short())]).map_err(unfit)?;
    params.distinguished_name = DistinguishedName::new();
    let certificate = params.self_signed(&pair).map_err(unfit)?;
    server(vec![certificate.der().clone()], pkcs8.into())
}

fn server(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<ServerConfig, CertificateError> {
    let unfit = |error: rustls::Error| CertificateError::Unfit(error.to_string());
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unfit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_none_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let other = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let good = file("good.pem", &made.cert.pem());
        let key = file("key.pem", &made.signing_key.serialize_pem());
        let foreign = file("foreign.pem", &other.signing_key.serialize_pem());
        let junk = file("junk.pem", "not a certificate");
        let cases = [
            (&good, &key, ""),
            (&junk, &key, "junk.pem"),
            (&good, &junk, "junk.pem"),
            (&good, &good, "good.pem"),
            (&good, &foreign, "certificate and key"),
            (&dir.path().join("none.pem"), &key, "none.pem"),
        ];
        for (certificate, key, named) in cases {
            let files = CertificateFiles { certificate: certificate.clone(), key: key.clone() };
            let error = files.load().err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(named) && error.is_empty() == named.is_empty(), "{files:?}: {error}");
        }
    }
}
