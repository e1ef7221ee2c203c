//! Sync: ALPN `/mhc/sync/2` over iroh. Each request has a bidirectional stream of its own: the request, end of
//! stream; the response, end of stream. A server that refuses or is overloaded resets the stream. The messages are
//! the same over any other link; a server keeps nothing between them.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    WireError, at_most,
    compare::{Content, Part, PartWire, check_parts},
};
use crate::{
    AuthorId, BlobHash, NetworkId, RecordId, cbor,
    record::{MAX_ENVELOPE_BYTES, MAX_SEQ},
};

/// Longest request, in bytes.
pub const MAX_SYNC_REQUEST_BYTES: usize = 256 * 1024;
/// Longest response, in bytes.
pub const MAX_SYNC_RESPONSE_BYTES: usize = 1024 * 1024;
/// Most parts in a request; a response has at most twice as many.
pub const MAX_PARTS: usize = 8192;
/// Most marks in the lists of a request, together.
pub const MAX_MARKS: usize = 20_480;
/// Most heads in one response.
pub const MAX_HEADS: usize = 2048;
/// A response with fewer heads has them all.
pub const MIN_HEADS_BEFORE_MORE: usize = 256;
/// Most logs wanted in one request.
pub const MAX_WANTS: usize = 2048;
/// Most records in one response.
pub const MAX_LOG_RECORDS: usize = 2048;
/// Most bytes of records in one response; leaves room for framing within [`MAX_SYNC_RESPONSE_BYTES`].
pub const MAX_LOG_BYTES: usize = 768 * 1024;
/// Most records asked for by their ids in one request.
pub const MAX_FOUND: usize = 256;
/// Most ranges in a [`Have::Partial`]; a node with more tells of the first.
pub const MAX_HAVE_RANGES: usize = 4096;

/// What a node may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncRequest {
    /// Where the heads of the asked node differ.
    Compare {
        /// The network.
        network: NetworkId,
        /// Goes into every fingerprint and mark; new for each session, so that nobody can prepare collisions.
        salt: u64,
        /// What the asking node has, ascending; at least one part. What is after the last isn't in question.
        parts: Vec<Part>,
        /// How many bytes of records may come with the answer.
        push_bytes: u32,
    },
    /// Records of many logs.
    Logs {
        /// The network.
        network: NetworkId,
        /// From where of which, in the order in which they are to be answered; at least one, no author twice.
        wants: Vec<Want>,
    },
    /// Records by their ids, whoever wrote them. Nodes know this since they greet with version 2.
    Records {
        /// The network.
        network: NetworkId,
        /// Which, ascending; at least one.
        ids: Vec<RecordId>,
    },
    /// What the node holds of a blob.
    Have {
        /// The blob.
        hash: BlobHash,
    },
}

/// The rest of a log, in ascending order of `(epoch, seq)`, evidence of forks included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Want {
    /// Whose log.
    pub author: AuthorId,
    /// From this epoch on.
    pub epoch: u64,
    /// From this sequence number within it on.
    pub seq: u64,
}

