//! What a carousel sends: records in a few objects, and of contents what the playlist's policy chooses.

use std::collections::{HashMap, HashSet};

use mhc_platform::catalog::{self, Entry};
use mhc_protocol::{BlobHash, RecordId, bundle::Span, record::VerifiedRecord};
use mhc_satellite::carousel::{About, Class, Item, Object, Playlist};

use super::entries;
use crate::bundle::{JobError, Stores, contents_of, heads, pieces};

/// Records read from a log at a time.
const PAGE_RECORDS: usize = 256;
const PAGE_BYTES: usize = 1 << 20;
/// Bounds of an object of records. Between them it ends where a record's id says so: a new record then changes one
/// object, not all that follow.
const MIN_RECORDS_BYTES: usize = 64 << 10;
const MAX_RECORDS_BYTES: usize = 1 << 20;
const CUT_MASK: u8 = 0x3f;
/// Pieces of a blob in one object: 16 MiB.
const PIECES: usize = 2;

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct ProgramRequest {
    /// Contents by name.
    pub(super) contents: Vec<RecordId>,
    /// Also the newest of the rest.
    pub(super) newest: bool,
    /// Most bytes of all objects.
    pub(super) capacity_bytes: u64,
}

/// Where the bytes of an object come from.
#[derive(Debug, Clone)]
enum Origin {
    Records(Vec<RecordId>),
    Blob(BlobHash, Vec<Span>),
}

/// A playlist, and how to get the bytes of what is on it.
#[derive(Debug, Default)]
pub(super) struct Program {
    pub(super) playlist: Playlist,
    origins: HashMap<[u8; 32], Origin>,
    /// Blobs that aren't all here.
    pub(super) absent: u64,
}

impl Program {
    /// Reads what there is; blocks, and hashes all of it.
    pub(super) fn plan(stores: &Stores, request: &ProgramRequest) -> Result<Self, JobError> {
        let mut plan = Plan { stores, left_bytes: request.capacity_bytes, items: Vec::new(), program: Self::default() };
        plan.records()?;
        let mut seen = HashSet::new();
        for (class, content, at_ms) in plan.contents(request)? {
            if seen.insert(content) && plan.left_bytes > 0 {
                plan.content(class, content, at_ms)?;
            }
        }
        let Plan { items, mut program, .. } = plan;
        program.playlist = Playlist::choose(items, request.capacity_bytes);
        Ok(program)
    }

    /// The bytes of an object of the playlist.
    pub(super) fn load(&self, stores: &Stores, object: &Object) -> Result<Vec<u8>, JobError> {
        match self.origins.get(&object.hash) {
            Some(Origin::Records(ids)) => entries::records(stores, ids),
            Some(Origin::Blob(hash, spans)) => blob_bytes(stores, *hash, spans),
            None => Err(JobError::Internal("an object that isn't on the playlist".into())),
        }
    }
}

fn blob_bytes(stores: &Stores, hash: BlobHash, spans: &[Span]) -> Result<Vec<u8>, JobError> {
    let pieces = spans.iter().map(|span| entries::piece(stores, hash, *span));
    Ok(pieces.collect::<Result<Vec<_>, _>>()?.concat())
}

/// Records that become an object.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    ids: Vec<RecordId>,
    newest_ms: u64,
}

impl Batch {
    /// Adds one. Whether the object ends with it.
    fn add(&mut self, record: &VerifiedRecord) -> bool {
        self.bytes.extend(entries::record(record));
        self.ids.push(record.id());
        self.newest_ms = self.newest_ms.max(record.header().at.as_millis());
        let cut = record.id().as_bytes().last().is_some_and(|byte| byte & CUT_MASK == 0);
        self.bytes.len() >= MAX_RECORDS_BYTES || (cut && self.bytes.len() >= MIN_RECORDS_BYTES)
    }
}

