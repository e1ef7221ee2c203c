//! Export: the records first, then blobs, newest first, until there is no more room.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use mhc_platform::catalog::{self, Entry};
use mhc_protocol::{
    AuthorId, BlobHash, RecordId, Timestamp,
    bundle::{BundleId, Frame, MAX_ENTRIES, MAX_WANTS_BYTES, Span, WantList},
    manifest::BlobRef,
    record::VerifiedRecord,
};
use mhc_storage::blob::BlobError;
use serde::Serialize;
use tokio::runtime::Handle;

use super::{
    JobError, Reporter, Stores,
    layout::{Stick, read_small},
    media,
    open::chunks_of,
    select::{self, Receiver, Selection},
    write::BundleWriter,
};

/// Records read from a log at a time.
const PAGE_RECORDS: usize = 256;
const PAGE_BYTES: usize = 1 << 20;
/// Most bundles of one selection on one stick.
const MAX_NUMBER: u32 = 4096;

/// What is asked for. With neither channels nor contents: all of the network.
#[derive(Debug, Clone, Default)]
pub(super) struct ExportRequest {
    pub(super) path: PathBuf,
    pub(super) channels: Vec<AuthorId>,
    pub(super) contents: Vec<RecordId>,
    /// Blobs of contents from this day on; those of contents asked for by name whatever their day. Logs are always
    /// whole, or their records wouldn't follow each other.
    pub(super) since: Option<Timestamp>,
    /// Most bytes of segments.
    pub(super) max_bytes: Option<u64>,
    /// A want-list; the one on the stick when there is none.
    pub(super) wants: Option<PathBuf>,
    pub(super) browsable: bool,
}

/// What was exported.
#[derive(Debug, Default, Serialize)]
pub(super) struct Exported {
    /// The bundle's name; none when there was nothing to send.
    pub(super) bundle: Option<String>,
    /// Where it is.
    pub(super) path: Option<String>,
    pub(super) records: u64,
    /// Blobs of which something was written.
    pub(super) blobs: u64,
    /// Bytes written, index included.
    pub(super) bytes: u64,
    /// Something was left out for want of room within `max_bytes`.
    pub(super) cut: bool,
    /// Blobs that were asked for and aren't on this node, or not their ends.
    pub(super) absent: u64,
    /// An interrupted export of the same was here and was begun again.
    pub(super) begun_again: bool,
    /// A want-list said what to leave out.
    pub(super) by_wants: bool,
    /// Copies that any player opens.
    pub(super) media: u64,
    pub(super) notes: Vec<String>,
}

pub(super) fn run(
    stores: &Stores,
    request: &ExportRequest,
    today: Timestamp,
    reporter: &mut Reporter,
) -> Result<Exported, JobError> {
    let stick = Stick::open(&request.path)?;
    let mut exported = Exported::default();
    let receiver = receiver(stores, &stick, request, &mut exported)?;
    let selection = select::select(stores, request, &receiver)?;
    let id =
        (0..MAX_NUMBER).map(|number| select::bundle_id(stores, request, number)).find(|id| !stick.is_finished(*id));
    let id = id.ok_or_else(|| JobError::Refused("there are too many bundles of this on the stick".into()))?;
    reporter.started()?;
    let (dir, was_there) = stick.make_bundle_dir(id)?;
    exported.begun_again = was_there;
    let writer = BundleWriter::new(&dir, today, request.max_bytes.unwrap_or(u64::MAX));
    let mut export =
        Export { stores, receiver, reporter, writer, exported, seen: HashSet::new(), handle: Handle::current() };
    let fits = export.records(&selection)? && export.blobs(&selection)?;
    let Export { writer, mut exported, .. } = export;
    exported.cut = !fits;
    if writer.is_empty() {
        drop(writer);
        exported.notes.push("there was nothing to send".into());
    } else {
        finish(stores, request, writer, id, &dir, &mut exported)?;
    }
    if request.browsable {
        media::copy(stores, &stick, &selection.contents, today, reporter, &mut exported)?;
    }
    Ok(exported)
}

