//! Space kept in reserve, so that a store can be opened on a full disk.
//!
//! The reserve is a file of real bytes. It is deleted when a store can't be opened for want of space, since opening
//! after a crash may have to write, and made again when there is plenty.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

const RESERVE_FILE: &str = "reserve";

/// Free space of the file system that holds `dir`, in bytes, for users without privileges.
pub(crate) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The reserve of the store in one folder.
pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// Of `bytes` in `dir`; none when that is 0.
    pub(crate) fn new(dir: &Path, bytes: u64) -> Self {
        Self { path: dir.join(RESERVE_FILE), bytes }
    }

    /// Gives the space back. False when there was none.
    pub(crate) fn release(&self) -> bool {
        fs::remove_file(&self.path).is_ok()
    }

    /// Makes the reserve when it isn't there and much more than `min_free_bytes` are free. Without it everything works
    /// but a start on a full disk, so a failure is only worth a line in the log.
    pub(crate) fn restore(&self, min_free_bytes: u64) {
        if self.bytes == 0 || fs::metadata(&self.path).is_ok_and(|file| file.len() == self.bytes) {
            return;
        }
        let needed_bytes = min_free_bytes.saturating_add(self.bytes.saturating_mul(2));
        let dir = self.path.parent().unwrap_or(Path::new("."));
        if !free_bytes(dir).is_ok_and(|free_bytes| free_bytes >= needed_bytes) {
            return;
        }
        if let Err(error) = write_zeros(&self.path, self.bytes) {
            tracing::warn!(%error, "no reserve for a full disk");
            // A part of it would be taken for the whole; an error here changes nothing.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Written out, since a file with holes reserves nothing.
fn write_zeros(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let block = [0; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let len = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
        file.write_all(&block[..len])?;
        left -= len as u64;
    }
    file.sync_all()
}
