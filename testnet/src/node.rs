//! A node as a process.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use mhc_protocol::ticket::Ticket;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Http, log::Log};

/// Longest wait for a node to serve. Generous: many of them may start at once on a small machine.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// A node must stop within 10 s of being told to; the rest is for a loaded machine.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// How to start a node.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The `mhc` program.
    pub mhc: PathBuf,
    /// What to call it in messages.
    pub name: String,
    /// Tickets to start with.
    pub peers: Vec<String>,
    /// Further arguments of `mhc up`.
    pub args: Vec<String>,
    /// Further environment.
    pub env: Vec<(String, String)>,
    /// Whether it looks for peers on the LAN.
    pub mdns: bool,
    /// The network namespace to start it in.
    pub netns: Option<String>,
    /// Address and port of its gateway.
    pub http: String,
    /// Ports of libp2p and iroh; any free ones at 0.
    pub ports: (u16, u16),
    /// Whether what it logged is printed when it is dropped.
    pub print_log: bool,
}

impl NodeOptions {
    /// A node on loopback with ports of the system's choice, no mDNS and no peers.
    pub fn new(mhc: &Path, name: &str) -> Self {
        Self {
            mhc: mhc.to_owned(),
            name: name.to_owned(),
            peers: vec![],
            args: vec![],
            env: vec![],
            mdns: false,
            netns: None,
            http: "127.0.0.1:0".into(),
            ports: (0, 0),
            print_log: true,
        }
    }

    /// Starts with this ticket.
    #[must_use]
    pub fn peer(mut self, ticket: &str) -> Self {
        self.peers.push(ticket.to_owned());
        self
    }

    /// Has its gateway listen there.
    #[must_use]
    pub fn http(mut self, listen: &str) -> Self {
        self.http = listen.to_owned();
        self
    }

    /// Starts with this variable in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes a home in the system's temporary directory and starts the node on it.
    pub fn start(self) -> Result<Node> {
        let dir = tempfile::Builder::new().prefix(&format!("mhc-{}-", self.name)).tempdir()?;
        let mut node = Node::prepare(self, dir.path().join("home"));
        node.dir = Some(dir);
        node.restart()?;
        Ok(node)
    }
}

/// What the ready event says.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The gateway's address, such as `http://127.0.0.1:40123`.
    pub http: String,
    /// The node's id in hex.
    pub node: String,
    /// Its network's id in hex.
    pub network: String,
}

/// A node: a home, and a process while it runs.
pub struct Node {
    options: NodeOptions,
    home: PathBuf,
    dir: Option<TempDir>,
    running: Option<Running>,
    log: Log,
}

struct Running {
    child: Child,
    ready: Ready,
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it said beside that.
    pub stderr: String,
}

impl Output {
    /// Standard output as one JSON document.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not one JSON document: {self:?}"))
    }
}

impl Node {
    /// A node that isn't started, on a home that needn't exist.
    pub fn prepare(options: NodeOptions, home: PathBuf) -> Self {
        Self { options, home, dir: None, running: None, log: Log::default() }
    }

    /// Its home directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Options of the next start.
    pub fn options_mut(&mut self) -> &mut NodeOptions {
        &mut self.options
    }

