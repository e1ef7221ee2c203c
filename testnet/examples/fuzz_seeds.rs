//! Writes valid inputs of every decoder into a folder for each fuzz target: `fuzz_seeds DIR`.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use mhc_protocol::{
    AuthorId, BlobHash, RecordId, SecretKey, Timestamp,
    alert::{self, AlertRecord, Details},
    bundle::{DAY_MS, Entry, EntryKind, Frame, Index, Lack, Segment, Span, WantList},
    manifest::{BlobRef, Collaborator, MANIFEST, Manifest, MediaKind, Realm},
    network::{Erase, Grant, KindLimits, Limits, Membership, Policy, Revoke, Role},
    record::{Body, Draft},
    relay::Relay,
    ticket::Ticket,
    wire::{
        Bound, Content, Follows, Have, Haves, Head, Hello, Mark, Part, SyncRequest, SyncResponse, Want, records_topic,
    },
};
use mhc_satellite::{
    carousel::{About, Object, Packet, Page, SIGNATURE_BYTES, SymbolBytes, frame},
    uplink::ExchangeRequest,
};

const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);

const RANGES: &[&str] = &[
    "bytes=0-0",
    "bytes=0-",
    "bytes=-500",
    "bytes=500-999",
    "bytes=0-0,-1",
    "bytes=0-1,3-4,900-",
    "bytes=1-0",
    "bytes=-0",
    "bytes=18446744073709551615-",
    "bytes=0-99999999999999999999",
    "items=0-5",
    "bytes = 0 - 5",
    "bytes=,,0-1,",
    "W/\"tag\", *",
];

/// What daemons of 0.4 and of 0.5 say.
const YGGDRASIL: &[&str] = &[
    r#"{"status":"success","request":null,"response":{"build_version":"0.4.7","key":"ab","address":"200::7","subnet":"300::/64"}}"#,
    r#"{"status":"success","request":null,"response":{"peers":[{"address":"200::8","key":"ab","port":1,"coords":[1],"remote":"tcp://192.0.2.1:9","bytes_recvd":1,"bytes_sent":2,"uptime":3.5}]}}"#,
    r#"{"status":"success","response":{"peers":[{"remote":"tls://192.0.2.1:443","up":false,"inbound":true,"latency":1500000,"last_error":"refused"}]}}"#,
    r#"{"status":"error","error":"Unknown action","response":null}"#,
];

fn key() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

fn manifest() -> Manifest {
    let blob = |name: &str, content_type: &str| BlobRef {
        hash: BlobHash::of(name.as_bytes()),
        bytes: 1 << 20,
        content_type: content_type.into(),
        name: Some(name.into()),
    };
    Manifest {
        title: "A film".into(),
        description: "Two lines\nof text".into(),
        tags: vec!["film".into(), "test".into()],
        realm: Realm::Inferno,
        language: Some("en".into()),
        licence: Some("CC-BY-4.0".into()),
        kind: MediaKind::Video,
        duration_ms: Some(60_000),
        original: blob("film.mp4", "video/mp4"),
        thumbnails: vec![blob("film.png", "image/png")],
        collaborators: vec![Collaborator { author: key().author(), parts: 10_000 }],
        supersedes: Some(RecordId::from_bytes([3; 32])),
    }
}

fn record(body: Vec<u8>) -> Result<Vec<u8>> {
    let body = Body { salt: [9; 16], bytes: body };
    let draft = Draft { network: key().network(), epoch: 0, seq: 0, prev: None, at: NOW, kind: MANIFEST, body };
    let record = draft.sign(&key())?;
    Ok(record.to_bytes())
}

/// One of each kind.
fn parts(lists: bool) -> Vec<Part> {
    let upper = |n: u8| Bound::after(AuthorId::from_bytes([n; 32]));
    let listed = Content::Listed(vec![Mark { mark: 1 << 50, epoch: 0, seq: 300 }]);
    let mut parts = vec![
        Part { upper: upper(1), content: Content::Skipped },
        Part { upper: upper(2), content: Content::Fingerprint(1 << 60) },
        Part { upper: Bound::end(), content: listed },
    ];
    parts.truncate(if lists { 3 } else { 2 });
    parts
}

