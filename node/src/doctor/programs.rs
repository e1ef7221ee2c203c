//! The programs a node starts or works with, none of which it needs to run.

use std::{
    io::{self, Read},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::Check;

/// Longest that a program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);
/// Most bytes of its answer that are read.
const MAX_ANSWER_BYTES: u64 = 4096;

struct Program {
    name: &'static str,
    ask: &'static str,
    used_for: &'static str,
    package: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program { name: "ffmpeg", ask: "-version", used_for: "renditions and thumbnails", package: "ffmpeg" },
    Program { name: "ffprobe", ask: "-version", used_for: "looking into media files", package: "ffmpeg" },
    Program { name: "bwrap", ask: "--version", used_for: "confining the media tools", package: "bubblewrap" },
    Program { name: "yggdrasil", ask: "-version", used_for: "the overlay network", package: "yggdrasil" },
];

/// Their versions, or how to install them.
pub(super) fn check() -> Vec<Check> {
    PROGRAMS.iter().map(Program::check).collect()
}

impl Program {
    fn check(&self) -> Check {
        let Self { name, used_for, package, .. } = self;
        match self.version() {
            Ok(version) => Check::ok("programs", format!("{name}: {version}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mend = format!("install it for {used_for}: `apt install {package}`, or your system's way");
                Check::warn("programs", format!("{name} isn't installed"), mend)
            }
            Err(error) => {
                let mend = format!("install it anew for {used_for} (package {package})");
                Check::warn("programs", format!("{name} doesn't run: {error}"), mend)
            }
        }
    }

    /// The first line of what it says about itself.
    fn version(&self) -> io::Result<String> {
        let mut command = Command::new(self.name);
        command.arg(self.ask).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let ended = wait(&mut child);
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        ended?;
        let mut answer = Vec::new();
        if let Some(out) = child.stdout.take() {
            out.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
        }
        let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().trim().to_owned();
        Ok(if line.is_empty() { "installed".into() } else { line })
    }
}

/// Waits for the program to end, which these do at once: what they print fits into the pipe.
fn wait(child: &mut Child) -> io::Result<()> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        thread::sleep(POLL);
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "it doesn't answer"))
}
