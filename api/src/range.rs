//! `Range` and `If-Range` (RFC 9110, section 14), as pure total functions.

use std::ops::Range;

/// More parts than this, after joining those that touch, and the whole is sent instead.
pub const MAX_PARTS: usize = 16;

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeOutcome {
    /// 200: everything. Also the answer to a `Range` that makes no sense, which is to be ignored.
    Full,
    /// 206 with one part: never empty, inside the blob.
    Single(Range<u64>),
    /// 206 `multipart/byteranges`: 2 to [`MAX_PARTS`] parts, ascending, apart from each other.
    Several(Vec<Range<u64>>),
    /// 416.
    Unsatisfiable,
}

/// Resolves the value of a `Range` header against a blob of `size_bytes`.
pub fn parse(header: Option<&str>, size_bytes: u64) -> RangeOutcome {
    let Some(specs) = header.and_then(parse_specs) else { return RangeOutcome::Full };
    // An empty blob has no byte that Content-Range could name; a suffix of it is all of it.
    if size_bytes == 0 && specs.iter().any(|spec| matches!(spec, Spec::Suffix(1..))) {
        return RangeOutcome::Full;
    }
    let parts = coalesce(specs.iter().filter_map(|spec| spec.resolve(size_bytes)).collect());
    match &parts[..] {
        [] => RangeOutcome::Unsatisfiable,
        [part] => RangeOutcome::Single(part.clone()),
        more if more.len() > MAX_PARTS => RangeOutcome::Full,
        _ => RangeOutcome::Several(parts),
    }
}

/// Where the first part of a `Range` header begins; none when that depends on the blob's size.
pub fn first_byte(header: Option<&str>) -> Option<u64> {
    match header.and_then(parse_specs).as_deref() {
        None => Some(0),
        Some([Spec::From(first, _), ..]) => Some(*first),
        Some(_) => None,
    }
}

/// Whether `Range` is to be looked at: there is no `If-Range`, or it is exactly our strong `etag`. Dates never match:
/// a blob has none.
pub fn if_range_holds(if_range: Option<&str>, etag: &str) -> bool {
    if_range.is_none_or(|value| value.trim() == etag)
}

/// Whether `If-None-Match` names `etag` (weak comparison, as the RFC says for it).
pub fn none_match_hits(if_none_match: &str, etag: &str) -> bool {
    let weak = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    if_none_match.trim() == "*" || if_none_match.split(',').any(|tag| weak(tag) == etag)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spec {
    /// `first-` or `first-last`, the last byte included.
    From(u64, Option<u64>),
    /// `-length`: the last bytes.
    Suffix(u64),
}

impl Spec {
    fn resolve(self, size_bytes: u64) -> Option<Range<u64>> {
        let range = match self {
            Spec::From(first, last) => first..last.map_or(size_bytes, |last| last.saturating_add(1).min(size_bytes)),
            Spec::Suffix(length) => size_bytes.saturating_sub(length)..size_bytes,
        };
        (range.start < range.end).then_some(range)
    }
}

/// `bytes=` and a list of specs; empty list elements are allowed, an empty list isn't.
fn parse_specs(header: &str) -> Option<Vec<Spec>> {
    let (unit, list) = header.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let elements = list.split(',').map(|element| element.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty());
    let specs: Vec<Spec> = elements.map(parse_spec).collect::<Option<_>>()?;
    (!specs.is_empty()).then_some(specs)
}

fn parse_spec(text: &str) -> Option<Spec> {
    match text.split_once('-')? {
        ("", length) => Some(Spec::Suffix(number(length)?)),
        (first, "") => Some(Spec::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::From(first, Some(last)))
        }
    }
}

