//! Import: records go to the log, blobs to the store, each entry checked by itself; what is damaged is told and passed
//! over, what is here already isn't read again.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use mhc_platform::catalog;
use mhc_protocol::{
    BlobHash, Timestamp,
    bundle::{Entry, EntryKind, Frame, Span},
    manifest::{MANIFEST, Manifest},
    record::{RecordError, VerifiedRecord},
};
use mhc_storage::{
    blob::{BlobError, Held, PartialBlob},
    record::{Outcome, Refusal},
};
use serde::Serialize;
use tokio::runtime::Handle;

use super::{
    JobError, Reporter, Stores,
    issuers::Issuers,
    layout::Stick,
    open::{CheckedRecord, Opened, Reader, Unusable, check_blob, check_record, chunks_of, open},
    report::{BundleInfo, Damages},
    wants,
};

/// Records that are appended at once.
const BATCH: usize = 256;

/// What was imported.
#[derive(Debug, Default, Serialize)]
pub(super) struct Imported {
    bundles: Vec<BundleInfo>,
    records: RecordCounts,
    blobs: BlobCounts,
    #[serde(flatten)]
    damages: Damages,
    /// Where the want-list for the next export is.
    wants: Option<String>,
    notes: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
struct RecordCounts {
    new: u64,
    known: u64,
    /// They follow records that weren't in the bundle and wait in memory for a while.
    waiting: u64,
    /// Against the rules of a log, as every node decides.
    refused: u64,
    /// From the future by this node's clock, or made by a newer program.
    not_now: u64,
}

#[derive(Debug, Default, Serialize)]
struct BlobCounts {
    /// Bytes of blobs that were stored.
    new_bytes: u64,
    /// Bytes of entries that weren't read: what is in them was here already.
    known_bytes: u64,
    /// Blobs of the bundle that are all here now.
    complete: u64,
    /// Blobs of which parts are still missing.
    partial: u64,
    /// Blobs that no known manifest names; they weren't taken.
    unknown: u64,
    /// Blobs for which there was no room.
    no_room: u64,
    /// Blobs that nobody here asked for, of makers who have brought as much of those as they may.
    over_quota: u64,
}

pub(super) fn run(
    stores: &Stores,
    path: &Path,
    now: Timestamp,
    today: Timestamp,
    reporter: &mut Reporter,
) -> Result<Imported, JobError> {
    let stick = Stick::open(path)?;
    let mut imported = Imported::default();
    let bundles = open_ours(stores, &stick, &mut imported)?;
    reporter.started()?;
    let bytes_of = |bundle: &Opened| bundle.index.entries.iter().map(|entry| entry.bytes).sum::<u64>();
    reporter.phase("importing", bundles.iter().map(bytes_of).sum())?;
    let issuers = Issuers::open(stores, &stick, &Handle::current())?;
    let mut import = Import::new(stores, now, reporter, imported, issuers);
    import.records(&bundles)?;
    for bundle in &bundles {
        import.blobs(bundle)?;
    }
    let (mut imported, over_quota) = import.finish();
    // What was too much isn't asked for again: that is for the operator to do.
    match wants::write(stores, &stick, today, &over_quota) {
        Ok(file) => imported.wants = Some(file),
        // A stick that can't be written is a good stick.
        Err(error) => imported.notes.push(format!("the want-list wasn't written: {error}")),
    }
    Ok(imported)
}

/// Opens the bundles of this network; the oldest first, since younger ones go on from there.
fn open_ours(stores: &Stores, stick: &Stick, imported: &mut Imported) -> Result<Vec<Opened>, JobError> {
    let mut ours = Vec::new();
    let mut others = 0_usize;
    for id in stick.bundles()? {
        match open(stick, id) {
            Ok(bundle) => {
                let is_ours = bundle.index.network == stores.network;
                imported.bundles.push(BundleInfo::new(id, &bundle.index, is_ours));
                match is_ours {
                    true => ours.push(bundle),
                    false => others += 1,
                }
            }
            Err(why) => imported.damages.bundle(id, why),
        }
    }
    if ours.is_empty() && others > 0 && imported.damages.damaged == 0 {
        let text = "what is on the stick is of another network than this node's; nothing was imported";
        return Err(JobError::Refused(text.into()));
    }
    if others > 0 {
        imported.notes.push(format!("{others} bundle(s) of another network were left alone"));
    }
    ours.sort_by_key(|bundle| (bundle.index.made, bundle.id));
    Ok(ours)
}

struct Import<'a> {
    stores: &'a Stores,
    now: Timestamp,
    reporter: &'a mut Reporter,
    handle: Handle,
    imported: Imported,
    /// Named by manifests of these bundles beside their originals, which the index knows.
    thumbnails: HashSet<BlobHash>,
    /// What came so far isn't evicted for what comes next; blobs come newest first.
    held: HashMap<BlobHash, Held>,
    unknown: HashSet<BlobHash>,
    no_room: HashSet<BlobHash>,
    issuers: Issuers<'a>,
    admitted: HashSet<BlobHash>,
    over_quota: HashSet<BlobHash>,
    /// The blob that is being written.
    open: Option<PartialBlob>,
}

