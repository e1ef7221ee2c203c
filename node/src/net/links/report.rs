//! What a node tells about its links: why each byte came the way it came.

use mhc_protocol::{
    NodeId,
    link::{LinkClass, LinkPolicy, PathState, PeerView},
};
use serde::Serialize;

use super::OverlayState;
use crate::net::shared::Shared;

/// All links.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinkReport {
    /// Which way the ladder leans.
    pub policy: LinkPolicy,
    /// Each kind of link over all peers.
    pub classes: Vec<ClassReport>,
    /// Each peer with a way to it that was ever used, those connected first.
    pub peers: Vec<PeerReport>,
    /// The Yggdrasil daemon of this machine.
    pub yggdrasil: OverlayState,
}

/// One kind of link, over all peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassReport {
    /// Which.
    pub class: LinkClass,
    /// The best state that a path of this kind is in.
    pub state: PathState,
    /// Why it is in that state, in words.
    pub why: String,
    /// Paths open now.
    pub paths: usize,
    /// Peers whose bytes it carries now.
    pub carries: usize,
    /// Best round trip time over them, in milliseconds.
    pub rtt_ms: Option<u64>,
    /// Bytes a second now, over all paths, each in its better direction.
    pub rate_bytes_per_s: u64,
    /// Bytes that came this way since this node started, with the transport's overhead.
    pub in_bytes: u64,
    /// Bytes that went.
    pub out_bytes: u64,
    /// Bytes that a metered link may still carry; absent when it isn't metered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_left_bytes: Option<u64>,
}

/// The ways to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerReport {
    /// Which.
    pub node: NodeId,
    /// What it calls itself. Text from a stranger: escape it.
    pub name: String,
    /// What the ladder knows.
    #[serde(flatten)]
    pub view: PeerView,
}

/// How all links are now.
pub(in crate::net) fn report(shared: &Shared) -> LinkReport {
    let names: Vec<(NodeId, String)> = shared.book().iter().map(|(node, peer)| (node, peer.name.clone())).collect();
    let links = &shared.links;
    let yggdrasil = links.overlay().clone();
    let now = links.now();
    let ladder = links.ladder();
    let show = |(node, name): (NodeId, String)| {
        let view = ladder.view(now, node)?;
        let used = view.paths.iter().any(|path| path.state != PathState::Down || path.in_bytes > 0);
        used.then_some(PeerReport { node, name, view })
    };
    let mut peers: Vec<PeerReport> = names.into_iter().filter_map(show).collect();
    peers.sort_by_key(|peer| (peer.view.class.is_none(), peer.node));
    let moved = ladder.bytes_by_class();
    let shown = [LinkClass::Lan, LinkClass::Direct, LinkClass::Yggdrasil, LinkClass::Relay];
    let classes =
        shown.map(|class| class_report(class, &peers, moved.get(&class).copied().unwrap_or_default(), &yggdrasil));
    LinkReport { policy: ladder.policy(), classes: classes.into(), peers, yggdrasil }
}

fn class_report(
    class: LinkClass,
    peers: &[PeerReport],
    (in_bytes, out_bytes): (u64, u64),
    overlay: &OverlayState,
) -> ClassReport {
    let paths: Vec<_> = peers.iter().flat_map(|peer| &peer.view.paths).filter(|path| path.class == class).collect();
    let open: Vec<_> = paths.iter().filter(|path| path.state != PathState::Down).collect();
    let carries = paths.iter().filter(|path| path.carries).count();
    let best = [PathState::Up, PathState::Suspect, PathState::Probing];
    let state = best.into_iter().find(|state| open.iter().any(|path| path.state == *state)).unwrap_or(PathState::Down);
    let why = match (open.len(), paths.first()) {
        (0, _) if class == LinkClass::Yggdrasil && overlay.addresses.is_empty() => {
            "no interface of this machine is in the overlay".into()
        }
        (0, None) => "no peer has an address of this kind".into(),
        (0, Some(_)) if paths.iter().any(|path| path.in_bytes > 0) => {
            "not open now: other paths carry, or it doesn't answer".into()
        }
        (0, Some(_)) => "addresses are known, and no path is open".into(),
        (count, _) => format!("{count} open path(s), carrying for {carries} peer(s)"),
    };
    ClassReport {
        class,
        state,
        why,
        paths: open.len(),
        carries,
        rtt_ms: open.iter().filter_map(|path| path.rtt_ms).min(),
        rate_bytes_per_s: open.iter().map(|path| path.rate_bytes_per_s).sum(),
        in_bytes,
        out_bytes,
        budget_left_bytes: None,
    }
}
