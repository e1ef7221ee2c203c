//! Sync: ALPN `/mhc/sync/1` over iroh. Each request has a bidirectional stream of its own: the request, end of
//! stream; the response, end of stream. A server that refuses or is overloaded resets the stream.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{WireError, at_most};
use crate::{
    AuthorId, BlobHash, NetworkId, RecordId, cbor,
    record::{MAX_ENVELOPE_BYTES, MAX_SEQ},
};

/// Longest request, in bytes.
pub const MAX_SYNC_REQUEST_BYTES: usize = 1024;
/// Longest response, in bytes.
pub const MAX_SYNC_RESPONSE_BYTES: usize = 1024 * 1024;
/// Most heads in one response.
pub const MAX_HEADS: usize = 1024;
/// Most records in one response.
pub const MAX_LOG_RECORDS: usize = 256;
/// Most bytes of records in one response; leaves room for framing within [`MAX_SYNC_RESPONSE_BYTES`].
pub const MAX_LOG_BYTES: usize = 768 * 1024;
/// Most ranges in a [`Have::Partial`]; a node with more tells of the first.
pub const MAX_HAVE_RANGES: usize = 4096;

/// What a node may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncRequest {
    /// The heads of the logs of a network, in ascending order of their authors.
    Heads {
        /// The network.
        network: NetworkId,
        /// Only authors after this one.
        after: Option<AuthorId>,
    },
    /// Records of one log, in ascending order of `(epoch, seq)`, evidence of forks included.
    Log {
        /// The network.
        network: NetworkId,
        /// Whose log.
        author: AuthorId,
        /// From this epoch on.
        epoch: u64,
        /// From this sequence number within it on.
        seq: u64,
        /// At most so many records; never more than [`MAX_LOG_RECORDS`].
        max: u32,
    },
    /// What the node holds of a blob.
    Have {
        /// The blob.
        hash: BlobHash,
    },
}

/// What it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncResponse {
    /// To [`SyncRequest::Heads`].
    Heads {
        /// In strictly ascending order of authors.
        entries: Vec<Head>,
        /// Whether there are more after the last.
        more: bool,
    },
    /// To [`SyncRequest::Log`].
    Log {
        /// Records as they travel, unverified.
        envelopes: Vec<Vec<u8>>,
        /// Whether there are more after the last.
        more: bool,
    },
    /// To [`SyncRequest::Have`].
    Have(Have),
}

/// The last record of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Whose log.
    pub author: AuthorId,
    /// Its epoch.
    pub epoch: u64,
    /// The last record's position in the epoch.
    pub seq: u64,
    /// The last record.
    pub id: RecordId,
}

/// What a node holds of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Have {
    /// Nothing.
    Absent,
    /// Everything.
    Complete {
        /// The blob's size in bytes.
        size_bytes: u64,
    },
    /// Some of it.
    Partial {
        /// The blob's size in bytes, as far as the node knows it.
        size_bytes: u64,
        /// What it holds, in chunks of 1024 bytes: ascending, apart, none empty.
        chunks: Vec<Range<u64>>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum RequestWire {
    Heads { network: NetworkId, after: Option<AuthorId> },
    Log { network: NetworkId, author: AuthorId, epoch: u64, seq: u64, max: u32 },
    Have { hash: BlobHash },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum ResponseWire {
    Heads { entries: Vec<(AuthorId, u64, u64, RecordId)>, more: bool },
    Log { envelopes: Vec<ByteBuf>, more: bool },
    Absent {},
    Complete { size: u64 },
    Partial { size: u64, chunks: Vec<(u64, u64)> },
}

impl SyncRequest {
    /// The bytes that travel.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        self.check()?;
        Ok(cbor::encode(&match self.clone() {
            Self::Heads { network, after } => RequestWire::Heads { network, after },
            Self::Log { network, author, epoch, seq, max } => RequestWire::Log { network, author, epoch, seq, max },
            Self::Have { hash } => RequestWire::Have { hash },
        })?)
    }

    /// Reads what a peer sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let request = match cbor::decode(bytes, MAX_SYNC_REQUEST_BYTES)? {
            RequestWire::Heads { network, after } => Self::Heads { network, after },
            RequestWire::Log { network, author, epoch, seq, max } => Self::Log { network, author, epoch, seq, max },
            RequestWire::Have { hash } => Self::Have { hash },
        };
        request.check()?;
        Ok(request)
    }

    fn check(&self) -> Result<(), WireError> {
        match *self {
            Self::Log { epoch, seq, .. } if epoch > MAX_SEQ || seq > MAX_SEQ => Err(WireError::Invalid("seq")),
            Self::Log { max, .. } if max == 0 || max as usize > MAX_LOG_RECORDS => Err(WireError::Invalid("max")),
            _ => Ok(()),
        }
    }
}

