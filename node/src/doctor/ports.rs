//! Whether the ports a node wants are free.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
};

use mhc_config::Config;

use super::Check;

/// A port and what it is for.
struct Port {
    setting: &'static str,
    udp: bool,
    addr: SocketAddr,
}

/// The gateway's, libp2p's and iroh's. `running`: this home's node has them.
pub(super) fn check(config: &Config, running: bool) -> Vec<Check> {
    let any = |port: u16| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let ports = [
        Port { setting: "gateway.http", udp: false, addr: config.gateway.http },
        Port { setting: "p2p.port", udp: false, addr: any(config.p2p.port) },
        Port { setting: "p2p.port", udp: true, addr: any(config.p2p.port) },
        Port { setting: "p2p.iroh_port", udp: true, addr: any(config.p2p.effective_iroh_port()) },
    ];
    ports.iter().map(|port| port.check(running)).collect()
}

impl Port {
    fn check(&self, running: bool) -> Check {
        let kind = if self.udp { "udp" } else { "tcp" };
        let name = format!("{} ({kind} {})", self.setting, self.addr);
        if running {
            return Check::ok("ports", format!("{name}: the running node's"));
        }
        if self.addr.port() == 0 {
            return Check::ok("ports", format!("{name}: any free one"));
        }
        match self.bind() {
            Ok(()) => Check::ok("ports", format!("{name} is free")),
            Err(error) => self.taken(&name, &error),
        }
    }

    fn bind(&self) -> io::Result<()> {
        if self.udp { UdpSocket::bind(self.addr).map(drop) } else { TcpListener::bind(self.addr).map(drop) }
    }

    fn taken(&self, name: &str, error: &io::Error) -> Check {
        let (port, setting) = (self.addr.port(), self.setting);
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                let mend =
                    format!("stop what uses it (`ss -lnp | grep :{port}` names it), or set {setting} to another");
                Check::fail("ports", format!("{name} is taken by another program"), mend)
            }
            io::ErrorKind::PermissionDenied => {
                Check::fail("ports", format!("{name} isn't allowed"), format!("set {setting} to a port above 1023"))
            }
            _ => Check::warn("ports", format!("{name}: {error}"), format!("set {setting} to what this machine has")),
        }
    }
}
