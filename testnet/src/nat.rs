//! Address translation of the four kinds of RFC 3489 for UDP, by the kernel's own tables, and a probe that tells
//! from outside which kind a router is.
//!
//! The names say what a mapping depends on and who may use it. All four keep one port for one inside socket where they
//! can (but for the symmetric one, which takes a random one for each destination). One inside host is expected: two
//! that use the same port would share a mapping of the cone kinds. TCP is always translated with the strictest filter.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::netns::Netns;

/// How long an unused mapping of the cone kinds lasts, in seconds.
const MAPPING_S: u32 = 120;
/// How long the probe waits for a packet that may be filtered.
const PATIENCE: Duration = Duration::from_millis(300);

/// A kind of translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NatKind {
    /// One mapping for all destinations; anybody may send to it.
    FullCone,
    /// One mapping; hosts that it was used to send to may send back, from any port.
    RestrictedCone,
    /// One mapping; only those addresses and ports that it was used to send to may send back.
    PortRestrictedCone,
    /// Another mapping for each destination, which alone may send back.
    Symmetric,
}

impl NatKind {
    /// All of them, from the most open.
    pub const ALL: [Self; 4] = [Self::FullCone, Self::RestrictedCone, Self::PortRestrictedCone, Self::Symmetric];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::FullCone => "full-cone",
            Self::RestrictedCone => "restricted-cone",
            Self::PortRestrictedCone => "port-restricted-cone",
            Self::Symmetric => "symmetric",
        }
    }
}

/// The rules of a router whose outer device is `wan`, as a script of nft.
fn rules(kind: NatKind, wan: &str) -> String {
    let masquerade = if kind == NatKind::Symmetric { "masquerade fully-random" } else { "masquerade" };
    // The kernel lets nobody in but who was written to. For the open kinds it is noted which inside host uses a port,
    // and whom it sent to.
    let (learn, admit) = match kind {
        NatKind::FullCone => (String::new(), format!("iifname \"{wan}\" dnat to udp dport map @inside")),
        NatKind::RestrictedCone => (
            format!("oifname \"{wan}\" update @spoken {{ udp sport . ip daddr timeout {MAPPING_S}s }}"),
            format!("iifname \"{wan}\" udp dport . ip saddr @spoken dnat to udp dport map @inside"),
        ),
        NatKind::PortRestrictedCone | NatKind::Symmetric => (String::new(), String::new()),
    };
    format!(
        "table ip nat {{
  map inside {{ type inet_service : ipv4_addr; flags dynamic,timeout; size 65535; }}
  set spoken {{ type inet_service . ipv4_addr; flags dynamic,timeout; size 65535; }}
  chain learn {{
    type filter hook forward priority 0; policy accept;
    oifname \"{wan}\" update @inside {{ udp sport timeout {MAPPING_S}s : ip saddr }}
    {learn}
  }}
  chain in {{
    type nat hook prerouting priority dstnat; policy accept;
    {admit}
  }}
  chain out {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname \"{wan}\" {masquerade}
  }}
  # What nobody asked for is dropped before it is remembered: it would claim the port of a mapping to come.
  chain filter_router {{
    type filter hook input priority 0; policy accept;
    iifname \"{wan}\" ct state new drop
  }}
  chain filter_inside {{
    type filter hook forward priority 1; policy accept;
    iifname \"{wan}\" ct state new ct status & dnat == 0 drop
  }}
}}
"
    )
}

/// Makes a router of `netns` that translates to the address of its device `wan`.
pub fn translate(netns: &Netns, kind: NatKind, wan: &str) -> Result<()> {
    netns.sysctl("net/ipv4/ip_forward", "1")?;
    nft(netns, &rules(kind, wan))
}

/// Lets a router pass nothing on to or from `address`, without a word.
pub fn bar(netns: &Netns, address: Ipv4Addr) -> Result<()> {
    let rules = format!(
        "table ip barred {{
  chain both {{
    type filter hook forward priority -10; policy accept;
    ip daddr {address} drop
    ip saddr {address} drop
  }}
}}
"
    );
    nft(netns, &rules)
}

