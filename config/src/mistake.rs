//! What is wrong with a configuration, named so that it can be found and mended.

use std::{fmt, io, path::PathBuf};

/// One mistake in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Line of the file, from 1; `None` for a setting from the environment or the command line.
    pub line: Option<usize>,
    /// The key as far as it can be told: `gateway.http`, or the variable's name.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is there and can't be read.
    #[error("can't read {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Something in it, in the environment or in the flags is wrong.
    #[error("{}", listed(.path, .mistakes))]
    Mistakes {
        /// The file.
        path: PathBuf,
        /// Each of them.
        mistakes: Vec<Mistake>,
    },
}

/// One mistake a line, those of the file under its name.
fn listed(path: &std::path::Path, mistakes: &[Mistake]) -> String {
    let lines = mistakes.iter().map(|mistake| match mistake.line {
        Some(_) => format!("{}, {mistake}", path.display()),
        None => mistake.to_string(),
    });
    lines.collect::<Vec<_>>().join("\n")
}