impl SyncResponse {
    /// The bytes that travel.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        self.check()?;
        Ok(cbor::encode(&match self.clone() {
            Self::Heads { entries, more } => ResponseWire::Heads {
                entries: entries.into_iter().map(|head| (head.author, head.epoch, head.seq, head.id)).collect(),
                more,
            },
            Self::Log { envelopes, more } => {
                ResponseWire::Log { envelopes: envelopes.into_iter().map(ByteBuf::from).collect(), more }
            }
            Self::Have(Have::Absent) => ResponseWire::Absent {},
            Self::Have(Have::Complete { size_bytes }) => ResponseWire::Complete { size: size_bytes },
            Self::Have(Have::Partial { size_bytes, chunks }) => ResponseWire::Partial {
                size: size_bytes,
                chunks: chunks.into_iter().map(|range| (range.start, range.end)).collect(),
            },
        })?)
    }

    /// Reads what a peer sent. Envelopes aren't verified.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let response = match cbor::decode(bytes, MAX_SYNC_RESPONSE_BYTES)? {
            ResponseWire::Heads { entries, more } => Self::Heads {
                entries: entries.into_iter().map(|(author, epoch, seq, id)| Head { author, epoch, seq, id }).collect(),
                more,
            },
            ResponseWire::Log { envelopes, more } => {
                Self::Log { envelopes: envelopes.into_iter().map(ByteBuf::into_vec).collect(), more }
            }
            ResponseWire::Absent {} => Self::Have(Have::Absent),
            ResponseWire::Complete { size } => Self::Have(Have::Complete { size_bytes: size }),
            ResponseWire::Partial { size, chunks } => Self::Have(Have::Partial {
                size_bytes: size,
                chunks: chunks.into_iter().map(|(start, end)| start..end).collect(),
            }),
        };
        response.check()?;
        Ok(response)
    }

    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Heads { entries, more } => check_heads(entries, *more),
            Self::Log { envelopes, more } => check_log(envelopes, *more),
            Self::Have(Have::Partial { chunks, .. }) => check_chunks(chunks),
            Self::Have(_) => Ok(()),
        }
    }
}

fn check_heads(entries: &[Head], more: bool) -> Result<(), WireError> {
    at_most("heads", entries.len(), MAX_HEADS)?;
    let in_order = entries.windows(2).all(|pair| pair[0].author < pair[1].author);
    let bounded = entries.iter().all(|head| head.epoch <= MAX_SEQ && head.seq <= MAX_SEQ);
    // "more" after nothing would have the reader ask the same for ever.
    match in_order && bounded && !(more && entries.is_empty()) {
        true => Ok(()),
        false => Err(WireError::Invalid("heads")),
    }
}

fn check_log(envelopes: &[Vec<u8>], more: bool) -> Result<(), WireError> {
    at_most("records", envelopes.len(), MAX_LOG_RECORDS)?;
    match envelopes.iter().any(|envelope| envelope.len() > MAX_ENVELOPE_BYTES) || (more && envelopes.is_empty()) {
        true => Err(WireError::Invalid("log")),
        false => Ok(()),
    }
}