struct Plan<'a> {
    stores: &'a Stores,
    left_bytes: u64,
    items: Vec<Item>,
    program: Program,
}

impl Plan<'_> {
    fn add(&mut self, class: Class, at_ms: u64, bytes: &[u8], about: About, origin: Origin) -> Result<(), JobError> {
        let object = Object::new(bytes, about).map_err(JobError::internal)?;
        self.left_bytes = self.left_bytes.saturating_sub(object.bytes.into());
        self.items.push(Item { class, at_ms, object });
        self.program.origins.insert(object.hash, origin);
        Ok(())
    }

    /// All logs whole, or their records wouldn't follow each other.
    fn records(&mut self) -> Result<(), JobError> {
        let mut batch = Batch::default();
        for author in heads(self.stores)? {
            let (mut from, mut seen) = ((0, 0), HashSet::new());
            loop {
                let mut page = self.stores.records.log(self.stores.network, author, from, PAGE_RECORDS, PAGE_BYTES)?;
                // The page begins where the one before it ended.
                page.retain(|record| seen.insert(record.id()));
                let Some(last) = page.last() else { break };
                from = (last.header().epoch, last.header().seq);
                for record in &page {
                    if batch.add(record) {
                        self.add_records(std::mem::take(&mut batch))?;
                    }
                }
            }
        }
        self.add_records(batch)
    }

    fn add_records(&mut self, batch: Batch) -> Result<(), JobError> {
        match batch.ids.is_empty() {
            true => Ok(()),
            false => {
                self.add(Class::Records, batch.newest_ms, &batch.bytes, About::Records, Origin::Records(batch.ids))
            }
        }
    }

    /// Contents by class, the most urgent first.
    fn contents(&self, request: &ProgramRequest) -> Result<Vec<(Class, RecordId, u64)>, JobError> {
        let authority = self.stores.records.authority(self.stores.network)?;
        let essential = authority.latest().map(|policy| policy.essential.clone()).unwrap_or_default();
        let mut contents: Vec<_> = essential.into_iter().map(|content| (Class::Essential, content, 0)).collect();
        for content in &request.contents {
            if self.entry(*content)?.is_none() {
                return Err(JobError::NotFound(format!("this node knows no content {content}")));
            }
            contents.push((Class::Wanted, *content, 0));
        }
        if request.newest {
            let newest = contents_of(self.stores, None, |_| true)?;
            contents.extend(newest.into_iter().map(|place| (Class::Newest, place.content, place.at.as_millis())));
        }
        Ok(contents)
    }

    fn entry(&self, content: RecordId) -> Result<Option<Entry>, JobError> {
        let view = self.stores.records.view(catalog::NAME)?;
        Ok(catalog::entry(&view, content)?.filter(|entry| entry.network == self.stores.network))
    }

    fn content(&mut self, class: Class, content: RecordId, at_ms: u64) -> Result<(), JobError> {
        let Some(entry) = self.entry(content)? else { return Ok(()) };
        let blobs: Vec<BlobHash> =
            entry.manifest.thumbnails.iter().chain([&entry.manifest.original]).map(|blob| blob.hash).collect();
        for hash in blobs {
            let Some(status) = self.stores.blobs.status(hash).filter(|status| status.complete) else {
                self.program.absent += 1;
                continue;
            };
            let spans = pieces(status.size_bytes, &status.ranges);
            for spans in spans.chunks(PIECES) {
                let (Some(first), Some(last)) = (spans.first(), spans.last()) else { continue };
                if last.end - first.start > self.left_bytes {
                    self.left_bytes = 0;
                    return Ok(());
                }
                let bytes = blob_bytes(self.stores, hash, spans)?;
                let (size_bytes, start, end) = (status.size_bytes, first.start, last.end);
                let about = About::Blob { hash, size_bytes, start, end };
                self.add(class, at_ms, &bytes, about, Origin::Blob(hash, spans.to_vec()))?;
            }
        }
        Ok(())
    }
}
