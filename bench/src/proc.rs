//! Processes that end with their owner, and what they cost.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mhc_testnet::eventually;
use rustix::process::{Pid, Signal, kill_process};

/// Ticks a second of the times in `/proc`; Linux fixed it for user space.
const TICKS_PER_S: f64 = 100.0;
const POLL_EVERY: Duration = Duration::from_millis(1);
const LOG_TAIL_CHARS: usize = 2000;

/// A process in the background. It is killed when this is dropped, and when the bench itself dies.
pub(crate) struct Proc {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// What a command cost that ran to its end.
#[derive(Debug, Clone)]
pub(crate) struct Finished {
    pub(crate) seconds: f64,
    pub(crate) cpu_s: f64,
    pub(crate) stdout: String,
}

/// The same command under `setpriv`, so that the kernel kills it when the bench is gone.
fn mortal(command: &Command) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        wrapped.current_dir(dir);
    }
    wrapped.stdin(Stdio::null());
    wrapped
}

impl Proc {
    /// Starts `command`; what it prints goes into files of this name in `dir`.
    pub(crate) fn spawn(dir: &Path, name: &str, command: &Command) -> Result<Self> {
        let (stdout, stderr) = (dir.join(format!("{name}.out")), dir.join(format!("{name}.err")));
        let child = mortal(command)
            .stdout(fs::File::create(&stdout)?)
            .stderr(fs::File::create(&stderr)?)
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        Ok(Self { child, stdout, stderr })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// User and system time so far.
    pub(crate) fn cpu_s(&self) -> Result<f64> {
        cpu_of(&format!("/proc/{}/stat", self.pid()), 0)
    }

    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib * 1024)
    }

    /// Bytes that an interface of its network received and sent so far.
    pub(crate) fn traffic(&self, interface: &str) -> Result<[u64; 2]> {
        let table = fs::read_to_string(format!("/proc/{}/net/dev", self.pid()))?;
        let line = table.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
        let fields: Vec<&str> = line.context("no such interface")?.split_whitespace().collect();
        let field = |at: usize| Ok::<u64, anyhow::Error>(fields.get(at).context("no count")?.parse()?);
        Ok([field(0)?, field(8)?])
    }

    /// The first line it prints, on either output, that has `pattern` in it.
    pub(crate) fn wait_for(&mut self, pattern: &str, timeout: Duration) -> Result<String> {
        eventually(&format!("'{pattern}'"), timeout, || {
            let text = self.printed();
            if let Some(line) = text.lines().find(|line| line.contains(pattern)) {
                return Ok(line.to_owned());
            }
            bail!("it printed: {}; {:?}", tail(&text), self.child.try_wait()?)
        })
    }

    /// Everything it printed so far.
    pub(crate) fn printed(&self) -> String {
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        read(&self.stdout) + &read(&self.stderr)
    }

    /// Stops it from being scheduled, as a machine that falls asleep, until the guard is dropped.
    pub(crate) fn freeze(&self) -> Result<Frozen> {
        signal(self.pid(), Signal::STOP)?;
        Ok(Frozen(self.pid()))
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that was stopped; it goes on when this is dropped.
pub(crate) struct Frozen(u32);

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = signal(self.0, Signal::CONT);
    }
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid.try_into()?).context("no pid")?;
    Ok(kill_process(pid, signal)?)
}

/// Runs `command` to its end, which must be a success within `timeout`. `meanwhile` is called again and again.
pub(crate) fn run_with(
    command: &Command,
    timeout: Duration,
    mut meanwhile: impl FnMut() -> Result<()>,
) -> Result<Finished> {
    let dir = tempfile::tempdir()?;
    let before = children_cpu_s()?;
    let started = Instant::now();
    let mut proc = Proc::spawn(dir.path(), "run", command)?;
    let status = loop {
        if let Some(status) = proc.child.try_wait()? {
            break status;
        }
        ensure!(started.elapsed() < timeout, "{command:?}: not done in {timeout:?}: {}", tail(&proc.printed()));
        meanwhile()?;
        thread::sleep(POLL_EVERY);
    };
    let seconds = started.elapsed().as_secs_f64();
    ensure!(status.success(), "{command:?}: {status}: {}", tail(&proc.printed()));
    let stdout = String::from_utf8_lossy(&fs::read(&proc.stdout)?).into_owned();
    Ok(Finished { seconds, cpu_s: children_cpu_s()? - before, stdout })
}

/// [`run_with`] without anything to do meanwhile.
pub(crate) fn run(command: &Command, timeout: Duration) -> Result<Finished> {
    run_with(command, timeout, || Ok(()))
}

/// Runs a short command that sets something up.
pub(crate) fn sh(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().with_context(|| program.to_owned())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{program} {}: {}", args.join(" "), text(&output.stderr).trim());
    Ok(text(&output.stdout))
}

/// User and system time of these processes so far.
pub(crate) fn cpu_s_of(procs: &[&Proc]) -> Result<f64> {
    procs.iter().map(|proc| proc.cpu_s()).sum()
}

/// User and system time of the bench itself so far, without its children.
pub(crate) fn own_cpu_s() -> Result<f64> {
    cpu_of("/proc/self/stat", 0)
}

/// Processor time of the children that ended and were waited for, and theirs.
fn children_cpu_s() -> Result<f64> {
    cpu_of("/proc/self/stat", 2)
}

/// Two neighbouring times of a `stat` file: the process's own at `skip` 0, its dead children's at 2.
fn cpu_of(path: &str, skip: usize) -> Result<f64> {
    let stat = fs::read_to_string(path).with_context(|| path.to_owned())?;
    // The name in brackets may hold anything; utime is the 12th field behind it.
    let (_, fields) = stat.rsplit_once(") ").context("no fields")?;
    let times = fields.split(' ').skip(11 + skip).take(2).map(str::parse::<f64>);
    Ok(times.sum::<Result<f64, _>>()? / TICKS_PER_S)
}

fn tail(text: &str) -> String {
    let skip = text.chars().count().saturating_sub(LOG_TAIL_CHARS);
    text.chars().skip(skip).collect()
}
