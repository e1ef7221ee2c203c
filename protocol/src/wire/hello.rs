//! The greeting: libp2p request-response protocol `/mhc/hello/1`; request and response are the same message.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{WireError, at_most, plain_text};
use crate::{NetworkId, cbor, ticket::addr_texts};

/// The version of the greeting.
pub const HELLO_VERSION: u8 = 1;
/// Longest greeting, in bytes.
pub const MAX_HELLO_BYTES: usize = 8 * 1024;
/// Most addresses of one kind in a greeting.
pub const MAX_HELLO_ADDRS: usize = 32;
/// Longest name of a node, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// Longest version text, in bytes.
pub const MAX_VERSION_BYTES: usize = 32;

/// Who a node is and where it can be reached. The sender's id is the connection's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The network it serves.
    pub network: NetworkId,
    /// Where its iroh endpoint listens (UDP).
    pub iroh: Vec<SocketAddr>,
    /// Where its libp2p listens (QUIC and TCP on the same port).
    pub p2p: Vec<SocketAddr>,
    /// What it calls itself. Text from a stranger.
    pub name: String,
    /// The version of its program. Text from a stranger.
    pub version: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u8,
    network: NetworkId,
    #[serde(with = "addr_texts")]
    iroh: Vec<SocketAddr>,
    #[serde(with = "addr_texts")]
    p2p: Vec<SocketAddr>,
    name: String,
    version: String,
}

impl Hello {
    /// The bytes that travel.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        self.check()?;
        let Self { network, iroh, p2p, name, version } = self.clone();
        Ok(cbor::encode(&Wire { v: HELLO_VERSION, network, iroh, p2p, name, version })?)
    }

    /// Reads what a peer sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let Wire { v, network, iroh, p2p, name, version } = cbor::decode(bytes, MAX_HELLO_BYTES)?;
        if v != HELLO_VERSION {
            return Err(WireError::Version(v));
        }
        let hello = Self { network, iroh, p2p, name, version };
        hello.check()?;
        Ok(hello)
    }

    fn check(&self) -> Result<(), WireError> {
        at_most("iroh addresses", self.iroh.len(), MAX_HELLO_ADDRS)?;
        at_most("p2p addresses", self.p2p.len(), MAX_HELLO_ADDRS)?;
        plain_text("name", &self.name, MAX_NAME_BYTES)?;
        plain_text("version", &self.version, MAX_VERSION_BYTES)?;
        match self.iroh.iter().chain(&self.p2p).any(|addr| addr.port() == 0 || addr.ip().is_unspecified()) {
            true => Err(WireError::Invalid("address")),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;

    fn hello() -> Hello {
        Hello {
            network: SecretKey::from_seed(&[1; 32]).network(),
            iroh: vec!["127.0.0.1:4481".parse().unwrap(), "[::1]:4481".parse().unwrap()],
            p2p: vec!["127.0.0.1:4480".parse().unwrap()],
            name: "Beatrice's laptop".into(),
            version: "0.1.0".into(),
        }
    }

    #[test]
    fn round_trips() {
        assert_eq!(Hello::decode(&hello().encode().unwrap()), Ok(hello()));
    }

    type Case = (&'static str, fn(&mut Hello), WireError);

    #[test]
    fn out_of_bounds_is_refused_by_sender_and_reader() {
        let many = |what| WireError::TooMany { what, count: 33, limit: 32 };
        let cases: [Case; 7] = [
            ("addresses", |h| h.iroh = vec!["127.0.0.1:1".parse().unwrap(); 33], many("iroh addresses")),
            ("addresses", |h| h.p2p = vec!["127.0.0.1:1".parse().unwrap(); 33], many("p2p addresses")),
            ("port 0", |h| h.p2p = vec!["127.0.0.1:0".parse().unwrap()], WireError::Invalid("address")),
            ("unspecified", |h| h.iroh = vec!["[::]:4481".parse().unwrap()], WireError::Invalid("address")),
            ("long name", |h| h.name = "n".repeat(65), WireError::Invalid("name")),
            ("escape code", |h| h.name = "\u{1b}[2J".into(), WireError::Invalid("name")),
            ("long version", |h| h.version = "1".repeat(33), WireError::Invalid("version")),
        ];
        for (name, change, error) in cases {
            let mut bad = hello();
            change(&mut bad);
            assert_eq!(bad.encode(), Err(error.clone()), "{name}");
            let Hello { network, iroh, p2p, name: called, version } = bad;
            let forged = cbor::encode(&Wire { v: 1, network, iroh, p2p, name: called, version }).unwrap();
            assert_eq!(Hello::decode(&forged), Err(error), "{name}");
        }
    }

    #[test]
    fn another_version_is_told_from_junk() {
        let Hello { network, iroh, p2p, name, version } = hello();
        let newer = cbor::encode(&Wire { v: 2, network, iroh, p2p, name, version }).unwrap();
        assert_eq!(Hello::decode(&newer), Err(WireError::Version(2)));
        assert!(!WireError::Version(2).is_misbehaviour());
        for junk in [vec![], vec![0xff; 16], vec![0x81; MAX_HELLO_BYTES + 1], vec![0x81; 4096]] {
            assert!(Hello::decode(&junk).unwrap_err().is_misbehaviour());
        }
        let good = hello().encode().unwrap();
        for len in 0..good.len() {
            assert!(Hello::decode(&good[..len]).is_err(), "cut at {len}");
        }
    }
}
