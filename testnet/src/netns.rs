//! Network namespaces of one run: made, entered, and removed with everything in them, also when the run was killed.
//!
//! All that a run makes outside of its own memory lies in namespaces and a folder whose names begin with its
//! [`RunId`], so one function, [`RunId::sweep`], takes all of it away.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::{
    process::{Pid, Signal, geteuid, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";
const PREFIX: &str = "mhct";
/// How long killed processes may take to be gone.
const GONE: Duration = Duration::from_secs(5);

/// A run of one scenario, unique on this machine: process and number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunId {
    pid: u32,
    number: u32,
}

impl RunId {
    /// The next one of this process.
    pub fn next() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        Self { pid: std::process::id(), number: COUNT.fetch_add(1, Ordering::Relaxed) }
    }

    /// The run that something of this name belongs to.
    fn of_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.split('-').skip(1).map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(pid)), Some(Ok(number))) => Some(Self { pid, number }),
            _ => None,
        }
    }

    /// The name of its namespace `label`.
    pub fn name(&self, label: &str) -> String {
        format!("{PREFIX}-{}-{}-{label}", self.pid, self.number)
    }

    /// Its folder.
    pub fn dir(&self) -> PathBuf {
        std::env::temp_dir().join(self.name("files"))
    }

    /// Kills what runs in its namespaces, so that whoever waits for one of them goes on.
    pub fn kill_processes(&self) {
        let mut left = vec![];
        for _ in 0..GONE.as_millis() / 20 {
            left = self.namespaces().iter().flat_map(|name| processes(name)).collect();
            if left.is_empty() {
                return;
            }
            for pid in &left {
                // It may have ended meanwhile.
                let _ = kill_process(*pid, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(20));
        }
        eprintln!("mhc-testnet: these processes don't end: {left:?}");
    }

    /// Removes its processes, namespaces and files. What runs in this process must have let go of them.
    pub fn sweep(&self) {
        self.kill_processes();
        for name in self.namespaces() {
            // Devices and addresses go with it.
            if let Err(error) = run("ip", &["netns", "del", &name]) {
                eprintln!("mhc-testnet: {name} stays: {error:#}");
            }
        }
        let _ = fs::remove_dir_all(self.dir());
    }

    fn namespaces(&self) -> Vec<String> {
        names_in(Path::new(NAMES)).into_iter().filter(|name| Self::of_name(name).as_ref() == Some(self)).collect()
    }

    /// Removes what runs left behind whose process is no more, and says of how many.
    pub fn sweep_stale() -> usize {
        let names = [Path::new(NAMES), &std::env::temp_dir()].map(names_in).concat();
        let mut stale: Vec<Self> = vec![];
        for run in names.iter().filter_map(|name| Self::of_name(name)) {
            if !stale.contains(&run) && !Path::new(&format!("/proc/{}", run.pid)).exists() {
                stale.push(run);
            }
        }
        stale.iter().for_each(Self::sweep);
        stale.len()
    }

    /// Removes everything of this process's runs.
    pub fn sweep_mine() {
        let names = [Path::new(NAMES), &std::env::temp_dir()].map(names_in).concat();
        let mine = names.iter().filter_map(|name| Self::of_name(name)).filter(|run| run.pid == std::process::id());
        mine.for_each(|run| run.sweep());
    }
}

/// Why networks can't be made here; nothing when they can.
pub fn why_not() -> Option<String> {
    if !geteuid().is_root() {
        return Some("network namespaces need root: run it as root, for example with sudo".into());
    }
    let programs = ["ip", "nft", "yggdrasil", "ffmpeg", "node", "chromium", "h2load", "curl"];
    let missing: Vec<_> = programs.into_iter().filter(|name| !on_path(name)).collect();
    if !missing.is_empty() {
        return Some(format!("not installed: {}; scripts/setup-test.sh installs it", missing.join(", ")));
    }
    let run_id = RunId::next();
    let tried = Netns::new(&run_id, "try").map(drop);
    run_id.sweep();
    tried.err().map(|error| format!("no network namespaces here: {error:#}"))
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// A network namespace. [`RunId::sweep`] removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes it, with loopback up, and neither routing nor IPv6's detection of double addresses.
    pub fn new(run_id: &RunId, label: &str) -> Result<Self> {
        let netns = Self { name: run_id.name(label) };
        run("ip", &["netns", "add", &netns.name])?;
        netns.ip("link set lo up")?;
        // New namespaces copy some of these from the machine.
        for (key, value) in [
            ("net/ipv4/ip_forward", "0"),
            ("net/ipv6/conf/all/forwarding", "0"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
        ] {
            netns.sysctl(key, value)?;
        }
        Ok(netns)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets a setting of the kernel in it, given as a path below `/proc/sys`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{key}");
        // The network's settings under this path are those of the thread's namespace.
        self.enter(|| Ok(fs::write(&path, value)?)).with_context(|| format!("{path} = {value}"))
    }

    /// `ip` in it, its arguments parted by blanks. Returns what it prints.
    pub fn ip(&self, args: &str) -> Result<String> {
        run("ip", &[&["-n", &self.name], &args.split(' ').collect::<Vec<_>>()[..]].concat())
    }

    /// A command that runs in it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `work` on a thread that is in it. Sockets that are opened there stay there, wherever they are used.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(Path::new(NAMES).join(&self.name)).with_context(|| self.name.clone())?;
        let inside = || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).map_err(|_| anyhow!("a thread in {} panicked", self.name))?
    }
}

/// Runs a program to its end; fails with what it says when it fails.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output().with_context(|| program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", args.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// What runs in a namespace, but for this process.
fn processes(netns: &str) -> Vec<Pid> {
    let listed = run("ip", &["netns", "pids", netns]).unwrap_or_default();
    let pids = listed.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?));
    pids.filter(|pid| *pid != rustix::process::getpid()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_run_they_belong_to() {
        let run = RunId { pid: 12, number: 3 };
        assert_eq!(run.name("lan-a"), "mhct-12-3-lan-a");
        let cases = [
            ("mhct-12-3-lan-a", Some(RunId { pid: 12, number: 3 })),
            ("mhct-12-3-", Some(RunId { pid: 12, number: 3 })),
            ("mhct-12", None),
            ("mhct-x-3-a", None),
            ("mhcb-12-3-a", None),
            ("", None),
        ];
        for (name, run) in cases {
            assert_eq!(RunId::of_name(name), run, "{name}");
        }
    }
}
