//! The folder of a stick: where things are, and files that are there whole or not at all.
//!
//! Every path is put together from names that are computed here and in `mhc_protocol::bundle`. What lies on the stick
//! may come from anybody: links are never followed and only regular files are opened.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use mhc_protocol::{
    Timestamp,
    bundle::{BUNDLES_DIR, BundleId, COMMIT_FILE, INDEX_FILE, MAX_SEGMENTS, MEDIA_DIR, WANTS_FILE, segment_name},
};

use super::JobError;

/// Most bundles that are looked at on one stick.
const MAX_BUNDLES: usize = 4096;
/// Most names that are looked at in one folder.
const MAX_NAMES: usize = 100_000;
/// The end of files that aren't finished.
const UNFINISHED: &str = "TMP";

/// The folder that a stick is mounted at, or any other.
#[derive(Debug, Clone)]
pub(super) struct Stick {
    root: PathBuf,
}

impl Stick {
    /// Fails when there is no such folder: making one would fill the disk below when no stick is mounted.
    pub(super) fn open(root: &Path) -> Result<Self, JobError> {
        if !root.is_absolute() {
            return Err(JobError::BadRequest("path must be absolute".into()));
        }
        match fs::metadata(root) {
            Ok(found) if found.is_dir() => Ok(Self { root: root.to_owned() }),
            Ok(_) => Err(JobError::NotFound(format!("{} isn't a folder", root.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(JobError::NotFound(format!("there is no folder {}; is the stick mounted?", root.display())))
            }
            Err(error) => Err(JobError::io("open", root)(error)),
        }
    }

    fn bundles_dir(&self) -> PathBuf {
        self.root.join(BUNDLES_DIR)
    }

    pub(super) fn bundle_dir(&self, id: BundleId) -> PathBuf {
        self.bundles_dir().join(id.to_string())
    }

    pub(super) fn wants_file(&self) -> PathBuf {
        self.bundles_dir().join(WANTS_FILE)
    }

    pub(super) fn media_dir(&self) -> PathBuf {
        self.root.join(MEDIA_DIR)
    }

    /// The bundles that are here, in the order of their names. Anything else in the folder isn't looked at.
    pub(super) fn bundles(&self) -> Result<Vec<BundleId>, JobError> {
        let dir = self.bundles_dir();
        let names = names(&dir).map_err(JobError::io("read", &dir))?;
        let mut found: Vec<BundleId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        found.sort_unstable();
        found.dedup();
        found.truncate(MAX_BUNDLES);
        match found.is_empty() {
            true => Err(JobError::NotFound(format!("there is no bundle in {}", dir.display()))),
            false => Ok(found),
        }
    }

    /// Makes the folder of a bundle, or empties the one that an interrupted export left. Returns whether there was one.
    pub(super) fn make_bundle_dir(&self, id: BundleId) -> Result<(PathBuf, bool), JobError> {
        let dir = self.bundle_dir(id);
        make_dir(&self.bundles_dir())?;
        let was_there = dir.symlink_metadata().is_ok();
        make_dir(&dir)?;
        for name in names(&dir).map_err(JobError::io("read", &dir))?.iter().filter(|name| is_ours(name)) {
            let file = dir.join(name);
            remove(&file).map_err(JobError::io("remove", &file))?;
        }
        Ok((dir, was_there))
    }

    /// Whether the bundle's folder holds a finished bundle, as far as its mark tells.
    pub(super) fn is_finished(&self, id: BundleId) -> bool {
        self.bundle_dir(id).join(COMMIT_FILE).symlink_metadata().is_ok()
    }
}

/// Makes a folder unless it is there. A link to one is refused: it could lead anywhere.
pub(super) fn make_dir(dir: &Path) -> Result<(), JobError> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(JobError::io("make", dir)(error)),
        _ => {}
    }
    let found = dir.symlink_metadata().map_err(JobError::io("open", dir))?;
    if !found.is_dir() {
        return Err(JobError::Refused(format!("{} isn't a folder of its own", dir.display())));
    }
    dir.parent().map_or(Ok(()), |parent| sync_dir(parent).map_err(JobError::io("sync", parent)))
}

