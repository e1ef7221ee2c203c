//! Two hosts on one LAN, each a network namespace: multicast DNS brings their nodes together.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use mhc_testnet::{Node, NodeOptions, Rng, node::text};

use super::{SOON, knows, lists, options, random_file, skipped};

/// Two namespaces joined by a cable, for as long as it lives.
pub(super) struct Lan([String; 2]);

fn ip(args: &str) -> Result<()> {
    let output = Command::new("ip").args(args.split(' ')).output()?;
    ensure!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

impl Lan {
    /// Its namespaces are named after `tag`, so that tests may run side by side.
    pub(super) fn new(tag: &str) -> Result<Self> {
        let id = std::process::id() % 100_000;
        let lan = Self(["a", "b"].map(|host| format!("mhc-{tag}{host}{id}")));
        let [a, b] = &lan.0;
        ip(&format!("netns add {a}"))?;
        ip(&format!("netns add {b}"))?;
        ip(&format!("-n {a} link add lan0 type veth peer name lan0 netns {b}"))?;
        for (host, addr) in [(a, "10.77.13.1/24"), (b, "10.77.13.2/24")] {
            ip(&format!("-n {host} addr add {addr} dev lan0"))?;
            ip(&format!("-n {host} link set lan0 up"))?;
            ip(&format!("-n {host} link set lo up"))?;
        }
        Ok(lan)
    }

    pub(super) fn node(&self, host: usize, name: &str) -> NodeOptions {
        NodeOptions { netns: Some(self.0[host].clone()), ..options(name) }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

/// Starts it again with multicast DNS; its ports are others then, so that nothing it remembers is of use.
fn restart_with_mdns(node: &mut Node) -> Result<()> {
    ensure!(node.stop()?.success());
    node.options_mut().peers.clear();
    node.options_mut().mdns = true;
    node.restart()
}

#[test]
fn nodes_of_one_network_find_each_other_on_a_lan() -> Result<()> {
    let lan = match Lan::new("m") {
        Ok(lan) => lan,
        Err(error) => {
            skipped("nodes_of_one_network_find_each_other_on_a_lan", &format!("no network namespaces here: {error:#}"));
            return Ok(());
        }
    };
    let mut a = lan.node(0, "lan-a").start()?;
    let mut b = lan.node(1, "lan-b").peer(&a.ticket()?).start()?;
    knows(&b, &a).context("by ticket")?;

    restart_with_mdns(&mut a)?;
    restart_with_mdns(&mut b)?;
    let (file, bytes) = random_file(&a, "f.bin", &mut Rng::new(14), 300_000)?;
    let content = text(&a.publish(&file, &[])?, "content")?;
    lists(&b, &content, SOON).context("by multicast DNS")?;
    let out = b.home().with_file_name("out.bin");
    b.json(&["get", &content, "-o", out.to_str().context("UTF-8")?])?;
    ensure!(std::fs::read(&out)? == bytes, "other bytes");
    Ok(())
}
