//! One process for one home.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::HomeError;

const LOCK_FILE: &str = "lock";
/// How often a taken lock is tried again. A lock is also held for an instant by [`is_held`], and its holder
/// writes its pid an instant after it took it.
const TRIES: u32 = 25;
const HOLDER_BYTES: usize = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// The lock on a home, held until dropped. The file holds its holder's pid.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Without the pid nobody mistakes a process that was given the same number later for the holder.
        let _ = write_holder(&self.0, "");
    }
}

/// Takes the lock of the home `dir`, or says who has it.
pub(super) fn take(dir: &Path) -> Result<Lock, HomeError> {
    let path = dir.join(LOCK_FILE);
    let file = open(&path)?;
    for _ in 0..TRIES {
        if try_lock(&file, &path)? {
            // A full disk is no reason not to start: the lock holds without the pid too.
            let _ = write_holder(&file, &std::process::id().to_string());
            return Ok(Lock(file));
        }
        if let Some(pid) = holder(&file) {
            return Err(HomeError::AlreadyRunning { pid });
        }
        thread::sleep(BETWEEN_TRIES);
    }
    Err(HomeError::Locked)
}

/// Whether some process holds the lock of the home `dir`.
pub(super) fn is_held(dir: &Path) -> Result<bool, HomeError> {
    let path = dir.join(LOCK_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(HomeError::Io { action: "open", path, source }),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(source)) => Err(HomeError::Io { action: "lock", path, source }),
    }
}

fn open(path: &PathBuf) -> Result<File, HomeError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(|source| HomeError::Io { action: "open", path: path.clone(), source })
}

fn try_lock(file: &File, path: &Path) -> Result<bool, HomeError> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(source)) => Err(HomeError::Io { action: "lock", path: path.to_owned(), source }),
    }
}

/// Overwrites in place: once made, the file needs no more room on the disk.
fn write_holder(file: &File, pid: &str) -> io::Result<()> {
    file.write_all_at(format!("{pid:<HOLDER_BYTES$}").as_bytes(), 0)
}

/// The pid in the file, when such a process lives.
fn holder(file: &File) -> Option<u32> {
    let mut bytes = [0; HOLDER_BYTES];
    let read = file.read_at(&mut bytes, 0).ok()?;
    let text = std::str::from_utf8(&bytes[..read]).ok()?;
    let pid: u32 = text.trim().parse().ok()?;
    let process = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    // A process of somebody else answers "not permitted", and lives.
    let gone = rustix::process::test_kill_process(process) == Err(rustix::io::Errno::SRCH);
    (!gone).then_some(pid)
}