fn finish(
    stores: &Stores,
    request: &ExportRequest,
    writer: BundleWriter,
    id: BundleId,
    dir: &Path,
    exported: &mut Exported,
) -> Result<(), JobError> {
    let written = writer.finish(&stores.key, stores.network, request.since)?;
    exported.bytes = written.bytes;
    exported.bundle = Some(id.to_string());
    exported.path = Some(dir.display().to_string());
    tracing::info!(bundle = %id, entries = written.entries, bytes = written.bytes, "a bundle was exported");
    Ok(())
}

/// What the receiver has: by the want-list that was given, else by the one on the stick if it is somebody else's.
fn receiver(
    stores: &Stores,
    stick: &Stick,
    request: &ExportRequest,
    exported: &mut Exported,
) -> Result<Receiver, JobError> {
    let wants = match &request.wants {
        Some(path) => Some(named_wants(stores, path)?),
        None => match wants_on_stick(stores, stick) {
            Ok(wants) => wants,
            Err(why) => {
                exported.notes.push(format!("the want-list on the stick wasn't used: {why}"));
                None
            }
        },
    };
    exported.by_wants = wants.is_some();
    wants.map_or_else(|| Ok(Receiver::default()), |wants| Receiver::new(stores, wants))
}

fn named_wants(stores: &Stores, path: &Path) -> Result<WantList, JobError> {
    if !path.is_absolute() {
        return Err(JobError::BadRequest("the want-list's path must be absolute".into()));
    }
    let file = read_small(path, MAX_WANTS_BYTES).map_err(JobError::io("read", path))?;
    let file = file.ok_or_else(|| JobError::NotFound(format!("there is no want-list {}", path.display())))?;
    let wants = WantList::decode(&file);
    let wants = wants.map_err(|error| JobError::BadRequest(format!("{}: {error}", path.display())))?;
    match wants.network == stores.network {
        true => Ok(wants),
        false => Err(JobError::Refused(format!("{} is of another network", path.display()))),
    }
}

fn wants_on_stick(stores: &Stores, stick: &Stick) -> Result<Option<WantList>, String> {
    let file = read_small(&stick.wants_file(), MAX_WANTS_BYTES).map_err(|error| error.to_string())?;
    let Some(file) = file else { return Ok(None) };
    let wants = WantList::decode(&file).map_err(|error| error.to_string())?;
    match wants.network == stores.network {
        // What this node itself lacks says nothing of who gets the bundle.
        true => Ok(Some(wants).filter(|wants| !wants.is_of(&stores.key))),
        false => Err("it is of another network".into()),
    }
}

struct Export<'a> {
    stores: &'a Stores,
    receiver: Receiver,
    reporter: &'a mut Reporter,
    writer: BundleWriter,
    exported: Exported,
    /// Blobs that were looked at.
    seen: HashSet<BlobHash>,
    handle: Handle,
}