/// What it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncResponse {
    /// To [`SyncRequest::Compare`].
    Compare {
        /// Where fingerprints differ: smaller parts to go on with, within those asked about.
        parts: Vec<Part>,
        /// To lists: the answering node's heads that aren't listed, ascending by author.
        heads: Vec<Head>,
        /// Whether lists were answered only up to the last of `heads`; then there are at least
        /// [`MIN_HEADS_BEFORE_MORE`].
        more: bool,
        /// Records of the logs of `heads`, in their order, as far as there was room. Unverified.
        envelopes: Vec<Vec<u8>>,
    },
    /// To [`SyncRequest::Logs`].
    Logs {
        /// Records in the order of the wants, unverified.
        envelopes: Vec<Vec<u8>>,
        /// Whether there are more: of the log of the last record, or of wants after that.
        more: bool,
    },
    /// To [`SyncRequest::Records`].
    Records {
        /// Those of the records that the node has, in the order of their ids as far as there was room, unverified.
        envelopes: Vec<Vec<u8>>,
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
    Compare { network: NetworkId, salt: u64, parts: Vec<PartWire>, push: u32 },
    Logs { network: NetworkId, wants: Vec<(AuthorId, u64, u64)> },
    Records { network: NetworkId, ids: Vec<RecordId> },
    Have { hash: BlobHash },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum ResponseWire {
    Compare { parts: Vec<PartWire>, heads: Vec<(AuthorId, u64, u64, RecordId)>, more: bool, envelopes: Vec<ByteBuf> },
    Logs { envelopes: Vec<ByteBuf>, more: bool },
    Records { envelopes: Vec<ByteBuf> },
    Absent {},
    Complete { size: u64 },
    Partial { size: u64, chunks: Vec<(u64, u64)> },
}

impl SyncRequest {
    /// The bytes that travel.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        self.check()?;
        let bytes = cbor::encode(&match self.clone() {
            Self::Compare { network, salt, parts, push_bytes } => {
                RequestWire::Compare { network, salt, parts: parts_out(parts), push: push_bytes }
            }
            Self::Logs { network, wants } => {
                let wants = wants.into_iter().map(|want| (want.author, want.epoch, want.seq)).collect();
                RequestWire::Logs { network, wants }
            }
            Self::Records { network, ids } => RequestWire::Records { network, ids },
            Self::Have { hash } => RequestWire::Have { hash },
        })?;
        at_most("bytes", bytes.len(), MAX_SYNC_REQUEST_BYTES)?;
        Ok(bytes)
    }

    /// Reads what a peer sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let request = match cbor::decode(bytes, MAX_SYNC_REQUEST_BYTES)? {
            RequestWire::Compare { network, salt, parts, push } => {
                Self::Compare { network, salt, parts: parts_in(parts, MAX_PARTS)?, push_bytes: push }
            }
            RequestWire::Logs { network, wants } => {
                let wants = wants.into_iter().map(|(author, epoch, seq)| Want { author, epoch, seq }).collect();
                Self::Logs { network, wants }
            }
            RequestWire::Records { network, ids } => Self::Records { network, ids },
            RequestWire::Have { hash } => Self::Have { hash },
        };
        request.check()?;
        Ok(request)
    }

    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Compare { parts, .. } if parts.is_empty() => Err(WireError::Invalid("parts")),
            Self::Compare { parts, .. } => {
                at_most("parts", parts.len(), MAX_PARTS)?;
                check_parts(parts, MAX_MARKS)
            }
            Self::Logs { wants, .. } => check_wants(wants),
            Self::Records { ids, .. } => {
                at_most("ids", ids.len(), MAX_FOUND)?;
                match !ids.is_empty() && ids.windows(2).all(|pair| pair[0] < pair[1]) {
                    true => Ok(()),
                    false => Err(WireError::Invalid("ids")),
                }
            }
            Self::Have { .. } => Ok(()),
        }
    }
}

impl SyncResponse {
    /// The bytes that travel.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        self.check()?;
        let bytes = cbor::encode(&match self.clone() {
            Self::Compare { parts, heads, more, envelopes } => ResponseWire::Compare {
                parts: parts_out(parts),
                heads: heads.into_iter().map(|head| (head.author, head.epoch, head.seq, head.id)).collect(),
                more,
                envelopes: envelopes.into_iter().map(ByteBuf::from).collect(),
            },
            Self::Logs { envelopes, more } => {
                ResponseWire::Logs { envelopes: envelopes.into_iter().map(ByteBuf::from).collect(), more }
            }
            Self::Records { envelopes } => {
                ResponseWire::Records { envelopes: envelopes.into_iter().map(ByteBuf::from).collect() }
            }
            Self::Have(Have::Absent) => ResponseWire::Absent {},
            Self::Have(Have::Complete { size_bytes }) => ResponseWire::Complete { size: size_bytes },
            Self::Have(Have::Partial { size_bytes, chunks }) => ResponseWire::Partial {
                size: size_bytes,
                chunks: chunks.into_iter().map(|range| (range.start, range.end)).collect(),
            },
        })?;
        at_most("bytes", bytes.len(), MAX_SYNC_RESPONSE_BYTES)?;
        Ok(bytes)
    }

    /// Reads what a peer sent. Envelopes aren't verified.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let response = match cbor::decode(bytes, MAX_SYNC_RESPONSE_BYTES)? {
            ResponseWire::Compare { parts, heads, more, envelopes } => Self::Compare {
                parts: parts_in(parts, 2 * MAX_PARTS)?,
                heads: heads.into_iter().map(|(author, epoch, seq, id)| Head { author, epoch, seq, id }).collect(),
                more,
                envelopes: envelopes.into_iter().map(ByteBuf::into_vec).collect(),
            },
            ResponseWire::Logs { envelopes, more } => {
                Self::Logs { envelopes: envelopes.into_iter().map(ByteBuf::into_vec).collect(), more }
            }
            ResponseWire::Records { envelopes } => {
                Self::Records { envelopes: envelopes.into_iter().map(ByteBuf::into_vec).collect() }
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
            Self::Compare { parts, heads, more, envelopes } => {
                at_most("parts", parts.len(), 2 * MAX_PARTS)?;
                check_parts(parts, 0)?;
                if parts.iter().any(|part| matches!(part.content, Content::Listed(_))) {
                    return Err(WireError::Invalid("parts"));
                }
                check_heads(heads, *more)?;
                check_envelopes(envelopes)
            }
            // "more" after nothing would have the reader ask the same for ever.
            Self::Logs { envelopes, more: true } if envelopes.is_empty() => Err(WireError::Invalid("log")),
            Self::Logs { envelopes, .. } | Self::Records { envelopes } => check_envelopes(envelopes),
            Self::Have(Have::Partial { chunks, .. }) => check_chunks(chunks),
            Self::Have(_) => Ok(()),
        }
    }
}

