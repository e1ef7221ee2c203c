//! What the front and the relay show of themselves: certificates from files, or one made with the node's own key.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use mhc_protocol::SecretKey;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ED25519};
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);
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
    fn read(&self, provider: &CryptoProvider) -> Result<CertifiedKey, CertificateError> {
        let unreadable = |path: &PathBuf| {
            let path = path.clone();
            move |error| CertificateError::File { path, reason: explain(error) }
        };
        let chain: Vec<_> = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect)
            .map_err(unreadable(&self.certificate))?;
        if chain.is_empty() {
            return Err(unreadable(&self.certificate)(pem::Error::NoItemsFound));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(unreadable(&self.key))?;
        CertifiedKey::from_der(chain, key, provider).map_err(unfit)
    }

    /// When the two were last written.
    fn version(&self) -> [Option<SystemTime>; 2] {
        [&self.certificate, &self.key].map(|path| fs::metadata(path).and_then(|file| file.modified()).ok())
    }
}

fn explain(error: pem::Error) -> String {
    match error {
        pem::Error::Io(error) if error.kind() == io::ErrorKind::NotFound => "no such file".into(),
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => {
            "nothing of the kind is in it; it has to be PEM, as certbot and others write".into()
        }
        other => format!("not PEM: {other}"),
    }
}

fn unfit(error: rustls::Error) -> CertificateError {
    CertificateError::Unfit(error.to_string())
}

/// The certificate in use: of files that whoever renews them may replace at any time.
#[derive(Debug)]
pub(crate) struct Certificate {
    files: CertificateFiles,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads it.
    pub(crate) fn load(files: CertificateFiles) -> Result<Arc<Self>, CertificateError> {
        let provider = Arc::new(ring::default_provider());
        let current = RwLock::new(Arc::new(files.read(&provider)?));
        Ok(Arc::new(Self { files, provider, current }))
    }

    /// What TLS is served with: this certificate, and the protocols named.
    pub(crate) fn server_config(self: &Arc<Self>, protocols: &[&[u8]]) -> Result<ServerConfig, CertificateError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(unfit)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(config)
    }

    /// Reads the files again whenever they changed, for good. What can't be read is logged, and the old one goes on.
    pub(crate) async fn watch(&self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        let mut seen = self.files.version();
        loop {
            ticks.tick().await;
            let now = self.files.version();
            if now != seen {
                seen = now;
                self.reload();
            }
        }
    }

    /// Takes what the files hold now.
    fn reload(&self) {
        match self.files.read(&self.provider) {
            Ok(renewed) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(renewed);
                tracing::info!("the renewed certificate is in use");
            }
            Err(error) => tracing::warn!(%error, "the changed certificate isn't used; the one before goes on"),
        }
    }

    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// A certificate that the node signs for itself: who knows the node needs nobody else's word.
pub(crate) fn of_node(key: &SecretKey) -> Result<ServerConfig, CertificateError> {
    let unmade = |error: rcgen::Error| CertificateError::Unfit(error.to_string());
    let pkcs8 = PrivatePkcs8KeyDer::from([PKCS8_OF_SEED.as_slice(), &key.seed()].concat());
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ED25519).map_err(unmade)?;
    let mut params = CertificateParams::new(vec![format!("{}.node.invalid", key.node().short())]).map_err(unmade)?;
    params.distinguished_name = DistinguishedName::new();
    let certificate = params.self_signed(&pair).map_err(unmade)?;
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], pkcs8.into())
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
            (&junk, &key, "has to be PEM"),
            (&good, &junk, "junk.pem"),
            (&good, &good, "has to be PEM"),
            (&good, &foreign, "certificate and key"),
            (&dir.path().join("none.pem"), &key, "no such file"),
        ];
        for (certificate, key, named) in cases {
            let files = CertificateFiles { certificate: certificate.clone(), key: key.clone() };
            let error = Certificate::load(files.clone()).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(named) && error.is_empty() == named.is_empty(), "{files:?}: {error}");
        }
    }

    #[test]
    fn a_renewed_one_is_taken_and_a_broken_one_isnt() {
        let dir = tempfile::tempdir().unwrap();
        let files = CertificateFiles { certificate: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
        let certify = || {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
            fs::write(&files.certificate, made.cert.pem()).unwrap();
            fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        };
        certify();
        let certificate = Certificate::load(files.clone()).unwrap();
        let first = certificate.current().cert.clone();
        fs::write(&files.certificate, "half a file").unwrap();
        certificate.reload();
        assert_eq!(certificate.current().cert, first);
        certify();
        certificate.reload();
        assert_ne!(certificate.current().cert, first);
    }
}
