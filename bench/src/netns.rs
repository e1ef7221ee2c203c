//! Network namespaces that go with their owner, and hosts on one bridge.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result};

use crate::{bench::is_left_behind, proc::sh};

const PREFIX: &str = "mhcb";
/// The interface of each host.
pub(crate) const INTERFACE: &str = "eth0";
/// Bytes that wait at a capped link before it drops what comes.
const QUEUE_BYTES: u64 = 256 * 1024;
/// What a capped link may send at once; two packets at least.
const BURST: Duration = Duration::from_millis(2);
const LEAST_BURST_BYTES: u64 = 4096;

/// A namespace of this run.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    pub(crate) fn new(label: &str) -> Result<Self> {
        let name = format!("{PREFIX}-{}-{label}", std::process::id());
        sh("ip", &["netns", "add", &name]).context("namespaces need root")?;
        let netns = Self { name };
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `ip` in this namespace.
    pub(crate) fn ip(&self, args: &[&str]) -> Result<String> {
        sh("ip", &[&["-n", &self.name], args].concat())
    }

    /// Another program in it.
    pub(crate) fn exec(&self, args: &[&str]) -> Result<String> {
        sh("ip", &[&["netns", "exec", &self.name], args].concat())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = sh("ip", &["netns", "del", &self.name]);
    }
}

/// Removes namespaces of benches that are gone, or of this one too when it ends early.
pub(crate) fn sweep(mine_too: bool) {
    let listed = sh("ip", &["netns", "list"]).unwrap_or_default();
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        let Some(pid) = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-')?.split('-').next()) else {
            continue;
        };
        if is_left_behind(pid, mine_too) {
            let _ = sh("ip", &["netns", "del", name]);
        }
    }
}

/// A host on a [`Lan`].
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) netns: Netns,
    pub(crate) ip: Ipv4Addr,
}

impl Host {
    /// Lets it send at most so much, counted with Ethernet's headers.
    pub(crate) fn cap(&self, kbit_s: u64) -> Result<()> {
        let burst_bytes = (kbit_s as f64 * 125.0 * BURST.as_secs_f64()) as u64;
        let [rate, burst, limit] =
            [format!("{kbit_s}kbit"), burst_bytes.max(LEAST_BURST_BYTES).to_string(), QUEUE_BYTES.to_string()];
        let shape = ["root", "tbf", "rate", &rate, "burst", &burst, "limit", &limit];
        self.netns.exec(&[&["tc", "qdisc", "replace", "dev", INTERFACE], &shape[..]].concat())?;
        Ok(())
    }
}

/// Hosts in namespaces of their own on one bridge in another.
#[derive(Debug)]
pub(crate) struct Lan {
    hosts: Vec<Host>,
    _hub: Netns,
}

impl Lan {
    pub(crate) fn new(count: u8) -> Result<Self> {
        let hub = Netns::new("hub")?;
        hub.ip(&["link", "add", "br0", "type", "bridge"])?;
        hub.ip(&["link", "set", "br0", "up"])?;
        let hosts = (1..=count).map(|number| host(&hub, number)).collect::<Result<_>>()?;
        Ok(Self { hosts, _hub: hub })
    }

    /// The last of the hosts, and those before it.
    pub(crate) fn split(&self) -> Result<(&Host, &[Host])> {
        self.hosts.split_last().context("no host")
    }
}

fn host(hub: &Netns, number: u8) -> Result<Host> {
    let netns = Netns::new(&format!("h{number}"))?;
    let ip = Ipv4Addr::new(10, 77, 0, number);
    let port = format!("port{number}");
    hub.ip(&["link", "add", &port, "type", "veth", "peer", "name", INTERFACE, "netns", netns.name()])?;
    hub.ip(&["link", "set", &port, "master", "br0", "up"])?;
    // One packet at a time, so that a cap sees what it would on a wire.
    netns.ip(&["link", "set", INTERFACE, "gso_max_segs", "1", "up"])?;
    netns.ip(&["addr", "add", &format!("{ip}/24"), "dev", INTERFACE])?;
    Ok(Host { netns, ip })
}