/// What a round over the records brought.
#[derive(Debug, Default, Clone, Copy)]
struct Round {
    new: u64,
    waiting: u64,
}

impl<'a> Import<'a> {
    fn new(
        stores: &'a Stores,
        now: Timestamp,
        reporter: &'a mut Reporter,
        imported: Imported,
        issuers: Issuers<'a>,
    ) -> Self {
        Self {
            stores,
            now,
            reporter,
            handle: Handle::current(),
            imported,
            thumbnails: HashSet::new(),
            held: HashMap::new(),
            unknown: HashSet::new(),
            no_room: HashSet::new(),
            issuers,
            admitted: HashSet::new(),
            over_quota: HashSet::new(),
            open: None,
        }
    }

    /// Bundles of one day are in no order: what waits for another bundle's records gets another round.
    fn records(&mut self, bundles: &[Opened]) -> Result<(), JobError> {
        for round in 0..=bundles.len() {
            let mut total = Round::default();
            for bundle in bundles {
                let one = self.round(bundle, round == 0)?;
                total = Round { new: total.new + one.new, waiting: total.waiting + one.waiting };
            }
            self.imported.records.waiting = total.waiting;
            if total.waiting == 0 || (round > 0 && total.new == 0) {
                break;
            }
        }
        Ok(())
    }

    fn round(&mut self, bundle: &Opened, first: bool) -> Result<Round, JobError> {
        let mut reader = Reader::new(bundle);
        let (mut batch, mut round) = (Vec::new(), Round::default());
        let records = bundle.index.entries.iter().enumerate().filter(|(_, entry)| entry.kind == EntryKind::Record);
        for (at, entry) in records {
            match self.read_record(bundle, &mut reader, entry) {
                Ok(CheckedRecord::Good(record)) => batch.push(*record),
                Ok(CheckedRecord::NotNow(error)) if first => self.not_now(&error),
                Err(unusable) if first => self.damage(bundle, at, entry, unusable),
                Ok(CheckedRecord::NotNow(_)) | Err(_) => {}
            }
            if batch.len() >= BATCH {
                self.append(std::mem::take(&mut batch), first, &mut round)?;
            }
            self.reporter.advance(if first { entry.bytes } else { 0 })?;
        }
        self.append(batch, first, &mut round)?;
        Ok(round)
    }

    fn read_record(&self, bundle: &Opened, reader: &mut Reader<'_>, entry: &Entry) -> Result<CheckedRecord, Unusable> {
        let frame = reader.head(entry)?;
        let envelope = reader.payload(entry, &frame)?;
        check_record(entry, &envelope, bundle.index.network, Some(self.now))
    }

    fn not_now(&mut self, error: &RecordError) {
        self.imported.records.not_now += 1;
        if self.imported.records.not_now == 1 {
            let note = match error {
                RecordError::Time => "records are from the future by this node's clock; set the clock and import again",
                _ => "records were made by a newer program; update this one and import again",
            };
            self.imported.notes.push(note.into());
        }
    }

