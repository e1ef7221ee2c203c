//! The greeting: libp2p request-response protocol `/mhc/hello/3`; request and response are the same message. Nodes that
//! only know `/mhc/hello/2` aren't told of relays; those that only know `/mhc/hello/1` follow one network each. Both are
//! greeted in their form.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{WireError, at_most, plain_text};
use crate::{
    NetworkId, cbor,
    relay::{MAX_RELAYS, Relay},
    ticket::addr_texts,
};

/// The version of the greeting.
pub const HELLO_VERSION: u8 = 3;
/// The version before, without relays.
const SECOND_VERSION: u8 = 2;
/// The one before that, which names one network.
const FIRST_VERSION: u8 = 1;
/// Longest greeting, in bytes.
pub const MAX_HELLO_BYTES: usize = 8 * 1024;
/// Most addresses of one kind in a greeting.
pub const MAX_HELLO_ADDRS: usize = 32;
/// Longest name of a node, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// Longest version text, in bytes.
pub const MAX_VERSION_BYTES: usize = 32;
/// Most networks that a node follows.
pub const MAX_NETWORKS: usize = 16;

/// A network that a node follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Follows {
    /// The network.
    pub network: NetworkId,
    /// Whether all of it. Others needn't look for much in a node that keeps little.
    pub whole: bool,
}

