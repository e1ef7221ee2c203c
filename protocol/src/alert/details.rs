//! The long form of an alert: what a record adds to the compact one.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{ALERT, Alert, AlertError};
use crate::{
    RecordId,
    cbor::{self, CborError},
    record::{MAX_RECORD_BYTES, VerifiedRecord},
};

/// Most languages of one alert.
pub const MAX_LANGUAGES: usize = 16;
/// Longest text in one language, in characters.
pub const MAX_TEXT_CHARS: usize = 1_000;
/// Most areas of one alert.
pub const MAX_AREAS: usize = 32;
/// Longest description of an area, in characters.
pub const MAX_AREA_CHARS: usize = 100;
const MAX_TAG_BYTES: usize = 12;

/// Why a body isn't an alert's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DetailsError {
    /// Not the deterministic encoding of such a body.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// The compact form within.
    #[error(transparent)]
    Alert(#[from] AlertError),
    /// A field is out of bounds.
    #[error("{0} of the alert are out of bounds")]
    Invalid(&'static str),
    /// The record is by somebody else than the alert within.
    #[error("the alert within is another author's")]
    Author,
    /// Another kind of record, or its body is gone.
    #[error("the record has no alert")]
    Absent,
}

/// What the long form says beyond the compact one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Details {
    /// Where, in words or codes; nowhere named is everywhere.
    pub areas: BTreeSet<String>,
    /// The whole text by language tag (`en`, `pt-br`), lower-case. Lines may be broken.
    pub texts: BTreeMap<String, String>,
    /// Content that tells more.
    pub content: Option<RecordId>,
}

/// The body of an alert's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertRecord {
    /// The compact form.
    pub alert: Alert,
    /// The rest.
    pub details: Details,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    alert: ByteBuf,
    areas: BTreeSet<String>,
    texts: BTreeMap<String, String>,
    content: Option<RecordId>,
}

impl Details {
    /// Whether every list and text is within its bounds.
    pub fn check(&self) -> Result<(), DetailsError> {
        let require = |what, holds: bool| if holds { Ok(()) } else { Err(DetailsError::Invalid(what)) };
        let is_line = |text: &String| {
            !text.trim().is_empty() && text.chars().count() <= MAX_AREA_CHARS && !text.chars().any(char::is_control)
        };
        require("the areas", self.areas.len() <= MAX_AREAS && self.areas.iter().all(is_line))?;
        require("the texts", self.texts.len() <= MAX_LANGUAGES && self.texts.keys().all(|tag| is_language(tag)))?;
        let is_text = |text: &String| {
            let steers = |c: char| c.is_control() && c != '\n';
            !text.trim().is_empty() && text.chars().count() <= MAX_TEXT_CHARS && !text.chars().any(steers)
        };
        require("the texts", self.texts.values().all(is_text))
    }
}

/// Whether it is a language tag as this program writes them: two or three letters, then parts after dashes.
fn is_language(tag: &str) -> bool {
    let mut parts = tag.split('-');
    let first = parts.next().is_some_and(|part| matches!(part.len(), 2 | 3) && letters(part));
    first && tag.len() <= MAX_TAG_BYTES && parts.all(|part| (2..=8).contains(&part.len()) && letters(part))
}

fn letters(part: &str) -> bool {
    part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

impl AlertRecord {
    /// The bytes of the body.
    pub fn encode(&self) -> Result<Vec<u8>, DetailsError> {
        self.details.check()?;
        let Details { areas, texts, content } = self.details.clone();
        let bytes = cbor::encode(&Wire { alert: ByteBuf::from(self.alert.bytes()), areas, texts, content })?;
        // The header takes some 300 bytes of a record.
        match bytes.len() + 512 <= MAX_RECORD_BYTES {
            true => Ok(bytes),
            false => Err(DetailsError::Invalid("the texts")),
        }
    }

    /// Reads the body of a record that is by the alert's issuer, in the alert's network.
    pub fn of(record: &VerifiedRecord) -> Result<Self, DetailsError> {
        let header = record.header();
        let body = record.body().filter(|_| header.kind == ALERT).ok_or(DetailsError::Absent)?;
        let Wire { alert, areas, texts, content } = cbor::decode(body, MAX_RECORD_BYTES)?;
        let details = Details { areas, texts, content };
        details.check()?;
        let alert = Alert::verify(&alert, header.network)?;
        match alert.issuer() == header.author {
            true => Ok(Self { alert, details }),
            false => Err(DetailsError::Author),
        }
    }
}