    fn append(&mut self, batch: Vec<VerifiedRecord>, first: bool, round: &mut Round) -> Result<(), JobError> {
        for record in batch.iter().filter(|record| record.header().kind == MANIFEST) {
            let manifest = record.body().and_then(|body| Manifest::decode(body).ok());
            self.thumbnails.extend(manifest.iter().flat_map(|manifest| &manifest.thumbnails).map(|blob| blob.hash));
        }
        let outcomes = self.handle.block_on(self.stores.records.append(batch))?;
        let counts = &mut self.imported.records;
        for outcome in outcomes {
            match outcome {
                Outcome::Appended | Outcome::Forked => (counts.new, round.new) = (counts.new + 1, round.new + 1),
                Outcome::Duplicate => counts.known += u64::from(first),
                Outcome::Pending | Outcome::Refused(Refusal::PendingFull) => round.waiting += 1,
                Outcome::Refused(_) => counts.refused += u64::from(first),
            }
        }
        if round.new > 0 {
            (self.stores.news)();
        }
        Ok(())
    }

    fn blobs(&mut self, bundle: &Opened) -> Result<(), JobError> {
        let mut reader = Reader::new(bundle);
        let blobs = bundle.index.entries.iter().enumerate().filter(|(_, entry)| entry.kind == EntryKind::Blob);
        for (at, entry) in blobs {
            let hash = BlobHash::from_bytes(entry.name);
            if self.is_wanted(hash)? && self.is_admitted(bundle, hash)? {
                match self.piece(&mut reader, entry, hash) {
                    Ok(()) => {}
                    Err(Failed::Unusable(unusable)) => self.damage(bundle, at, entry, unusable),
                    Err(Failed::Blob(error)) => self.refused(hash, error)?,
                }
            }
            self.reporter.advance(entry.bytes)?;
        }
        Ok(())
    }

    /// Only what some known manifest names: a bundle mustn't push out what the node keeps with bytes that nobody asks
    /// for.
    fn is_wanted(&mut self, hash: BlobHash) -> Result<bool, JobError> {
        if self.no_room.contains(&hash) || self.unknown.contains(&hash) {
            return Ok(false);
        }
        if self.held.contains_key(&hash) || self.thumbnails.contains(&hash) {
            return Ok(true);
        }
        let known = match self.stores.blobs.hold(hash) {
            Some(held) => self.held.insert(hash, held).is_none(),
            None => {
                let view = self.stores.records.view(catalog::NAME)?;
                !catalog::entries_of_blob(&view, hash, 1)?.is_empty()
            }
        };
        if !known {
            self.unknown.insert(hash);
        }
        Ok(known)
    }

    /// What nobody here asked for is taken from each maker of bundles up to a limit. Decided once for all of a blob.
    fn is_admitted(&mut self, bundle: &Opened, hash: BlobHash) -> Result<bool, JobError> {
        if self.admitted.contains(&hash) || self.is_complete(hash) {
            return Ok(true);
        }
        if self.over_quota.contains(&hash) {
            return Ok(false);
        }
        let node = bundle.index.node;
        let pieces = bundle.index.entries.iter().filter(|entry| entry.name == *hash.as_bytes());
        let bytes = pieces.map(|entry| entry.bytes).sum::<u64>().saturating_sub(self.local_bytes(hash));
        if self.issuers.is_asked_for(hash)? || self.issuers.admit(node, hash, bytes, &self.handle)? {
            return Ok(self.admitted.insert(hash));
        }
        if self.over_quota.is_empty() {
            let note = format!(
                "node {node} has brought as much as one may that nobody here asked for (storage.bundle_quota_bytes); \
                 pin what is wanted, or leave a want-list with `mhc bundle wants`, and import again"
            );
            self.imported.notes.push(note);
        }
        self.over_quota.insert(hash);
        Ok(false)
    }

    fn is_complete(&self, hash: BlobHash) -> bool {
        self.stores.blobs.status(hash).is_some_and(|status| status.complete)
    }

