//! Copies beside the bundle that any player can open, for people who have no node.

use std::{collections::HashSet, fs::File, io, path::Path};

use futures::StreamExt;
use mhc_platform::catalog;
use mhc_protocol::{BlobHash, RecordId, Timestamp, bundle::media_name};
use tokio::runtime::Handle;

use super::{
    JobError, Reporter, Stores,
    export::Exported,
    layout::{NewFile, Stick, make_dir, names, open_regular},
};

/// Copies the media of `contents` that is complete here. What is there already stays.
pub(super) fn copy(
    stores: &Stores,
    stick: &Stick,
    contents: &[RecordId],
    day: Timestamp,
    reporter: &mut Reporter,
    exported: &mut Exported,
) -> Result<(), JobError> {
    let dir = stick.media_dir();
    make_dir(&dir)?;
    // File systems of sticks don't tell capitals from small letters.
    let there = names(&dir).map_err(JobError::io("read", &dir))?;
    let mut taken: HashSet<String> = there.iter().map(|name| name.to_lowercase()).collect();
    reporter.phase("media", 0)?;
    for content in contents {
        let view = stores.records.view(catalog::NAME)?;
        let Some(entry) = catalog::entry(&view, *content)? else { continue };
        drop(view);
        let (title, original) = (&entry.manifest.title, &entry.manifest.original);
        let Some(status) = stores.blobs.status(original.hash).filter(|status| status.complete) else { continue };
        let is_it = |name: &str| is_copy(&dir.join(name), original.hash, status.size_bytes);
        let is_taken = |name: &str| taken.contains(&name.to_lowercase()) && !is_it(name);
        let Some(name) = media_name(title, &original.content_type, is_taken) else { continue };
        if taken.insert(name.to_lowercase()) {
            write(stores, original.hash, status.size_bytes, &dir.join(&name), day, reporter)?;
        }
        exported.media += 1;
    }
    Ok(())
}

/// Whether the file is a copy of the blob.
fn is_copy(path: &Path, hash: BlobHash, size_bytes: u64) -> bool {
    let hashed = |mut file: File| -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        io::copy(&mut file, &mut hasher)?;
        Ok(hasher.finalize())
    };
    let file = open_regular(path).ok().filter(|file| file.metadata().is_ok_and(|found| found.len() == size_bytes));
    file.is_some_and(|file| hashed(file).is_ok_and(|found| found.as_bytes() == hash.as_bytes()))
}

fn write(
    stores: &Stores,
    hash: BlobHash,
    size_bytes: u64,
    target: &Path,
    day: Timestamp,
    reporter: &mut Reporter,
) -> Result<(), JobError> {
    let handle = Handle::current();
    let mut file = NewFile::create(target)?;
    let mut bytes = stores.blobs.read_local(hash, 0..size_bytes);
    while let Some(piece) = handle.block_on(bytes.next()) {
        let piece = piece.map_err(JobError::internal)?;
        file.write(&piece)?;
        reporter.advance(piece.len() as u64)?;
    }
    file.finish(day)
}
