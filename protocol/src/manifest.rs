//! Manifests: what a piece of content is, who made it, and which blobs it is made of.
//!
//! A manifest is the body of a record of kind [`MANIFEST`]; that record's id is the content's id.

use serde::{Deserialize, Serialize};

use crate::{
    AuthorId, BlobHash, RecordId,
    cbor::{self, CborError},
    record::RecordKind,
};

/// Records whose body is a [`Manifest`].
pub const MANIFEST: RecordKind = RecordKind::new("manifest.v1");
/// Longest title, in characters.
pub const MAX_TITLE_CHARS: usize = 200;
/// Longest description, in characters.
pub const MAX_DESCRIPTION_CHARS: usize = 5_000;
/// Most tags.
pub const MAX_TAGS: usize = 20;
/// Longest tag, in characters.
pub const MAX_TAG_CHARS: usize = 40;
/// Longest file name, in characters.
pub const MAX_NAME_CHARS: usize = 255;
/// Largest blob a manifest may name, in bytes: 16 TiB.
pub const MAX_BLOB_BYTES: u64 = 1 << 44;
const MAX_SHORT_TEXT_CHARS: usize = 100;
const MAX_COLLABORATORS: usize = 50;
const WHOLE_SPLIT: u32 = 10_000;

/// The look of a piece of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Realm {
    /// Dark.
    Inferno,
    /// Muted; the default.
    #[default]
    Purgatorio,
    /// Bright.
    Paradiso,
}

/// What a blob is to a viewer, told from its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    /// Moving pictures.
    Video,
    /// Sound.
    Audio,
    /// A still picture.
    Image,
    /// Anything else: offered as a download.
    File,
}

/// A blob and what is claimed of it. The hash is proof; the rest is the author's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobRef {
    /// BLAKE3 of the bytes.
    pub hash: BlobHash,
    /// Length in bytes.
    pub bytes: u64,
    /// Media type, such as `video/mp4`.
    pub content_type: String,
    /// File name to save it under; never used as a path.
    pub name: Option<String>,
}

/// A share in what the content earns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collaborator {
    /// Who.
    pub author: AuthorId,
    /// Parts per 10,000.
    pub parts: u32,
}

/// A piece of content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// One line, 1 to [`MAX_TITLE_CHARS`] characters.
    pub title: String,
    /// Plain text, may be empty.
    pub description: String,
    /// Lower-case words.
    pub tags: Vec<String>,
    /// Its look.
    pub realm: Realm,
    /// BCP 47 tag of its language.
    pub language: Option<String>,
    /// SPDX identifier or a name.
    pub licence: Option<String>,
    /// What the original is.
    pub kind: MediaKind,
    /// Playing time in milliseconds, where there is one and it is known.
    pub duration_ms: Option<u64>,
    /// The file as it was published.
    pub original: BlobRef,
    /// Pictures that stand for it.
    pub thumbnails: Vec<BlobRef>,
    /// Shares, summing to exactly 10,000, or empty when all of it is the author's.
    pub collaborators: Vec<Collaborator>,
    /// The content id that this manifest replaces.
    pub supersedes: Option<RecordId>,
}

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not a manifest.
    #[error("manifest: {0}")]
    Cbor(#[from] CborError),
    /// A field is empty, too long, or not what it should be. Names the field and the rule.
    #[error("{field}: {rule}")]
    Field {
        /// The field's name in JSON.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
}

fn rule(holds: bool, field: &'static str, rule: &'static str) -> Result<(), ManifestError> {
    match holds {
        true => Ok(()),
        false => Err(ManifestError::Field { field, rule }),
    }
}

fn is_line(text: &str, max_chars: usize) -> bool {
    text.chars().count() <= max_chars && !text.chars().any(char::is_control)
}

impl BlobRef {
    fn check(&self, field: &'static str) -> Result<(), ManifestError> {
        rule(self.bytes <= MAX_BLOB_BYTES, field, "at most 16 TiB")?;
        let (kind, sub) = self.content_type.split_once('/').unwrap_or_default();
        let is_token = |text: &str| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
        };
        rule(is_token(kind) && is_token(sub), field, "content_type must look like video/mp4")?;
        let name_fits = self.name.as_ref().is_none_or(|name| !name.is_empty() && is_line(name, MAX_NAME_CHARS));
        rule(name_fits, field, "name must be one line of at most 255 characters")
    }
}

