//! Bodies of manifest records: never a panic, and what is accepted is within bounds and has this one encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mhc_protocol::manifest::Manifest;

fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = Manifest::decode(data) {
        manifest.check().expect("decoding checks");
        assert_eq!(manifest.encode().as_deref(), Ok(data));
    }
});