/// Digits only. What is beyond 64 bits lies behind every blob.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Ascending, with parts joined that overlap or touch.
fn coalesce(mut parts: Vec<Range<u64>>) -> Vec<Range<u64>> {
    parts.sort_by_key(|part| part.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(parts.len());
    for part in parts {
        match joined.last_mut() {
            Some(last) if part.start <= last.end => last.end = last.end.max(part.end),
            _ => joined.push(part),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::{RangeOutcome::*, *};

    /// Takes the place of a slice of one range, which clippy suspects of being a mistake.
    fn one(start: u64, end: u64) -> RangeOutcome {
        Single(start..end)
    }

    #[test]
    fn the_first_byte_is_told_as_far_as_it_can_be() {
        let table = [
            (None, Some(0)),
            (Some("bytes=7-9"), Some(7)),
            (Some("bytes=7-9,1-2"), Some(7)),
            (Some("bytes=18446744073709551615-"), Some(u64::MAX)),
            (Some("bytes=-5"), None),
            (Some("lines=3-4"), Some(0)),
        ];
        for (header, first) in table {
            assert_eq!(first_byte(header), first, "{header:?}");
        }
    }

    #[test]
    fn ranges_of_a_thousand_bytes() {
        let table = [
            ("bytes=0-0", one(0, 1)),
            ("bytes=0-499", one(0, 500)),
            ("bytes=500-999", one(500, 1000)),
            ("bytes=500-", one(500, 1000)),
            ("bytes=0-", one(0, 1000)),
            ("bytes=999-", one(999, 1000)),
            ("bytes=999-999", one(999, 1000)),
            ("bytes=990-2000", one(990, 1000)),
            ("bytes=-500", one(500, 1000)),
            ("bytes=-1", one(999, 1000)),
            ("bytes=-1000", one(0, 1000)),
            ("bytes=-5000", one(0, 1000)),
            ("BYTES=1-2", one(1, 3)),
            ("bytes= 1-2 ", one(1, 3)),
            ("bytes=,1-2,,", one(1, 3)),
            ("bytes=0-18446744073709551615", one(0, 1000)),
            ("bytes=0-99999999999999999999999999", one(0, 1000)),
            ("bytes=-99999999999999999999999999", one(0, 1000)),
            ("bytes=0000000000000000000000001-2", one(1, 3)),
            ("bytes=0-1,5-6", Several(vec![0..2, 5..7])),
            ("bytes=5-6, 0-1", Several(vec![0..2, 5..7])),
            ("bytes=0-0,-1", Several(vec![0..1, 999..1000])),
            ("bytes=0-1,2-3", one(0, 4)),
            ("bytes=0-9,5-20", one(0, 21)),
            ("bytes=0-999,5-6", one(0, 1000)),
            ("bytes=0-1,5000-6000", one(0, 2)),
            ("bytes=1000-", Unsatisfiable),
            ("bytes=1000-2000", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=5000-,-0", Unsatisfiable),
            ("bytes=99999999999999999999999999-", Unsatisfiable),
            ("bytes=5-4", Full),
            ("bytes=0-1,5-4", Full),
            ("bytes=", Full),
            ("bytes=,", Full),
            ("bytes=-", Full),
            ("bytes", Full),
            ("", Full),
            ("bytes=a-b", Full),
            ("bytes=0x1-2", Full),
            ("bytes=+1-2", Full),
            ("bytes=1 -2", Full),
            ("bytes=1-2-3", Full),
            ("bytes=--1", Full),
            ("bytes=1.5-2", Full),
            ("bytes=1-2;3-4", Full),
            ("items=0-1", Full),
            ("bytes 0-1", Full),
            ("bytes=٣-٤", Full),
        ];
        for (header, expected) in table {
            assert_eq!(parse(Some(header), 1000), expected, "{header}");
        }
        assert_eq!(parse(None, 1000), Full);
    }

    #[test]
    fn ranges_of_nothing_and_of_the_largest_blob() {
        let table = [
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=0-0", 0, Unsatisfiable),
            ("bytes=-5", 0, Full),
            ("bytes=-0", 0, Unsatisfiable),
            ("bytes=0-", u64::MAX, one(0, u64::MAX)),
            ("bytes=-1", u64::MAX, one(u64::MAX - 1, u64::MAX)),
            ("bytes=18446744073709551614-18446744073709551615", u64::MAX, one(u64::MAX - 1, u64::MAX)),
            ("bytes=18446744073709551615-", u64::MAX, Unsatisfiable),
        ];
        for (header, size_bytes, expected) in table {
            assert_eq!(parse(Some(header), size_bytes), expected, "{header} of {size_bytes}");
        }
    }

    #[test]
    fn sixteen_parts_are_sent_and_seventeen_are_not() {
        let header = |count: u64| {
            let specs: Vec<String> = (0..count).map(|n| format!("{}-{}", n * 10, n * 10 + 1)).collect();
            format!("bytes={}", specs.join(","))
        };
        assert!(matches!(parse(Some(&header(16)), 1000), Several(parts) if parts.len() == 16));
        assert_eq!(parse(Some(&header(17)), 1000), Full);
        let touching: Vec<String> = (0..500).map(|n| format!("{n}-{n}")).collect();
        assert_eq!(parse(Some(&format!("bytes={}", touching.join(","))), 1000), one(0, 500));
    }

    #[test]
    fn validators() {
        let etag = "\"abc\"";
        for (value, holds) in [
            (None, true),
            (Some("\"abc\""), true),
            (Some(" \"abc\" "), true),
            (Some("W/\"abc\""), false),
            (Some("abc"), false),
            (Some("\"other\""), false),
            (Some("Wed, 21 Oct 2015 07:28:00 GMT"), false),
            (Some(""), false),
        ] {
            assert_eq!(if_range_holds(value, etag), holds, "{value:?}");
        }
        for (value, hits) in [
            ("\"abc\"", true),
            ("*", true),
            ("W/\"abc\"", true),
            ("\"x\", \"abc\"", true),
            ("\"x\"", false),
            ("abc", false),
            ("", false),
        ] {
            assert_eq!(none_match_hits(value, etag), hits, "{value}");
        }
    }
}
