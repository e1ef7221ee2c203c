//! Records: what is public and must last.
//!
//! A record is a [`Header`] in deterministic CBOR, signed over exactly the bytes that travel, and a body beside
//! it. The header holds only a salted commitment to the body, so a body can be erased while chain, id and
//! signature stay valid. An author's records form a hash chain: each names its predecessor.
//!
//! On the wire a record is the CBOR list `[header, signature, body]`: the header's bytes as a byte string, 64
//! bytes of Ed25519 signature, and either `[salt, bytes]` or `null` when the body was erased.

use std::{borrow::Cow, fmt, ops::Deref};

use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};

use crate::{
    AuthorId, NetworkId, RecordId, SecretKey, Signature, Timestamp,
    cbor::{self, CborError},
};

/// The version of the header format.
pub const RECORD_VERSION: u8 = 1;
/// Header and body together, in bytes.
pub const MAX_RECORD_BYTES: usize = 32 * 1024;
/// A whole record as it travels: header, body, signature, salt and CBOR framing.
pub const MAX_ENVELOPE_BYTES: usize = MAX_RECORD_BYTES + 256;
/// Highest sequence number and epoch: far beyond any log, far below overflow.
pub const MAX_SEQ: u64 = 1 << 48;
/// Records can't be older than this: 2024-01-01T00:00:00Z, before the project existed.
pub const MIN_AT: Timestamp = Timestamp::from_millis(1_704_067_200_000);
/// How far ahead of our clock an author's clock may be, in milliseconds: one day and some.
pub const MAX_CLOCK_AHEAD_MS: u64 = 25 * 3600 * 1000;
const MAX_KIND_BYTES: usize = 32;
const COMMIT_CONTEXT: &str = "mhc 2026 record body commitment v1";

/// What a record says, as a short name such as `manifest.v1`. A node stores and forwards kinds it doesn't know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordKind(Cow<'static, str>);

impl RecordKind {
    /// A kind of this program. Its name must be well-formed, or records of it are refused.
    pub const fn new(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_well_formed(&self) -> bool {
        let bytes = self.0.as_bytes();
        (1..=MAX_KIND_BYTES).contains(&bytes.len())
            && bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`RECORD_VERSION`].
    pub v: u8,
    /// The network it is published in.
    pub network: NetworkId,
    /// Who signed it.
    pub author: AuthorId,
    /// Raised when a log moves to another node; 0 at first.
    pub epoch: u64,
    /// Position in the log, counted from 0 within the epoch.
    pub seq: u64,
    /// The record before it; `None` exactly when `epoch` and `seq` are 0.
    pub prev: Option<RecordId>,
    /// When the author wrote it, by the author's clock.
    pub at: Timestamp,
    /// What it says.
    pub kind: RecordKind,
    /// Commitment to the body: see [`Body::commitment`].
    #[serde(with = "serde_bytes")]
    pub body: [u8; 32],
}

/// The body of a record and the salt that keeps its commitment from being guessed once it is erased.
#[derive(Clone, PartialEq, Eq)]
pub struct Body {
    /// 16 random bytes.
    pub salt: [u8; 16],
    /// The content, in the encoding that the record's kind prescribes.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.bytes.len())
    }
}

impl Body {
    /// BLAKE3 in key-derivation mode, context `mhc 2026 record body commitment v1`, over salt and bytes.
    pub fn commitment(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(COMMIT_CONTEXT);
        hasher.update(&self.salt).update(&self.bytes);
        *hasher.finalize().as_bytes()
    }
}

/// A record whose signature, bounds and body have been checked: the only kind that a log accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A record: header, signature and, unless it was erased, body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    id: RecordId,
    header: Header,
    header_bytes: Vec<u8>,
    signature: Signature,
    body: Option<Body>,
}

/// A [`Verified`] record.
pub type VerifiedRecord = Verified<Record>;

/// Why a record is refused. All of these are the sender's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not a record at all.
    #[error("record: {0}")]
    Cbor(#[from] CborError),
    /// A header version this node doesn't know.
    #[error("record version {0} is unknown")]
    Version(u8),
    /// Header and body are over [`MAX_RECORD_BYTES`].
    #[error("header and body have {0} bytes where at most {MAX_RECORD_BYTES} are allowed")]
    TooLarge(usize),
    /// The kind isn't 1 to 32 characters of `a-z 0-9 . -`.
    #[error("malformed record kind")]
    Kind,
    /// Epoch or seq over [`MAX_SEQ`].
    #[error("sequence number out of bounds")]
    Seq,
    /// `prev` is missing where there must be one, or there where there can't be.
    #[error("the record's predecessor doesn't fit its position")]
    Prev,
    /// Before [`MIN_AT`] or more than [`MAX_CLOCK_AHEAD_MS`] in the future.
    #[error("the record's time is out of bounds")]
    Time,
    /// The signature isn't the author's.
    #[error("bad signature")]
    Signature,
    /// The body isn't the one that was signed.
    #[error("the body doesn't match the signed commitment")]
    Body,
}

