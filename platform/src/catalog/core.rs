//! Publishing, and lists of what was published.

use mhc_protocol::{
    AuthorId, BlobHash, NetworkId, RecordId,
    manifest::{BlobRef, MANIFEST, MAX_NAME_CHARS, MAX_TITLE_CHARS, Manifest, ManifestError, MediaKind, Realm},
    network::{BodyError, ERASE, Erase},
};
use mhc_storage::{
    blob::BlobError,
    record::{IndexView, RecordsError},
};

use super::{
    NAME,
    index::{self, Entry, Place},
};
use crate::{Context, InspectError};

/// What somebody wants to publish.
#[derive(Debug, Clone, Default)]
pub struct Publication {
    /// Title; the file's name when there is none.
    pub title: Option<String>,
    /// Description.
    pub description: String,
    /// Tags, in any case.
    pub tags: Vec<String>,
    /// Look.
    pub realm: Realm,
    /// Name of the file, as the publisher has it.
    pub file_name: Option<String>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The new content's id, or that of the same content published before.
    pub content: RecordId,
    /// Whether it was published just now.
    pub new: bool,
    /// Its kind.
    pub kind: MediaKind,
    /// What the publisher should know.
    pub note: Option<String>,
}

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The publisher's words are out of bounds.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The blob could not be looked at.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The blob could not be pinned.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The log refused.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// Publishes a blob that is complete here. Publishing the same again gives the content that is there already,
/// so that a publisher who missed the answer can simply repeat the question.
pub async fn publish(
    context: &Context,
    blob: BlobHash,
    bytes: u64,
    publication: Publication,
) -> Result<Published, PublishError> {
    let inspection = context.inspector.inspect(blob).await?;
    let kind = inspection.kind;
    let original = BlobRef {
        hash: blob,
        bytes,
        content_type: inspection.content_type,
        name: publication.file_name.as_deref().and_then(file_name),
    };
    let named = Manifest::new(title(&publication), kind, original);
    let manifest = Manifest {
        description: publication.description,
        tags: tags(publication.tags),
        realm: publication.realm,
        duration_ms: inspection.duration_ms,
        ..named
    };
    let body = manifest.encode()?;
    if let Some(content) = published_before(context, &manifest)? {
        return Ok(Published { content, new: false, kind, note: Some("this was published before".into()) });
    }
    // First, so that what is announced can't be evicted.
    context.blobs.set_pinned(blob, true).await?;
    let record = context.publisher.publish(MANIFEST, body).await?;
    Ok(Published { content: record.id(), new: true, kind, note: inspection.note })
}

/// Why nothing was withdrawn.
#[derive(Debug, thiserror::Error)]
pub(super) enum WithdrawError {
    /// It was published by somebody else.
    #[error(
        "only whoever published it can withdraw it, on the node that holds the author's key and follows its network"
    )]
    NotOurs,
    /// The log refused.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The words are out of bounds.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The blob could not be let go of.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// Withdraws a content that this node's author published: every node drops what the manifest says, and stops
/// listing it. Its bytes may be evicted here, unless another content has the same.
pub(super) async fn withdraw(context: &Context, content: RecordId, entry: &Entry) -> Result<RecordId, WithdrawError> {
    let elsewhere = context.within(Some(entry.network));
    let context = elsewhere.as_ref().filter(|there| there.publisher.author() == entry.author);
    let context = context.ok_or(WithdrawError::NotOurs)?;
    let body = Erase { records: [content].into() }.encode()?;
    let record = context.publisher.publish(ERASE, body).await?;
    let hash = entry.manifest.original.hash;
    let others = index::entries_of_blob(&context.records.view(NAME)?, hash, 1)?;
    if others.is_empty() && context.blobs.status(hash).is_some() {
        context.blobs.set_pinned(hash, false).await?;
    }
    Ok(record.id())
}

fn published_before(context: &Context, manifest: &Manifest) -> Result<Option<RecordId>, RecordsError> {
    const COMPARED: usize = 64;
    let (network, author) = (context.publisher.network(), context.publisher.author());
    let view = context.records.view(NAME)?;
    let same = |entry: &Entry| entry.network == network && entry.author == author && entry.manifest == *manifest;
    for (content, entry) in index::entries_of_blob(&view, manifest.original.hash, COMPARED)? {
        if same(&entry) && !index::is_replaced(&view, content, author)? {
            return Ok(Some(content));
        }
    }
    Ok(None)
}

/// One line, from the publisher or from the file's name.
fn title(publication: &Publication) -> String {
    let from_name = || {
        let name = publication.file_name.as_deref().and_then(file_name)?;
        let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
        let stem = if stem.is_empty() { name.as_str() } else { stem };
        Some(stem.chars().take(MAX_TITLE_CHARS).collect::<String>())
    };
    let given = publication.title.as_deref().map(str::trim).filter(|title| !title.is_empty());
    given.map(str::to_owned).or_else(from_name).unwrap_or_else(|| "Untitled".into())
}

/// The last part of whatever path was given, on one line.
fn file_name(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let line: String = last.chars().filter(|c| !c.is_control()).take(MAX_NAME_CHARS).collect();
    let line = line.trim();
    (!line.is_empty() && line != "." && line != "..").then(|| line.to_owned())
}

fn tags(tags: Vec<String>) -> Vec<String> {
    let mut seen = Vec::new();
    for tag in tags.iter().map(|tag| tag.trim().trim_start_matches('#').to_lowercase()) {
        if !tag.is_empty() && !seen.contains(&tag) {
            seen.push(tag);
        }
    }
    seen
}

/// Which contents a list shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listing {
    pub(super) network: NetworkId,
    pub(super) author: Option<AuthorId>,
    /// Also what a later manifest replaced.
    pub(super) all: bool,
    pub(super) after: Option<Place>,
    pub(super) limit: usize,
}

/// A page of a list and the place where the next begins.
pub(super) type Page = (Vec<(RecordId, Entry)>, Option<Place>);

/// One page of the catalogue, newest first.
pub(super) fn list(view: &IndexView<'_>, listing: Listing) -> Result<Page, RecordsError> {
    let mut items = Vec::new();
    let mut after = listing.after;
    loop {
        let places = index::newest(view, listing.network, listing.author, after, listing.limit)?;
        let exhausted = places.len() < listing.limit;
        for place in places {
            after = Some(place);
            let Some(entry) = index::entry(view, place.content)? else { continue };
            if listing.all || !index::is_replaced(view, place.content, entry.author)? {
                items.push((place.content, entry));
            }
            if items.len() == listing.limit {
                return Ok((items, after));
            }
        }
        if exhausted {
            return Ok((items, None));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_and_names_come_from_what_there_is() {
        let cases = [
            (Some("  A film "), Some("x.mp4"), "A film"),
            (Some("  "), Some("My film.final.mp4"), "My film.final"),
            (None, Some("C:\\videos\\film.mp4"), "film"),
            (None, Some("../../etc/passwd"), "passwd"),
            (None, Some(".hidden"), ".hidden"),
            (None, Some(".."), "Untitled"),
            (None, None, "Untitled"),
        ];
        for (given, name, expected) in cases {
            let publication = Publication {
                title: given.map(str::to_owned),
                file_name: name.map(str::to_owned),
                ..Publication::default()
            };
            assert_eq!(title(&publication), expected, "{given:?} {name:?}");
        }
    }

    #[test]
    fn tags_are_lower_case_and_there_once() {
        let given = ["#Film", "film", " Noir ", ""].map(str::to_owned).to_vec();
        assert_eq!(tags(given), ["film", "noir"]);
    }
}
