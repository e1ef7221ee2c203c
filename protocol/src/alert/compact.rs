//! An alert in at most 200 bytes: what travels first, on every link.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | [`ALERT_VERSION`] |
//! | 1 | from the highest bit, two bits each: status, kind, severity, urgency |
//! | 2 | the order in the two lowest bits, else 0 |
//! | 3..35 | the issuer's key |
//! | 35..41 | when it was sent, milliseconds since 1970, big-endian: also its number among the issuer's |
//! | 41..43 | minutes until it expires, big-endian |
//! | 43..49 | number of the alert it updates or cancels; 0 for none |
//! | 49..51 | two letters of the text's language (ISO 639-1), or two zeros |
//! | 51..n-64 | the text in UTF-8, at most 85 bytes |
//! | n-64..n | Ed25519 signature of the issuer |
//!
//! The signature is over a fixed context, the network's key (which doesn't travel: whatever brings an alert says of which
//! network it is), and all bytes before the signature. So an alert of one network is a forgery in every other.

use std::fmt;

use super::{Kind, MAX_LIFE_MIN, Order, Severity, Status, Urgency};
use crate::{AuthorId, NetworkId, SecretKey, Signature, Timestamp, record::MIN_AT};

/// The version of the compact form.
pub const ALERT_VERSION: u8 = 1;
/// Longest alert in its compact form, in bytes.
pub const MAX_ALERT_BYTES: usize = 200;
/// Longest text of the compact form, in bytes of UTF-8.
pub const MAX_SHORT_BYTES: usize = MAX_ALERT_BYTES - HEAD_BYTES - SIGNATURE_BYTES;

const HEAD_BYTES: usize = 51;
const SIGNATURE_BYTES: usize = 64;
const CONTEXT: &[u8] = b"mhc 2026 alert v1\0";
/// Numbers travel in six bytes: until the year 10889.
const MAX_NUMBER: u64 = (1 << 48) - 1;

/// Names an alert: the first half of the BLAKE3 of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AlertId([u8; 16]);

impl AlertId {
    /// From its 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for AlertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for AlertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlertId({self})")
    }
}

impl std::str::FromStr for AlertId {
    type Err = AlertError;

    fn from_str(text: &str) -> Result<Self, AlertError> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(AlertError::Id)
    }
}

/// Why bytes aren't an alert, or a draft can't become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AlertError {
    /// Not 32 hexadecimal digits.
    #[error("an alert's id has 32 hexadecimal digits, as `mhc emergency list` prints it")]
    Id,
    /// Shorter than the fixed part and the signature, or longer than allowed.
    #[error("{0} bytes are no alert")]
    Length(usize),
    /// A newer program made it.
    #[error("alert version {0} is unknown")]
    Version(u8),
    /// A field is out of bounds.
    #[error("{0} of the alert is out of bounds")]
    Invalid(&'static str),
    /// Signed by somebody else, for another network, or altered since.
    #[error("the alert's signature isn't its issuer's")]
    Forged,
}

/// What an issuer wants to say in the compact form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Whether it is meant.
    pub status: Status,
    /// New, an update, or a cancellation.
    pub kind: Kind,
    /// How bad it is.
    pub severity: Severity,
    /// How soon to act.
    pub urgency: Urgency,
    /// What nodes are to do by themselves.
    pub order: Order,
    /// Now; later than every other alert of the issuer.
    pub at: Timestamp,
    /// Minutes until it expires, 1 to [`MAX_LIFE_MIN`].
    pub life_min: u16,
    /// The number of the alert that it updates or cancels.
    pub refers: Option<u64>,
    /// Language of the text, two lower-case letters.
    pub language: Option<[u8; 2]>,
    /// The text, at most [`MAX_SHORT_BYTES`], one line.
    pub text: String,
}

/// An alert whose signature and bounds have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    id: AlertId,
    issuer: AuthorId,
    said: Draft,
    bytes: Vec<u8>,
}

impl Draft {
    /// Signs it as `key`'s author in `network`.
    pub fn sign(self, key: &SecretKey, network: NetworkId) -> Result<Alert, AlertError> {
        self.check()?;
        let mut bytes = self.head(key.author());
        let signature = key.sign(&signed(network, &bytes));
        bytes.extend_from_slice(&signature.0);
        Ok(Alert { id: id(&bytes), issuer: key.author(), said: self, bytes })
    }

    fn head(&self, issuer: AuthorId) -> Vec<u8> {
        let kinds = (self.status as u8) << 6 | (self.kind as u8) << 4 | (self.severity as u8) << 2 | self.urgency as u8;
        let mut bytes = vec![ALERT_VERSION, kinds, self.order as u8];
        bytes.extend_from_slice(issuer.as_bytes());
        bytes.extend_from_slice(&self.at.as_millis().to_be_bytes()[2..]);
        bytes.extend_from_slice(&self.life_min.to_be_bytes());
        bytes.extend_from_slice(&self.refers.unwrap_or(0).to_be_bytes()[2..]);
        bytes.extend_from_slice(&self.language.unwrap_or_default());
        bytes.extend_from_slice(self.text.as_bytes());
        bytes
    }