/// The wire form, private to this module.
#[derive(Serialize, Deserialize)]
struct Envelope(ByteBuf, ByteArray<64>, Option<(ByteArray<16>, ByteBuf)>);

/// A record about to be signed: where it goes in its author's log and what it says.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The network to publish in.
    pub network: NetworkId,
    /// The log's epoch.
    pub epoch: u64,
    /// Its position.
    pub seq: u64,
    /// Its predecessor.
    pub prev: Option<RecordId>,
    /// Now.
    pub at: Timestamp,
    /// What it says.
    pub kind: RecordKind,
    /// The body with a fresh random salt.
    pub body: Body,
}

impl Draft {
    /// Signs the draft as `key`'s author, within the bounds that other nodes enforce.
    pub fn sign(self, key: &SecretKey) -> Result<VerifiedRecord, RecordError> {
        let at = self.at;
        let header = Header {
            v: RECORD_VERSION,
            network: self.network,
            author: key.author(),
            epoch: self.epoch,
            seq: self.seq,
            prev: self.prev,
            at,
            kind: self.kind,
            body: self.body.commitment(),
        };
        let header_bytes = cbor::encode(&header)?;
        let signature = key.sign(&header_bytes);
        let record = Record::new(header, header_bytes, signature, Some(self.body));
        record.check_bounds(at)?;
        Ok(Verified(record))
    }
}

impl Record {
    fn new(header: Header, header_bytes: Vec<u8>, signature: Signature, body: Option<Body>) -> Self {
        Self {
            id: RecordId::from_bytes(*blake3::hash(&header_bytes).as_bytes()),
            header,
            header_bytes,
            signature,
            body,
        }
    }

    /// Reads and checks a record that came from outside. `now` bounds the author's clock.
    pub fn verify(bytes: &[u8], now: Timestamp) -> Result<VerifiedRecord, RecordError> {
        let record = Self::decode(bytes)?;
        record.check_bounds(now)?;
        record.check_signature()?;
        Ok(Verified(record))
    }

    /// Reads a record that this node verified before and kept: checks signature and body again (storage may
    /// have altered it), but not the clock.
    pub fn verify_stored(bytes: &[u8]) -> Result<VerifiedRecord, RecordError> {
        let record = Self::decode(bytes)?;
        record.check_signature()?;
        Ok(Verified(record))
    }

    /// Reads a record that this node verified before and kept: checks that header and body belong together. To be
    /// compared with the id under which it was kept; for reading many at once.
    pub fn kept(bytes: &[u8]) -> Result<VerifiedRecord, RecordError> {
        Ok(Verified(Self::decode(bytes)?))
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let Envelope(header_bytes, signature, body) = cbor::decode(bytes, MAX_ENVELOPE_BYTES)?;
        let header: Header = cbor::decode(&header_bytes, MAX_RECORD_BYTES)?;
        let body = body.map(|(salt, bytes)| Body { salt: salt.into_array(), bytes: bytes.into_vec() });
        if body.as_ref().is_some_and(|body| body.commitment() != header.body) {
            return Err(RecordError::Body);
        }
        Ok(Self::new(header, header_bytes.into_vec(), Signature(signature.into_array()), body))
    }

    fn check_bounds(&self, now: Timestamp) -> Result<(), RecordError> {
        let header = &self.header;
        let size = self.header_bytes.len() + self.body.as_ref().map_or(0, |body| body.bytes.len());
        if header.v != RECORD_VERSION {
            return Err(RecordError::Version(header.v));
        }
        if size > MAX_RECORD_BYTES {
            return Err(RecordError::TooLarge(size));
        }
        if !header.kind.is_well_formed() {
            return Err(RecordError::Kind);
        }
        if header.epoch > MAX_SEQ || header.seq > MAX_SEQ {
            return Err(RecordError::Seq);
        }
        if header.prev.is_none() != (header.epoch == 0 && header.seq == 0) {
            return Err(RecordError::Prev);
        }
        if header.at < MIN_AT || header.at > now.saturating_add_ms(MAX_CLOCK_AHEAD_MS) {
            return Err(RecordError::Time);
        }
        Ok(())
    }

    fn check_signature(&self) -> Result<(), RecordError> {
        match self.signature.verifies(&self.header.author, &self.header_bytes) {
            true => Ok(()),
            false => Err(RecordError::Signature),
        }
    }

    /// The record as it travels and is kept, at most [`MAX_ENVELOPE_BYTES`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = self.body.as_ref().map(|body| (ByteArray::new(body.salt), ByteBuf::from(body.bytes.clone())));
        let envelope = Envelope(ByteBuf::from(self.header_bytes.clone()), ByteArray::new(self.signature.0), body);
        // Byte strings in a list always encode.
        cbor::encode(&envelope).unwrap_or_default()
    }

    /// BLAKE3 of the header's bytes.
    pub fn id(&self) -> RecordId {
        self.id
    }

    /// What was signed.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The body, unless it was erased.
    pub fn body(&self) -> Option<&[u8]> {
        self.body.as_ref().map(|body| body.bytes.as_slice())
    }
}

