//! One Ed25519 key, three names: node id, libp2p PeerId, iroh EndpointId; and addresses in both worlds.

use std::net::{IpAddr, SocketAddr};

use iroh::{EndpointAddr, EndpointId, RelayUrl, TransportAddr};
use libp2p::{
    Multiaddr, PeerId,
    identity::{self, ed25519},
    multiaddr::Protocol,
};
use mhc_protocol::{NodeId, Timestamp};

/// The PeerId of `node`; none when its bytes aren't a point of the curve.
pub(super) fn peer_of(node: NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(node.as_bytes()).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

/// The node that `peer` is; none for other kinds of keys, which no node of ours has.
pub(super) fn node_of(peer: &PeerId) -> Option<NodeId> {
    let key = identity::PublicKey::try_decode_protobuf(peer.as_ref().digest()).ok()?;
    Some(NodeId::from_bytes(key.try_into_ed25519().ok()?.to_bytes()))
}

/// The EndpointId of `node`; none when its bytes aren't a point of the curve.
pub(super) fn endpoint_of(node: NodeId) -> Option<EndpointId> {
    EndpointId::from_bytes(node.as_bytes()).ok()
}

/// The node that an endpoint is.
pub(super) fn node_of_endpoint(id: EndpointId) -> NodeId {
    NodeId::from_bytes(*id.as_bytes())
}

/// Where iroh should look for `node`: at its addresses and behind these relays.
pub(super) fn endpoint_addr(node: NodeId, addrs: &[SocketAddr], relays: &[RelayUrl]) -> Option<EndpointAddr> {
    let relays = relays.iter().cloned().map(TransportAddr::Relay);
    Some(EndpointAddr::from_parts(endpoint_of(node)?, addrs.iter().copied().map(TransportAddr::Ip).chain(relays)))
}

/// `ip:port` of a QUIC or TCP multiaddress; none for a circuit through somebody else.
pub(super) fn socket_addr(addr: &Multiaddr) -> Option<SocketAddr> {
    if addr.iter().any(|part| part == Protocol::P2pCircuit) {
        return None;
    }
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// The multiaddresses of a libp2p port: QUIC and TCP.
pub(super) fn multiaddrs(addr: SocketAddr) -> [Multiaddr; 2] {
    let ip = Multiaddr::from(addr.ip());
    let quic = ip.clone().with(Protocol::Udp(addr.port())).with(Protocol::QuicV1);
    [quic, ip.with(Protocol::Tcp(addr.port()))]
}

/// How `peer` is reached through a circuit of the relay at one of these addresses.
pub(super) fn circuits(relay: PeerId, addrs: &[SocketAddr]) -> Vec<Multiaddr> {
    let through = |addr: Multiaddr| addr.with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
    addrs.iter().flat_map(|addr| multiaddrs(*addr)).map(through).collect()
}

/// Our clock.
pub(super) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mhc_protocol::SecretKey;

    #[test]
    fn one_seed_is_the_same_node_in_both_stacks() {
        let seed = [42; 32];
        let node = SecretKey::from_seed(&seed).node();
        let keypair = identity::Keypair::ed25519_from_bytes(seed).unwrap();
        assert_eq!(peer_of(node), Some(keypair.public().to_peer_id()));
        assert_eq!(node_of(&keypair.public().to_peer_id()), Some(node));
        assert_eq!(endpoint_of(node), Some(iroh::SecretKey::from_bytes(&seed).public()));
        assert_eq!(node_of_endpoint(endpoint_of(node).unwrap()), node);
    }

    #[test]
    fn addresses_survive_the_translation() {
        for text in ["127.0.0.1:4480", "[::1]:4480", "[200::1]:9"] {
            let addr: SocketAddr = text.parse().unwrap();
            for multiaddr in multiaddrs(addr) {
                assert_eq!(socket_addr(&multiaddr), Some(addr), "{multiaddr}");
            }
        }
        for odd in ["/dns4/example/tcp/1", "/ip4/127.0.0.1", "/memory/5", "/ip4/127.0.0.1/tcp/1/p2p-circuit"] {
            assert_eq!(socket_addr(&odd.parse().unwrap()), None, "{odd}");
        }
    }
}
