//! The store's folder and what it does with files: names, durability, and who a user's file is.
//!
//! ```text
//! meta.redb             what is here                        (meta.rs)
//! unclean               exists while the store is open: found at open, the last stop wasn't clean
//! data/ab/abcdef…       the bytes of an owned blob, sparse while partial
//! bao/ab/abcdef…        its tree: hash pairs in pre-order, 16 KiB groups, no size prefix; none up to 16 KiB
//! tmp/                  imports in progress, emptied at open
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use bao_tree::io::{outboard::PreOrderOutboard, sync::ReadAt};
use mhc_protocol::BlobHash;

use super::{BlobError, table};

/// The folder's layout.
#[derive(Debug)]
pub(super) struct Dirs {
    pub(super) root: PathBuf,
    temp_count: AtomicU64,
}

impl Dirs {
    /// Makes what isn't there yet.
    pub(super) fn create(root: &Path) -> io::Result<Self> {
        for dir in ["data", "bao", "tmp"] {
            fs::create_dir_all(root.join(dir))?;
        }
        sync_dir(root)?;
        Ok(Self { root: root.to_path_buf(), temp_count: AtomicU64::new(0) })
    }

    pub(super) fn data(&self, hash: BlobHash) -> PathBuf {
        self.file("data", hash)
    }

    pub(super) fn bao(&self, hash: BlobHash) -> PathBuf {
        self.file("bao", hash)
    }

    fn file(&self, kind: &str, hash: BlobHash) -> PathBuf {
        let name = hash.to_string();
        self.root.join(kind).join(&name[..2]).join(&name)
    }

    /// All the files an owned blob is made of are there.
    pub(super) fn has_files(&self, hash: BlobHash, size_bytes: u64) -> bool {
        let needs_bao = table::tree(size_bytes).outboard_size() > 0;
        self.data(hash).exists() && (!needs_bao || self.bao(hash).exists())
    }

    pub(super) fn meta(&self) -> PathBuf {
        self.root.join("meta.redb")
    }

    pub(super) fn unclean(&self) -> PathBuf {
        self.root.join("unclean")
    }

    /// Deletes what interrupted imports left.
    pub(super) fn empty_temp(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join("tmp"))? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// A new file for an import; deleted when dropped, unless it was moved into place.
    pub(super) fn temp(&self) -> io::Result<Temp> {
        let name = self.temp_count.fetch_add(1, Ordering::Relaxed).to_string();
        let path = self.root.join("tmp").join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Ok(Temp { file, path, moved: false })
    }

    /// Every file of blobs: its hash (none when the name isn't one), path and allocated bytes.
    pub(super) fn blob_files(&self) -> io::Result<Vec<(Option<BlobHash>, PathBuf, u64)>> {
        let mut found = Vec::new();
        for kind in ["data", "bao"] {
            for shard in fs::read_dir(self.root.join(kind))? {
                let shard = shard?.path();
                if !shard.is_dir() {
                    continue;
                }
                for entry in fs::read_dir(shard)? {
                    let entry = entry?;
                    let hash = entry.file_name().to_str().and_then(|name| name.parse().ok());
                    found.push((hash, entry.path(), allocated_bytes(&entry.metadata()?)));
                }
            }
        }
        Ok(found)
    }
}

/// Bytes of disk a file takes.
fn allocated_bytes(metadata: &fs::Metadata) -> u64 {
    metadata.blocks().saturating_mul(512)
}

/// A file of an import in progress.
#[derive(Debug)]
pub(super) struct Temp {
    pub(super) file: File,
    path: PathBuf,
    moved: bool,
}