impl Manifest {
    /// A title and the bytes, and nothing else said about them.
    pub fn new(title: impl Into<String>, kind: MediaKind, original: BlobRef) -> Self {
        Self {
            title: title.into(),
            description: String::new(),
            tags: vec![],
            realm: Realm::default(),
            language: None,
            licence: None,
            kind,
            duration_ms: None,
            original,
            thumbnails: vec![],
            collaborators: vec![],
            supersedes: None,
        }
    }

    /// Reads and checks the body of a manifest record.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = cbor::decode(bytes, crate::record::MAX_RECORD_BYTES)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The record body of this manifest.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        Ok(cbor::encode(self)?)
    }

    /// Whether every field is within its bounds.
    pub fn check(&self) -> Result<(), ManifestError> {
        let short = |text: &Option<String>| {
            text.as_ref().is_none_or(|text| !text.is_empty() && is_line(text, MAX_SHORT_TEXT_CHARS))
        };
        rule(
            !self.title.trim().is_empty() && is_line(&self.title, MAX_TITLE_CHARS),
            "title",
            "must be one line of 1 to 200 characters",
        )?;
        rule(
            self.description.chars().count() <= MAX_DESCRIPTION_CHARS && !self.description.contains('\0'),
            "description",
            "must be at most 5,000 characters",
        )?;
        rule(
            self.tags.len() <= MAX_TAGS
                && self.tags.iter().all(|tag| !tag.trim().is_empty() && is_line(tag, MAX_TAG_CHARS)),
            "tags",
            "at most 20, each of 1 to 40 characters",
        )?;
        rule(short(&self.language), "language", "must be a language tag such as en")?;
        rule(short(&self.licence), "licence", "must be 1 to 100 characters")?;
        self.original.check("original")?;
        rule(self.thumbnails.len() <= 3, "thumbnails", "at most 3")?;
        self.thumbnails.iter().try_for_each(|blob| blob.check("thumbnails"))?;
        let parts: u64 = self.collaborators.iter().map(|one| u64::from(one.parts)).sum();
        rule(
            self.collaborators.is_empty()
                || (self.collaborators.len() <= MAX_COLLABORATORS && parts == u64::from(WHOLE_SPLIT)),
            "collaborators",
            "parts must sum to exactly 10,000",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            title: "A film".into(),
            description: "Two lines\nof text".into(),
            tags: vec!["film".into()],
            realm: Realm::Inferno,
            language: Some("en".into()),
            licence: None,
            kind: MediaKind::Video,
            duration_ms: Some(60_000),
            original: BlobRef {
                hash: BlobHash::of(b"film"),
                bytes: 4,
                content_type: "video/mp4".into(),
                name: Some("film.mp4".into()),
            },
            thumbnails: vec![],
            collaborators: vec![],
            supersedes: None,
        }
    }

    #[test]
    fn round_trips() {
        assert_eq!(Manifest::decode(&manifest().encode().unwrap()), Ok(manifest()));
    }

    #[test]
    fn fields_out_of_bounds_are_named() {
        type Spoil = fn(&mut Manifest);
        let cases: Vec<(&str, Spoil)> = vec![
            ("title", |m| m.title = String::new()),
            ("title", |m| m.title = " ".into()),
            ("title", |m| m.title = "two\nlines".into()),
            ("title", |m| m.title = "x".repeat(201)),
            ("description", |m| m.description = "x".repeat(5001)),
            ("tags", |m| m.tags = vec!["x".into(); 21]),
            ("tags", |m| m.tags = vec![String::new()]),
            ("language", |m| m.language = Some(String::new())),
            ("original", |m| m.original.bytes = 1 << 63),
            ("original", |m| m.original.content_type = "video".into()),
            ("original", |m| m.original.content_type = "text/html\r\nX: y".into()),
            ("original", |m| m.original.name = Some("a\0b".into())),
            ("thumbnails", |m| m.thumbnails = vec![m.original.clone(); 4]),
            ("collaborators", |m| {
                m.collaborators = vec![Collaborator { author: AuthorId::from_bytes([0; 32]), parts: 9_999 }]
            }),
        ];
        for (field, change) in cases {
            let mut bad = manifest();
            change(&mut bad);
            let bytes = cbor::encode(&bad).unwrap();
            let error = Manifest::decode(&bytes).unwrap_err();
            assert!(matches!(error, ManifestError::Field { field: at, .. } if at == field), "{field}: {error}");
        }
    }
}
