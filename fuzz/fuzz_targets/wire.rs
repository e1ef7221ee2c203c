//! Every message between nodes: never a panic, and what is accepted has this one encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mhc_protocol::wire::{Haves, Hello, SyncRequest, SyncResponse};

macro_rules! round_trip {
    ($data:ident: $($message:ty),+) => {
        $(if let Ok(message) = <$message>::decode($data) {
            assert_eq!(message.encode().as_deref(), Ok($data), stringify!($message));
        })+
    };
}

fuzz_target!(|data: &[u8]| {
    round_trip!(data: Hello, Haves, SyncRequest, SyncResponse);
});