fn parts_out(parts: Vec<Part>) -> Vec<PartWire> {
    parts.into_iter().map(PartWire::from).collect()
}

fn parts_in(parts: Vec<PartWire>, limit: usize) -> Result<Vec<Part>, WireError> {
    at_most("parts", parts.len(), limit)?;
    parts.into_iter().map(Part::try_from).collect()
}

fn check_heads(heads: &[Head], more: bool) -> Result<(), WireError> {
    at_most("heads", heads.len(), MAX_HEADS)?;
    let in_order = heads.windows(2).all(|pair| pair[0].author < pair[1].author);
    let bounded = heads.iter().all(|head| head.epoch <= MAX_SEQ && head.seq <= MAX_SEQ);
    // Few heads and "more" would have the reader list the same again and again.
    match in_order && bounded && !(more && heads.len() < MIN_HEADS_BEFORE_MORE) {
        true => Ok(()),
        false => Err(WireError::Invalid("heads")),
    }
}

fn check_wants(wants: &[Want]) -> Result<(), WireError> {
    at_most("wants", wants.len(), MAX_WANTS)?;
    let mut authors: Vec<_> = wants.iter().map(|want| want.author).collect();
    authors.sort_unstable();
    let apart = authors.windows(2).all(|pair| pair[0] != pair[1]);
    match !wants.is_empty() && apart && wants.iter().all(|want| want.epoch <= MAX_SEQ && want.seq <= MAX_SEQ + 1) {
        true => Ok(()),
        false => Err(WireError::Invalid("wants")),
    }
}

