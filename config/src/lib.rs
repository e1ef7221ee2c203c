//! The settings of a node: one declared list gives the struct, the defaults, the manual, the names in the
//! environment and the commented example file.
//!
//! A setting is looked up in the flags of the command line, then in the environment, then in `<home>/mhc.toml`,
//! then in the defaults below. To add one, add a line to the list: everything else follows from it.

mod declare;
mod mistake;
mod source;
mod suggest;
mod value;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

pub use declare::Key;
pub use mistake::{LoadError, Mistake};
pub use source::{ENVIRONMENT_PREFIX, MAX_FILE_BYTES, Sources, environment_name, example, keys, load, parse};

use declare::config;

/// The file in the home that holds the settings.
pub const FILE_NAME: &str = "mhc.toml";

/// A job a node does for others on top of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Passes traffic between peers that can't reach each other.
    Relay,
}

config! {
    /// Every setting of a node.
    Config {
        /// Jobs this node does for others: "relay", see `[relay]`.
        roles: Vec<Role>, example r#"["relay"]"#;
        /// This node.
        node: Node;
        /// The HTTP gateway: pages, API and streams.
        gateway: Gateway;
        /// The network between nodes.
        p2p: P2p;
        /// What is kept on disk.
        storage: Storage;
        /// The ways bytes take.
        links: Links;
        /// What a node does when the outside can't be reached.
        continuity: Continuity;
        /// The relay that this node runs when it has the role "relay".
        relay: Relay;
    }

    /// Settings of shutdown mode.
    Continuity {
        /// What answers as long as there is an outside: ids of nodes beyond the uplink, which do while they are connected,
        /// and addresses that take TCP connections. When none answers the node goes into shutdown mode by itself. Name
        /// several that don't fail together. Without any, only the operator and alerts decide.
        anchors: Vec<String>, check anchors, example r#"["192.0.2.7:4480", "[2001:db8::7]:4480"]"#;
        /// Seconds that no anchor must have answered for that.
        silent_s: u32 = 60, check between(1, 86_400);
        /// Seconds that one must have answered again to go back.
        back_s: u32 = 60, check between(1, 86_400);
        /// In shutdown mode, fetches what the network's policy calls essential, from whoever can still be reached.
        prefetch: bool = true;
    }

    /// Settings of the node as such.
    Node {
        /// What other nodes call this one, at most 64 characters. Without it they show the start of its id.
        name: Option<String>, check name, example r#""studio""#;
    }

    /// Settings of the HTTP gateway.
    Gateway {
        /// Address and port the gateway listens on; port 0 takes any free one. Whoever reaches this address
        /// can watch what this node has; changing anything needs the operator's token.
        http: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8480);
        /// Host names (with a port where it isn't the gateway's own) that requests may name besides the
        /// address listened on. A request for any other host is refused, which stops DNS rebinding.
        public_host: Vec<String>, check public_hosts, example r#"["tube.example.org"]"#;
        /// Address and port of the public front: the same gateway over TLS, for the internet, as HTTP/1.1 and HTTP/2
        /// over TCP and HTTP/3 over UDP. Needs `gateway.tls_certificate` and `gateway.tls_key`. Without it, there is
        /// none.
        https: Option<SocketAddr>, example r#""[::]:443""#;
        /// PEM file with the certificate of the public front and those of its issuers. It is read again within a minute
        /// of being renewed.
        tls_certificate: Option<PathBuf>, example r#""/etc/letsencrypt/live/tube.example.org/fullchain.pem""#;
        /// PEM file with the private key of `gateway.tls_certificate`.
        tls_key: Option<PathBuf>, example r#""/etc/letsencrypt/live/tube.example.org/privkey.pem""#;
        /// Most requests a minute from one address. Accepted now; takes effect in a later version.
        rate_limit_per_min: u32 = 100, check between(1, 1_000_000);
        /// Largest upload that is accepted, in bytes.
        max_upload_bytes: u64 = 10 << 30, check between(1, 1 << 50);
    }

    /// Settings of the network between nodes.
    P2p {
        /// Port of libp2p, for QUIC (UDP) and TCP, on every address; 0 takes any free one.
        port: u16 = 4480;
        /// Port of iroh (UDP). Without it, the one above `p2p.port`, or any free one when that is 0.
        iroh_port: Option<u16>, example "4481";
        /// Addresses that libp2p and iroh listen on: one of each family at most, "::" and "0.0.0.0" for all.
        listen: Vec<IpAddr> = vec![IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)], check listen;
        /// Finds nodes in the same local network by multicast DNS.
        mdns: bool = true;
        /// Tickets of nodes to connect to at every start, as `mhc ticket` prints them.
        peers: Vec<String>, check tickets, example r#"["mhc1..."]"#;
        /// Most bytes a second that are sent to other nodes. Set a little below what the uplink carries, it keeps
        /// the uplink usable, and what somebody is watching goes before copies. Without it there is no limit.
        upload_bytes_per_s: Option<u64>, check at_least_a_group, example "1000000";
    }

    /// Settings of what is kept on disk.
    Storage {
        /// Most bytes of blobs that are kept; beyond it the least recently used that aren't pinned go. Without
        /// it, as much as the disk holds.
        quota_bytes: Option<u64>, check at_most(1 << 60), example "107374182400";
        /// Space that is left free on the disk, in bytes. With less, the node only reads.
        min_free_bytes: u64 = 64 << 20, check between(1 << 20, 1 << 50);
        /// Most bytes of blobs from bundles of one maker that are taken though nobody here asked for them: neither pinned,
        /// nor on a want-list of this node, nor of a channel that it follows by name. Without it, half of
        /// `storage.quota_bytes`, or 16 GiB when there is none.
        bundle_quota_bytes: Option<u64>, check at_most(1 << 60), example "17179869184";
        /// Memory for what was served lately, already validated: ranges that many people watch then cost neither disk
        /// nor hashing. Taken as it is needed.
        cache_bytes: u64 = 64 << 20, check between(0, 1 << 50);
    }

    /// Settings of the ways bytes take.
    Links {
        /// The Yggdrasil overlay.
        yggdrasil: Yggdrasil;
        /// The satellite uplink.
        satellite: Satellite;
    }

    /// Settings of the Yggdrasil overlay.
    Yggdrasil {
        /// Admin socket of the Yggdrasil daemon: a path, or "tcp://127.0.0.1:9001". Without it, where daemons listen by
        /// themselves. It is only asked about the daemon's peers, for `mhc links`; paths over the overlay are used without.
        admin: Option<PathBuf>, example r#""/var/run/yggdrasil.sock""#;
    }

    /// Settings of the satellite uplink.
    Satellite {
        /// Bytes that may go over the satellite uplink in a month (UTC), both ways; a fifth of them is kept for
        /// alerts. Without it, none.
        budget_bytes: Option<u64>, check at_most(1 << 60), example "5000000000";
        /// Interface of the uplink, which exchanges are bound to. Its own counters are then what is metered. Binding to
        /// an interface needs a privilege on some systems; `uplink_address` doesn't.
        uplink_interface: Option<String>, check interface_name, example r#""wwan0""#;
        /// Address of the uplink on this machine, which exchanges are bound to.
        uplink_address: Option<IpAddr>, example r#""192.0.2.7""#;
        /// As a gateway, answers exchanges of anybody. Otherwise only of members, and of anybody where the network's
        /// membership is open.
        answer_anyone: bool = false;
        /// The one-way carousel.
        carousel: Carousel;
    }

    /// Settings of the relay that this node runs when it has the role "relay". It passes traffic on between members of
    /// this node's networks that can't reach each other, and tells them how they are seen from outside.
    Relay {
        /// Address and port it listens on: TCP for what is passed on, UDP to tell nodes how they are seen; port 0 takes
        /// any free one. Both must be reachable from outside.
        listen: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 4443);
        /// Where others find it. Without it, at this node's own address and the port above.
        public_url: Option<String>, check relay_url, example r#""https://relay.example.org:4443""#;
        /// Certificate chain in PEM. With it and `relay.tls_key` the relay speaks HTTPS, without plain HTTP: what it
        /// passes on is encrypted in either case, but who talks to whom can then be seen on the way.
        tls_certificate: Option<PathBuf>, example r#""/etc/mhc/relay.pem""#;
        /// Private key of the certificate, in PEM.
        tls_key: Option<PathBuf>, example r#""/etc/mhc/relay.key""#;
        /// Most bytes a second that are taken from one member's connection.
        member_bytes_per_s: u32 = 4 << 20, check between(16 << 10, u32::MAX);
    }

    /// Settings of the one-way carousel's receiver.
    Carousel {
        /// Address and port that a carousel is received at, a multicast group or one of this machine's own. Without it,
        /// none is. Nothing is ever sent.
        listen: Option<SocketAddr>, example r#""239.77.72.67:4490""#;
        /// IPv4 address of the interface that a group is joined on; for an IPv6 group write the interface's number into
        /// the group's address, as in "[ff15::4d48%2]:4490". Without it, the system chooses.
        interface: Option<IpAddr>, example r#""192.0.2.7""#;
        /// Nodes whose carousel is believed, beside the network's root and all to whom it gave a role.
        trust: Vec<String>, check node_ids, example r#"["4f0c9d2e6b1a73c85e40f7d93b62a18c4f0c9d2e6b1a73c85e40f7d93b62a18c"]"#;
        /// Memory for what is collected and not yet whole, in bytes. A sender needs 48 MiB of it; decoding takes up to
        /// 80 MiB on top for a moment.
        memory_bytes: u64 = 96 << 20, check between(24 << 20, 1 << 40);
    }
}