    fn check(&self) -> Result<(), AlertError> {
        let is_new = self.kind == Kind::Alert;
        let number = self.at.as_millis();
        require("the time", (MIN_AT.as_millis()..=MAX_NUMBER).contains(&number))?;
        require("the life", (1..=MAX_LIFE_MIN).contains(&self.life_min))?;
        require("the reference", self.refers.is_none() == is_new)?;
        require("the reference", self.refers.is_none_or(|refers| (1..number).contains(&refers)))?;
        require("the language", self.language.is_none_or(|letters| letters.iter().all(u8::is_ascii_lowercase)))?;
        require("the order", self.order == Order::None || self.kind != Kind::Cancel)?;
        let is_line = self.text.len() <= MAX_SHORT_BYTES && !self.text.chars().any(char::is_control);
        require("the text", is_line && (self.kind == Kind::Cancel || !self.text.trim().is_empty()))
    }
}

impl Alert {
    /// Reads what somebody brought as an alert of `network`. The signature is checked, not whether its issuer may
    /// alert anybody: that is [`AlertDesk`](super::AlertDesk)'s.
    pub fn verify(bytes: &[u8], network: NetworkId) -> Result<Self, AlertError> {
        let (issuer, said) = read(bytes)?;
        let (head, signature) = bytes.split_last_chunk::<SIGNATURE_BYTES>().ok_or(AlertError::Length(bytes.len()))?;
        match Signature(*signature).verifies(&issuer, &signed(network, head)) {
            true => Ok(Self { id: id(bytes), issuer, said, bytes: bytes.to_vec() }),
            false => Err(AlertError::Forged),
        }
    }

    /// The bytes that travel, at most [`MAX_ALERT_BYTES`].
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its name.
    pub const fn id(&self) -> AlertId {
        self.id
    }

    /// Who signed it.
    pub const fn issuer(&self) -> AuthorId {
        self.issuer
    }

    /// What it says.
    pub const fn said(&self) -> &Draft {
        &self.said
    }

    /// Its number among the issuer's: the millisecond when it was sent.
    pub const fn number(&self) -> u64 {
        self.said.at.as_millis()
    }

    /// From when on it doesn't hold.
    pub const fn expires(&self) -> Timestamp {
        self.said.at.saturating_add_ms(self.said.life_min as u64 * 60_000)
    }

    /// Whether nothing has really happened: an exercise or a technical test.
    pub fn is_drill(&self) -> bool {
        self.said.status != Status::Actual
    }
}

/// The text on one line, with single spaces.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// As much of the text on one line as an alert has room for.
pub fn short_line(text: &str) -> String {
    let line = one_line(text);
    if line.len() <= MAX_SHORT_BYTES {
        return line;
    }
    let room = MAX_SHORT_BYTES - "…".len();
    let end = line.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= room).last().unwrap_or(0);
    format!("{}…", line.get(..end).unwrap_or_default())
}

fn read(bytes: &[u8]) -> Result<(AuthorId, Draft), AlertError> {
    let length = AlertError::Length(bytes.len());
    if bytes.len() > MAX_ALERT_BYTES {
        return Err(length);
    }
    let version = *bytes.first().ok_or(length)?;
    if version != ALERT_VERSION {
        return Err(AlertError::Version(version));
    }
    let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(length)?;
    let (text, _) = rest.split_last_chunk::<SIGNATURE_BYTES>().ok_or(length)?;
    let [_, kinds, order, rest @ ..] = head;
    let (issuer, rest) = rest.split_first_chunk::<32>().ok_or(length)?;
    let [a0, a1, a2, a3, a4, a5, l0, l1, r0, r1, r2, r3, r4, r5, language @ ..] = rest else { return Err(length) };
    let refers = u64::from_be_bytes([0, 0, *r0, *r1, *r2, *r3, *r4, *r5]);
    let language: [u8; 2] = language.try_into().map_err(|_| length)?;
    let draft = Draft {
        status: Status::from_bits(kinds >> 6)?,
        kind: Kind::from_bits(kinds >> 4 & 3)?,
        severity: Severity::from_bits(kinds >> 2 & 3)?,
        urgency: Urgency::from_bits(kinds & 3)?,
        order: Order::from_bits(*order)?,
        at: Timestamp::from_millis(u64::from_be_bytes([0, 0, *a0, *a1, *a2, *a3, *a4, *a5])),
        life_min: u16::from_be_bytes([*l0, *l1]),
        refers: (refers != 0).then_some(refers),
        language: (language != [0, 0]).then_some(language),
        text: std::str::from_utf8(text).map_err(|_| AlertError::Invalid("the text"))?.to_owned(),
    };
    draft.check()?;
    Ok((AuthorId::from_bytes(*issuer), draft))
}

fn signed(network: NetworkId, head: &[u8]) -> Vec<u8> {
    [CONTEXT, network.as_bytes().as_slice(), head].concat()
}

fn id(bytes: &[u8]) -> AlertId {
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    AlertId(id)
}

fn require(what: &'static str, holds: bool) -> Result<(), AlertError> {
    if holds { Ok(()) } else { Err(AlertError::Invalid(what)) }
}
