//! Every message between nodes, and what they show relays: never a panic, and what is accepted has this one encoding.
//! Whatever may be asked of reconciliation has an answer that may be sent, and whatever may be answered leaves the client
//! with a decision.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mhc_protocol::{
    reconcile::{
        Client, Start,
        testing::{Node, network, whole},
    },
    relay::{RelayUrl, read_token, write_token},
    wire::{Haves, Hello, SyncRequest, SyncResponse, Topic},
};

/// One that lists its heads, and one that tells fingerprints.
static NODES: LazyLock<[Node; 2]> = LazyLock::new(|| [5, 100].map(|authors| whole(authors, 2).unwrap_or_default()));

macro_rules! round_trip {
    ($data:ident: $($message:ty),+) => {
        $(if let Ok(message) = <$message>::decode($data) {
            assert_eq!(message.encode().as_deref(), Ok($data), stringify!($message));
        })+
    };
}

fuzz_target!(|data: &[u8]| {
    round_trip!(data: Haves, SyncRequest, SyncResponse);
    if let Ok(hello) = Hello::decode(data) {
        // Each of its versions has one encoding; the first is told by what is missing.
        assert!([hello.encode(), hello.encode_second()].iter().any(|form| form.as_deref() == Ok(data)));
    }
    let compares = |request| matches!(request, SyncRequest::Compare { .. } | SyncRequest::Logs { .. });
    if SyncRequest::decode(data).is_ok_and(compares) {
        for node in &*NODES {
            assert!(node.answer(data).is_ok());
        }
    }
    if let Some(topic) = str::from_utf8(data).ok().and_then(Topic::parse) {
        assert_eq!(topic.to_string().as_bytes(), data);
    }
    if let Ok(text) = str::from_utf8(data) {
        if let Ok(networks) = read_token(text) {
            assert_eq!(read_token(&write_token(networks.clone())), Ok(networks));
        }
        if let Ok(url) = text.parse::<RelayUrl>() {
            assert_eq!(url.as_str().parse(), Ok(url));
        }
    }
    if let Ok(response) = SyncResponse::decode(data) {
        for node in &*NODES {
            let (mut client, _) = Client::start(network(), node.heads().clone(), 1, 1 << 19, Start::Wide);
            let _ = client.answered(response.clone(), node);
        }
    }
});