impl Relay {
    /// Certificate and key, when both are named.
    pub fn certificate(&self) -> Option<(PathBuf, PathBuf)> {
        self.tls_certificate.clone().zip(self.tls_key.clone())
    }
}

impl Storage {
    /// What one maker of bundles may bring unasked: what is set, else half of the quota, else 16 GiB.
    pub fn effective_bundle_quota_bytes(&self) -> u64 {
        const WITHOUT_QUOTA_BYTES: u64 = 16 << 30;
        self.bundle_quota_bytes.unwrap_or_else(|| self.quota_bytes.map_or(WITHOUT_QUOTA_BYTES, |quota| quota / 2))
    }
}

impl P2p {
    /// The port iroh listens on: the one set, else the one above libp2p's, else (0) any free one.
    pub fn effective_iroh_port(&self) -> u16 {
        self.iroh_port.unwrap_or(match self.port {
            0 => 0,
            port => port.checked_add(1).unwrap_or(0),
        })
    }
}

fn between<T: PartialOrd + std::fmt::Display>(least: T, most: T) -> impl Fn(&T) -> Result<(), String> {
    move |value| {
        let within = *value >= least && *value <= most;
        if within { Ok(()) } else { Err(format!("{value} is out of bounds: from {least} to {most}")) }
    }
}

