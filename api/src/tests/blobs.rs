//! `/blobs/{hash}`: ranges, validators, what is shown inline, what happens when bytes can't be had, bao slices.

use std::{io::Cursor, sync::Arc};

use axum::http::{Request, StatusCode};
use bao_tree::{BaoTree, ChunkNum, ChunkRanges, blake3, io::outboard::EmptyOutboard, io::sync::DecodeResponseIter};
use mhc_protocol::BlobHash;
use mhc_storage::{blob::BLOCK_SIZE, source::SourceError};

use super::{Answer, Bench, send};
use crate::testing::{Fault, operator_request, request};

fn sample(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

fn get(uri: &str, headers: &[(&'static str, &str)]) -> Request<axum::body::Body> {
    let mut made = request("GET", uri, "");
    for (name, value) in headers {
        made.headers_mut().append(*name, value.parse().unwrap());
    }
    made
}

#[tokio::test]
async fn ranges_and_validators() {
    let bench = Bench::new();
    let data = sample(5000);
    let hash = bench.source.add(data.clone());
    let router = bench.router();
    let etag = format!("\"{hash}\"");
    type Case<'a> = (&'a [(&'static str, &'a str)], u16, &'a str, std::ops::Range<usize>);
    let table: &[Case<'_>] = &[
        (&[], 200, "", 0..5000),
        (&[("range", "bytes=0-0")], 206, "bytes 0-0/5000", 0..1),
        (&[("range", "bytes=1000-2999")], 206, "bytes 1000-2999/5000", 1000..3000),
        (&[("range", "bytes=-500")], 206, "bytes 4500-4999/5000", 4500..5000),
        (&[("range", "bytes=4999-")], 206, "bytes 4999-4999/5000", 4999..5000),
        (&[("range", "bytes=0-")], 206, "bytes 0-4999/5000", 0..5000),
        (&[("range", "bytes=0-1,2-9")], 206, "bytes 0-9/5000", 0..10),
        (&[("range", "bytes=nonsense")], 200, "", 0..5000),
        (&[("range", "bytes=0-1"), ("range", "bytes=3-4")], 200, "", 0..5000),
        (&[("range", "bytes=0-9"), ("if-range", &etag)], 206, "bytes 0-9/5000", 0..10),
        (&[("range", "bytes=0-9"), ("if-range", "\"other\"")], 200, "", 0..5000),
        (&[("range", "bytes=0-9"), ("if-range", "Wed, 21 Oct 2015 07:28:00 GMT")], 200, "", 0..5000),
        (&[("if-none-match", &etag)], 304, "", 0..0),
        (&[("if-none-match", &etag), ("range", "bytes=0-9")], 304, "", 0..0),
        (&[("if-none-match", "\"other\"")], 200, "", 0..5000),
    ];
    for (headers, status, content_range, expected) in table {
        let answer = send(&router, get(&format!("/blobs/{hash}"), headers)).await;
        assert_eq!(answer.status.as_u16(), *status, "{headers:?}");
        assert_eq!(answer.header("content-range"), *content_range, "{headers:?}");
        assert_eq!(answer.body, data[expected.clone()], "{headers:?}");
        assert!(!answer.cut);
        assert_eq!(answer.header("etag"), etag);
        assert_eq!(answer.header("accept-ranges"), "bytes");
        assert_eq!(answer.header("cache-control"), "public, max-age=31536000, immutable");
        if *status != 304 {
            assert_eq!(answer.header("content-length"), expected.len().to_string());
        }
    }
    assert_eq!(*bench.source.open_reads().borrow(), 0);
}

#[tokio::test]
async fn head_tells_the_size_and_reads_nothing() {
    let bench = Bench::new();
    let hash = bench.source.add_faulty(sample(5000), Fault::StallAt(0));
    for range in [None, Some("bytes=0-9")] {
        let mut head = request("HEAD", &format!("/blobs/{hash}"), "");
        if let Some(range) = range {
            head.headers_mut().insert("range", range.parse().unwrap());
        }
        let answer = send(&bench.router(), head).await;
        assert_eq!((answer.status, answer.header("content-length")), (StatusCode::OK, "5000"));
        assert!(answer.body.is_empty());
    }
}

#[tokio::test]
async fn several_ranges_come_as_multipart() {
    let bench = Bench::new();
    let data = sample(5000);
    let hash = bench.source.add(data.clone());
    let answer = send(&bench.router(), get(&format!("/blobs/{hash}"), &[("range", "bytes=4990-,0-9,100-2099")])).await;
    assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(answer.header("content-type"), format!("multipart/byteranges; boundary={hash}"));
    let mut expected = Vec::new();
    for (first, last) in [(0, 9), (100, 2099), (4990, 4999)] {
        let head = format!(
            "\r\n--{hash}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {first}-{last}/5000\r\n\r\n"
        );
        expected.extend_from_slice(head.as_bytes());
        expected.extend_from_slice(&data[first..=last]);
    }
    expected.extend_from_slice(format!("\r\n--{hash}--\r\n").as_bytes());
    assert_eq!(answer.body, expected);
    assert_eq!(answer.header("content-length"), expected.len().to_string());
}

#[tokio::test]
async fn errors_before_the_first_byte_have_a_status_and_later_ones_cut_the_body() {
    let bench = Bench::new();
    let router = bench.router();
    let internal = || SourceError::Internal("secret path".into());
    let add = |seed: u8, fault| bench.source.add_faulty([vec![seed], sample(5000)].concat(), fault);
    let early: &[(BlobHash, u16, &str)] = &[
        (BlobHash::of(b"unknown"), 504, "no_source"),
        (add(1, Fault::NoSource), 504, "no_source"),
        (add(2, Fault::FailAt(0, SourceError::Lost)), 504, "no_source"),
        (add(3, Fault::FailAt(0, SourceError::StorageFull)), 507, "storage_full"),
        (add(4, Fault::FailAt(0, internal())), 500, "internal"),
        (add(5, Fault::EndAt(0)), 504, "no_source"),
    ];
    for (hash, status, code) in early {
        let answer = send(&router, get(&format!("/blobs/{hash}"), &[])).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (*status, *code));
        assert!(!answer.body.windows(6).any(|bytes| bytes == b"secret"));
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    let late = [
        add(6, Fault::FailAt(2500, SourceError::Lost)),
        add(7, Fault::FailAt(2500, internal())),
        add(8, Fault::EndAt(2500)),
    ];
    for hash in late {
        for headers in [&[][..], &[("range", "bytes=0-3000")], &[("range", "bytes=0-9,100-3000")]] {
            let answer = send(&router, get(&format!("/blobs/{hash}"), headers)).await;
            assert!(answer.status.is_success());
            assert!(answer.cut, "{headers:?} must not end as if complete");
        }
    }
}

#[tokio::test]
async fn ranges_outside_are_416_with_the_size() {
    let bench = Bench::new();
    let (some, empty) = (bench.source.add(sample(5000)), bench.source.add(""));
    for (hash, range, expected) in
        [(some, "bytes=5000-", "bytes */5000"), (some, "bytes=-0", "bytes */5000"), (empty, "bytes=0-", "bytes */0")]
    {
        let answer = send(&bench.router(), get(&format!("/blobs/{hash}"), &[("range", range)])).await;
        assert_eq!(answer.status, StatusCode::RANGE_NOT_SATISFIABLE, "{range}");
        assert_eq!(answer.header("content-range"), expected);
        assert_eq!(answer.code(), "range_not_satisfiable");
    }
    let whole = send(&bench.router(), get(&format!("/blobs/{empty}"), &[])).await;
    assert_eq!((whole.status, whole.header("content-length"), whole.body.len()), (StatusCode::OK, "0", 0));
}

#[tokio::test]
async fn only_harmless_media_is_shown_inline() {
    let bench = Bench::new();
    let hash = bench.source.add("<script>alert(1)</script>");
    let table = [
        ("video/mp4", Some("film.mp4"), "inline; filename=\"film.mp4\""),
        ("audio/mpeg", None, "inline"),
        ("image/png", None, "inline"),
        ("VIDEO/MP4; codecs=\"avc1\"", None, "inline"),
        ("text/html", Some("x.html"), "attachment; filename=\"x.html\""),
        ("image/svg+xml", None, "attachment"),
        ("video/svg+xml", None, "attachment"),
        ("video/<script>", None, "attachment"),
        ("application/xhtml+xml", None, "attachment"),
        ("application/pdf", None, "attachment"),
        ("text/plain", None, "attachment"),
        ("", None, "attachment"),
        ("application/zip", Some("../../etc/passwd"), "attachment; filename=\"passwd\""),
        ("application/zip", Some("C:\\a\\b.zip"), "attachment; filename=\"b.zip\""),
        ("application/zip", Some(".."), "attachment"),
        ("application/zip", Some("a\r\nSet-Cookie: b"), "attachment; filename=\"aSet-Cookie: b\""),
        ("application/zip", Some("a\"b"), "attachment; filename=\"a_b\"; filename*=UTF-8''a%22b"),
        ("application/zip", Some("\u{202e}gpj.exe"), "attachment; filename=\"gpj.exe\""),
        (
            "video/mp4",
            Some("Fée 100%.mp4"),
            "inline; filename=\"F_e 100_.mp4\"; filename*=UTF-8''F%C3%A9e%20100%25.mp4",
        ),
    ];
    for (content_type, name, disposition) in table {
        let mut options = bench.options();
        let (content_type, name) = (content_type.to_owned(), name.map(str::to_owned));
        let told = (content_type.clone(), name.clone());
        options.describe = Some(Arc::new(move |_| Some(told.clone())));
        let answer = send(&bench.router_with(options, vec![]), get(&format!("/blobs/{hash}"), &[])).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("content-disposition"), disposition, "{content_type} {name:?}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        let sandboxed = answer.header("content-security-policy").starts_with("sandbox; default-src 'none'");
        assert_eq!(sandboxed, disposition.starts_with("attachment"), "{content_type}");
    }
}

#[tokio::test]
async fn what_is_not_a_hash_is_not_found() {
    let bench = Bench::new();
    let long = format!("/blobs/{}", "a".repeat(65));
    let slice = format!("/blobs/{}.bao.bao", "a".repeat(64));
    for uri in [
        "/blobs/x",
        "/blobs/",
        "/blobs/..%2f..%2fetc%2fpasswd",
        "/blobs/%00",
        "/blobs/%ff%fe",
        "/blobs/../keys/node.key",
        "/blobs/.bao",
        &long,
        &slice,
    ] {
        let answer = send(&bench.router(), get(uri, &[])).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "not_found"), "{uri}");
    }
}

async fn add(bench: &Bench, data: &[u8]) -> BlobHash {
    let answer = send(&bench.router(), operator_request("POST", "/blobs", data.to_vec())).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    answer.json()["blob"].as_str().unwrap().parse().unwrap()
}

/// Checks a slice as a client would: with nothing but the hash.
fn verified(hash: BlobHash, answer: &Answer, chunks: ChunkRanges) -> Vec<u8> {
    let size = u64::from_le_bytes(answer.body[..8].try_into().unwrap());
    let root = blake3::Hash::from(*hash.as_bytes());
    let tree = BaoTree::new(size, BLOCK_SIZE);
    let _ = EmptyOutboard { tree, root };
    let mut out = Vec::new();
    for item in DecodeResponseIter::new(root, tree, Cursor::new(&answer.body[8..]), &chunks) {
        if let bao_tree::io::BaoContentItem::Leaf(leaf) = item.unwrap() {
            out.extend_from_slice(&leaf.data);
        }
    }
    out
}

#[tokio::test]
async fn a_bao_slice_proves_itself() {
    let mut bench = Bench::new();
    let data = sample(100_000);
    let hash = add(&bench, &data).await;
    assert_eq!(hash, BlobHash::of(&data));
    bench.source.add(data.clone());
    let group = 16 << 10;
    let table = [
        ("", 0..data.len()),
        ("?range=0-", 0..data.len()),
        ("?range=0-0", 0..group),
        ("?range=20000-40000", group..3 * group),
        ("?range=99999-99999", 6 * group..data.len()),
        ("?range=0-999999999", 0..data.len()),
    ];
    for (query, bytes) in table {
        let answer = send(&bench.router(), get(&format!("/blobs/{hash}.bao{query}"), &[])).await;
        assert_eq!(answer.status, StatusCode::OK, "{query}");
        assert!(!answer.cut);
        let chunks = ChunkNum(bytes.start as u64 / 1024)..ChunkNum::chunks(bytes.end as u64);
        assert_eq!(verified(hash, &answer, ChunkRanges::from(chunks)), data[bytes], "{query}");
    }
    for (query, status) in
        [("?range=100000-", 416), ("?range=5-4", 400), ("?range=x", 400), ("?range=-5", 400), ("?range=1-2,9-10", 400)]
    {
        let answer = send(&bench.router(), get(&format!("/blobs/{hash}.bao{query}"), &[])).await;
        assert_eq!(answer.status.as_u16(), status, "{query}");
        answer.code();
    }
    let unknown = BlobHash::of(b"unknown");
    assert_eq!(send(&bench.router(), get(&format!("/blobs/{unknown}.bao"), &[])).await.code(), "no_source");
    bench.source = Default::default();
}
