//! Tickets: never a panic, and what is read prints as the same ticket. The bytes are also tried as the inside of a
//! ticket, past its checksum.
#![no_main]

use data_encoding::BASE32_NOPAD;
use libfuzzer_sys::fuzz_target;
use mhc_protocol::ticket::Ticket;

fn check(text: &str) {
    if let Ok(ticket) = text.parse::<Ticket>() {
        assert_eq!(ticket.to_string(), text.trim().to_ascii_lowercase());
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        check(text);
    }
    let sum = blake3::hash(data);
    let inside = [data, &sum.as_bytes()[..4]].concat();
    check(&format!("mhc1{}", BASE32_NOPAD.encode(&inside)));
});
