//! What an admin socket of a Yggdrasil daemon may say: never a panic, and what is taken is bounded and can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mhc_protocol::link::{
    LinkClass,
    yggdrasil::{MAX_OVERLAY_PEERS, Overlay, OverlayPeer},
};

fn shown(text: &str) {
    assert!(text.chars().count() <= 200 && !text.chars().any(char::is_control));
}

fuzz_target!(|data: &[u8]| {
    if let Ok(overlay) = Overlay::parse(data) {
        assert_eq!(LinkClass::of_ip(overlay.address.into()), LinkClass::Yggdrasil);
        [&overlay.subnet, &overlay.key, &overlay.version].into_iter().for_each(|text| shown(text));
    }
    if let Ok(peers) = OverlayPeer::parse(data) {
        assert!(peers.len() <= MAX_OVERLAY_PEERS);
        for peer in &peers {
            shown(&peer.uri);
            peer.error.iter().for_each(|text| shown(text));
        }
    }
});
