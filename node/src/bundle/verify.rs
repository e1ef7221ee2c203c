//! Verify: reads all of every bundle and checks it, without changing anything here or there.

use std::path::Path;

use mhc_protocol::bundle::{Entry, Frame};
use serde::Serialize;

use super::{
    JobError, Reporter, Stores,
    layout::Stick,
    open::{CheckedRecord, Opened, Reader, Unusable, check_blob, check_record, head_of, open},
    report::{BundleInfo, Damages},
};

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(super) struct Found {
    bundles: Vec<BundleInfo>,
    records: u64,
    /// Pieces of blobs.
    pieces: u64,
    /// Bytes that are right.
    bytes: u64,
    #[serde(flatten)]
    damages: Damages,
}

pub(super) fn run(stores: &Stores, path: &Path, reporter: &mut Reporter) -> Result<Found, JobError> {
    let stick = Stick::open(path)?;
    let mut found = Found::default();
    let mut bundles = Vec::new();
    for id in stick.bundles()? {
        match open(&stick, id) {
            Ok(bundle) => {
                found.bundles.push(BundleInfo::new(id, &bundle.index, bundle.index.network == stores.network));
                bundles.push(bundle);
            }
            Err(why) => found.damages.bundle(id, why),
        }
    }
    reporter.started()?;
    reporter.phase("verifying", found.bundles.iter().map(|bundle| bundle.bytes).sum())?;
    for bundle in &bundles {
        check(bundle, &mut found, reporter)?;
    }
    Ok(found)
}

/// Entries lie back to back, so reading them in order reads each segment whole.
fn check(bundle: &Opened, found: &mut Found, reporter: &mut Reporter) -> Result<(), JobError> {
    let mut reader = Reader::new(bundle);
    let mut entries = bundle.index.entries.iter().enumerate().peekable();
    for (number, segment) in (0_u32..).zip(&bundle.index.segments) {
        let length = reader.segment_bytes(number);
        let (mut hasher, lost_before) = (blake3::Hasher::new(), found.damages.entries_lost);
        while let Some((at, entry)) = entries.next_if(|(_, entry)| entry.segment == number) {
            let checked = reader.whole(entry).and_then(|bytes| {
                hasher.update(&bytes);
                check_entry(bundle, entry, &bytes)
            });
            match &checked {
                Ok(Frame::Record { .. }) => found.records += 1,
                Ok(Frame::Blob { .. }) => found.pieces += 1,
                Err(Unusable::Entry(why)) => found.damages.entry(bundle.id, number, at, why.as_str()),
                Err(Unusable::Segment(why)) => {
                    found.damages.entries_lost += 1;
                    found.damages.segment(bundle.id, number, why.as_str());
                }
            }
            found.bytes += if checked.is_ok() { entry.bytes } else { 0 };
            reporter.advance(entry.bytes)?;
        }
        match length {
            Ok(length) if length > segment.bytes => {
                found.damages.segment(bundle.id, number, format!("{} bytes too many", length - segment.bytes));
            }
            Ok(length) if length < segment.bytes => {
                found.damages.segment(bundle.id, number, format!("{} bytes are missing", segment.bytes - length));
            }
            // Whatever is wrong with an entry is told already.
            _ if found.damages.entries_lost == lost_before && hasher.finalize().as_bytes() != &segment.hash => {
                found.damages.segment(bundle.id, number, "its checksum doesn't match");
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_entry(bundle: &Opened, entry: &Entry, bytes: &bytes::Bytes) -> Result<Frame, Unusable> {
    let frame = head_of(entry, bytes)?;
    let head = usize::try_from(frame.head_bytes()).unwrap_or(usize::MAX).min(bytes.len());
    let payload = bytes.slice(head..);
    match &frame {
        Frame::Record { .. } => match check_record(entry, &payload, bundle.index.network, None)? {
            CheckedRecord::Good(_) | CheckedRecord::NotNow(_) => {}
        },
        Frame::Blob { hash, span } => check_blob(*hash, span, &payload).1?,
    }
    Ok(frame)
}
