//! A certificate in files, which whoever renews it may replace at any time.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Why there is no certificate to serve with.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Unreadable, or not PEM.
    #[error("{setting} {}: {reason}", path.display())]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A key that isn't the certificate's, or of a kind nobody serves with.
    #[error("gateway.tls_key {} doesn't go with gateway.tls_certificate {}: {reason}", key.display(), certificate.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        reason: rustls::Error,
    },
}

/// The certificate in use.
#[derive(Debug)]
pub(super) struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

/// When the two files were last written.
type Version = [Option<SystemTime>; 2];

impl Certificate {
    /// Reads it.
    pub(super) fn load(certificate: PathBuf, key: PathBuf) -> Result<Self, CertificateError> {
        let provider = Arc::new(ring::default_provider());
        let current = RwLock::new(Arc::new(read(&certificate, &key, &provider)?));
        Ok(Self { certificate, key, provider, current })
    }

    /// What TLS is served with: this certificate, and the protocols named.
    pub(super) fn server_config(self: &Arc<Self>, protocols: &[&[u8]]) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(config)
    }

    /// Reads the files again whenever they changed, for good. What can't be read is logged, and the old one goes on.
    pub(super) async fn watch(&self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        let mut seen = self.version();
        loop {
            ticks.tick().await;
            let now = self.version();
            if now != seen {
                seen = now;
                self.reload();
            }
        }
    }

    /// Takes what the files hold now.
    pub(super) fn reload(&self) {
        match read(&self.certificate, &self.key, &self.provider) {
            Ok(renewed) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(renewed);
                tracing::info!("the renewed certificate is in use");
            }
            Err(error) => tracing::warn!(%error, "the changed certificate isn't used; the one before goes on"),
        }
    }

    fn version(&self) -> Version {
        [&self.certificate, &self.key].map(|path| fs::metadata(path).and_then(|file| file.modified()).ok())
    }

    pub(super) fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn read(certificate: &PathBuf, key: &PathBuf, provider: &CryptoProvider) -> Result<CertifiedKey, CertificateError> {
    let unreadable = |setting, path: &PathBuf| {
        let path = path.clone();
        move |error| CertificateError::File { setting, path, reason: explain(error) }
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(unreadable("gateway.tls_certificate", certificate))?;
    if chain.is_empty() {
        return Err(unreadable("gateway.tls_certificate", certificate)(pem::Error::NoItemsFound));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(unreadable("gateway.tls_key", key))?;
    CertifiedKey::from_der(chain, private, provider).map_err(|reason| CertificateError::Pair {
        certificate: certificate.clone(),
        key: key.clone(),
        reason,
    })
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
