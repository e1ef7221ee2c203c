//! Gossip: one topic of a network carries records, each an envelope as [`crate::record`] describes it; another
//! says who holds which blobs; a third carries alerts in the form of [`crate::alert::Alert`].

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{WireError, at_most};
use crate::{BlobHash, NetworkId, NodeId, Timestamp, cbor};

/// The version of [`Haves`].
pub const HAVES_VERSION: u8 = 1;
/// Longest gossip message, in bytes.
pub const MAX_GOSSIP_BYTES: usize = 64 * 1024;
/// Most blobs in one message, complete and partial together.
pub const MAX_HAVES: usize = 1024;

const RECORDS_PREFIX: &str = "/mhc/records/1/";
const HAVES_PREFIX: &str = "/mhc/haves/1/";
const ALERTS_PREFIX: &str = "/mhc/alerts/1/";

/// What is gossiped where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// The records of a network.
    Records(NetworkId),
    /// What the nodes of a network hold.
    Haves(NetworkId),
    /// A network's alerts.
    Alerts(NetworkId),
}

impl Topic {
    /// The topic with this name, if it is one.
    pub fn parse(name: &str) -> Option<Self> {
        let id = |prefix| name.strip_prefix(prefix)?.parse().ok();
        let records = id(RECORDS_PREFIX).map(Self::Records);
        let topic = records.or_else(|| id(HAVES_PREFIX).map(Self::Haves));
        let topic = topic.or_else(|| id(ALERTS_PREFIX).map(Self::Alerts))?;
        // One name for each.
        (topic.to_string() == name).then_some(topic)
    }

    /// The network it belongs to.
    pub const fn network(self) -> NetworkId {
        match self {
            Self::Records(network) | Self::Haves(network) | Self::Alerts(network) => network,
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Records(network) => write!(f, "{RECORDS_PREFIX}{network}"),
            Self::Haves(network) => write!(f, "{HAVES_PREFIX}{network}"),
            Self::Alerts(network) => write!(f, "{ALERTS_PREFIX}{network}"),
        }
    }
}

/// The name of the topic that carries the records of `network`.
pub fn records_topic(network: NetworkId) -> String {
    Topic::Records(network).to_string()
}

/// The name of the topic on which the nodes of `network` say what they hold.
pub fn haves_topic(network: NetworkId) -> String {
    Topic::Haves(network).to_string()
}

/// Blobs a node holds. Each message adds to what the node said before; what isn't repeated expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Haves {
    /// Who says so: the signer of the gossip message, or it is refused.
    pub node: NodeId,
    /// When, by the node's clock; an older message than the last is a replay.
    pub at: Timestamp,
    /// Blobs it holds completely.
    pub complete: Vec<BlobHash>,
    /// Blobs it holds verified parts of.
    pub partial: Vec<BlobHash>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u8,
    node: NodeId,
    at: Timestamp,
    complete: Vec<BlobHash>,
    partial: Vec<BlobHash>,
}

impl Haves {
    /// The bytes that travel.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        self.check()?;
        let Self { node, at, complete, partial } = self.clone();
        Ok(cbor::encode(&Wire { v: HAVES_VERSION, node, at, complete, partial })?)
    }

    /// Reads what a peer sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let Wire { v, node, at, complete, partial } = cbor::decode(bytes, MAX_GOSSIP_BYTES)?;
        if v != HAVES_VERSION {
            return Err(WireError::Version(v));
        }
        let haves = Self { node, at, complete, partial };
        haves.check()?;
        Ok(haves)
    }

    fn check(&self) -> Result<(), WireError> {
        at_most("blobs", self.complete.len() + self.partial.len(), MAX_HAVES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;

    fn haves(complete: usize, partial: usize) -> Haves {
        let hashes = |n: usize| (0..n).map(|i| BlobHash::of(&i.to_le_bytes())).collect();
        Haves {
            node: SecretKey::from_seed(&[1; 32]).node(),
            at: Timestamp::from_millis(1_795_000_000_000),
            complete: hashes(complete),
            partial: hashes(partial),
        }
    }

    #[test]
    fn as_many_as_allowed_fit_into_a_message() {
        for (complete, partial) in [(0, 0), (1, 0), (0, 1), (MAX_HAVES, 0), (MAX_HAVES / 2, MAX_HAVES / 2)] {
            let bytes = haves(complete, partial).encode().unwrap();
            assert!(bytes.len() <= MAX_GOSSIP_BYTES);
            assert_eq!(Haves::decode(&bytes), Ok(haves(complete, partial)));
        }
    }

    #[test]
    fn topics_have_one_name_each() {
        let network = SecretKey::from_seed(&[1; 32]).network();
        assert_eq!(Topic::parse(&records_topic(network)), Some(Topic::Records(network)));
        assert_eq!(Topic::parse(&haves_topic(network)), Some(Topic::Haves(network)));
        let alerts = Topic::Alerts(network);
        assert_eq!(Topic::parse(&alerts.to_string()), Some(alerts));
        let upper = format!("{HAVES_PREFIX}{}", network.to_string().to_uppercase());
        let cut = records_topic(network)[..78].to_owned();
        let longer = format!("{}0", records_topic(network));
        for name in ["", "/mhc/records/1/", "/mhc/records/2/00", "/mhc/other/1/x", &upper, &cut, &longer] {
            assert_eq!(Topic::parse(name), None, "{name}");
        }
    }

    #[test]
    fn hostile_messages_are_refused() {
        assert!(matches!(haves(MAX_HAVES, 1).encode(), Err(WireError::TooMany { .. })));
        let Haves { node, at, complete, partial } = haves(MAX_HAVES, 1);
        let forged = cbor::encode(&Wire { v: 1, node, at, complete, partial }).unwrap();
        assert!(matches!(Haves::decode(&forged), Err(WireError::TooMany { .. })));
        let Haves { node, at, complete, partial } = haves(1, 1);
        let newer = cbor::encode(&Wire { v: 9, node, at, complete, partial }).unwrap();
        assert_eq!(Haves::decode(&newer), Err(WireError::Version(9)));
        let good = haves(2, 1).encode().unwrap();
        for len in 0..good.len() {
            assert!(Haves::decode(&good[..len]).is_err(), "cut at {len}");
        }
        assert!(Haves::decode(&[good, vec![0]].concat()).is_err(), "trailing byte");
    }
}