    /// What it said when it was ready. Fails while it doesn't run.
    pub fn ready(&self) -> Result<&Ready> {
        Ok(&self.running.as_ref().with_context(|| format!("{} isn't running", self.options.name))?.ready)
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.running.as_ref().context("not running")?.child.id())
    }

    fn up(&self) -> Command {
        let mut command = self.command();
        let (p2p, iroh) = self.options.ports;
        command.args(["up", "--json", "--http", &self.options.http, "--p2p-port", &p2p.to_string()]);
        if iroh != 0 {
            command.env("MHC_P2P__IROH_PORT", iroh.to_string());
        }
        if !self.options.mdns {
            command.arg("--no-mdns");
        }
        for ticket in &self.options.peers {
            command.args(["--peer", ticket]);
        }
        command.args(&self.options.args);
        command
    }

    /// `mhc` with this node's home and environment, and nothing of the caller's that would change what it does.
    /// `MHC_TEST_LOG` becomes its log filter.
    pub fn command(&self) -> Command {
        let mut command = match &self.options.netns {
            None => Command::new(&self.options.mhc),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(&self.options.mhc);
                command
            }
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MHC_")) {
            command.env_remove(name);
        }
        if self.options.netns.is_none() {
            // Tests that share the machine's own network keep to loopback.
            command.env("MHC_P2P__LISTEN", "127.0.0.1");
        }
        command.env("MHC_HOME", &self.home).env_remove("XDG_DATA_HOME").envs(self.options.env.iter().cloned());
        if let Some(filter) = std::env::var_os("MHC_TEST_LOG") {
            command.env("MHC_LOG", filter);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Starts it (again, on the same home) and waits until it serves.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.running =
            Some(self.launch().with_context(|| format!("{} didn't start\n{}", self.options.name, self.log()))?);
        Ok(())
    }

    fn launch(&self) -> Result<Running> {
        let mut child = self.up().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let stderr = child.stderr.take().context("no stderr")?;
        let log = self.log.clone();
        thread::spawn(move || log.collect(stderr));
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            // Reads on after the ready event, so that the node never meets a full pipe.
            BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        match wait_ready(&receiver) {
            Ok(ready) => Ok(Running { child, ready }),
            Err(error) => {
                let _ = child.kill();
                Err(error.context(format!("{:?}", child.wait())))
            }
        }
    }

    /// Kills it with SIGKILL, as a power cut would, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }

    /// Sends SIGTERM and waits for a clean end.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let mut running = self.running.take().context("not running")?;
        signal(&running.child, Signal::TERM)?;
        let started = Instant::now();
        while started.elapsed() < STOP_TIMEOUT {
            if let Some(status) = running.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = running.child.kill();
        let _ = running.child.wait();
        bail!("{} didn't stop within {STOP_TIMEOUT:?} of SIGTERM", self.options.name)
    }

    /// Stops its process from being scheduled (SIGSTOP), as a laptop that falls asleep.
    pub fn freeze(&self) -> Result<()> {
        signal(&self.running.as_ref().context("not running")?.child, Signal::STOP)
    }

    /// Lets it go on (SIGCONT).
    pub fn thaw(&self) -> Result<()> {
        signal(&self.running.as_ref().context("not running")?.child, Signal::CONT)
    }

    /// Whether its process is there.
    pub fn is_alive(&mut self) -> bool {
        self.running.as_mut().is_some_and(|running| matches!(running.child.try_wait(), Ok(None)))
    }

    /// Runs a command line on this node's home.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        let output = self.command().args(args).output().with_context(|| format!("mhc {}", args.join(" ")))?;
        Ok(Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).context("stdout isn't UTF-8")?,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a command line with `--json` that must succeed, and returns its document.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let output = self.run(&[args, &["--json"]].concat())?;
        ensure!(output.code == 0, "{}: mhc {}: {output:?}", self.options.name, args.join(" "));
        output.json()
    }

    /// This node's invitation.
    pub fn ticket(&self) -> Result<String> {
        text(&self.json(&["ticket"])?, "ticket")
    }

    /// Keeps the ports it has now at the next starts, so that others find it again.
    pub fn keep_ports(&mut self) -> Result<()> {
        let ticket: Ticket = self.ticket()?.parse()?;
        let port = |addrs: &[SocketAddr]| addrs.first().map(SocketAddr::port).context("the ticket has no address");
        self.options.ports = (port(&ticket.p2p)?, port(&ticket.iroh)?);
        Ok(())
    }

    /// Publishes a file and returns the command's document.
    pub fn publish(&self, file: &Path, args: &[&str]) -> Result<Value> {
        let file = file.to_str().ok_or_else(|| anyhow!("{} isn't UTF-8", file.display()))?;
        self.json(&[&["publish", file], args].concat())
    }

    /// What `mhc ls` lists.
    pub fn list(&self) -> Result<Vec<Value>> {
        let listed = self.json(&["ls"])?;
        Ok(listed.as_array().with_context(|| format!("ls: not an array: {listed}"))?.clone())
    }

    /// A client of its gateway that holds the operator's token.
    pub fn http(&self) -> Result<Http> {
        let token = fs::read_to_string(self.home.join("api.token")).context("api.token")?;
        Ok(Http::new(&self.ready()?.http, Some(token.trim().to_owned())))
    }

    /// The end of what it logged.
    pub fn log(&self) -> String {
        self.log.tail()
    }

    /// Its log, which outlives it.
    pub fn log_handle(&self) -> Log {
        self.log.clone()
    }

    /// Resident memory of its process in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib * 1024)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if !self.options.print_log {
            return;
        }
        // A test's output is only shown when it fails.
        eprintln!("--- what {} logged ---\n{}", self.options.name, self.log());
    }
}

/// A text field of a document.
pub fn text(value: &Value, field: &str) -> Result<String> {
    Ok(value.get(field).and_then(Value::as_str).with_context(|| format!("no text '{field}' in {value}"))?.to_owned())
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(child.id().try_into()?).context("no pid")?;
    Ok(kill_process(pid, signal)?)
}

fn wait_ready(lines: &mpsc::Receiver<String>) -> Result<Ready> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let line = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).context("no ready event")?;
        let event: Value = serde_json::from_str(&line).with_context(|| format!("not JSON on stdout: {line}"))?;
        if event.get("event").and_then(Value::as_str) == Some("ready") {
            let field = |name| text(&event, name);
            return Ok(Ready { http: field("http")?, node: field("node")?, network: field("network")? });
        }
    }
}