fn messages() -> Result<Vec<Vec<u8>>> {
    let (network, author, hash) = (key().network(), key().author(), BlobHash::of(b"film"));
    let (iroh, p2p) = (vec!["127.0.0.1:4481".parse()?], vec!["[::1]:4480".parse()?]);
    let head =
        |n: u8| Head { author: AuthorId::from_bytes([n; 32]), epoch: 0, seq: 5, id: RecordId::from_bytes([n; 32]) };
    let networks = vec![Follows { network, whole: true }];
    let (run, relays) = (Some(1 << 40), vec![relay()?]);
    let hello = Hello { networks, run, iroh, p2p, relays, name: "studio".into(), version: "0.1.0".into() };
    Ok(vec![
        hello.encode()?,
        hello.encode_second()?,
        hello.encode_first(network)?,
        records_topic(network).into_bytes(),
        Haves { node: key().node(), at: NOW, complete: vec![hash], partial: vec![hash] }.encode()?,
        SyncRequest::Compare { network, salt: 1 << 40, parts: parts(true), push_bytes: 1 << 19 }.encode()?,
        SyncRequest::Logs { network, wants: vec![Want { author, epoch: 0, seq: 3 }] }.encode()?,
        SyncRequest::Records { network, ids: vec![RecordId::from_bytes([1; 32])] }.encode()?,
        SyncRequest::Have { hash }.encode()?,
        SyncResponse::Compare {
            parts: parts(false),
            heads: vec![head(1), head(2)],
            more: false,
            envelopes: vec![record(manifest().encode()?)?],
        }
        .encode()?,
        SyncResponse::Logs { envelopes: vec![record(manifest().encode()?)?], more: true }.encode()?,
        SyncResponse::Records { envelopes: vec![record(manifest().encode()?)?] }.encode()?,
        SyncResponse::Have(Have::Absent).encode()?,
        SyncResponse::Have(Have::Complete { size_bytes: 1 << 20 }).encode()?,
        SyncResponse::Have(Have::Partial { size_bytes: 1 << 20, chunks: vec![0..16, 32..48] }).encode()?,
    ])
}

fn relay() -> Result<Relay> {
    Ok(Relay { node: key().node(), url: "https://relay.example.org".parse()? })
}

fn tickets() -> Result<Vec<Vec<u8>>> {
    let (p2p, iroh) = (vec!["127.0.0.1:4480".parse()?, "[::1]:4480".parse()?], vec!["127.0.0.1:4481".parse()?]);
    let relays = vec![relay()?];
    let text = Ticket { node: key().node(), network: key().network(), p2p, iroh, relays }.to_string();
    let code = text.strip_prefix("mhc1").context("prefix")?.to_ascii_uppercase();
    let mut inside = data_encoding::BASE32_NOPAD.decode(code.as_bytes())?;
    inside.truncate(inside.len() - 4);
    Ok(vec![text.into_bytes(), inside])
}

/// Bodies that govern, each after the byte that tells its kind.
fn governance() -> Result<Vec<Vec<u8>>> {
    let (author, record) = (key().author(), RecordId::from_bytes([7; 32]));
    let (channel, until, note) = (Some(author), Some(NOW.saturating_add_ms(1)), Some("for the festival".to_owned()));
    let grant =
        Grant { to: author, role: Role::Moderator, channel, from: NOW, until, depth: 1, under: Some(record), note };
    let revoke = Revoke { grant: record, keep: Some((0, 5)), reason: None };
    let quota = Limits { kinds: KindLimits::new([("manifest.v1".to_owned(), 10)]), ..Limits::default_of(None) };
    let policy = Policy {
        revision: 1,
        name: Some("Village".into()),
        membership: Membership::Curated,
        fees: [("tip".to_owned(), 9_000)].into(),
        gates: [("livestream".to_owned(), ["pro".to_owned()].into())].into(),
        quotas: [("anyone".to_owned(), quota)].into(),
        essential: [record].into(),
        issuers: [author].into(),
    };
    let erase = Erase { records: [record].into() };
    let bodies = [grant.encode()?, revoke.encode()?, policy.encode()?, erase.encode()?];
    Ok((0u8..).zip(bodies).map(|(kind, body)| [vec![kind], body].concat()).collect())
}

/// Both forms of an alert, and what is signed of the compact one.
fn alerts() -> Result<Vec<Vec<u8>>> {
    let draft = alert::Draft {
        status: alert::Status::Exercise,
        kind: alert::Kind::Update,
        severity: alert::Severity::High,
        urgency: alert::Urgency::Expected,
        order: alert::Order::ShutdownOn,
        at: NOW,
        life_min: 60,
        refers: Some(NOW.as_millis() - 1),
        language: Some(*b"en"),
        text: "The dam has broken. Go up the hill.".into(),
    };
    let alert = draft.sign(&key(), key().network())?;
    let details = Details {
        areas: ["Valley".to_owned()].into(),
        texts: [("pt-br".to_owned(), "A barragem rompeu.\nSubam.".to_owned())].into(),
        content: Some(RecordId::from_bytes([7; 32])),
    };
    let bytes = alert.bytes().to_vec();
    let head = bytes.get(..bytes.len() - 64).unwrap_or_default().to_vec();
    Ok(vec![bytes, head, AlertRecord { alert, details }.encode()?])
}