impl Verified<Record> {
    /// The same record without its body; id and signature stay valid.
    #[must_use]
    pub fn erased(mut self) -> Self {
        self.0.body = None;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);

    fn key() -> SecretKey {
        SecretKey::from_seed(&[1; 32])
    }

    fn draft() -> Draft {
        Draft {
            network: key().network(),
            epoch: 0,
            seq: 0,
            prev: None,
            at: NOW,
            kind: RecordKind::new("test.v1"),
            body: Body { salt: [9; 16], bytes: b"hello".to_vec() },
        }
    }

    /// Signs whatever `change` makes of a good header, as a hostile author would.
    fn forge(change: impl FnOnce(&mut Header)) -> Vec<u8> {
        let mut header = draft().sign(&key()).unwrap().header.clone();
        change(&mut header);
        let bytes = cbor::encode(&header).unwrap();
        let signature = key().sign(&bytes);
        Record::new(header, bytes, signature, Some(draft().body)).to_bytes()
    }

    #[test]
    fn a_signed_record_verifies_and_keeps_its_id_without_its_body() {
        let record = draft().sign(&key()).unwrap();
        let read = Record::verify(&record.to_bytes(), NOW).unwrap();
        assert_eq!(read, record);
        assert_eq!(read.body(), Some(&b"hello"[..]));
        let erased = Record::verify(&record.clone().erased().to_bytes(), NOW).unwrap();
        assert_eq!((erased.id(), erased.body()), (record.id(), None));
    }

    #[test]
    fn hostile_records_are_refused() {
        let past = Timestamp::from_millis(NOW.0.saturating_sub(100 * 365 * 86_400_000));
        let future = NOW.saturating_add_ms(100 * 365 * 86_400_000);
        let cases: Vec<(&str, Vec<u8>, RecordError)> = vec![
            (
                "seq u64::MAX",
                forge(|h| (h.seq, h.prev) = (u64::MAX, Some(RecordId::from_bytes([0; 32])))),
                RecordError::Seq,
            ),
            (
                "epoch u64::MAX",
                forge(|h| (h.epoch, h.prev) = (u64::MAX, Some(RecordId::from_bytes([0; 32])))),
                RecordError::Seq,
            ),
            ("no prev", forge(|h| h.seq = 1), RecordError::Prev),
            ("prev at 0", forge(|h| h.prev = Some(RecordId::from_bytes([0; 32]))), RecordError::Prev),
            ("100 years ago", forge(|h| h.at = past), RecordError::Time),
            ("in 100 years", forge(|h| h.at = future), RecordError::Time),
            ("at the end of time", forge(|h| h.at = Timestamp(u64::MAX)), RecordError::Time),
            ("version", forge(|h| h.v = 2), RecordError::Version(2)),
            ("kind", forge(|h| h.kind = RecordKind(Cow::Borrowed("Bad Kind"))), RecordError::Kind),
            ("empty kind", forge(|h| h.kind = RecordKind(Cow::Borrowed(""))), RecordError::Kind),
            ("another body", forge(|h| h.body = [0; 32]), RecordError::Body),
            ("another author", forge(|h| h.author = SecretKey::from_seed(&[2; 32]).author()), RecordError::Signature),
        ];
        for (name, bytes, error) in cases {
            // `forge` signs as key 1: a header that names another author has a bad signature.
            assert_eq!(Record::verify(&bytes, NOW), Err(error), "{name}");
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let good = draft().sign(&key()).unwrap().to_bytes();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::verify(&bad, NOW).is_err(), "bit {bit}");
            assert!(Record::verify_stored(&bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(Record::verify(&good[..len], NOW).is_err(), "cut at {len}");
        }
        let mut trailing = good;
        trailing.push(0);
        assert!(Record::verify(&trailing, NOW).is_err());
    }

    #[test]
    fn non_canonical_encodings_are_refused() {
        // A list header with its length in an extra byte, and a huge length prefix with nothing behind it.
        let good = draft().sign(&key()).unwrap().to_bytes();
        let long = [&[0x98, 3], &good[1..]].concat();
        assert!(matches!(Record::verify(&long, NOW), Err(RecordError::Cbor(_))));
        let giant = [0x83, 0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(Record::verify(&giant, NOW), Err(RecordError::Cbor(_))));
        let deep = vec![0x81; MAX_ENVELOPE_BYTES];
        assert!(matches!(Record::verify(&deep, NOW), Err(RecordError::Cbor(_))));
        let indefinite = [&[0x9f], &good[1..], &[0xff]].concat();
        assert!(matches!(Record::verify(&indefinite, NOW), Err(RecordError::Cbor(_))));
    }

    #[test]
    fn a_body_over_the_limit_is_refused_by_signer_and_reader() {
        let mut big = draft();
        big.body.bytes = vec![0; MAX_RECORD_BYTES];
        assert!(matches!(big.sign(&key()), Err(RecordError::TooLarge(_))));
    }
}