fn check_envelopes(envelopes: &[Vec<u8>]) -> Result<(), WireError> {
    at_most("records", envelopes.len(), MAX_LOG_RECORDS)?;
    match envelopes.iter().any(|envelope| envelope.len() > MAX_ENVELOPE_BYTES) {
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
    use super::{
        super::compare::{Bound, Mark},
        *,
    };
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

    fn heads(count: usize) -> Vec<Head> {
        let author = |n: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&(n as u64).to_be_bytes());
            AuthorId::from_bytes(id)
        };
        (0..count).map(|n| Head { author: author(n), ..head(1, 5) }).collect()
    }

    fn part(upper: Bound, content: Content) -> Part {
        Part { upper, content }
    }

    /// `count` parts, the last of them without a neighbour that ends at the same place.
    fn parts(count: usize) -> Vec<Part> {
        heads(count).iter().map(|head| part(Bound::after(head.author), Content::Fingerprint(u64::MAX))).collect()
    }

    fn marks(count: usize) -> Vec<Mark> {
        (0..count).map(|_| Mark { mark: 7, epoch: 0, seq: 3 }).collect()
    }

    #[test]
    fn requests_round_trip_within_bounds() {
        let compare = |parts| SyncRequest::Compare { network: network(), salt: 5, parts, push_bytes: 1 << 20 };
        let want = |n, seq| Want { author: author(n), epoch: 0, seq };
        let logs = |wants| SyncRequest::Logs { network: network(), wants };
        let mark = |epoch, seq| Content::Listed(vec![Mark { mark: 1, epoch, seq }]);
        let (low, high) = (Bound::after(author(3)), Bound::after(author(4)));
        let many: Vec<_> = heads(MAX_WANTS).iter().map(|head| Want { author: head.author, epoch: 0, seq: 1 }).collect();
        let cases = [
            (compare(vec![part(Bound::end(), Content::Listed(vec![]))]), true),
            (compare(vec![part(low.clone(), Content::Skipped), part(high.clone(), mark(0, 5))]), true),
            (compare(vec![part(low.clone(), mark(0, 1)), part(Bound::end(), Content::Fingerprint(0))]), true),
            (compare(vec![]), false),
            (compare(vec![part(Bound::start(), Content::Skipped)]), false),
            (compare(vec![part(high, Content::Skipped), part(low.clone(), Content::Skipped)]), false),
            (compare(vec![part(Bound::end(), Content::Skipped), part(Bound::end(), Content::Skipped)]), false),
            (compare(vec![part(low.clone(), mark(0, MAX_SEQ + 1))]), false),
            (compare(vec![part(low.clone(), mark(MAX_SEQ + 1, 0))]), false),
            (compare(vec![part(low.clone(), Content::Listed(marks(MAX_MARKS)))]), true),
            (compare(vec![part(low, Content::Listed(marks(MAX_MARKS + 1)))]), false),
            (compare(parts(5000)), true),
            (compare(parts(MAX_PARTS + 1)), false),
            (logs(vec![want(2, 0), want(1, MAX_SEQ + 1)]), true),
            (logs(vec![]), false),
            (logs(vec![want(1, 0), want(2, 0), want(1, 5)]), false),
            (logs(vec![want(1, MAX_SEQ + 2)]), false),
            (logs(many.clone()), true),
            (logs([many, vec![want(255, 0)]].concat()), false),
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
    fn a_bound_has_one_encoding() {
        let whole = SyncRequest::Compare {
            network: network(),
            salt: 5,
            parts: vec![part(Bound::end(), Content::Skipped)],
            push_bytes: 0,
        };
        let bytes = whole.encode().unwrap();
        let spelled = [&[0x83, 0x58, 33][..], &[0xff; 33], &[0xf6, 0xf6]].concat();
        let at = bytes.windows(4).position(|bytes| bytes == [0x83, 0xf6, 0xf6, 0xf6]).unwrap();
        let long = [&bytes[..at], &spelled, &bytes[at + 4..]].concat();
        assert_eq!(SyncRequest::decode(&long), Err(WireError::Invalid("bound")));
    }

    #[test]
    fn responses_round_trip_within_bounds() {
        let full: Vec<_> = (0..MAX_LOG_RECORDS).map(|_| vec![7; MAX_LOG_BYTES / MAX_LOG_RECORDS]).collect();
        let partial = |chunks: Vec<Range<u64>>| SyncResponse::Have(Have::Partial { size_bytes: 1 << 40, chunks });
        let compare = |parts, heads, more, envelopes| SyncResponse::Compare { parts, heads, more, envelopes };
        let logs = |envelopes, more| SyncResponse::Logs { envelopes, more };
        let low = Bound::after(author(3));
        let cases = [
            (compare(vec![], vec![], false, vec![]), true),
            (compare(vec![], vec![head(1, 0), head(2, 5)], false, vec![vec![1]]), true),
            (compare(parts(2 * MAX_PARTS), vec![], false, vec![]), true),
            (compare(parts(2 * MAX_PARTS + 1), vec![], false, vec![]), false),
            (compare(vec![part(low, Content::Listed(marks(0)))], vec![], false, vec![]), false),
            (compare(vec![], heads(MIN_HEADS_BEFORE_MORE), true, vec![]), true),
            (compare(vec![], heads(MIN_HEADS_BEFORE_MORE - 1), true, vec![]), false),
            (compare(vec![], heads(MAX_HEADS), true, full.clone()), true),
            (compare(vec![], heads(MAX_HEADS + 1), true, vec![]), false),
            (compare(vec![], vec![head(2, 0), head(1, 5)], false, vec![]), false),
            (compare(vec![], vec![head(1, 0), head(1, 5)], false, vec![]), false),
            (compare(vec![], vec![head(1, MAX_SEQ + 1)], false, vec![]), false),
            (logs(full, true), true),
            (logs(vec![], false), true),
            (logs(vec![vec![]; MAX_LOG_RECORDS + 1], false), false),
            (logs(vec![vec![0; MAX_ENVELOPE_BYTES + 1]], false), false),
            (logs(vec![], true), false),
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
            cbor::encode(&ResponseWire::Logs { envelopes: vec![], more: true }).unwrap(),
            cbor::encode(&ResponseWire::Partial { size: 1, chunks: vec![(5, 1)] }).unwrap(),
            // A list that claims 2^60 entries, one nested without end, and one over the limit.
            [&[0xa1, 0x64][..], b"logs", &[0xa2, 0x65], b"wants", &[0x9b, 0x10, 0, 0, 0, 0, 0, 0, 0]].concat(),
            [&[0xa1, 0x64][..], b"logs", &[0xa2, 0x64], b"more", &[0xf4, 0x69], b"envelopes", &[0x9b, 0x10]].concat(),
            vec![0x81; MAX_SYNC_RESPONSE_BYTES],
            vec![0; MAX_SYNC_RESPONSE_BYTES + 1],
            vec![],
        ];
        for (n, bytes) in forged.iter().enumerate() {
            assert!(SyncResponse::decode(bytes).is_err(), "response {n}");
            assert!(SyncRequest::decode(bytes).is_err(), "request {n}");
        }
        let parts = vec![part(Bound::after(author(3)), Content::Listed(marks(2)))];
        let good = SyncRequest::Compare { network: network(), salt: 1, parts, push_bytes: 0 }.encode().unwrap();
        for len in 0..good.len() {
            assert!(SyncRequest::decode(&good[..len]).is_err(), "cut at {len}");
        }
    }
}
