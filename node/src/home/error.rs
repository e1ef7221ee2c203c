//! Why a home can't be used, and how that is mended.

use std::{io, path::PathBuf};

/// Why a home can't be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Neither the flag nor the environment name one.
    #[error("no home: set --home, MHC_HOME or HOME")]
    Nowhere,
    /// Another process runs on it.
    #[error("already running as pid {pid}")]
    AlreadyRunning {
        /// That process.
        pid: u32,
    },
    /// The home can't be locked, and by whom isn't known.
    #[error("already running, as a process that couldn't be told")]
    Locked,
    /// Others may read or write what must be secret.
    #[error("{} is open to others (mode {mode:04o}): run `chmod {right:o} {}` and consider the key known", .path.display(), .path.display())]
    Open {
        /// The file or folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The mode it should have.
        right: u32,
    },
    /// It belongs to somebody else.
    #[error("{} belongs to user {owner}, not to {user}: run `chown {user} {}` as root", .path.display(), .path.display())]
    Foreign {
        /// The file or folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who runs this process.
        user: u32,
    },
    /// It doesn't hold what it should.
    #[error("{} is damaged: {mend}", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What to do.
        mend: String,
    },
    /// The home has been used, and a key is gone.
    #[error("{} is missing from a home that has been used: bring it back from a backup, or start with an empty home", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("can't {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system gives no randomness to make a key of.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

impl HomeError {
    /// The exit code of a program that ends by it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::AlreadyRunning { .. } | Self::Locked => 3,
            Self::Open { .. } | Self::Foreign { .. } => 5,
            Self::Corrupt { .. } | Self::Missing { .. } => 7,
            Self::Nowhere | Self::Io { .. } | Self::Random(_) => 1,
        }
    }
}
