//! The Range header: never a panic, and what is to be sent lies inside the blob, apart and in order.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The file by itself: its crate would bring the whole gateway.
#[path = "../../api/src/range.rs"]
#[allow(dead_code)] // what only the gateway calls
mod range;

use range::{MAX_PARTS, RangeOutcome};

fuzz_target!(|input: (u64, &str)| {
    let (size_bytes, header) = input;
    let parts = match range::parse(Some(header), size_bytes) {
        RangeOutcome::Full | RangeOutcome::Unsatisfiable => vec![],
        RangeOutcome::Single(part) => vec![part],
        RangeOutcome::Several(parts) => {
            assert!((2..=MAX_PARTS).contains(&parts.len()));
            parts
        }
    };
    assert!(parts.iter().all(|part| part.start < part.end && part.end <= size_bytes));
    assert!(parts.windows(2).all(|pair| pair[0].end < pair[1].start));
    range::if_range_holds(Some(header), "\"tag\"");
    range::none_match_hits(header, "\"tag\"");
});