impl Temp {
    /// Renames it to `target`. The folder is made when needed and made durable.
    pub(super) fn move_to(mut self, target: &Path) -> io::Result<()> {
        let dir = make_parent(target)?;
        fs::rename(&self.path, target)?;
        self.moved = true;
        sync_dir(&dir)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.moved {
            // What stays is deleted at the next open.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the folder `path` goes into, durably. Returns it.
fn make_parent(path: &Path) -> io::Result<PathBuf> {
    let dir = path.parent().unwrap_or(Path::new(".")).to_path_buf();
    if !dir.is_dir() {
        fs::create_dir_all(&dir)?;
        if let Some(above) = dir.parent() {
            sync_dir(above)?;
        }
    }
    Ok(dir)
}

/// Makes the names in a folder durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Deletes a file; already gone is fine. Returns the bytes of disk that were freed.
pub(super) fn delete(path: &Path) -> io::Result<u64> {
    match fs::metadata(path).and_then(|metadata| fs::remove_file(path).map(|()| allocated_bytes(&metadata))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        other => other,
    }
}

/// Tells whether a user's file is still the one that was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) len_bytes: u64,
    pub(super) mtime_ns: i64,
    pub(super) inode: u64,
    pub(super) device: u64,
}

impl Identity {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            len_bytes: metadata.len(),
            mtime_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }

    /// The file at `path` is still this one. The device isn't compared: btrfs, LVM and removable disks get another
    /// number at each mount, and every byte read is validated against the tree anyway.
    pub(super) fn matches(&self, path: &Path) -> bool {
        let Ok(metadata) = fs::metadata(path) else { return false };
        let now = Self::of(&metadata);
        metadata.is_file() && Self { device: self.device, ..now } == *self
    }
}

/// The open files of a blob. Nobody seeks in them, so all readers and writers share one pair.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) hash: BlobHash,
    pub(super) size_bytes: u64,
    pub(super) generation: u64,
    pub(super) data: File,
    /// None when the blob is a single group, which needs no tree.
    bao: Option<File>,
    /// False for a referenced file.
    pub(super) writable: bool,
}

impl Files {
    /// Opens the pair of an owned blob; `create` makes new, empty files in place of what is there.
    pub(super) fn open_owned(
        dirs: &Dirs,
        hash: BlobHash,
        size_bytes: u64,
        generation: u64,
        create: bool,
    ) -> io::Result<Self> {
        let data = open_rw(&dirs.data(hash), create)?;
        let bao = open_bao(dirs, hash, size_bytes, create)?;
        Ok(Self { hash, size_bytes, generation, data, bao, writable: true })
    }

    /// Opens a user's file and our tree of it.
    pub(super) fn open_referenced(
        dirs: &Dirs,
        hash: BlobHash,
        size_bytes: u64,
        generation: u64,
        path: &Path,
    ) -> io::Result<Self> {
        let data = File::open(path)?;
        let bao = open_bao(dirs, hash, size_bytes, false)?;
        Ok(Self { hash, size_bytes, generation, data, bao, writable: false })
    }

    /// The tree, to validate against.
    pub(super) fn outboard(&self) -> PreOrderOutboard<Bao<'_>> {
        PreOrderOutboard {
            root: (*self.hash.as_bytes()).into(),
            tree: table::tree(self.size_bytes),
            data: Bao(self.bao.as_ref()),
        }
    }

    /// Reads a hash pair of the tree.
    pub(super) fn read_pair(&self, offset: u64) -> io::Result<[u8; 64]> {
        let mut pair = [0; 64];
        self.bao.as_ref().map_or(Ok(()), |bao| FileExt::read_exact_at(bao, &mut pair, offset))?;
        Ok(pair)
    }

    /// Writes hash pairs of the tree that follow each other.
    pub(super) fn write_pairs(&self, offset: u64, pairs: &[u8]) -> io::Result<()> {
        match &self.bao {
            Some(bao) => bao.write_all_at(pairs, offset),
            None => Ok(()),
        }
    }

    /// Makes both files' bytes durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.data.sync_data()?;
        self.bao.as_ref().map_or(Ok(()), File::sync_data)
    }
}

fn open_bao(dirs: &Dirs, hash: BlobHash, size_bytes: u64, create: bool) -> io::Result<Option<File>> {
    if table::tree(size_bytes).outboard_size() == 0 {
        return Ok(None);
    }
    open_rw(&dirs.bao(hash), create).map(Some)
}

fn open_rw(path: &Path, create: bool) -> io::Result<File> {
    if !create {
        return OpenOptions::new().read(true).write(true).open(path);
    }
    let dir = make_parent(path)?;
    delete(path)?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    sync_dir(&dir)?;
    Ok(file)
}

/// The tree's file, or the empty tree of a single group.
pub(super) struct Bao<'a>(Option<&'a File>);

impl ReadAt for Bao<'_> {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.map_or(Ok(0), |file| FileExt::read_at(file, buffer, position))
    }
}

impl BlobError {
    /// What an open of a blob's own files failed with.
    pub(super) fn open(source: io::Error) -> Self {
        Self::io("open a blob's files")(source)
    }
}