fn listen(addresses: &[IpAddr]) -> Result<(), String> {
    let of_family = |v4: bool| addresses.iter().filter(|address| address.is_ipv4() == v4).count();
    match (of_family(true), of_family(false)) {
        (0, 0) => Err("name at least one address".into()),
        (0 | 1, 0 | 1) => Ok(()),
        _ => Err("name at most one IPv4 and one IPv6 address".into()),
    }
}

fn at_most(most: u64) -> impl Fn(&Option<u64>) -> Result<(), String> {
    move |value| value.as_ref().map_or(Ok(()), between(0, most))
}

/// Less than a chunk group a second isn't a node that serves.
fn at_least_a_group(rate: &Option<u64>) -> Result<(), String> {
    rate.as_ref().map_or(Ok(()), between(16 << 10, 1 << 50))
}

fn name(name: &Option<String>) -> Result<(), String> {
    let Some(name) = name else { return Ok(()) };
    let chars = name.chars().count();
    if name.trim().is_empty() || chars > 64 || name.chars().any(char::is_control) {
        return Err("a name has 1 to 64 characters, none of them a control character".into());
    }
    Ok(())
}

fn public_hosts(hosts: &[String]) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    match hosts.iter().find(|host| host.is_empty() || host.len() > 260 || !host.chars().all(plain)) {
        Some(host) => {
            Err(format!("{host:?} isn't a host name: write it without scheme and path, as in \"tube.example.org\""))
        }
        None => Ok(()),
    }
}

fn interface_name(name: &Option<String>) -> Result<(), String> {
    match name {
        Some(name) if name.is_empty() || name.len() > 15 || name.contains(['/', ' ']) || name.starts_with('.') => {
            Err(format!("{name:?} isn't the name of an interface, as `ip link` prints it"))
        }
        _ => Ok(()),
    }
}

fn relay_url(url: &Option<String>) -> Result<(), String> {
    match url {
        Some(url) if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) => {
            Err(format!("{url:?} isn't the address of a relay: write it as in \"https://relay.example.org\""))
        }
        _ => Ok(()),
    }
}

fn node_ids(ids: &[String]) -> Result<(), String> {
    match ids.iter().find(|id| id.len() != 64 || !id.chars().all(|c| c.is_ascii_hexdigit())) {
        Some(id) => Err(format!("{id:?} isn't a node's id: it has 64 hexadecimal digits, as `mhc status` prints it")),
        None => Ok(()),
    }
}

fn anchors(anchors: &[String]) -> Result<(), String> {
    const MOST: usize = 16;
    if anchors.len() > MOST {
        return Err(format!("{} anchors where at most {MOST} are allowed", anchors.len()));
    }
    let is_one = |text: &String| text.parse::<SocketAddr>().is_ok() || node_ids(std::slice::from_ref(text)).is_ok();
    match anchors.iter().find(|text| !is_one(text)) {
        Some(text) => {
            Err(format!("{text:?} is neither an address with a port, as in \"192.0.2.7:4480\", nor a node's id"))
        }
        None => Ok(()),
    }
}

fn tickets(tickets: &[String]) -> Result<(), String> {
    match tickets.iter().find(|ticket| !ticket.trim().to_ascii_lowercase().starts_with("mhc1")) {
        Some(ticket) => Err(format!("{ticket:?} isn't a ticket: copy the whole line that `mhc ticket` prints")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
