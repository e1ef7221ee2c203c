//! Names that come from the network, where a file goes, and a gateway that resumes, lies and breaks off.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};

use super::*;

#[test]
fn names_from_the_network_are_harmless() {
    let cases = [
        ("film.mp4", "film.mp4"),
        ("../../etc/passwd", "passwd"),
        ("/etc/cron.d/x", "x"),
        ("..\\..\\boot.ini", "boot.ini"),
        (".bashrc", "bashrc"),
        ("..", ""),
        ("", ""),
        ("a/", ""),
        ("-rf", "rf"),
        ("a\0b\nc", "a b c"),
        ("a\u{202e}4pm.exe", "a 4pm.exe"),
        ("what? a \"film\": part 1|2", "what_ a _film__ part 1_2"),
        ("  spaced out .  ", "spaced out"),
        ("Größe.mkv", "Größe.mkv"),
    ];
    for (text, name) in cases {
        assert_eq!(file_name(text), name, "{text:?}");
    }
    assert!(file_name(&"é".repeat(500)).len() <= MAX_NAME_BYTES);
}

#[test]
fn a_chosen_file_is_replaced_and_one_named_by_others_never() {
    let dir = tempfile::tempdir().unwrap();
    let taken = dir.path().join("taken");
    fs::write(&taken, "").unwrap();
    let file = |path: &Path| Destination::File(path.to_owned());
    assert_eq!(destination(Some(Path::new("-")), "x").unwrap(), Destination::Stdout);
    assert_eq!(destination(Some(&taken), "x").unwrap(), file(&taken));
    assert_eq!(destination(Some(dir.path()), "free").unwrap(), file(&dir.path().join("free")));
    assert_eq!(destination(Some(dir.path()), "taken").unwrap_err().exit, Exit::Conflict);
    assert_eq!(destination(None, "surely-not-there").unwrap(), file(Path::new("surely-not-there")));
    assert_eq!(beside(Path::new("a/film.mp4"), "part"), Path::new("a/film.mp4.part"));
}

#[test]
fn sources_are_what_came_in_the_meantime() {
    let counts = |list: &[(&str, u64)]| list.iter().map(|(node, bytes)| (node.to_string(), *bytes)).collect();
    let gained = difference(&counts(&[("a", 5), ("b", 5)]), &counts(&[("a", 5), ("b", 7), ("c", 1)]));
    assert_eq!(gained, [json!({"node": "b", "bytes": 2}), json!({"node": "c", "bytes": 1})]);
}

const BLOB_BYTES: usize = 300_000;

fn blob() -> Vec<u8> {
    (0..BLOB_BYTES).map(|at| (at % 251) as u8).collect()
}

/// What the gateway does with a request for the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Flips a bit.
    Lies,
    /// Ends in the middle.
    BreaksOff,
    /// Sends all of it whatever the range.
    IgnoresRanges,
    /// Has no source.
    NoSource,
}

/// The ranges that were asked for.
type Asked = Arc<Mutex<Vec<Option<String>>>>;