/// Takes that back.
pub fn unbar(netns: &Netns) -> Result<()> {
    nft(netns, "delete table ip barred\n")
}

fn nft(netns: &Netns, script: &str) -> Result<()> {
    let mut nft = netns.command("nft");
    let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().context("nft")?;
    nft.stdin.take().context("no stdin")?.write_all(script.as_bytes())?;
    let output = nft.wait_with_output()?;
    ensure!(output.status.success(), "nft: {}\n{script}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// What was seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Whether two destinations see one inside socket at the same outside address and port.
    pub one_mapping: bool,
    /// Whether somebody got in whom nothing was ever sent to.
    pub lets_strangers_in: bool,
    /// Whether another port got in of a host that something was sent to.
    pub lets_other_ports_in: bool,
}

impl Seen {
    /// The kind that behaves so, if one of the four does.
    pub fn kind(self) -> Option<NatKind> {
        match (self.one_mapping, self.lets_strangers_in, self.lets_other_ports_in) {
            (true, true, true) => Some(NatKind::FullCone),
            (true, false, true) => Some(NatKind::RestrictedCone),
            (true, false, false) => Some(NatKind::PortRestrictedCone),
            (false, false, false) => Some(NatKind::Symmetric),
            _ => None,
        }
    }
}

/// Looks at what is between `inside` and two hosts outside, each given with an address of it.
pub fn probe(inside: &Netns, outside: [(&Netns, Ipv4Addr); 2]) -> Result<Seen> {
    let open = |(netns, ip): (&Netns, Ipv4Addr)| {
        let socket = netns.enter(|| Ok(UdpSocket::bind((ip, 0))?))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        anyhow::Ok(socket)
    };
    let [host, other] = outside;
    let (first, neighbour, stranger) = (open(host)?, open(host)?, open(other)?);
    let within = inside.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    within.set_read_timeout(Some(PATIENCE))?;

    let mapped = exchange(&within, &first).context("nothing goes out and comes back")?;
    neighbour.send_to(b"neighbour", mapped)?;
    let lets_other_ports_in = arrives(&within, b"neighbour");
    stranger.send_to(b"stranger", mapped)?;
    let lets_strangers_in = arrives(&within, b"stranger");
    let again = [exchange(&within, &neighbour)?, exchange(&within, &stranger)?];
    Ok(Seen { one_mapping: again == [mapped; 2], lets_strangers_in, lets_other_ports_in })
}

/// Sends out, and back in. Returns where the inside socket seems to be.
fn exchange(inside: &UdpSocket, outside: &UdpSocket) -> Result<SocketAddr> {
    inside.send_to(b"out", outside.local_addr()?)?;
    let (_, from) = outside.recv_from(&mut [0; 16]).context("it didn't get out")?;
    outside.send_to(b"back", from)?;
    ensure!(arrives(inside, b"back"), "the answer to {from} didn't get in");
    Ok(from)
}

fn arrives(socket: &UdpSocket, text: &[u8]) -> bool {
    let mut packet = [0; 16];
    socket.recv(&mut packet).is_ok_and(|bytes| packet.get(..bytes) == Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaviour_names_the_kind() {
        let cases = [
            ((true, true, true), Some(NatKind::FullCone)),
            ((true, false, true), Some(NatKind::RestrictedCone)),
            ((true, false, false), Some(NatKind::PortRestrictedCone)),
            ((false, false, false), Some(NatKind::Symmetric)),
            ((false, true, true), None),
            ((true, true, false), None),
        ];
        for ((one_mapping, lets_strangers_in, lets_other_ports_in), kind) in cases {
            assert_eq!(Seen { one_mapping, lets_strangers_in, lets_other_ports_in }.kind(), kind);
        }
    }
}