fn check_chunks(chunks: &[Range<u64>]) -> Result<(), WireError> {
    at_most("ranges", chunks.len(), MAX_HAVE_RANGES)?;
    let apart = chunks.windows(2).all(|pair| pair[0].end < pair[1].start);
    match apart && chunks.iter().all(|range| range.start < range.end) {
        true => Ok(()),
        false => Err(WireError::Invalid("ranges")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;

    fn author(n: u8) -> AuthorId {
        AuthorId::from_bytes([n; 32])
    }

    fn network() -> NetworkId {
        SecretKey::from_seed(&[1; 32]).network()
    }

    fn head(n: u8, seq: u64) -> Head {
        Head { author: author(n), epoch: 0, seq, id: RecordId::from_bytes([n; 32]) }
    }

    #[test]
    fn requests_round_trip_within_bounds() {
        let log = |seq, max| SyncRequest::Log { network: network(), author: author(1), epoch: 0, seq, max };
        let cases = [
            (SyncRequest::Heads { network: network(), after: None }, true),
            (SyncRequest::Heads { network: network(), after: Some(author(3)) }, true),
            (log(0, 1), true),
            (log(MAX_SEQ, 256), true),
            (log(0, 0), false),
            (log(0, 257), false),
            (log(MAX_SEQ + 1, 1), false),
            (SyncRequest::Have { hash: BlobHash::of(b"x") }, true),
        ];
        for (request, good) in cases {
            match request.encode() {
                Ok(bytes) => {
                    assert!(good && bytes.len() <= MAX_SYNC_REQUEST_BYTES, "{request:?}");
                    assert_eq!(SyncRequest::decode(&bytes), Ok(request));
                }
                Err(error) => assert!(!good, "{request:?}: {error}"),
            }
        }
    }

    #[test]
    fn responses_round_trip_within_bounds() {
        let full: Vec<_> = (0..MAX_LOG_RECORDS).map(|_| vec![7; MAX_LOG_BYTES / MAX_LOG_RECORDS]).collect();
        let partial = |chunks: Vec<Range<u64>>| SyncResponse::Have(Have::Partial { size_bytes: 1 << 40, chunks });
        let cases = [
            (SyncResponse::Heads { entries: vec![], more: false }, true),
            (SyncResponse::Heads { entries: vec![head(1, 0), head(2, 5)], more: true }, true),
            (SyncResponse::Heads { entries: vec![], more: true }, false),
            (SyncResponse::Heads { entries: vec![head(2, 0), head(1, 5)], more: false }, false),
            (SyncResponse::Heads { entries: vec![head(1, 0), head(1, 5)], more: false }, false),
            (SyncResponse::Heads { entries: vec![head(1, MAX_SEQ + 1)], more: false }, false),
            (SyncResponse::Log { envelopes: full, more: true }, true),
            (SyncResponse::Log { envelopes: vec![vec![]; MAX_LOG_RECORDS + 1], more: false }, false),
            (SyncResponse::Log { envelopes: vec![vec![0; MAX_ENVELOPE_BYTES + 1]], more: false }, false),
            (SyncResponse::Log { envelopes: vec![], more: true }, false),
            (SyncResponse::Have(Have::Absent), true),
            (SyncResponse::Have(Have::Complete { size_bytes: u64::MAX }), true),
            (partial(vec![]), true),
            (partial(vec![0..16, 32..u64::MAX]), true),
            (partial(vec![0..16, 16..32]), false),
            (partial(vec![0..16, 8..32]), false),
            (partial(vec![Range { start: 5, end: 5 }]), false),
            (partial(vec![Range { start: 9, end: 5 }]), false),
            (partial((0..MAX_HAVE_RANGES as u64).map(|i| i * 4..i * 4 + 1).collect()), true),
            (partial((0..=MAX_HAVE_RANGES as u64).map(|i| i * 4..i * 4 + 1).collect()), false),
        ];
        for (response, good) in cases {
            match response.encode() {
                Ok(bytes) => {
                    assert!(good && bytes.len() <= MAX_SYNC_RESPONSE_BYTES);
                    assert_eq!(SyncResponse::decode(&bytes), Ok(response));
                }
                Err(error) => assert!(!good, "{error}"),
            }
        }
    }

    #[test]
    fn hostile_bytes_are_refused() {
        let forged = [
            cbor::encode(&ResponseWire::Heads { entries: vec![], more: true }).unwrap(),
            cbor::encode(&ResponseWire::Partial { size: 1, chunks: vec![(5, 1)] }).unwrap(),
            // A list that claims 2^60 entries, one nested without end, and one over the limit.
            [&[0xa1, 0x65][..], b"heads", &[0x9b, 0x10, 0, 0, 0, 0, 0, 0, 0]].concat(),
            vec![0x81; MAX_SYNC_RESPONSE_BYTES],
            vec![0; MAX_SYNC_RESPONSE_BYTES + 1],
            vec![],
        ];
        for (n, bytes) in forged.iter().enumerate() {
            assert!(SyncResponse::decode(bytes).is_err(), "response {n}");
            assert!(SyncRequest::decode(bytes).is_err(), "request {n}");
        }
        let good = SyncRequest::Heads { network: network(), after: None }.encode().unwrap();
        for len in 0..good.len() {
            assert!(SyncRequest::decode(&good[..len]).is_err(), "cut at {len}");
        }
    }
}