async fn answer(State((manner, asked)): State<(Manner, Asked)>, headers: HeaderMap) -> Response {
    let range = headers.get("range").map(|value| value.to_str().unwrap().to_owned());
    asked.lock().unwrap().push(range.clone());
    let mut bytes = blob();
    if manner == Manner::Lies {
        bytes[BLOB_BYTES - 1] ^= 1;
    }
    let range = range.filter(|_| manner != Manner::IgnoresRanges);
    let (first, last) = match range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) {
        Some((first, last)) => (first.parse().unwrap(), last.parse().unwrap_or(BLOB_BYTES - 1).min(BLOB_BYTES - 1)),
        None => (0, BLOB_BYTES - 1),
    };
    if manner == Manner::NoSource {
        return (StatusCode::GATEWAY_TIMEOUT, r#"{"code":"no_source","title":"No source"}"#).into_response();
    }
    if first >= BLOB_BYTES {
        return (StatusCode::RANGE_NOT_SATISFIABLE, r#"{"code":"range_not_satisfiable"}"#).into_response();
    }
    let body = bytes[first..=last].to_vec();
    let length = [("content-length", body.len().to_string())];
    let body = match manner {
        Manner::BreaksOff => {
            let half = Bytes::from(body[..body.len() / 2].to_vec());
            let cut = Err(io::Error::other("the sources went away"));
            Body::from_stream(futures::stream::iter([Ok(half), cut]))
        }
        _ => Body::from(body),
    };
    match range {
        Some(_) => {
            let range = [("content-range", format!("bytes {first}-{last}/{BLOB_BYTES}"))];
            (StatusCode::PARTIAL_CONTENT, length, range, body).into_response()
        }
        None => (length, body).into_response(),
    }
}

/// A gateway of that manner; it ends with the test.
async fn gateway(manner: Manner) -> (Client, Asked, tokio::task::JoinSet<()>) {
    let asked = Asked::default();
    let router = Router::new().route("/blobs/{hash}", get(answer)).with_state((manner, asked.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(listener.local_addr().unwrap(), "token".into()).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (client, asked, tasks)
}

#[tokio::test]
async fn a_file_is_fetched_resumed_and_verified() {
    use Manner::*;
    type Asks = &'static [Option<&'static str>];
    let left = |bytes: usize| Some(blob()[..bytes].to_vec());
    let junk = |bytes: usize| Some(vec![9; bytes]);
    // Name, gateway, what a former try left, how it ends, what is asked for.
    type Case = (&'static str, Manner, Option<Vec<u8>>, Result<(), Exit>, Asks);
    let cases: [Case; 13] = [
        ("new", Honest, None, Ok(()), &[None]),
        ("resumed", Honest, left(1000), Ok(()), &[Some("bytes=1000-")]),
        ("empty part", Honest, left(0), Ok(()), &[None]),
        ("whole part", Honest, left(BLOB_BYTES), Ok(()), &[]),
        ("part of another", Honest, junk(1000), Ok(()), &[Some("bytes=1000-"), None]),
        ("part of another as long", Honest, junk(BLOB_BYTES), Ok(()), &[Some("bytes=300000-"), None]),
        ("part of a longer one", Honest, junk(BLOB_BYTES + 1), Ok(()), &[Some("bytes=300001-"), None]),
        ("no ranges", IgnoresRanges, left(1000), Ok(()), &[Some("bytes=1000-")]),
        ("lies", Lies, None, Err(Exit::BadData), &[None]),
        ("lies on", Lies, left(1000), Err(Exit::BadData), &[Some("bytes=1000-"), None]),
        ("breaks off", BreaksOff, None, Err(Exit::Unavailable), &[None]),
        ("breaks off again", BreaksOff, left(1000), Err(Exit::Unavailable), &[Some("bytes=1000-")]),
        ("no source", NoSource, left(1000), Err(Exit::Unavailable), &[Some("bytes=1000-")]),
    ];
    for (case, manner, part, expected, asks) in cases {
        let (client, asked, _tasks) = gateway(manner).await;
        let dir = tempfile::tempdir().unwrap();
        let (file, part_file) = (dir.path().join("film"), dir.path().join("film.part"));
        let had = part.as_ref().map_or(0, Vec::len);
        if let Some(part) = part {
            fs::write(&part_file, part).unwrap();
        }
        let transfer = Transfer { client: &client, blob: BlobHash::of(&blob()), bar: ProgressBar::hidden() };
        let outcome = transfer.to_file(&file).await.map_err(|failure| failure.exit);
        assert_eq!(outcome, expected.map(|()| BLOB_BYTES as u64), "{case}");
        assert_eq!(asked.lock().unwrap().iter().map(Option::as_deref).collect::<Vec<_>>(), asks, "{case}");
        match expected {
            Ok(()) => assert!(fs::read(&file).unwrap() == blob() && !part_file.exists(), "{case}"),
            Err(Exit::Unavailable) => {
                let kept = fs::read(&part_file).unwrap();
                assert!(kept.len() >= had && kept == blob()[..kept.len()] && !file.exists(), "{case}");
            }
            Err(_) => assert!(!file.exists() && !part_file.exists(), "{case}"),
        }
    }
}

#[tokio::test]
async fn a_range_is_fetched_exactly() {
    use Manner::*;
    let last = BLOB_BYTES as u64 - 1;
    let cases: [(Manner, u64, u64, Result<u64, Exit>); 6] = [
        (Honest, 0, 0, Ok(1)),
        (Honest, 1000, 2999, Ok(2000)),
        (Honest, last, last + 1000, Ok(1)),
        (Honest, last + 1, last + 1, Err(Exit::Usage)),
        (IgnoresRanges, 0, 9, Err(Exit::BadData)),
        (BreaksOff, 0, 99_999, Err(Exit::Unavailable)),
    ];
    for (manner, first, last, expected) in cases {
        let (client, _, _tasks) = gateway(manner).await;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("film");
        let transfer = Transfer { client: &client, blob: BlobHash::of(&blob()), bar: ProgressBar::hidden() };
        let outcome = transfer.range_to_file(ByteRange { first, last }, &file).await.map_err(|failure| failure.exit);
        assert_eq!(outcome, expected, "{manner:?} {first}-{last}");
        if let Ok(bytes) = expected {
            let first = first as usize;
            assert_eq!(fs::read(&file).unwrap(), blob()[first..first + bytes as usize]);
        }
    }
}

#[tokio::test]
async fn two_at_once_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("film");
    let _other = open_part(&beside(&file, "part")).unwrap();
    let (client, ..) = gateway(Manner::Honest).await;
    let transfer = Transfer { client: &client, blob: BlobHash::of(&blob()), bar: ProgressBar::hidden() };
    assert_eq!(transfer.to_file(&file).await.unwrap_err().exit, Exit::Conflict);
}