/// An index, what is signed of it, a want-list, what is summed of it, and heads of entries.
fn bundles() -> Result<Vec<Vec<u8>>> {
    let made = Timestamp(20_000 * DAY_MS);
    let record = Frame::Record { id: RecordId::from_bytes([3; 32]), envelope_bytes: 500 };
    let blob = Frame::Blob { hash: BlobHash::of(b"film"), span: Span::new(50_000, 16_384, 32_768)? };
    let entry =
        |kind, frame: &Frame, offset| Entry { kind, name: *frame.name(), bytes: frame.bytes(), segment: 0, offset };
    let index = Index {
        network: key().network(),
        node: key().node(),
        made,
        since: Some(made),
        segments: vec![Segment { bytes: record.bytes() + blob.bytes(), hash: [5; 32] }],
        entries: vec![entry(EntryKind::Record, &record, 0), entry(EntryKind::Blob, &blob, record.bytes())],
    };
    let head = Head { author: key().author(), epoch: 0, seq: 5, id: RecordId::from_bytes([4; 32]) };
    let lack = |groups| Lack { hash: BlobHash::of(b"film"), groups };
    let lacks = vec![lack(vec![0..16, 32..33]), lack(vec![])];
    let wants = WantList { network: key().network(), made, mark: [7; 32], heads: vec![head], lacks };
    let (index, wants) = (index.seal(&key())?, wants.encode()?);
    // Both are a list of two byte strings; the second is the signature or the sum with two bytes before it.
    let inside = |file: &[u8], behind: usize| file.get(4..file.len() - 2 - behind).unwrap_or_default().to_vec();
    let insides = [inside(&index, 64), inside(&wants, 32)];
    let whole = [index, wants, record.encode(), blob.encode(), b"0000001A".to_vec()];
    Ok(whole.into_iter().chain(insides).collect())
}

/// A page and a symbol, the map of the page, both in a recording, and a request of an exchange.
fn satellite() -> Result<Vec<Vec<u8>>> {
    let hash = BlobHash::of(b"film");
    let about = About::Blob { hash, size_bytes: 50_000, start: 16_384, end: 32_768 };
    let objects = vec![Object::new(b"x", About::Records)?, Object::new(b"entries", about)?];
    let symbol = SymbolBytes::DEFAULT;
    let page = Page { network: key().network(), sender: key().node(), symbol, objects };
    let id = page.objects.first().context("an object")?.id(page.network, page.sender, symbol);
    let symbol = Packet::Symbol { object: id, symbol: 5, payload: &[7; 1_280] }.encode(&key());
    let page = page.seal(&key())?;
    let map = page.get(2..page.len() - SIGNATURE_BYTES).unwrap_or_default().to_vec();
    let recording = [frame(&page), frame(&symbol)].concat();
    let (network, made) = (key().network(), Timestamp(0));
    let wants = WantList { network, made, mark: [7; 32], heads: vec![], lacks: vec![Lack { hash, groups: vec![] }] };
    let request = ExchangeRequest { node: key().node(), at: Timestamp(0), budget_bytes: 5_000, wants }.seal(&key())?;
    Ok(vec![page, symbol, map, recording, request])
}

fn write(dir: &Path, target: &str, seeds: Vec<Vec<u8>>) -> Result<()> {
    let dir = dir.join(target);
    fs::create_dir_all(&dir)?;
    for (n, seed) in seeds.iter().enumerate() {
        fs::write(dir.join(format!("seed-{n}")), seed)?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).context("where to?")?;
    let dir = Path::new(&dir);
    // The size travels before the text, as `arbitrary` reads it.
    let ranges = RANGES.iter().map(|text| [&1000_u64.to_le_bytes()[..], text.as_bytes()].concat());
    write(dir, "range", ranges.collect())?;
    write(dir, "manifest", vec![manifest().encode()?])?;
    write(dir, "governance", governance()?)?;
    write(dir, "alert", alerts()?)?;
    write(dir, "record", vec![record(b"hello".to_vec())?, record(manifest().encode()?)?])?;
    write(dir, "wire", messages()?)?;
    write(dir, "bundle", bundles()?)?;
    write(dir, "satellite", satellite()?)?;
    write(dir, "ticket", tickets()?)?;
    write(dir, "yggdrasil", YGGDRASIL.iter().map(|text| text.as_bytes().to_vec()).collect())?;
    let example = mhc_config::example();
    let set = example.lines().map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line));
    write(dir, "config", vec![example.clone().into_bytes(), set.collect::<Vec<_>>().join("\n").into_bytes()])
}
