//! A Yggdrasil daemon of its own in a namespace: the real one, of the distribution.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, Ipv6Addr},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{eventually, log::Log, netns::Netns};

/// The device of the overlay in each namespace.
const INTERFACE: &str = "ygg0";
const READY: Duration = Duration::from_secs(15);

/// A daemon, until this is dropped.
#[derive(Debug)]
pub struct Yggdrasil {
    child: Child,
    admin: PathBuf,
    address: Ipv6Addr,
    log: Log,
}

impl Yggdrasil {
    /// Starts one in `netns` with its files in `dir`. It listens at `listen` and keeps connections to `peers`, both
    /// URIs such as `tcp://10.0.0.1:9001`, and looks for nobody else.
    pub fn start(netns: &Netns, dir: &Path, listen: &[String], peers: &[String]) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let admin = dir.join("yggdrasil.sock");
        let config = configuration(&admin, listen, peers)?;
        let file = dir.join("yggdrasil.conf");
        fs::write(&file, config.to_string())?;
        let mut command = netns.command("yggdrasil");
        command.arg("-useconffile").arg(&file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("yggdrasil")?;
        let log = Log::default();
        let outputs = (child.stdout.take().context("no stdout")?, child.stderr.take().context("no stderr")?);
        for output in [Box::new(outputs.0) as Box<dyn std::io::Read + Send>, Box::new(outputs.1)] {
            let log = log.clone();
            thread::spawn(move || log.collect(output));
        }
        // Owned from here on, so that it ends when what follows fails.
        let mut daemon = Self { child, admin, address: Ipv6Addr::UNSPECIFIED, log };
        daemon.address = eventually("yggdrasil is up", READY, || daemon.look(netns))
            .with_context(|| format!("yggdrasil said:\n{}", daemon.log.tail()))?;
        Ok(daemon)
    }

    /// Its address in 200::/7.
    pub fn address(&self) -> IpAddr {
        self.address.into()
    }

    /// Its admin socket.
    pub fn admin(&self) -> &Path {
        &self.admin
    }

    /// What it logs.
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// Asks its admin socket, as in `getself` or `getpeers`, and returns the response.
    pub fn ask(&self, request: &str) -> Result<Value> {
        let mut stream = UnixStream::connect(&self.admin)?;
        stream.set_read_timeout(Some(READY))?;
        stream.write_all(json!({ "request": request, "arguments": {} }).to_string().as_bytes())?;
        let mut answer = serde_json::Deserializer::from_reader(BufReader::new(stream)).into_iter::<Value>();
        let answer = answer.next().context("no answer")??;
        ensure!(answer.get("status").and_then(Value::as_str) == Some("success"), "{request}: {answer}");
        answer.get("response").cloned().with_context(|| format!("{request}: {answer}"))
    }

    /// Its address, once that can be used.
    fn look(&self, netns: &Netns) -> Result<Ipv6Addr> {
        self.ask("getself")?;
        let shown = netns.ip(&format!("-6 -o addr show dev {INTERFACE} scope global"))?;
        let mut words = shown.split_whitespace().skip_while(|word| *word != "inet6").skip(1);
        let address = words.next().and_then(|word| word.split('/').next()).with_context(|| format!("none: {shown}"))?;
        Ok(address.parse()?)
    }
}

impl Drop for Yggdrasil {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(admin: &Path, listen: &[String], peers: &[String]) -> Result<Value> {
    let generated = Command::new("yggdrasil").args(["-genconf", "-json"]).output().context("yggdrasil -genconf")?;
    let text = BufReader::new(generated.stdout.as_slice()).lines().collect::<Result<String, _>>()?;
    let mut config: Value = serde_json::from_str(&text).context("what yggdrasil -genconf prints")?;
    let set = config.as_object_mut().context("the configuration isn't an object")?;
    set.insert("AdminListen".into(), format!("unix://{}", admin.display()).into());
    set.insert("IfName".into(), INTERFACE.into());
    set.insert("MulticastInterfaces".into(), json!([]));
    set.insert("Listen".into(), json!(listen));
    set.insert("Peers".into(), json!(peers));
    Ok(config)
}