/// Who a node is and where it can be reached. The sender's id is the connection's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The networks it follows, ascending; at least one.
    pub networks: Vec<Follows>,
    /// A number that the node drew when it started; none from nodes of the first version.
    pub run: Option<u64>,
    /// Where its iroh endpoint listens (UDP).
    pub iroh: Vec<SocketAddr>,
    /// Where its libp2p listens (QUIC and TCP on the same port).
    pub p2p: Vec<SocketAddr>,
    /// Relays through which its iroh endpoint can be reached.
    pub relays: Vec<Relay>,
    /// What it calls itself. Text from a stranger.
    pub name: String,
    /// The version of its program. Text from a stranger.
    pub version: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u8,
    networks: Vec<(NetworkId, bool)>,
    run: u64,
    #[serde(with = "addr_texts")]
    iroh: Vec<SocketAddr>,
    #[serde(with = "addr_texts")]
    p2p: Vec<SocketAddr>,
    /// Since version 3.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    relays: Vec<Relay>,
    name: String,
    version: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FirstWire {
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
    /// The bytes that travel: of the latest version where there is a `run`, else of version 1.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let Some(run) = self.run else { return self.encode_first(self.first()?) };
        self.check()?;
        Ok(cbor::encode(&self.clone().wire(HELLO_VERSION, run))?)
    }

    /// The bytes for a peer that only knows version 2, which isn't told of relays.
    pub fn encode_second(&self) -> Result<Vec<u8>, WireError> {
        let run = self.run.ok_or(WireError::Invalid("run"))?;
        self.check()?;
        Ok(cbor::encode(&Self { relays: vec![], ..self.clone() }.wire(SECOND_VERSION, run))?)
    }

    /// The bytes for a peer that only knows version 1, which is told of one network.
    pub fn encode_first(&self, network: NetworkId) -> Result<Vec<u8>, WireError> {
        self.check()?;
        let Self { iroh, p2p, name, version, .. } = self.clone();
        Ok(cbor::encode(&FirstWire { v: FIRST_VERSION, network, iroh, p2p, name, version })?)
    }

    fn wire(self, v: u8, run: u64) -> Wire {
        let Self { networks, iroh, p2p, relays, name, version, .. } = self;
        let networks = networks.into_iter().map(|follows| (follows.network, follows.whole)).collect();
        Wire { v, networks, run, iroh, p2p, relays, name, version }
    }

    /// Reads what a peer sent, in any version.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let hello = match cbor::decode::<Wire>(bytes, MAX_HELLO_BYTES) {
            Ok(Wire { v: SECOND_VERSION, relays, .. }) if !relays.is_empty() => {
                return Err(WireError::Invalid("relays"));
            }
            Ok(Wire { v: SECOND_VERSION | HELLO_VERSION, networks, run, iroh, p2p, relays, name, version }) => {
                let networks = networks.into_iter().map(|(network, whole)| Follows { network, whole }).collect();
                Self { networks, run: Some(run), iroh, p2p, relays, name, version }
            }
            Ok(Wire { v, .. }) => return Err(WireError::Version(v)),
            Err(_) => match cbor::decode(bytes, MAX_HELLO_BYTES)? {
                FirstWire { v: FIRST_VERSION, network, iroh, p2p, name, version } => {
                    let networks = vec![Follows { network, whole: true }];
                    Self { networks, run: None, iroh, p2p, relays: vec![], name, version }
                }
                FirstWire { v, .. } => return Err(WireError::Version(v)),
            },
        };
        hello.check()?;
        Ok(hello)
    }

    /// The network that a greeting of the first version names.
    fn first(&self) -> Result<NetworkId, WireError> {
        match self.networks.as_slice() {
            [Follows { network, whole: true }] => Ok(*network),
            _ => Err(WireError::Invalid("networks")),
        }
    }

    fn check(&self) -> Result<(), WireError> {
        at_most("networks", self.networks.len(), MAX_NETWORKS)?;
        if self.networks.is_empty() || !self.networks.is_sorted_by(|a, b| a.network < b.network) {
            return Err(WireError::Invalid("networks"));
        }
        at_most("iroh addresses", self.iroh.len(), MAX_HELLO_ADDRS)?;
        at_most("p2p addresses", self.p2p.len(), MAX_HELLO_ADDRS)?;
        at_most("relays", self.relays.len(), MAX_RELAYS)?;
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

    fn network(seed: u8) -> NetworkId {
        SecretKey::from_seed(&[seed; 32]).network()
    }

    fn follows(count: u8) -> Vec<Follows> {
        let mut follows: Vec<_> = (0..count).map(|n| Follows { network: network(n), whole: n % 2 == 0 }).collect();
        follows.sort();
        follows
    }

    fn hello() -> Hello {
        Hello {
            networks: follows(2),
            run: Some(7),
            iroh: vec!["127.0.0.1:4481".parse().unwrap(), "[::1]:4481".parse().unwrap()],
            p2p: vec!["127.0.0.1:4480".parse().unwrap()],
            relays: vec![relay()],
            name: "Beatrice's laptop".into(),
            version: "0.1.0".into(),
        }
    }

    fn relay() -> Relay {
        Relay { node: SecretKey::from_seed(&[9; 32]).node(), url: "https://relay.example.org".parse().unwrap() }
    }

    fn wire(hello: Hello) -> Wire {
        let run = hello.run.unwrap();
        hello.wire(HELLO_VERSION, run)
    }

    #[test]
    fn round_trips() {
        for count in [1, 2, 16] {
            let hello = Hello { networks: follows(count), ..hello() };
            let bytes = hello.encode().unwrap();
            assert_eq!(Hello::decode(&bytes), Ok(hello));
        }
    }

    #[test]
    fn the_first_version_names_one_network() {
        let bytes = hello().encode_first(network(1)).unwrap();
        let read = Hello::decode(&bytes).unwrap();
        let networks = vec![Follows { network: network(1), whole: true }];
        let expected = Hello { networks, run: None, relays: vec![], ..hello() };
        assert_eq!(read, expected);
        assert_eq!(read.encode(), Ok(bytes), "and is written as it was read");
        assert_eq!(Hello { run: None, ..hello() }.encode(), Err(WireError::Invalid("networks")));
    }

    #[test]
    fn the_second_version_has_no_relays() {
        let bytes = hello().encode_second().unwrap();
        assert_eq!(Hello::decode(&bytes), Ok(Hello { relays: vec![], ..hello() }));
        let forged = cbor::encode(&Wire { v: SECOND_VERSION, ..wire(hello()) }).unwrap();
        assert_eq!(Hello::decode(&forged), Err(WireError::Invalid("relays")));
    }

    type Case = (&'static str, fn(&mut Hello), WireError);

    #[test]
    fn out_of_bounds_is_refused_by_sender_and_reader() {
        let many = |what, limit| WireError::TooMany { what, count: limit + 1, limit };
        let cases: [Case; 12] = [
            ("no network", |h| h.networks.clear(), WireError::Invalid("networks")),
            ("twice", |h| h.networks[1].network = h.networks[0].network, WireError::Invalid("networks")),
            ("out of order", |h| h.networks.reverse(), WireError::Invalid("networks")),
            ("networks", |h| h.networks = follows(17), many("networks", 16)),
            ("addresses", |h| h.iroh = vec!["127.0.0.1:1".parse().unwrap(); 33], many("iroh addresses", 32)),
            ("addresses", |h| h.p2p = vec!["127.0.0.1:1".parse().unwrap(); 33], many("p2p addresses", 32)),
            ("relays", |h| h.relays = vec![relay(); 5], many("relays", 4)),
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
            let forged = cbor::encode(&wire(bad)).unwrap();
            assert_eq!(Hello::decode(&forged), Err(error), "{name}");
        }
    }

    #[test]
    fn another_version_is_told_from_junk() {
        let newer = cbor::encode(&Wire { v: 4, ..wire(hello()) }).unwrap();
        assert_eq!(Hello::decode(&newer), Err(WireError::Version(4)));
        let Hello { iroh, p2p, name, version, .. } = hello();
        let newer = cbor::encode(&FirstWire { v: 9, network: network(1), iroh, p2p, name, version }).unwrap();
        assert_eq!(Hello::decode(&newer), Err(WireError::Version(9)));
        assert!(!WireError::Version(3).is_misbehaviour());
        for junk in [vec![], vec![0xff; 16], vec![0x81; MAX_HELLO_BYTES + 1], vec![0x81; 4096]] {
            assert!(Hello::decode(&junk).unwrap_err().is_misbehaviour());
        }
        let all = [hello().encode(), hello().encode_second(), hello().encode_first(network(1))];
        for good in all.map(Result::unwrap) {
            for len in 0..good.len() {
                assert!(Hello::decode(&good[..len]).is_err(), "cut at {len}");
            }
        }
    }
}
