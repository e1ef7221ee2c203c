//! A bundle as it is written: entries into segments, then the index, then the mark.

use std::{
    fs, mem,
    path::{Path, PathBuf},
};

use mhc_protocol::{
    NetworkId, SecretKey, Timestamp,
    bundle::{
        COMMIT_FILE, Entry, EntryKind, Frame, INDEX_FILE, Index, MAX_ENTRIES, MAX_SEGMENT_BYTES, MAX_SEGMENTS, Segment,
        commit_text, segment_name,
    },
};

use super::{
    JobError,
    layout::{NewFile, put},
};

/// Bytes written before they are waited for, so that progress is that of the stick and not of memory.
const FLUSH_BYTES: u64 = 64 << 20;

/// A bundle that isn't finished. Dropping it removes what was written; after a kill the next export of the same does.
#[derive(Debug)]
pub(super) struct BundleWriter {
    dir: PathBuf,
    day: Timestamp,
    left_bytes: u64,
    /// Where a segment ends, at the latest.
    pub(super) segment_bytes: u64,
    segments: Vec<Segment>,
    entries: Vec<Entry>,
    open: Option<Open>,
    finished: bool,
}

/// The segment that is being written.
#[derive(Debug)]
struct Open {
    file: NewFile,
    hasher: blake3::Hasher,
    bytes: u64,
    unflushed_bytes: u64,
}

/// What was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub(super) entries: usize,
    /// Bytes of segments and index.
    pub(super) bytes: u64,
}

impl BundleWriter {
    /// Into `dir`, at most `max_bytes` of segments. `day` becomes the time of its files.
    pub(super) fn new(dir: &Path, day: Timestamp, max_bytes: u64) -> Self {
        let (segments, entries) = (vec![], vec![]);
        Self {
            dir: dir.to_owned(),
            day,
            left_bytes: max_bytes,
            segment_bytes: MAX_SEGMENT_BYTES,
            segments,
            entries,
            open: None,
            finished: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an entry. False when it has no room within the bounds: then nothing was written.
    pub(super) fn add(&mut self, frame: &Frame, payload: &[u8]) -> Result<bool, JobError> {
        let bytes = frame.bytes();
        if payload.len() as u64 != frame.payload_bytes() {
            return Err(JobError::internal("an entry has another length than its head says"));
        }
        if bytes > self.left_bytes || self.entries.len() >= MAX_ENTRIES {
            return Ok(false);
        }
        if self.open.as_ref().is_some_and(|open| open.bytes + bytes > self.segment_bytes) {
            self.close_segment()?;
        }
        if self.open.is_none() && self.segments.len() >= MAX_SEGMENTS {
            return Ok(false);
        }
        let segment = u32::try_from(self.segments.len()).map_err(JobError::internal)?;
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(Open::create(&self.dir.join(segment_name(segment)))?),
        };
        let kind = if matches!(frame, Frame::Record { .. }) { EntryKind::Record } else { EntryKind::Blob };
        self.entries.push(Entry { kind, name: *frame.name(), bytes, segment, offset: open.bytes });
        open.write(&frame.encode())?;
        open.write(payload)?;
        self.left_bytes -= bytes;
        Ok(true)
    }

    fn close_segment(&mut self) -> Result<(), JobError> {
        if let Some(Open { file, hasher, bytes, .. }) = self.open.take() {
            file.finish(self.day)?;
            self.segments.push(Segment { bytes, hash: *hasher.finalize().as_bytes() });
        }
        Ok(())
    }

    /// Signs the index and writes it, and then the mark that says that all of it is there.
    pub(super) fn finish(
        mut self,
        key: &SecretKey,
        network: NetworkId,
        since: Option<Timestamp>,
    ) -> Result<Written, JobError> {
        self.close_segment()?;
        let count = self.entries.len();
        let segments_bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        let (segments, entries) = (self.segments.clone(), mem::take(&mut self.entries));
        let index = Index { network, node: key.node(), made: self.day, since, segments, entries }.seal(key)?;
        put(&self.dir.join(INDEX_FILE), &index, self.day)?;
        put(&self.dir.join(COMMIT_FILE), commit_text(&index).as_bytes(), self.day)?;
        self.finished = true;
        Ok(Written { entries: count, bytes: segments_bytes + index.len() as u64 })
    }
}

impl Drop for BundleWriter {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // What can't be removed is removed by the next export of the same; without its mark it is no bundle.
        self.open = None;
        let segments = (0..self.segments.len()).filter_map(|number| Some(segment_name(u32::try_from(number).ok()?)));
        for name in segments.chain([INDEX_FILE.to_owned()]) {
            let _ = fs::remove_file(self.dir.join(name));
        }
        let _ = fs::remove_dir(&self.dir);
    }
}

impl Open {
    fn create(target: &Path) -> Result<Self, JobError> {
        let file = NewFile::create(target)?;
        Ok(Self { file, hasher: blake3::Hasher::new(), bytes: 0, unflushed_bytes: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JobError> {
        self.file.write(bytes)?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.unflushed_bytes += bytes.len() as u64;
        if self.unflushed_bytes >= FLUSH_BYTES {
            self.unflushed_bytes = 0;
            self.file.flush()?;
        }
        Ok(())
    }
}
