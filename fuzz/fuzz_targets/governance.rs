//! Bodies of records that govern a network or withdraw others: never a panic, and what is accepted has this one
//! encoding. The first byte chooses the kind.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mhc_protocol::network::{Erase, Grant, Policy, Revoke};

macro_rules! check {
    ($body:ident, $data:expr) => {
        if let Ok(body) = $body::decode($data) {
            assert_eq!(body.encode().as_deref(), Ok($data));
        }
    };
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 4 {
        0 => check!(Grant, body),
        1 => check!(Revoke, body),
        2 => check!(Policy, body),
        _ => check!(Erase, body),
    }
});