/// The names in a folder, those that are Unicode; none when there is no folder.
pub(super) fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(vec![]);
        }
        entries => entries?,
    };
    let names = entries.take(MAX_NAMES).map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
    Ok(names.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// A name that an export gives.
fn is_ours(name: &str) -> bool {
    let is = |file: &str| name == file || Path::new(name) == unfinished_path(Path::new(file));
    let number = || name.strip_prefix("SEG")?.get(..5)?.parse::<u32>().ok();
    let is_segment = |number: u32| (number as usize) < MAX_SEGMENTS && is(&segment_name(number));
    is(INDEX_FILE) || is(COMMIT_FILE) || number().is_some_and(is_segment)
}

fn unfinished_path(path: &Path) -> PathBuf {
    path.with_extension(UNFINISHED)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Opens a regular file for reading, never through a link, and without waiting should it be a pipe.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// The bytes of a file of at most `limit` bytes; none when there is no such file.
pub(super) fn read_small(path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match open_regular(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let length = file.metadata()?.len();
    if length > limit as u64 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{length} bytes where {limit} may be")));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() > limit {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, "it grew while it was read")),
        false => Ok(Some(bytes)),
    }
}

/// A file that is being written under another name.
#[derive(Debug)]
pub(super) struct NewFile {
    file: File,
    at: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl NewFile {
    /// Begins the file that is to be at `target`.
    pub(super) fn create(target: &Path) -> Result<Self, JobError> {
        let at = unfinished_path(target);
        remove(&at).map_err(JobError::io("remove", &at))?;
        let file = OpenOptions::new().write(true).create_new(true).open(&at).map_err(JobError::io("make", &at))?;
        Ok(Self { file, at, target: target.to_owned(), finished: false })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), JobError> {
        self.file.write_all(bytes).map_err(JobError::io("write", &self.target))
    }

    /// Waits until what was written so far is on the stick.
    pub(super) fn flush(&self) -> Result<(), JobError> {
        self.file.sync_data().map_err(JobError::io("write", &self.target))
    }

    /// Puts it in its place, durably. Its time becomes `day`, so that it doesn't tell when its owner was where.
    pub(super) fn finish(mut self, day: Timestamp) -> Result<(), JobError> {
        // Not every file system keeps times.
        let _ = self.file.set_modified(UNIX_EPOCH + Duration::from_millis(day.as_millis()));
        self.file.sync_all().map_err(JobError::io("write", &self.target))?;
        fs::rename(&self.at, &self.target).map_err(JobError::io("put in place", &self.target))?;
        self.finished = true;
        let dir = self.target.parent().unwrap_or(Path::new("."));
        sync_dir(dir).map_err(JobError::io("sync", dir))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.finished {
            // Gives the room back; the next export would do it as well.
            let _ = fs::remove_file(&self.at);
        }
    }
}

/// Puts `bytes` at `path`, durably: after a kill there is the old file or the new one.
pub(super) fn put(path: &Path, bytes: &[u8], day: Timestamp) -> Result<(), JobError> {
    let mut file = NewFile::create(path)?;
    file.write(bytes)?;
    file.finish(day)
}

/// A name in a folder lasts once the folder is synced; some file systems of sticks can't and needn't.
fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir).and_then(|dir| dir.sync_all()) {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_names_that_an_export_gives_are_ours() {
        for ours in ["SEG00000.MHS", "SEG00000.TMP", "SEG16383.MHS", "INDEX.CBR", "INDEX.TMP", "COMMIT", "COMMIT.TMP"] {
            assert!(is_ours(ours), "{ours}");
        }
        let others = [
            "SEG0000.MHS",
            "SEG16384.MHS",
            "SEG00000.MHS.bak",
            "SEG000000.MHS",
            "SEG+0000.MHS",
            "seg00000.mhs",
            "film.mp4",
            "film.TMP",
            "",
            "..",
            "COMMIT.bak",
        ];
        for other in others {
            assert!(!is_ours(other), "{other}");
        }
    }

    #[test]
    fn links_pipes_and_giants_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("secret"), "secret").unwrap();
        symlink(path("secret"), path("link")).unwrap();
        symlink("/dev/zero", path("endless")).unwrap();
        for name in ["link", "endless", "."] {
            assert!(read_small(&path(name), 100).is_err(), "{name}");
        }
        assert!(read_small(&path("secret"), 5).is_err(), "over the limit");
        assert_eq!(read_small(&path("secret"), 6).unwrap().unwrap(), b"secret");
        assert!(read_small(&path("none"), 6).unwrap().is_none());
    }

    #[test]
    fn a_folder_that_leads_elsewhere_is_refused() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(elsewhere.path(), dir.path().join(BUNDLES_DIR)).unwrap();
        let stick = Stick::open(dir.path()).unwrap();
        assert!(matches!(stick.make_bundle_dir(BundleId(1)), Err(JobError::Refused(_))));
        assert_eq!(names(elsewhere.path()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_an_interrupted_export_left_is_cleared_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let stick = Stick::open(dir.path()).unwrap();
        let (bundle, was_there) = stick.make_bundle_dir(BundleId(1)).unwrap();
        assert!(!was_there);
        for name in ["SEG00000.MHS", "SEG00001.TMP", "letter.txt"] {
            fs::write(bundle.join(name), name).unwrap();
        }
        let (_, was_there) = stick.make_bundle_dir(BundleId(1)).unwrap();
        assert!(was_there);
        assert_eq!(names(&bundle).unwrap(), ["letter.txt"]);
        put(&bundle.join(COMMIT_FILE), b"x", Timestamp(0)).unwrap();
        assert!(stick.is_finished(BundleId(1)) && !stick.is_finished(BundleId(2)));
        assert_eq!(stick.bundles().unwrap(), [BundleId(1)]);
    }
}
