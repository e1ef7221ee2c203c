//! The process that is killed: this test binary again, told by the environment what to do.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

const JOB: &str = "MHC_SUITE_CHILD_JOB";
const DIR: &str = "MHC_SUITE_CHILD_DIR";
const ACK: &str = "ack ";

/// Does nothing unless [`spawn`] started it; then it never returns.
#[test]
fn entry() {
    let (Ok(job), Some(dir)) = (env::var(JOB), env::var_os(DIR)) else { return };
    match job.split_once(' ') {
        Some(("engine", name)) => crate::kill::write_batches(name, Path::new(&dir)),
        Some(("records", name)) => crate::kill::publish_records(name, Path::new(&dir)),
        Some(("blobs", _)) => crate::power::import_blobs(Path::new(&dir)),
        _ => panic!("unknown job {job}"),
    }
}

/// Tells the parent that `what` is durable.
pub(crate) fn acknowledge(what: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    // One write, so that a kill leaves no half line that reads as another one.
    out.write_all(format!("{ACK}{what};\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// A running child. Dropped, it is killed.
pub(crate) struct Running(Child);

pub(crate) fn spawn(job: &str, dir: &Path) -> Running {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["child::entry", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(JOB, job).env(DIR, dir).stdin(Stdio::null()).stdout(Stdio::piped());
    Running(command.spawn().unwrap())
}

impl Running {
    /// Reads `acks` acknowledgements, kills the child while it works on the next ones, and returns all that it
    /// gave. Ends earlier when the child does.
    pub(crate) fn kill_after(self, acks: usize) -> Vec<String> {
        self.stop_after(acks, || ())
    }

    /// The same, with something done to it before it is killed.
    pub(crate) fn stop_after(mut self, acks: usize, first: impl FnOnce()) -> Vec<String> {
        let mut lines = BufReader::new(self.0.stdout.take().unwrap()).split(b'\n');
        let mut given = Vec::new();
        while given.len() < acks
            && let Some(Ok(line)) = lines.next()
        {
            given.extend(acknowledged(&line));
        }
        first();
        // SIGKILL.
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        given.extend(lines.map_while(Result::ok).filter_map(|line| acknowledged(&line)));
        given
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn acknowledged(line: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(line).ok()?;
    // The harness may have printed something before it on the same line.
    let (_, what) = line.split_once(ACK)?;
    Some(what.strip_suffix(';')?.to_owned())
}
