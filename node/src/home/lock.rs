//! One process for one home.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    net::SocketAddr,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::HomeError;

const LOCK_FILE: &str = "lock";
/// How often a taken lock is tried again. A lock is also held for an instant by [`held_by`], and its holder
/// writes its pid an instant after it took it.
const TRIES: u32 = 25;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);
/// Length of what the file holds: pid and address, and blanks.
const HOLDER_BYTES: usize = 80;

/// The lock on a home, held until dropped. The file says who holds it.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Notes where the holder's gateway listens.
    pub(super) fn note(&self, http: SocketAddr) -> io::Result<()> {
        write_holder(&self.0, &format!("{} {http}", std::process::id()))
    }
}

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
        if let Some((pid, _)) = holder(&file) {
            return Err(HomeError::AlreadyRunning { pid });
        }
        thread::sleep(BETWEEN_TRIES);
    }
    Err(HomeError::Locked)
}

/// What is known of the process that holds a lock: its pid and, once it serves, its gateway's address.
pub(super) type Holder = Option<(u32, Option<SocketAddr>)>;

/// Who holds the lock of the home `dir`; the outer `None` when nobody does.
pub(super) fn held_by(dir: &Path) -> Result<Option<Holder>, HomeError> {
    let path = dir.join(LOCK_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(HomeError::Io { action: "open", path, source }),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(holder(&file))),
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
fn write_holder(file: &File, holder: &str) -> io::Result<()> {
    file.write_all_at(format!("{holder:<HOLDER_BYTES$}").as_bytes(), 0)
}

/// What the file says, when such a process lives.
fn holder(file: &File) -> Holder {
    let mut bytes = [0; HOLDER_BYTES];
    let read = file.read_at(&mut bytes, 0).ok()?;
    let mut words = std::str::from_utf8(&bytes[..read]).ok()?.split_whitespace();
    let pid: u32 = words.next()?.parse().ok()?;
    let process = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    // A process of somebody else answers "not permitted", and lives.
    let gone = rustix::process::test_kill_process(process) == Err(rustix::io::Errno::SRCH);
    (!gone).then(|| (pid, words.next().and_then(|http| http.parse().ok())))
}
