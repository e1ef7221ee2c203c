//! Bad input over HTTP: a table of requests as they go over the wire, and what they are answered.
//!
//! In requests `{host}`, `{token}`, `{blob}` (1000 bytes that the node holds), `{content}` (its manifest), `{own}` (a
//! ticket of the node itself) and `{other}` (a ticket of another network) are filled in. After each case the node
//! serves and lists what it listed before.

use std::{
    fmt::Write as _,
    io::{Read, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mhc_protocol::{SecretKey, ticket::Ticket};
use mhc_testnet::{Http, Node, Reply, Rng, http::Part, node::text};

use super::{options, random_file, sha, start};

const UPLOAD_LIMIT_BYTES: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);
const UNKNOWN: &str = "00000000000000000000000000000000000000000000000000000000000000ff";

/// What the answer must be.
enum Want {
    /// A problem document with this status and code.
    Problem(u16, &'static str),
    /// 206 with this `Content-Range` and these bytes of the blob.
    Part(&'static str, std::ops::Range<usize>),
    /// 416 that names the size.
    Unsatisfiable,
    /// 200 with the whole blob.
    Whole,
    /// This status, whatever the body.
    Status(u16),
    /// One of these: which of them is the HTTP library's business.
    OneOf(&'static [u16]),
}
use Want::{OneOf, Part as Bytes, Problem, Status, Unsatisfiable, Whole};

struct Case {
    name: String,
    request: String,
    want: Want,
}

fn case(name: &str, request: String, want: Want) -> Case {
    Case { name: name.to_owned(), request, want }
}

/// A request with the host and `connection: close`, and further header lines.
fn request(method: &str, path: &str, headers: &[&str], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {{host}}\r\nconnection: close\r\n");
    for line in headers {
        let _ = write!(text, "{line}\r\n");
    }
    if !body.is_empty() {
        let _ = write!(text, "content-length: {}\r\n", body.len());
    }
    text + "\r\n" + body
}

fn get(path: &str) -> String {
    request("GET", path, &[], "")
}

const AUTH: &str = "authorization: Bearer {token}";
const JSON: &str = "content-type: application/json";
const FORM: &str = "content-type: multipart/form-data; boundary=XX";

fn ranges() -> Vec<Case> {
    let table = [
        ("bytes=0-0", Bytes("bytes 0-0/1000", 0..1)),
        ("bytes=999-", Bytes("bytes 999-999/1000", 999..1000)),
        ("bytes=-1", Bytes("bytes 999-999/1000", 999..1000)),
        ("bytes=-500", Bytes("bytes 500-999/1000", 500..1000)),
        ("bytes=-5000", Bytes("bytes 0-999/1000", 0..1000)),
        ("bytes=0-99999", Bytes("bytes 0-999/1000", 0..1000)),
        ("bytes=0-1,1-2,2-3", Bytes("bytes 0-3/1000", 0..4)),
        ("bytes=,,5-9,", Bytes("bytes 5-9/1000", 5..10)),
        ("bytes=0-5,2000-", Bytes("bytes 0-5/1000", 0..6)),
        ("bytes=1000-", Unsatisfiable),
        ("bytes=1000-1001", Unsatisfiable),
        ("bytes=-0", Unsatisfiable),
        ("bytes=18446744073709551616-", Unsatisfiable),
        ("bytes=5-1", Whole),
        ("bytes=", Whole),
        ("bytes=-", Whole),
        ("bytes=abc", Whole),
        ("bytes=0x10-20", Whole),
        ("bytes=1--2", Whole),
        ("items=0-1", Whole),
        ("0-1", Whole),
        ("bytes=0-1\r\nrange: bytes=2-3", Whole),
        ("bytes=0-1\r\nif-range: \"another\"", Whole),
        ("bytes=0-1\r\nif-range: W/\"{blob}\"", Whole),
        ("bytes=0-1\r\nif-range: \"{blob}\"", Bytes("bytes 0-1/1000", 0..2)),
        ("bytes=0-1\r\nif-none-match: \"{blob}\"", Status(304)),
        ("bytes=0-1,500-501", Status(206)),
    ];
    let mut cases = vec![];
    for (value, want) in table {
        cases.push(case(
            &format!("range {value}"),
            request("GET", "/blobs/{blob}", &[&format!("range: {value}")], ""),
            want,
        ));
    }
    let many: Vec<String> = (0..17).map(|n| format!("{}-{}", n * 50, n * 50)).collect();
    let many = format!("range: bytes={}", many.join(","));
    cases.push(case("17 ranges apart", request("GET", "/blobs/{blob}", &[&many], ""), Whole));
    let stream = "/api/v1/videos/{content}/stream";
    cases.push(case("stream behind the end", request("GET", stream, &["range: bytes=1000-"], ""), Unsatisfiable));
    cases.push(case("HEAD with a range", request("HEAD", stream, &["range: bytes=0-1"], ""), Status(200)));
    for query in ["", "?range=", "?range=5-1", "?range=abc", "?range=0-1,3-4", "?range=0-1/2"] {
        let want = if query.is_empty() { OneOf(&[200, 400]) } else { Problem(400, "bad_request") };
        cases.push(case(&format!("bao slice {query}"), get(&format!("/blobs/{{blob}}.bao{query}")), want));
    }
    cases
}

fn ids_and_paths() -> Vec<Case> {
    let missing = || Problem(404, "not_found");
    let upper = sha(b"nothing").to_uppercase();
    let mut cases = vec![
        case("hash of nothing anybody has", get(&format!("/blobs/{UNKNOWN}")), Problem(504, "no_source")),
        case("its bao slice", get(&format!("/blobs/{UNKNOWN}.bao?range=0-1")), OneOf(&[404, 504])),
        case("upper-case hash", get(&format!("/blobs/{upper}")), Problem(504, "no_source")),
        case("content that isn't there", get(&format!("/api/v1/videos/{UNKNOWN}")), missing()),
        case("stream of it", get(&format!("/api/v1/videos/{UNKNOWN}/stream")), missing()),
        case("a blob's hash as content", get("/api/v1/videos/{blob}"), missing()),
        case("pin of junk", request("PUT", "/api/v1/node/pins/xyz", &[AUTH], ""), missing()),
        case("blob info of junk", get("/api/v1/node/blobs/xyz"), missing()),
        case(
            "ticket for an unknown blob",
            request("GET", &format!("/api/v1/node/ticket?blob={UNKNOWN}"), &[AUTH], ""),
            missing(),
        ),
    ];
    let paths = [
        "/blobs/",
        "/blobs/xyz",
        "/blobs/%00",
        "/blobs/..%2f..%2fetc%2fpasswd",
        "/blobs/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "/../../etc/passwd",
        "//etc/passwd",
        "/etc/passwd",
        "/%00",
        "/keys/node.key",
        "/api.token",
        "/assets/..%2f..%2fapi.token",
        "/api/v1/videos/..%2f..%2fnode",
        "/api/v1/videos/xyz",
        "/api/v1/videos/xyz/stream",
        "/api/v1/videos/artist/xyz",
        "/api/v1/nothing",
        "/blobs/{blob}/more",
    ];
    cases.extend(paths.map(|path| case(&format!("path {path}"), get(path), missing())));
    let queries = ["limit=0", "limit=201", "limit=-1", "limit=abc", "limit=99999999999999999999", "cursor=junk", "x=1"];
    for query in queries {
        let path = format!("/api/v1/videos/feed?{query}");
        cases.push(case(&format!("feed?{query}"), get(&path), Problem(400, "bad_request")));
    }
    cases
}

fn hosts_and_origins() -> Vec<Case> {
    let host = |value: &str| format!("GET / HTTP/1.1\r\n{value}connection: close\r\n\r\n");
    let forbidden = || Problem(403, "forbidden");
    let gc = |line: &str| request("POST", "/api/v1/node/gc", &[AUTH, line], "");
    let post = |line: &str, kind: &str| request("POST", "/api/v1/videos/upload", &[AUTH, line, kind], "--XX--\r\n");
    vec![
        case("another host", host("host: evil.example\r\n"), forbidden()),
        case(
            "another host on a route that isn't there",
            host("host: evil.example\r\n").replace("GET /", "GET /x"),
            forbidden(),
        ),
        case("another host with a suffix like ours", host("host: 127.0.0.1.evil.example\r\n"), forbidden()),
        case("our address on another port", host("host: 127.0.0.1:1\r\n"), forbidden()),
        case("localhost without a port", host("host: localhost\r\n"), forbidden()),
        case("user information in the host", host("host: {host}@evil.example\r\n"), forbidden()),
        case("no host", host(""), OneOf(&[400, 403])),
        case("empty host", host("host: \r\n"), OneOf(&[400, 403])),
        case("two hosts", host("host: {host}\r\nhost: evil.example\r\n"), OneOf(&[400, 403])),
        case(
            "another host in the target",
            host("host: {host}\r\n").replace("GET /", "GET http://evil.example/"),
            forbidden(),
        ),
        case("another origin", gc("origin: https://evil.example"), forbidden()),
        case("no origin of its own", gc("origin: null"), forbidden()),
        case("two origins", gc("origin: http://{host}\r\norigin: https://evil.example"), forbidden()),
        case("our own origin behind a TLS front", gc("origin: https://{host}"), Status(200)),
        case("a request across sites", gc("sec-fetch-site: cross-site"), forbidden()),
        case("our own origin", gc("origin: http://{host}"), Status(200)),
        case(
            "a simple form post across origins",
            post("origin: https://evil.example", "content-type: text/plain"),
            forbidden(),
        ),
        case(
            "a preflight",
            request(
                "OPTIONS",
                "/api/v1/node/gc",
                &["origin: https://evil.example", "access-control-request-method: POST"],
                "",
            ),
            OneOf(&[403, 405]),
        ),
    ]
}

fn tokens() -> Vec<Case> {
    let denied = || Problem(401, "unauthorized");
    let routes = [
        ("POST", "/blobs"),
        ("POST", "/api/v1/videos"),
        ("POST", "/api/v1/videos/upload"),
        ("POST", "/api/v1/videos/reference"),
        ("POST", "/api/v1/node/peers"),
        ("POST", "/api/v1/node/gc"),
        ("POST", "/api/v1/node/doctor"),
        ("PUT", "/api/v1/node/pins/{content}"),
        ("DELETE", "/api/v1/node/pins/{content}"),
        ("GET", "/api/v1/node/ticket"),
    ];
    let none = routes
        .map(|(method, path)| case(&format!("no token: {method} {path}"), request(method, path, &[], ""), denied()));
    let lines = [
        "authorization: Bearer wrong",
        "authorization: Bearer ",
        "authorization: Bearer",
        "authorization: {token}",
        "authorization: Basic {token}",
        "authorization: Bearer {token}x",
        "authorization: Bearer {token}\r\nauthorization: Bearer wrong",
        "x-token: {token}",
    ];
    let wrong = lines
        .map(|line| case(&format!("token as '{line}'"), request("POST", "/api/v1/node/gc", &[line], ""), denied()));
    none.into_iter().chain(wrong).collect()
}

/// Parts of a form with the boundary `XX`; the end is up to the caller.
fn parts(parts: &[(&str, &str)]) -> String {
    parts
        .iter()
        .map(|(head, body)| format!("--XX\r\ncontent-disposition: form-data; {head}\r\n\r\n{body}\r\n"))
        .collect()
}

fn forms() -> Vec<Case> {
    let upload = |body: &str| request("POST", "/api/v1/videos/upload", &[AUTH, FORM], body);
    let with = |fields: &[(&str, &str)]| {
        let file = ("name=\"file\"; filename=\"f.bin\"", "bytes of a case");
        upload(&(parts(&[fields, &[file]].concat()) + "--XX--\r\n"))
    };
    let bad = || Problem(400, "bad_request");
    let long = "x".repeat(100_000);
    let many: Vec<(&str, &str)> = vec![("name=\"title\"", "x"); 40];
    let tags: Vec<String> = (0..30).map(|n| format!("tag{n}")).collect();
    let tags: Vec<(&str, &str)> = tags.iter().map(|tag| ("name=\"tags\"", tag.as_str())).collect();
    let huge = "x".repeat(UPLOAD_LIMIT_BYTES + 1);
    let named = |body: &str| ("name=\"file\"; filename=\"f.bin\"".to_owned(), body.to_owned());
    let (head, body) = named(&huge);
    let too_large = || Problem(413, "too_large");
    vec![
        case(
            "not a form",
            request("POST", "/api/v1/videos/upload", &[AUTH, JSON], "{}"),
            Problem(415, "unsupported_media"),
        ),
        case(
            "no content type",
            request("POST", "/api/v1/videos/upload", &[AUTH], "x"),
            Problem(415, "unsupported_media"),
        ),
        case(
            "no boundary",
            request("POST", "/api/v1/videos/upload", &[AUTH, "content-type: multipart/form-data"], "x"),
            OneOf(&[400, 415]),
        ),
        case("an empty body", upload(""), bad()),
        case("a body that isn't a form", upload("hello"), bad()),
        case("a form without an end", upload(&parts(&[("name=\"file\"; filename=\"f\"", "abc")])), bad()),
        case("a form without a file", upload(&(parts(&[("name=\"title\"", "x")]) + "--XX--\r\n")), bad()),
        case("two files", with(&[("name=\"file\"; filename=\"g\"", "other")]), bad()),
        case("a field without a name", with(&[("", "x")]), bad()),
        case("a field of 100 kB", with(&[("name=\"title\"", &long)]), OneOf(&[400, 413])),
        case("40 fields", with(&many), OneOf(&[400, 413])),
        case("a title of two lines", with(&[("name=\"title\"", "two\nlines")]), bad()),
        case("a title of 201 characters", with(&[("name=\"title\"", &"ä".repeat(201))]), bad()),
        case("30 tags", with(&tags), bad()),
        case("another realm", with(&[("name=\"realm\"", "limbo")]), bad()),
        case("a description of 6,000 characters", with(&[("name=\"description\"", &long[..6000])]), bad()),
        case("a title that isn't UTF-8", with(&[("name=\"title\"", "a\u{fffd}b")]), bad()),
        case("a file over the limit", upload(&(parts(&[(&head, &body)]) + "--XX--\r\n")), too_large()),
        case("a raw body over the limit", request("POST", "/blobs", &[AUTH], &huge), too_large()),
        case(
            "a body that only claims to be over the limit",
            request("POST", "/api/v1/videos/upload", &[AUTH, FORM, "content-length: 99999999999"], ""),
            too_large(),
        ),
    ]
}

fn documents() -> Vec<Case> {
    let bad = || Problem(400, "bad_request");
    let publish = |body: &str| request("POST", "/api/v1/videos", &[AUTH, JSON], body);
    let peer = |ticket: &str| request("POST", "/api/v1/node/peers", &[AUTH, JSON], &format!("{{\"ticket\":{ticket}}}"));
    let table = [
        ("no body", ""),
        ("half a document", "{\"blob\":"),
        ("a list", "[]"),
        ("a number", "17"),
        ("no blob", "{}"),
        ("a blob of another type", "{\"blob\":17}"),
        ("a blob that isn't a hash", "{\"blob\":\"xyz\"}"),
        ("an unknown field", "{\"blob\":\"{blob}\",\"extra\":1}"),
        ("a second document", "{\"blob\":\"{blob}\"}{}"),
        ("an escape that isn't one", "{\"blob\":\"\\ud800\"}"),
        ("a title of another type", "{\"blob\":\"{blob}\",\"title\":{}}"),
        ("a title with a control character", "{\"blob\":\"{blob}\",\"title\":\"a\\u0000b\"}"),
        ("another realm", "{\"blob\":\"{blob}\",\"realm\":\"limbo\"}"),
    ];
    let mut cases: Vec<Case> =
        table.map(|(name, body)| case(&format!("JSON: {name}"), sized(&publish(body)), bad())).into();
    let deep = publish(&"[".repeat(100_000));
    cases.extend([
        case("JSON: 100,000 lists deep", deep, bad()),
        case("JSON: 20 MB", publish(&format!("\"{}\"", "x".repeat(20 << 20))), Problem(413, "too_large")),
        case(
            "JSON under another type",
            request("POST", "/api/v1/videos", &[AUTH, "content-type: text/plain"], "{}"),
            Problem(415, "unsupported_media"),
        ),
        case("a blob that isn't here", publish(&format!("{{\"blob\":\"{UNKNOWN}\"}}")), Problem(404, "not_found")),
        case(
            "a reference that is relative",
            request("POST", "/api/v1/videos/reference", &[AUTH, JSON], "{\"path\":\"a\"}"),
            bad(),
        ),
        case(
            "a reference to what isn't there",
            request("POST", "/api/v1/videos/reference", &[AUTH, JSON], "{\"path\":\"/nonexistent/file\"}"),
            OneOf(&[400, 404]),
        ),
        case(
            "a reference to a folder",
            request("POST", "/api/v1/videos/reference", &[AUTH, JSON], "{\"path\":\"/tmp\"}"),
            OneOf(&[400, 404]),
        ),
        case("ticket: empty", peer("\"\""), bad()),
        case("ticket: null", peer("null"), bad()),
        case("ticket: of something else", peer("\"blobabc\""), bad()),
        case("ticket: cut", peer("\"mhc1abcdef\""), bad()),
        case("ticket: other characters", peer("\"mhc1!!!!\""), bad()),
        case("ticket: 100 kB", peer(&format!("\"mhc1{}\"", "a".repeat(100_000))), bad()),
        case("ticket: one's own", sized(&peer("\"{own}\"")), Problem(409, "conflict")),
        case("ticket: of another network", sized(&peer("\"{other}\"")), Problem(409, "conflict")),
    ]);
    cases
}

/// Takes the length away, which the placeholders would make wrong; it is put in once they are filled in.
fn sized(request: &str) -> String {
    let keep = |line: &&str| !line.starts_with("content-length:");
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let head: Vec<&str> = head.split("\r\n").filter(keep).chain(["content-length: {len}"]).collect();
    format!("{}\r\n\r\n{body}", head.join("\r\n"))
}

fn protocol() -> Vec<Case> {
    let long = format!("x-long: {}", "x".repeat(1 << 20));
    let many: Vec<String> = (0..500).map(|n| format!("x-{n}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let both = "POST /blobs HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\
        content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nhost: evil.example\r\n\r\n";
    vec![
        case("another method", request("DELETE", "/healthz", &[], ""), Problem(405, "method_not_allowed")),
        case("a method that isn't one", request("FOO", "/healthz", &[], ""), Problem(405, "method_not_allowed")),
        case("a header of 1 MiB", request("GET", "/", &[&long], ""), OneOf(&[400, 431])),
        case("500 headers", request("GET", "/", &many, ""), OneOf(&[400, 431])),
        case("a path of 100 kB", get(&format!("/{}", "x".repeat(100_000))), OneOf(&[400, 404, 414])),
        case("no HTTP", "hello\r\n\r\n".into(), Status(400)),
        case("another HTTP", "GET / HTTP/9.9\r\n\r\n".into(), OneOf(&[400, 505])),
        case("a negative length", request("POST", "/blobs", &[AUTH, "content-length: -1"], ""), Status(400)),
        case(
            "two lengths",
            request("POST", "/blobs", &[AUTH, "content-length: 1", "content-length: 2"], ""),
            Status(400),
        ),
        case("length and chunks at once", both.into(), OneOf(&[200, 201, 400])),
        case(
            "a chunk of 2^64 bytes",
            request("POST", "/blobs", &[AUTH, "transfer-encoding: chunked"], "")
                .replace("\r\n\r\n", "\r\n\r\n10000000000000000\r\n"),
            Status(400),
        ),
    ]
}

fn all() -> Vec<Case> {
    [ranges(), ids_and_paths(), hosts_and_origins(), tokens(), forms(), documents(), protocol()]
        .into_iter()
        .flatten()
        .collect()
}

/// The node that is asked, and what the placeholders stand for.
struct Subject {
    node: Node,
    http: Http,
    bytes: Vec<u8>,
    words: Vec<(&'static str, String)>,
}

impl Subject {
    fn new() -> Result<Self> {
        let node =
            options("bad-input").env("MHC_GATEWAY__MAX_UPLOAD_BYTES", &UPLOAD_LIMIT_BYTES.to_string()).start()?;
        let (file, bytes) = random_file(&node, "good.bin", &mut Rng::new(8), 1000)?;
        let published = node.publish(&file, &[])?;
        let stranger = SecretKey::from_seed(&[5; 32]);
        let addr = vec!["127.0.0.1:9".parse()?];
        let other = Ticket {
            node: stranger.node(),
            network: stranger.network(),
            p2p: addr.clone(),
            iroh: addr,
            relays: vec![],
        };
        let http = node.http()?;
        let words = vec![
            ("{host}", http.authority().to_owned()),
            ("{token}", http.token().context("token")?.to_owned()),
            ("{blob}", text(&published, "blob")?),
            ("{content}", text(&published, "content")?),
            ("{own}", node.ticket()?),
            ("{other}", other.to_string()),
        ];
        Ok(Self { node, http, bytes, words })
    }

    fn fill(&self, request: &str) -> String {
        let filled = self.words.iter().fold(request.to_owned(), |text, (name, value)| text.replace(name, value));
        let len = filled.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
        filled.replace("{len}", &len.to_string())
    }

    fn ask(&self, case: &Case) -> Result<Reply> {
        // The replacement character stands for a byte that isn't UTF-8.
        let request = self.fill(&case.request).replace('\u{fffd}', "\u{1a}");
        let bytes: Vec<u8> = request.bytes().map(|byte| if byte == 0x1a { 0xff } else { byte }).collect();
        self.http.raw_bytes(&bytes, TIMEOUT)
    }

    /// What is wrong with the answer.
    fn judge(&self, want: &Want, reply: &Reply) -> Result<()> {
        let got = || format!("{} {:?} {:.300}", reply.status, reply.headers, reply.text());
        match want {
            Problem(status, code) => {
                ensure!(
                    (reply.status, reply.problem().as_deref()) == (*status, Some(code)),
                    "wanted {status} {code}: {}",
                    got()
                );
            }
            Bytes(content_range, range) => {
                ensure!(reply.status == 206 && reply.header("content-range") == Some(content_range), "{}", got());
                ensure!(reply.body == self.bytes[range.clone()], "other bytes");
            }
            Unsatisfiable => {
                ensure!(reply.status == 416 && reply.header("content-range") == Some("bytes */1000"), "{}", got());
            }
            Whole => ensure!(reply.status == 200 && reply.body == self.bytes, "wanted the whole: {}", got()),
            Status(status) => ensure!(reply.status == *status, "wanted {status}: {}", got()),
            OneOf(some) => ensure!(some.contains(&reply.status), "wanted one of {some:?}: {}", got()),
        }
        ensure!(reply.header("access-control-allow-origin").is_none(), "open to other origins: {}", got());
        Ok(())
    }
}

#[test]
fn every_bad_request_is_answered_as_promised() -> Result<()> {
    let mut subject = Subject::new()?;
    let cases = all();
    ensure!(cases.len() >= 60, "only {} cases", cases.len());
    let mut wrong = vec![];
    for case in &cases {
        if let Err(error) = subject.ask(case).and_then(|reply| subject.judge(&case.want, &reply)) {
            wrong.push(format!("{}: {error:#}", case.name));
        }
        let alive = subject.http.get("/healthz").is_ok_and(|reply| reply.status == 200);
        ensure!(alive && subject.node.is_alive(), "the node died of '{}'", case.name);
    }
    ensure!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    eprintln!("{} bad requests", cases.len());

    // None of them did anything.
    let titles: Vec<_> = subject.node.list()?.iter().map(|item| text(item, "title").unwrap_or_default()).collect();
    ensure!(titles.len() == 1, "{titles:?}");
    Ok(())
}

#[test]
fn markup_is_shown_as_text_and_never_run() -> Result<()> {
    let a = start("a")?;
    let http = a.http()?;
    let page = b"<!doctype html><script>document.title = 'run'</script>";
    let picture = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>";
    let title = "<img src=x onerror=alert(1)>";
    for (name, kind, bytes) in
        [("x.html", "text/html", &page[..]), ("x.svg", "image/svg+xml", picture), ("x.mp4", "video/mp4", page)]
    {
        let parts = [Part::Field("title", title), Part::File("file", name, kind, bytes)];
        let reply = http.post_parts("/api/v1/videos/upload", &parts)?;
        ensure!(reply.status == 201 || reply.status == 200, "{name}: {}", reply.text());
        let published = reply.json()?;
        for path in [text(&published, "url")?, format!("/blobs/{}", text(&published, "blob")?)] {
            let served = http.anonymous().get(&path)?;
            let header = |name| served.header(name).unwrap_or_default().to_owned();
            ensure!(served.body == bytes, "{path}: {}", served.status);
            ensure!(header("x-content-type-options") == "nosniff", "{path}: {:?}", served.headers);
            ensure!(header("content-disposition").starts_with("attachment"), "{path}: {:?}", served.headers);
            ensure!(header("content-security-policy").contains("sandbox"), "{path}: {:?}", served.headers);
        }
        let shown = http.anonymous().get(&format!("/api/v1/videos/{}", text(&published, "content")?))?;
        ensure!(
            shown.header("content-type").is_some_and(|kind| kind.starts_with("application/json")),
            "{:?}",
            shown.headers
        );
        ensure!(text(&shown.json()?, "title")? == title, "{}", shown.text());
    }
    Ok(())
}

#[test]
fn a_file_name_is_a_label_and_never_a_path() -> Result<()> {
    let a = start("a")?;
    let http = a.http()?;
    for name in ["../../../../etc/cron.d/x", "/etc/passwd", "..\\..\\x", "a\u{1}b", "con", "...", "x\"; evil=\""] {
        let parts = [Part::File("file", name, "text/plain", name.as_bytes())];
        let reply = http.post_parts("/api/v1/videos/upload", &parts)?;
        ensure!([200, 201, 400].contains(&reply.status), "{name:?}: {} {}", reply.status, reply.text());
        let Ok(published) = reply.json() else { continue };
        let Ok(url) = text(&published, "url") else { continue };
        let header = http.get(&url)?.header("content-disposition").unwrap_or_default().to_owned();
        ensure!(!header.contains(['/', '\\']) && !header.contains(".."), "{name:?}: {header}");
    }
    Ok(())
}

#[test]
fn slow_senders_are_given_up() -> Result<()> {
    let a = start("a")?;
    let http = a.http()?;
    let token = http.token().context("token")?.to_owned();
    let body = format!(
        "POST /api/v1/videos/upload HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\n\
         content-type: multipart/form-data; boundary=XX\r\ncontent-length: 1000\r\n\r\n--XX\r\n",
        http.authority()
    );
    let slow = [("half a head", "GET / HTTP/1.1\r\nho".to_owned()), ("half a body", body), ("nothing", String::new())];
    std::thread::scope(|scope| {
        let tries = slow.map(|(name, sent)| {
            let http = &http;
            scope.spawn(move || given_up(http, &sent).with_context(|| name))
        });
        tries.into_iter().try_for_each(|one| one.join().unwrap())
    })?;
    ensure!(http.get("/healthz")?.status == 200);
    Ok(())
}

/// Sends this, then nothing; the node must end the connection by itself.
fn given_up(http: &Http, sent: &str) -> Result<()> {
    let patience = Duration::from_secs(90);
    let started = Instant::now();
    let mut stream = http.connect(patience)?;
    stream.write_all(sent.as_bytes())?;
    let mut answer = vec![];
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    ensure!(started.elapsed() < patience, "still open after {patience:?}: {answer}");
    ensure!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    Ok(())
}

#[test]
fn a_reader_that_goes_away_or_stands_still_costs_nothing() -> Result<()> {
    let a = start("a")?;
    let (file, bytes) = random_file(&a, "big.bin", &mut Rng::new(9), 64 << 20)?;
    let blob = text(&a.publish(&file, &[])?, "blob")?;
    let http = a.http()?.anonymous();
    let before = a.resident_bytes()?;
    let still: Vec<_> =
        (0..50).map(|_| http.open("GET", &format!("/blobs/{blob}"), &[], &[])).collect::<Result<_>>()?;
    let reply = http.get_range(&format!("/blobs/{blob}"), "bytes=-1000")?;
    ensure!(reply.body == bytes[bytes.len() - 1000..], "{}", reply.status);
    let grown = a.resident_bytes()?.saturating_sub(before);
    ensure!(grown < 200 << 20, "50 readers that stand still cost {} MiB", grown >> 20);
    drop(still);
    ensure!(http.get("/healthz")?.status == 200);
    Ok(())
}