impl Export<'_> {
    /// False when not all had room.
    fn records(&mut self, selection: &Selection) -> Result<bool, JobError> {
        self.reporter.phase("records", 0)?;
        for (author, from) in &selection.logs {
            if !self.log(*author, *from)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A log from a position on, with the evidence of forks.
    fn log(&mut self, author: AuthorId, mut from: (u64, u64)) -> Result<bool, JobError> {
        // Written already, at the position where the next page begins: evidence may be cut off from its rival.
        let mut written: Vec<RecordId> = vec![];
        loop {
            let page = self.stores.records.log(self.stores.network, author, from, PAGE_RECORDS, PAGE_BYTES)?;
            let new: Vec<&VerifiedRecord> = page.iter().filter(|record| !written.contains(&record.id())).collect();
            for record in &new {
                if !self.record(record)? {
                    return Ok(false);
                }
            }
            let Some(last) = page.last().map(|record| (record.header().epoch, record.header().seq)) else {
                return Ok(true);
            };
            let at_last = |record: &&VerifiedRecord| (record.header().epoch, record.header().seq) == last;
            written = page.iter().filter(at_last).map(|record| record.id()).collect();
            from = if last > from && !new.is_empty() { last } else { (last.0, last.1 + 1) };
        }
    }

    fn record(&mut self, record: &VerifiedRecord) -> Result<bool, JobError> {
        let envelope = record.to_bytes();
        let frame = Frame::Record { id: record.id(), envelope_bytes: envelope.len() as u64 };
        let fits = self.writer.add(&frame, &envelope)?;
        self.exported.records += u64::from(fits);
        self.reporter.advance(frame.bytes())?;
        Ok(fits)
    }

    /// False when not all had room.
    fn blobs(&mut self, selection: &Selection) -> Result<bool, JobError> {
        let mut planned = Vec::new();
        for content in &selection.contents {
            if planned.len() > MAX_ENTRIES {
                // More than there is room for: the writer will say so.
                break;
            }
            let view = self.stores.records.view(catalog::NAME)?;
            let entry = catalog::entry(&view, *content)?;
            drop(view);
            if let Some(entry) = entry {
                self.plan(*content, &entry, &mut planned)?;
            }
        }
        self.reporter.phase("blobs", planned.iter().map(|(_, span)| span.end - span.start).sum())?;
        let (mut current, mut unreadable) = (None, None);
        for (hash, span) in planned {
            if unreadable == Some(hash) {
                continue;
            }
            match self.piece(hash, span) {
                Ok(true) if current == Some(hash) => {}
                Ok(true) => self.exported.blobs += 1,
                Ok(false) => return Ok(false),
                Err(JobError::Blobs(error @ (BlobError::Missing | BlobError::Damaged | BlobError::Changed { .. }))) => {
                    self.exported.notes.push(format!("blob {hash}: {error}"));
                    self.exported.absent += 1;
                    unreadable = Some(hash);
                }
                Err(error) => return Err(error),
            }
            current = Some(hash);
            self.reporter.advance(span.end - span.start)?;
        }
        Ok(true)
    }

    /// What to send of a content's blobs.
    fn plan(&mut self, content: RecordId, entry: &Entry, planned: &mut Vec<(BlobHash, Span)>) -> Result<(), JobError> {
        let Some(record) = self.stores.records.get(content)? else { return Ok(()) };
        let position = (record.header().epoch, record.header().seq);
        for BlobRef { hash, .. } in std::iter::once(&entry.manifest.original).chain(&entry.manifest.thumbnails) {
            let needed = self.receiver.needs(*hash, entry.author, position);
            if needed.is_empty() || !self.seen.insert(*hash) {
                continue;
            }
            let Some(status) = self.stores.blobs.status(*hash) else {
                self.exported.absent += 1;
                continue;
            };
            let pieces = select::pieces(status.size_bytes, &(&status.ranges & &needed));
            let has_end = |span: &Span| status.complete || chunks_of(span).is_subset(&status.ranges);
            let sendable: Vec<_> = pieces.into_iter().filter(has_end).map(|span| (*hash, span)).collect();
            self.exported.absent += u64::from(sendable.is_empty());
            planned.extend(sendable);
        }
        Ok(())
    }

    fn piece(&mut self, hash: BlobHash, span: Span) -> Result<bool, JobError> {
        let frame = Frame::Blob { hash, span };
        let mut encoding = Vec::with_capacity(usize::try_from(frame.payload_bytes()).map_err(JobError::internal)?);
        if span.size_bytes > 0 {
            let mut encoder = self.stores.blobs.encoder(hash, &chunks_of(&span))?;
            while let Some(bytes) = self.handle.block_on(encoder.next()) {
                encoding.extend_from_slice(&bytes?);
            }
        }
        self.writer.add(&frame, &encoding)
    }
}
