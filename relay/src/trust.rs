//! How a node tells that a relay is the one it was told of: by the node's key, or by a certificate authority.

use std::{
    collections::{BTreeSet, HashMap},
    fmt, io,
    sync::{Arc, PoisonError, RwLock},
};

use iroh_relay::tls::CaTlsConfig;
use mhc_protocol::{NodeId, relay::Relay};
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

/// The SubjectPublicKeyInfo of an Ed25519 key (RFC 8410), up to the key.
const SPKI_OF_KEY: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Which nodes are believed at which hosts. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Pins(Arc<RwLock<HashMap<String, BTreeSet<NodeId>>>>);

impl Pins {
    /// Believes the nodes of these relays, each at its relay's host, and no others.
    pub fn set<'a>(&self, relays: impl IntoIterator<Item = &'a Relay>) {
        let mut pins: HashMap<_, BTreeSet<_>> = HashMap::new();
        for relay in relays {
            pins.entry(relay.url.host()).or_default().insert(relay.node);
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = pins;
    }

    fn believes(&self, host: &str, certificate: &CertificateDer<'_>) -> bool {
        let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return false };
        let info = parsed.subject_public_key_info();
        let key = info.as_ref().strip_prefix(&SPKI_OF_KEY).and_then(|key| key.try_into().ok());
        let Some(node) = key.map(NodeId::from_bytes) else { return false };
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(host).is_some_and(|nodes| nodes.contains(&node))
    }

    /// The setting of an endpoint that checks relays: a certificate by the key of a node that is believed there, or one
    /// by a public authority.
    pub fn tls(&self) -> CaTlsConfig {
        let pins = self.clone();
        CaTlsConfig::custom_server_cert_verifier(Arc::new(move |provider| {
            let verifier: Arc<dyn ServerCertVerifier> = Arc::new(Verifier::new(pins.clone(), provider)?);
            Ok(verifier)
        }))
    }
}

struct Verifier {
    pins: Pins,
    authorities: Arc<dyn ServerCertVerifier>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("pins", &self.pins).finish_non_exhaustive()
    }
}

impl Verifier {
    fn new(pins: Pins, provider: Arc<CryptoProvider>) -> io::Result<Self> {
        Ok(Self { pins, authorities: CaTlsConfig::embedded().server_cert_verifier(provider)? })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // That the server has the certificate's key is checked by its signature, below, in either case.
        match self.pins.believes(&name.to_str(), certificate) {
            true => Ok(ServerCertVerified::assertion()),
            false => self.authorities.verify_server_cert(certificate, intermediates, name, ocsp, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use mhc_protocol::SecretKey;
    use rustls::{ClientConnection, ServerConnection};

    use super::*;
    use crate::certificate;

    /// Lets a client and a server talk in memory until both are done or one refuses.
    fn handshake(pins: &Pins, name: &str, key: &SecretKey) -> Result<(), Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = pins.tls().client_config(provider).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name)?;
        let mut server = ServerConnection::new(Arc::new(certificate::of_node(key).unwrap()))?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = vec![];
            client.write_tls(&mut wire.by_ref()).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = vec![];
            while server.wants_write() {
                server.write_tls(&mut wire.by_ref()).unwrap();
            }
            let mut wire = wire.as_slice();
            while !wire.is_empty() {
                client.read_tls(&mut wire).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_relay_is_known_by_its_nodes_key_at_its_host_only() {
        let [key, other] = [1, 2].map(|seed| SecretKey::from_seed(&[seed; 32]));
        let relay = |url: &str| Relay { node: key.node(), url: url.parse().unwrap() };
        let (name, v4, v6) = ("relay.example.org", "203.0.113.1", "2001:db8::1");
        let relays = ["https://relay.example.org", "http://203.0.113.1:4443", "http://[2001:db8::1]:4443"].map(relay);
        let pins = Pins::default();
        assert!(handshake(&pins, name, &key).is_err(), "nobody is believed unasked");
        pins.set(&relays);
        for host in [name, v4, v6] {
            assert_eq!(handshake(&pins, host, &key), Ok(()), "{host}");
            assert!(handshake(&pins, host, &other).is_err(), "another node at {host}");
        }
        assert!(handshake(&pins, "elsewhere.example.org", &key).is_err());
        pins.set(&relays[1..]);
        assert!(handshake(&pins, name, &key).is_err(), "no longer");
    }
}
