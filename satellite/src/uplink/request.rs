//! The request of an exchange.

use mhc_protocol::{
    NodeId, SecretKey, Signature, Timestamp,
    bundle::{BundleError, WantList},
    cbor::{self, CborError},
};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};

/// Longest request: the heads of some 50,000 logs. A gateway holds several in memory.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;
/// How far the clocks of both sides may be apart, and how long a request may be on its way.
const MAX_AGE_MS: u64 = 3_600_000;
const VERSION: u8 = 1;
const SIGN_CONTEXT: &str = "mhc 2026 exchange request v1";

/// What a node asks a gateway for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeRequest {
    /// Who asks.
    pub node: NodeId,
    /// When, by the asker's clock.
    pub at: Timestamp,
    /// Most bytes of the answer.
    pub budget_bytes: u64,
    /// The ends of its logs, and of which blobs it wants what.
    pub wants: WantList,
}

/// Why bytes aren't a request that is answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// Not the deterministic encoding, or too large.
    #[error("{0}")]
    Cbor(#[from] CborError),
    /// The want-list in it.
    #[error("{0}")]
    Wants(#[from] BundleError),
    /// Made by a newer program.
    #[error("version {0} is unknown")]
    Version(u8),
    /// Not signed by the node that it names.
    #[error("the signature doesn't match")]
    Signature,
    /// Made long ago, or in the future.
    #[error("made over an hour ago or in the future; compare the clocks")]
    Age,
}

/// The map's bytes and the signature.
#[derive(Serialize, Deserialize)]
struct Envelope(ByteBuf, ByteArray<64>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u8,
    node: NodeId,
    at: Timestamp,
    budget: u64,
    wants: ByteBuf,
}

impl ExchangeRequest {
    /// The request's bytes, signed by the node that `key` is.
    pub fn seal(&self, key: &SecretKey) -> Result<Vec<u8>, ExchangeError> {
        let wants = ByteBuf::from(self.wants.encode()?);
        let wire = Wire { v: VERSION, node: key.node(), at: self.at, budget: self.budget_bytes, wants };
        let map = cbor::encode(&wire)?;
        let signature = key.sign(&blake3::derive_key(SIGN_CONTEXT, &map));
        let request = cbor::encode(&Envelope(ByteBuf::from(map), ByteArray::new(signature.0)))?;
        match request.len() > MAX_REQUEST_BYTES {
            true => Err(CborError::TooLarge { len: request.len(), limit: MAX_REQUEST_BYTES }.into()),
            false => Ok(request),
        }
    }

    /// Reads and checks a request that arrives at `now`.
    pub fn open(bytes: &[u8], now: Timestamp) -> Result<Self, ExchangeError> {
        let Envelope(map, signature) = cbor::decode(bytes, MAX_REQUEST_BYTES)?;
        let wire: Wire = cbor::decode(&map, MAX_REQUEST_BYTES)?;
        if wire.v != VERSION {
            return Err(ExchangeError::Version(wire.v));
        }
        let signed = blake3::derive_key(SIGN_CONTEXT, &map);
        if !Signature(signature.into_array()).verifies(&wire.node.into(), &signed) {
            return Err(ExchangeError::Signature);
        }
        if wire.at.as_millis().abs_diff(now.as_millis()) > MAX_AGE_MS {
            return Err(ExchangeError::Age);
        }
        let wants = WantList::decode(&wire.wants)?;
        Ok(Self { node: wire.node, at: wire.at, budget_bytes: wire.budget, wants })
    }
}

#[cfg(test)]
mod tests {
    use mhc_protocol::{
        BlobHash, NetworkId,
        bundle::{DAY_MS, Lack},
    };

    use super::*;

    fn request(key: &SecretKey) -> ExchangeRequest {
        let lacks = vec![Lack { hash: BlobHash::of(b"film"), groups: vec![0..3, 5..6] }];
        let (network, made) = (NetworkId::from_bytes([9; 32]), Timestamp(20_000 * DAY_MS));
        let wants = WantList { network, made, mark: [1; 32], heads: vec![], lacks };
        ExchangeRequest { node: key.node(), at: Timestamp(20_000 * DAY_MS), budget_bytes: 5_000, wants }
    }

    #[test]
    fn requests_round_trip_and_every_flipped_bit_is_noticed() {
        let key = SecretKey::from_seed(&[1; 32]);
        let (request, now) = (request(&key), Timestamp(20_000 * DAY_MS + 5));
        let good = request.seal(&key).unwrap();
        assert_eq!(ExchangeRequest::open(&good, now), Ok(request));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(ExchangeRequest::open(&bad, now).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(ExchangeRequest::open(&good[..len], now).is_err(), "cut at {len}");
        }
        for at in [0, now.as_millis() + 2 * MAX_AGE_MS, now.as_millis() - 2 * MAX_AGE_MS] {
            assert_eq!(ExchangeRequest::open(&good, Timestamp(at)), Err(ExchangeError::Age));
        }
    }

    #[test]
    fn versions_that_are_not_known_and_foreign_signatures_are_refused() {
        let (key, other) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
        let request = request(&key);
        let forge = |v: u8, by: &SecretKey| {
            let wants = ByteBuf::from(request.wants.encode().unwrap());
            let map = cbor::encode(&Wire { v, node: key.node(), at: request.at, budget: 1, wants }).unwrap();
            let signature = by.sign(&blake3::derive_key(SIGN_CONTEXT, &map));
            cbor::encode(&Envelope(ByteBuf::from(map), ByteArray::new(signature.0))).unwrap()
        };
        assert!(ExchangeRequest::open(&forge(1, &key), request.at).is_ok());
        assert_eq!(ExchangeRequest::open(&forge(2, &key), request.at), Err(ExchangeError::Version(2)));
        assert_eq!(ExchangeRequest::open(&forge(1, &other), request.at), Err(ExchangeError::Signature));
    }
}