    /// Stores a piece of a blob unless it is here.
    fn piece(&mut self, reader: &mut Reader<'_>, entry: &Entry, hash: BlobHash) -> Result<(), Failed> {
        let status = self.stores.blobs.status(hash);
        if status.as_ref().is_some_and(|status| status.complete) {
            self.imported.blobs.known_bytes += entry.bytes;
            return Ok(());
        }
        let frame = reader.head(entry)?;
        let Frame::Blob { span, .. } = frame else { return Ok(()) };
        let proven = status.filter(|status| status.size_bytes == span.size_bytes);
        if proven.as_ref().is_some_and(|status| chunks_of(&span).is_subset(&status.ranges) && span.size_bytes > 0) {
            self.imported.blobs.known_bytes += entry.bytes;
            return Ok(());
        }
        let encoding = reader.payload(entry, &frame)?;
        let (items, checked) = check_blob(hash, &span, &encoding);
        // What came before a wrong byte is true, if only the size is: that is proven by the piece's end.
        if checked.is_ok() || proven.is_some() {
            let partial = self.partial(hash, &span)?;
            let before = self.local_bytes(hash);
            partial.write_blocking(&items)?;
            let stored = self.local_bytes(hash).saturating_sub(before);
            self.imported.blobs.new_bytes += stored;
            self.issuers.stored(hash, stored);
        }
        checked.map_err(Failed::from)
    }

    fn local_bytes(&self, hash: BlobHash) -> u64 {
        self.stores.blobs.status(hash).map_or(0, |status| status.local_bytes)
    }

    /// The handle to write with; its blob isn't evicted before this import is over.
    fn partial(&mut self, hash: BlobHash, span: &Span) -> Result<PartialBlob, BlobError> {
        if let Some(open) =
            self.open.as_ref().filter(|open| open.hash() == hash && open.size_bytes() == span.size_bytes)
        {
            return Ok(open.clone());
        }
        self.open = None;
        let partial = self.handle.block_on(self.stores.blobs.partial(hash, span.size_bytes))?;
        if let Some(held) = self.stores.blobs.hold(hash) {
            self.held.insert(hash, held);
        }
        self.open = Some(partial.clone());
        Ok(partial)
    }

    /// A blob that has no room is left out; smaller ones may have some.
    fn refused(&mut self, hash: BlobHash, error: BlobError) -> Result<(), JobError> {
        match error {
            BlobError::QuotaExceeded { .. } | BlobError::StorageFull => {
                if self.no_room.is_empty() {
                    self.imported.notes.push(format!("blobs were left out: {error}"));
                }
                self.no_room.insert(hash);
                self.open = None;
                Ok(())
            }
            error => Err(error.into()),
        }
    }

    fn damage(&mut self, bundle: &Opened, at: usize, entry: &Entry, unusable: Unusable) {
        match unusable {
            Unusable::Segment(why) => {
                self.imported.damages.entries_lost += 1;
                self.imported.damages.segment(bundle.id, entry.segment, why);
            }
            Unusable::Entry(why) => self.imported.damages.entry(bundle.id, entry.segment, at, why),
        }
    }

    /// The report, and what was over a maker's quota.
    fn finish(self) -> (Imported, HashSet<BlobHash>) {
        let Self { stores, mut imported, held, unknown, no_room, over_quota, .. } = self;
        let counts = &mut imported.blobs;
        counts.unknown = unknown.len() as u64;
        counts.no_room = no_room.len() as u64;
        counts.over_quota = over_quota.len() as u64;
        for hash in held.keys().filter(|hash| !no_room.contains(hash)) {
            match stores.blobs.status(*hash).is_some_and(|status| status.complete) {
                true => counts.complete += 1,
                false => counts.partial += 1,
            }
        }
        if imported.records.waiting > 0 {
            let note = "records wait for others that weren't in the bundle; export their channels whole";
            imported.notes.push(note.into());
        }
        (imported, over_quota)
    }
}

/// Why a piece wasn't stored: the stick's fault or ours.
enum Failed {
    Unusable(Unusable),
    Blob(BlobError),
}

impl From<Unusable> for Failed {
    fn from(unusable: Unusable) -> Self {
        Self::Unusable(unusable)
    }
}

impl From<BlobError> for Failed {
    fn from(error: BlobError) -> Self {
        match error {
            // Two sizes can't both be proven: what is here was damaged, or what came.
            BlobError::SizeMismatch { .. } => Self::Unusable(Unusable::Entry(error.to_string())),
            error => Self::Blob(error),
        }
    }
}
