//! Files of a home: written whole or not at all, read only when nobody else could have touched them.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

use super::HomeError;

/// Length of a key's seed, of the token and of the set-up code.
const SECRET_BYTES: usize = 32;
/// Longest file that is read; all of a home's small files are far shorter.
const MAX_FILE_BYTES: u64 = 4096;

/// 64 lower-case hex digits.
pub(super) fn hex(bytes: &[u8; SECRET_BYTES]) -> String {
    HEXLOWER.encode(bytes)
}

/// Makes `dir` and what is above it, 0700, unless it is there.
pub(super) fn make_dir(dir: &Path) -> Result<(), HomeError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("make the folder", dir))
}

/// Refuses a folder in which others could put files, or that belongs to somebody else.
pub(super) fn check_private_dir(dir: &Path) -> Result<(), HomeError> {
    let metadata = fs::metadata(dir).map_err(failed("look at", dir))?;
    check(dir, &metadata, 0o022, 0o700)
}

/// The secret in the file at `path`, `None` when there is no file.
pub(super) fn read_secret(path: &Path) -> Result<Option<[u8; SECRET_BYTES]>, HomeError> {
    let Some(file) = open_if_there(path)? else { return Ok(None) };
    let metadata = file.metadata().map_err(failed("look at", path))?;
    check(path, &metadata, 0o077, 0o600)?;
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut text).map_err(failed("read", path))?;
    let mut secret = [0; SECRET_BYTES];
    let digits = text.trim_ascii();
    if digits.len() != 2 * SECRET_BYTES || HEXLOWER_PERMISSIVE.decode_mut(digits, &mut secret).is_err() {
        return Err(damaged(path));
    }
    Ok(Some(secret))
}

/// The secret in the file at `path`; a new random one, durable when this returns, when there is no file.
pub(super) fn secret_or_new(path: &Path) -> Result<[u8; SECRET_BYTES], HomeError> {
    if let Some(secret) = read_secret(path)? {
        return Ok(secret);
    }
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut secret).map_err(HomeError::Random)?;
    write(path, format!("{}\n", hex(&secret)).as_bytes())?;
    Ok(secret)
}

/// The text of the file at `path`, `None` when there is none.
pub(super) fn read_if_there(path: &Path) -> Result<Option<String>, HomeError> {
    let Some(file) = open_if_there(path)? else { return Ok(None) };
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(failed("read", path))?;
    Ok(Some(text))
}

/// Puts `bytes` at `path`, 0600, durably: after a kill or power loss there is the old file or the new one.
/// Callers hold the home's lock, so there is one writer.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
    let new = path.with_added_extension("new");
    // One that a kill left behind may have any mode.
    remove(&new)?;
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&new).map_err(failed("make", &new))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write", &new))?;
    fs::rename(&new, path).map_err(failed("put in place", path))?;
    sync_parent(path)
}

/// Removes the file at `path` if there is one.
pub(super) fn remove(path: &Path) -> Result<(), HomeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// A name in a folder lasts once the folder is synced.
fn sync_parent(path: &Path) -> Result<(), HomeError> {
    let Some(dir) = path.parent() else { return Ok(()) };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}

/// Opens without waiting, should somebody have put a pipe there.
fn open_if_there(path: &Path) -> Result<Option<File>, HomeError> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let metadata = file.metadata().map_err(failed("look at", path))?;
    if metadata.is_file() { Ok(Some(file)) } else { Err(damaged(path)) }
}

fn check(path: &Path, metadata: &Metadata, forbidden: u32, right: u32) -> Result<(), HomeError> {
    let user = rustix::process::geteuid().as_raw();
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != user {
        return Err(HomeError::Foreign { path: path.to_owned(), owner, user });
    }
    if mode & forbidden != 0 {
        return Err(HomeError::Open { path: path.to_owned(), mode, right });
    }
    Ok(())
}

fn damaged(path: &Path) -> HomeError {
    let is_key = path.extension().is_some_and(|extension| extension == "key");
    let mend = if is_key {
        "bring it back from a backup (64 hex digits)"
    } else {
        "remove it; the next start makes a new one"
    };
    HomeError::Corrupt { path: path.to_owned(), mend: mend.into() }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HomeError {
    move |source| HomeError::Io { action, path: path.to_owned(), source }
}
