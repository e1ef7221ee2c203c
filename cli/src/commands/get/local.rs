//! A file of the node's store into a file of the user's.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
    sync::mpsc,
    thread,
};

use mhc_protocol::BlobHash;

/// Bytes that are copied between looks of the thread that hashes.
const STEP_BYTES: u64 = 32 << 20;
/// Bytes that are hashed at once.
const BLOCK_BYTES: usize = 1 << 20;

/// Fills `out` with the bytes of the file `stored`, by the kernel's own copying (which shares the blocks where the file
/// system can), and hashes what arrived while the rest is copied. Returns the length.
///
/// # Errors
/// Anything that reading and writing can fail with, and [`io::ErrorKind::InvalidData`] when `out` isn't `blob` now.
pub(super) fn copy(stored: &Path, out: &File, blob: BlobHash) -> io::Result<u64> {
    let mut from = File::open(stored)?;
    out.set_len(0)?;
    let mut to = out;
    to.seek(SeekFrom::Start(0))?;
    let (copied, arrived) = mpsc::channel();
    thread::scope(|scope| {
        let hashing = scope.spawn(move || hash(out, &arrived));
        let mut bytes = 0;
        loop {
            let step = io::copy(&mut (&mut from).take(STEP_BYTES), &mut to)?;
            bytes += step;
            if step == 0 || copied.send(bytes).is_err() {
                break;
            }
        }
        drop(copied);
        let hash = hashing.join().map_err(|_| io::Error::other("the thread that hashes panicked"))??;
        if hash != *blob.as_bytes() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "verification failed"));
        }
        Ok(bytes)
    })
}

/// Hashes what is there of `file`, as far as it is said to have arrived.
fn hash(file: &File, arrived: &mpsc::Receiver<u64>) -> io::Result<blake3::Hash> {
    let (mut hasher, mut block, mut at) = (blake3::Hasher::new(), vec![0; BLOCK_BYTES], 0);
    for end in arrived {
        while at < end {
            let wanted = block.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            file.read_exact_at(&mut block[..wanted], at)?;
            hasher.update(&block[..wanted]);
            at += wanted as u64;
        }
    }
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_checked_whatever_was_there_before() {
        let dir = tempfile::tempdir().unwrap();
        let (stored, target) = (dir.path().join("stored"), dir.path().join("target"));
        for length in [0, 1, BLOCK_BYTES + 7, STEP_BYTES as usize + 1] {
            let bytes: Vec<u8> = (0..length).map(|n| ((n * 31) >> 3) as u8).collect();
            std::fs::write(&stored, &bytes).unwrap();
            std::fs::write(&target, vec![9; 3 * length + 5]).unwrap();
            let out = File::options().read(true).write(true).open(&target).unwrap();
            assert_eq!(copy(&stored, &out, BlobHash::of(&bytes)).unwrap(), length as u64);
            assert!(std::fs::read(&target).unwrap() == bytes, "{length}");
            let other = copy(&stored, &out, BlobHash::of(b"something else")).unwrap_err();
            assert_eq!(other.kind(), io::ErrorKind::InvalidData);
        }
        let out = File::open(&target).unwrap();
        assert!(copy(&dir.path().join("nowhere"), &out, BlobHash::of(b"")).is_err());
    }
}
