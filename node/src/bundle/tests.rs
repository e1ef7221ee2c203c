//! Bundles between stores that share nothing but a folder.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::TryStreamExt;
use mhc_platform::catalog;
use mhc_protocol::{
    BlobHash, RecordId, SecretKey, Timestamp,
    bundle::{BUNDLES_DIR, BundleId, DAY_MS, Frame, MAX_WANTS_BYTES, Span, WantList},
    manifest::{BlobRef, MANIFEST, Manifest, MediaKind},
    network::Interest,
    record::{Body, Draft},
};
use mhc_storage::{
    blob::{BlobOptions, BlobStore},
    record::{Projection, Records, RecordsOptions},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Bundles, Event, JobError, Reporter, Stores, export,
    export::ExportRequest,
    import,
    layout::{Stick, names, read_small},
    open::{check_blob, chunks_of},
    select, verify, wants,
    write::BundleWriter,
};
use crate::author::now;

const MIB: usize = 1 << 20;
const TODAY: Timestamp = Timestamp(20_700 * DAY_MS);

/// A node's stores.
struct Node {
    stores: Stores,
    _dir: TempDir,
}

impl Node {
    fn new(seed: u8) -> Self {
        Self::with(seed, BlobOptions::default())
    }

    fn with(seed: u8, options: BlobOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let projections = mhc_platform::services().into_iter().map(|service| service as Arc<dyn Projection>).collect();
        let records = Records::open(&dir.path().join("records"), RecordsOptions::default(), projections).unwrap();
        let blobs = BlobStore::open(&dir.path().join("blobs"), options).unwrap();
        let network = SecretKey::from_seed(&[200; 32]).network();
        let (key, interest) = (SecretKey::from_seed(&[seed; 32]), Arc::new(|| Interest::Whole));
        let stores =
            Stores { key, network, records, blobs, interest, issuer_quota_bytes: u64::MAX, news: Arc::new(|| ()) };
        Self { stores, _dir: dir }
    }

    /// Stores and publishes `bytes`.
    async fn publish(&self, title: &str, bytes: &[u8]) -> (RecordId, BlobHash) {
        let hash = self.store(bytes).await;
        (self.announce(title, hash, bytes.len(), "video/mp4").await, hash)
    }

    async fn store(&self, bytes: &[u8]) -> BlobHash {
        let stream = futures::stream::iter([Ok(Bytes::copy_from_slice(bytes))]);
        let hash = self.stores.blobs.import_stream(stream, bytes.len() as u64).await.unwrap().hash;
        self.stores.blobs.set_pinned(hash, true).await.unwrap();
        hash
    }

    async fn announce(&self, title: &str, hash: BlobHash, bytes: usize, content_type: &str) -> RecordId {
        let original = BlobRef { hash, bytes: bytes as u64, content_type: content_type.into(), name: None };
        let manifest = Manifest::new(title, MediaKind::Video, original);
        let Stores { key, network, records, .. } = &self.stores;
        let body = manifest.encode().unwrap();
        let record = records.publish(key, *network, MANIFEST, body, [1; 16], now()).await.unwrap();
        // The next is newer by the clock of milliseconds that orders them.
        while now() <= record.header().at {
            tokio::task::yield_now().await;
        }
        record.id()
    }

    /// Runs a job as the node does, with somebody who listens.
    async fn job<T: serde::Serialize + Send + 'static>(
        &self,
        job: impl FnOnce(&Stores, &mut Reporter) -> Result<T, JobError> + Send + 'static,
    ) -> Result<Value, JobError> {
        let (events, mut heard) = mpsc::channel(64);
        let stores = self.stores.clone();
        let done =
            tokio::task::spawn_blocking(move || job(&stores, &mut Reporter::new(events, CancellationToken::new())));
        while heard.recv().await.is_some() {}
        Ok(serde_json::to_value(done.await.unwrap()?).unwrap())
    }

    async fn export(&self, request: ExportRequest) -> Result<Value, JobError> {
        self.job(move |stores, reporter| export::run(stores, &request, TODAY, reporter)).await
    }

    async fn export_all(&self, stick: &Path) -> Value {
        self.export(all(stick)).await.unwrap()
    }

    async fn import(&self, stick: &Path) -> Value {
        let path = stick.to_owned();
        self.job(move |stores, reporter| import::run(stores, &path, now(), TODAY, reporter)).await.unwrap()
    }

    async fn verify(&self, stick: &Path) -> Value {
        let path = stick.to_owned();
        self.job(move |stores, reporter| verify::run(stores, &path, reporter)).await.unwrap()
    }

    async fn bytes(&self, hash: BlobHash) -> Option<Vec<u8>> {
        let status = self.stores.blobs.status(hash).filter(|status| status.complete)?;
        let pieces: Vec<Bytes> = self.stores.blobs.read_local(hash, 0..status.size_bytes).try_collect().await.unwrap();
        Some(pieces.concat())
    }

    fn knows(&self, content: RecordId) -> bool {
        let view = self.stores.records.view(catalog::NAME).unwrap();
        catalog::entry(&view, content).unwrap().is_some()
    }

    fn local_bytes(&self, hash: BlobHash) -> u64 {
        self.stores.blobs.status(hash).map_or(0, |status| status.local_bytes)
    }
}

fn all(stick: &Path) -> ExportRequest {
    ExportRequest { path: stick.to_owned(), ..ExportRequest::default() }
}

fn stick() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_exports_another_has_after_an_import() {
    let (a, b, stick) = (Node::new(1), Node::new(2), stick());
    // More than one entry, less than a group, nothing at all.
    let works = [noise(1, 20 * MIB + 777), noise(2, 5000), vec![]];
    let mut published = vec![];
    for bytes in &works {
        published.push(a.publish("A film", bytes).await);
    }
    let exported = a.export_all(stick.path()).await;
    assert_eq!((&exported["records"], &exported["blobs"], &exported["cut"]), (&3.into(), &3.into(), &false.into()));
    let verified = b.verify(stick.path()).await;
    assert_eq!((&verified["damaged"], &verified["records"], &verified["pieces"]), (&0.into(), &3.into(), &5.into()));
    assert!(!b.knows(published[0].0), "verifying changes nothing");

    let imported = b.import(stick.path()).await;
    assert_eq!(
        (&imported["damaged"], &imported["records"]["new"], &imported["blobs"]["complete"]),
        (&0.into(), &3.into(), &3.into()),
        "{imported}"
    );
    for ((content, hash), bytes) in published.iter().zip(&works) {
        assert!(b.knows(*content));
        assert!(b.bytes(*hash).await.unwrap() == *bytes);
    }
    assert_eq!(a.stores.records.index_digest().unwrap(), b.stores.records.index_digest().unwrap());

    let bytes: usize = works.iter().map(Vec::len).sum();
    assert_eq!(imported["blobs"]["new_bytes"], bytes, "{imported}");

    let again = b.import(stick.path()).await;
    assert_eq!((&again["records"]["new"], &again["records"]["known"]), (&0.into(), &3.into()), "{again}");
    assert_eq!(again["blobs"]["new_bytes"], 0, "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_want_list_brings_only_what_is_missing() {
    let (a, b, stick) = (Node::new(1), Node::new(2), stick());
    let old = a.publish("Old", &noise(1, 3 * MIB)).await;
    a.export_all(stick.path()).await;
    b.import(stick.path()).await;
    let new = a.publish("New", &noise(2, MIB)).await;
    let second = a.export_all(stick.path()).await;
    assert_eq!(
        (&second["by_wants"], &second["records"], &second["blobs"]),
        (&true.into(), &1.into(), &1.into()),
        "{second}"
    );
    assert!(second["bytes"].as_u64().unwrap() < 2 * MIB as u64, "{second}");
    b.import(stick.path()).await;
    assert!(b.bytes(old.1).await.is_some() && b.bytes(new.1).await.is_some());

    let third = a.export_all(stick.path()).await;
    assert_eq!((&third["bundle"], &third["bytes"]), (&Value::Null, &0.into()), "nothing to send: {third}");
    // What B itself lacks says nothing of who gets its bundle.
    b.publish("Of B", &noise(3, 1000)).await;
    let back = b.export_all(stick.path()).await;
    assert_eq!((&back["by_wants"], &back["records"]), (&false.into(), &3.into()), "{back}");
    // What was evicted meanwhile is asked for again.
    b.stores.blobs.remove(old.1).await.unwrap();
    b.job(wants_job(stick.path())).await.unwrap();
    let fourth = a.export_all(stick.path()).await;
    assert_eq!((&fourth["records"], &fourth["blobs"]), (&0.into(), &1.into()), "{fourth}");
    b.import(stick.path()).await;
    assert!(b.bytes(old.1).await.is_some());
}

fn wants_job(stick: &Path) -> impl FnOnce(&Stores, &mut Reporter) -> Result<String, JobError> + Send + 'static {
    let path = stick.to_owned();
    move |stores, _| wants::write(stores, &Stick::open(&path)?, TODAY, &HashSet::new())
}

async fn encoding(from: &Node, hash: BlobHash, span: &Span) -> Vec<u8> {
    let mut encoder = from.stores.blobs.encoder(hash, &chunks_of(span)).unwrap();
    let mut encoding = Vec::new();
    while let Some(bytes) = encoder.next().await {
        encoding.extend_from_slice(&bytes.unwrap());
    }
    assert_eq!(encoding.len() as u64, span.encoded_bytes(), "{span:?}");
    encoding
}

/// Puts a piece of a blob of `from` into `to`.
async fn give(from: &Node, to: &Node, hash: BlobHash, span: Span) {
    let (items, checked) = check_blob(hash, &span, &encoding(from, hash, &span).await.into());
    checked.unwrap();
    to.stores.blobs.partial(hash, span.size_bytes).await.unwrap().write(items).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_blob_travel_and_the_rest_is_asked_for() {
    let (a, b, c, stick) = (Node::new(1), Node::new(2), Node::new(3), stick());
    let bytes = noise(1, 30 * MIB + 5);
    let (_, hash) = c.publish("In parts", &bytes).await;
    let other = self::stick();
    c.export(ExportRequest { max_bytes: Some(10_000), ..all(other.path()) }).await.unwrap();
    a.import(other.path()).await;
    let size = bytes.len() as u64;
    for (start, end) in [(0, 1 << 20), (9 << 20, 12 << 20), (20 << 20, (20 << 20) + (16 << 10))] {
        give(&c, &a, hash, Span::new(size, start, end).unwrap()).await;
    }
    let on_a = a.local_bytes(hash);
    a.export_all(stick.path()).await;
    let imported = b.import(stick.path()).await;
    assert_eq!((&imported["damaged"], &imported["blobs"]["partial"]), (&0.into(), &1.into()), "{imported}");
    assert_eq!(b.local_bytes(hash), on_a);

    let rest = c.export_all(stick.path()).await;
    assert_eq!(rest["records"], 0, "{rest}");
    let written = rest["bytes"].as_u64().unwrap();
    assert!((size - on_a..size - on_a + (1 << 20)).contains(&written), "{written} of {}", size - on_a);
    b.import(stick.path()).await;
    assert!(b.bytes(hash).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_comes_first_and_the_bound_holds() {
    let (a, b, stick) = (Node::new(1), Node::new(2), stick());
    let [old, middle, new] = [
        a.publish("1", &noise(1, MIB)).await,
        a.publish("2", &noise(2, MIB)).await,
        a.publish("3", &noise(3, MIB)).await,
    ];
    let request = ExportRequest { max_bytes: Some(2 * MIB as u64 + 100_000), ..all(stick.path()) };
    let exported = a.export(request).await.unwrap();
    assert_eq!((&exported["cut"], &exported["records"], &exported["blobs"]), (&true.into(), &3.into(), &2.into()));
    b.import(stick.path()).await;
    let here = [old, middle, new].map(|(_, hash)| b.stores.blobs.status(hash).is_some_and(|status| status.complete));
    assert_eq!(here, [false, true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_contents_and_days_choose_what_is_sent() {
    let (a, b, relay, stick) = (Node::new(1), Node::new(2), Node::new(3), stick());
    let of_a = [a.publish("1", &noise(1, 2000)).await, a.publish("2", &noise(2, 2000)).await];
    let of_b = b.publish("3", &noise(3, 2000)).await;
    for node in [&a, &b] {
        let stick = self::stick();
        node.export_all(stick.path()).await;
        relay.import(stick.path()).await;
    }
    let [author_a, author_b] = [&a, &b].map(|node| node.stores.key.author());
    let future = Some(Timestamp(now().as_millis() / DAY_MS * DAY_MS + DAY_MS));
    let path = || stick.path().to_owned();
    let cases = [
        ("everything", all(stick.path()), 3, vec![of_a[0].1, of_a[1].1, of_b.1]),
        (
            "a channel",
            ExportRequest { path: path(), channels: vec![author_b], ..ExportRequest::default() },
            1,
            vec![of_b.1],
        ),
        (
            "a content, with its log",
            ExportRequest { path: path(), contents: vec![of_a[0].0], ..ExportRequest::default() },
            2,
            vec![of_a[0].1],
        ),
        (
            "from tomorrow on",
            ExportRequest { path: path(), channels: vec![author_a], since: future, ..ExportRequest::default() },
            2,
            vec![],
        ),
        (
            "both",
            ExportRequest {
                path: path(),
                channels: vec![author_b],
                contents: vec![of_a[1].0],
                ..ExportRequest::default()
            },
            3,
            vec![of_a[1].1, of_b.1],
        ),
    ];
    for (name, request, records, blobs) in cases {
        let stick = self::stick();
        let exported = relay.export(ExportRequest { path: stick.path().to_owned(), ..request }).await.unwrap();
        assert_eq!(exported["records"], records, "{name}: {exported}");
        let reader = Node::new(9);
        reader.import(stick.path()).await;
        let here: HashSet<_> = reader.stores.blobs.list().into_iter().map(|(hash, _)| hash).collect();
        assert_eq!(here, blobs.into_iter().collect(), "{name}");
    }
    let nobody = SecretKey::from_seed(&[77; 32]).author();
    let unknown = [
        ExportRequest { path: path(), channels: vec![nobody], ..ExportRequest::default() },
        ExportRequest { path: path(), contents: vec![RecordId::from_bytes([7; 32])], ..ExportRequest::default() },
        all(&path().join("no-such-folder")),
    ];
    for request in unknown {
        let error = relay.export(request.clone()).await.unwrap_err();
        assert!(matches!(error, JobError::NotFound(_)), "{request:?}: {error}");
    }
    assert_eq!(names(&path()).unwrap(), Vec::<String>::new(), "what is refused leaves nothing behind");
}

/// A bundle with these entries, signed by a node that nobody knows.
fn forge(stick: &Path, node: &Node, entries: &[(Frame, Vec<u8>)]) {
    let (dir, _) = Stick::open(stick).unwrap().make_bundle_dir(BundleId(1)).unwrap();
    let mut writer = BundleWriter::new(&dir, TODAY, u64::MAX);
    for (frame, payload) in entries {
        assert!(writer.add(frame, payload).unwrap());
    }
    writer.finish(&SecretKey::from_seed(&[66; 32]), node.stores.network, None).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_entries_are_told_and_the_rest_is_taken() {
    let (a, b, stick) = (Node::new(1), Node::new(2), stick());
    let (content, hash) = a.publish("Good", b"good bytes").await;
    let good = a.stores.records.get(content).unwrap().unwrap();
    let envelope = good.to_bytes();
    let record = |id, bytes: &[u8]| (Frame::Record { id, envelope_bytes: bytes.len() as u64 }, bytes.to_vec());
    let blob = |hash, bytes: &[u8]| {
        let span = Span::new(bytes.len() as u64, 0, bytes.len() as u64).unwrap();
        (Frame::Blob { hash, span }, bytes.to_vec())
    };
    let mut flipped = envelope.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    let (network, body) = (SecretKey::from_seed(&[8; 32]).network(), Body { salt: [0; 16], bytes: b"x".to_vec() });
    let draft = Draft { network, epoch: 0, seq: 0, prev: None, at: now(), kind: MANIFEST, body };
    let elsewhere = draft.sign(&SecretKey::from_seed(&[5; 32])).unwrap();
    let entries = [
        record(good.id(), &flipped),
        record(RecordId::from_bytes([5; 32]), &envelope),
        record(elsewhere.id(), &elsewhere.to_bytes()),
        record(good.id(), &envelope),
        blob(hash, b"bad  bytes"),
        blob(hash, b"good bytes"),
        blob(BlobHash::of(b"nobody asked"), b"nobody asked"),
    ];
    forge(stick.path(), &b, &entries);
    let verified = b.verify(stick.path()).await;
    assert_eq!(verified["damaged"], 4, "{verified}");
    let imported = b.import(stick.path()).await;
    assert_eq!((&imported["damaged"], &imported["entries_lost"]), (&4.into(), &4.into()), "{imported}");
    let places: Vec<_> =
        imported["damages"].as_array().unwrap().iter().map(|one| one["entry"].as_u64().unwrap()).collect();
    assert_eq!(places, [0, 1, 2, 4], "{imported}");
    assert_eq!((&imported["records"]["new"], &imported["blobs"]["unknown"]), (&1.into(), &1.into()), "{imported}");
    assert_eq!(b.bytes(hash).await.unwrap(), b"good bytes");
    assert!(b.stores.blobs.status(BlobHash::of(b"nobody asked")).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_spans_segments_and_a_lost_one_costs_what_was_in_it() {
    let (a, b, stick) = (Node::new(1), Node::new(2), stick());
    let bytes = noise(1, 2 * MIB);
    let (content, hash) = a.publish("Long", &bytes).await;
    let record = a.stores.records.get(content).unwrap().unwrap().to_bytes();
    let (dir, _) = Stick::open(stick.path()).unwrap().make_bundle_dir(BundleId(1)).unwrap();
    let mut writer = BundleWriter::new(&dir, TODAY, u64::MAX);
    writer.segment_bytes = 600_000;
    let frame = Frame::Record { id: content, envelope_bytes: record.len() as u64 };
    assert!(writer.add(&frame, &record).unwrap());
    for start in (0..2 * MIB as u64).step_by(256 << 10) {
        let span = Span::new(2 * MIB as u64, start, start + (256 << 10)).unwrap();
        assert!(writer.add(&Frame::Blob { hash, span }, &encoding(&a, hash, &span).await).unwrap());
    }
    writer.finish(&a.stores.key, a.stores.network, None).unwrap();
    let mut segments: Vec<_> = names(&dir).unwrap().into_iter().filter(|name| name.ends_with(".MHS")).collect();
    segments.sort();
    assert_eq!(segments, ["SEG00000.MHS", "SEG00001.MHS", "SEG00002.MHS", "SEG00003.MHS"]);
    assert_eq!(b.verify(stick.path()).await["damaged"], 0);

    let away = dir.join("SEG00002.MHS");
    let lost = fs::read(&away).unwrap();
    fs::remove_file(&away).unwrap();
    let imported = b.import(stick.path()).await;
    assert_eq!((&imported["damaged"], &imported["entries_lost"]), (&1.into(), &2.into()), "{imported}");
    assert_eq!(b.local_bytes(hash), 2 * MIB as u64 - (512 << 10));
    fs::write(&away, lost).unwrap();
    let imported = b.import(stick.path()).await;
    assert_eq!(imported["blobs"]["complete"], 1, "{imported}");
    assert!(b.bytes(hash).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_quota_keeps_the_newest_and_says_so() {
    let (a, stick) = (Node::new(1), stick());
    let b = Node::with(2, BlobOptions { quota_bytes: Some(5 * MIB as u64), ..BlobOptions::default() });
    let mut published = vec![];
    for seed in 1..=4 {
        published.push(a.publish("A film", &noise(seed, 2 * MIB)).await.1);
    }
    a.export_all(stick.path()).await;
    let imported = b.import(stick.path()).await;
    assert_eq!((&imported["blobs"]["complete"], &imported["blobs"]["no_room"]), (&2.into(), &2.into()), "{imported}");
    let here: Vec<_> = published.iter().map(|hash| b.local_bytes(*hash) > 0).collect();
    assert_eq!(here, [false, false, true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_for_players_have_harmless_names_and_are_made_once() {
    let (a, stick) = (Node::new(1), stick());
    a.publish("../../evil: <film>", &noise(1, 3000)).await;
    a.publish("Same", &noise(2, 3000)).await;
    a.publish("SAME", &noise(3, 3000)).await;
    let program = a.store(b"MZ").await;
    a.announce("run me.exe", program, 2, "application/x-msdownload").await;
    for _ in 0..2 {
        let exported = a.export(ExportRequest { browsable: true, ..all(stick.path()) }).await.unwrap();
        assert_eq!(exported["media"], 3, "{exported}");
        let mut media = names(&stick.path().join("MEDIA")).unwrap();
        media.sort();
        assert_eq!(media, ["SAME.mp4", "Same (2).mp4", "_.._evil_ _film_.mp4"]);
    }
    assert!(fs::read(stick.path().join("MEDIA/SAME.mp4")).unwrap() == noise(3, 3000));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_export_is_begun_again_and_no_bundle_before() {
    let (a, b, stick) = (Node::new(1), Node::new(2), stick());
    let (content, _) = a.publish("A film", &noise(1, 5000)).await;
    // What a kill leaves behind.
    let id = select::bundle_id(&a.stores, &all(stick.path()), 0);
    let dir = stick.path().join(BUNDLES_DIR).join(id.to_string());
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("SEG00000.MHS"), noise(9, 5000)).unwrap();
    fs::write(dir.join("SEG00001.TMP"), noise(9, 5000)).unwrap();
    let half = b.import(stick.path()).await;
    assert_eq!((&half["damaged"], &half["records"]["new"]), (&1.into(), &0.into()), "{half}");
    assert!(half["damages"][0]["what"].as_str().unwrap().contains("COMMIT"), "{half}");

    fs::remove_file(stick.path().join(BUNDLES_DIR).join("WANTS.CBR")).unwrap();
    let exported = a.export_all(stick.path()).await;
    assert_eq!((&exported["begun_again"], &exported["bundle"]), (&true.into(), &id.to_string().into()), "{exported}");
    let mut written = names(&dir).unwrap();
    written.sort();
    assert_eq!(written, ["COMMIT", "INDEX.CBR", "SEG00000.MHS"]);
    b.import(stick.path()).await;
    assert!(b.knows(content));
    // A finished one is never touched: the next gets another name.
    let next = a.export(ExportRequest { wants: None, ..all(stick.path()) }).await.unwrap();
    assert_eq!(next["bundle"], Value::Null, "by B's want-list there is nothing to send: {next}");
    fs::remove_file(stick.path().join(BUNDLES_DIR).join("WANTS.CBR")).unwrap();
    let next = a.export_all(stick.path()).await;
    assert_ne!(next["bundle"], exported["bundle"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_when_nobody_listens_and_only_one_runs() {
    let (a, stick) = (Node::new(1), stick());
    a.publish("A film", &noise(1, 100_000)).await;
    let bundles = Bundles::new(a.stores.clone());
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let events = bundles.start(move |_, reporter| {
        reporter.started()?;
        let _ = wait.recv();
        reporter.advance(1)
    });
    let mut events = events.unwrap();
    assert!(matches!(events.recv().await, Some(Event::Started)));
    assert!(matches!(bundles.start(|_, _| Ok(())), Err(JobError::Busy)));
    drop(events);
    go.send(()).unwrap();
    bundles.shutdown().await;
    let (events, heard) = mpsc::channel(4);
    drop(heard);
    let (request, stores) = (all(stick.path()), a.stores.clone());
    let ended = tokio::task::spawn_blocking(move || {
        export::run(&stores, &request, TODAY, &mut Reporter::new(events, CancellationToken::new())).map(drop)
    });
    assert!(matches!(ended.await.unwrap(), Err(JobError::Stopped)));
    assert_eq!(a.export_all(stick.path()).await["blobs"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_want_list_tells_what_is_missing_and_nobodys_name() {
    let (a, b, stick) = (Node::new(1), Node::new(2), stick());
    let (_, hash) = a.publish("A film", &noise(1, 3 * MIB)).await;
    let other = self::stick();
    a.export(ExportRequest { max_bytes: Some(5000), ..all(other.path()) }).await.unwrap();
    b.import(other.path()).await;
    let size = 3 * MIB as u64;
    give(&a, &b, hash, Span::new(size, 1 << 20, 2 << 20).unwrap()).await;
    b.job(wants_job(stick.path())).await.unwrap();
    let file: PathBuf = stick.path().join(BUNDLES_DIR).join("WANTS.CBR");
    let bytes = read_small(&file, MAX_WANTS_BYTES).unwrap().unwrap();
    let list = WantList::decode(&bytes).unwrap();
    assert!(list.is_of(&b.stores.key) && !list.is_of(&a.stores.key));
    let node = b.stores.key.node();
    assert!(!bytes.windows(32).any(|window| window == node.as_bytes()), "it names the node");
    assert_eq!(list.heads.len(), 1);
    assert_eq!(list.lacks.len(), 1);
    assert_eq!(list.lacks[0].groups, [0..64, 128..191], "all but the second MiB and the last group");
    // Its time tells the day and no more.
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis(), u128::from(TODAY.as_millis()));
}

/// Which of these blobs are complete at the node.
fn has(node: &Node, blobs: &[BlobHash]) -> Vec<bool> {
    blobs.iter().map(|hash| node.stores.blobs.status(*hash).is_some_and(|status| status.complete)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_maker_of_bundles_brings_so_much_unasked_and_anything_that_is_asked_for() {
    let (a, c, stick) = (Node::new(1), Node::new(3), stick());
    let mut b = Node::new(2);
    b.stores.issuer_quota_bytes = 2 * MIB as u64 + 100_000;
    let mut films = vec![];
    for seed in 1..=4 {
        films.push(a.publish("A film", &noise(seed, MIB)).await.1);
    }
    a.export_all(stick.path()).await;
    let imported = b.import(stick.path()).await;
    // The newest come first.
    assert_eq!(has(&b, &films), [false, false, true, true], "{imported}");
    assert_eq!((&imported["records"]["new"], &imported["blobs"]["over_quota"]), (&4.into(), &2.into()), "{imported}");
    let note = imported["notes"].to_string();
    assert!(note.contains(&a.stores.key.node().to_string()) && note.contains("bundle_quota_bytes"), "{note}");

    // Again, and after another export that follows the list which the import left: nothing more.
    assert_eq!(b.import(stick.path()).await["blobs"]["over_quota"], 2);
    a.export_all(stick.path()).await;
    b.import(stick.path()).await;
    assert_eq!(has(&b, &films), [false, false, true, true]);

    // Another one may bring as much, and what is pinned from then on is asked for and counts for nobody.
    let other = c.publish("Another", &noise(9, MIB)).await.1;
    let second = tempfile::tempdir().unwrap();
    c.export_all(second.path()).await;
    b.import(second.path()).await;
    assert_eq!(has(&b, &[other]), [true]);
    b.stores.blobs.set_pinned(films[3], true).await.unwrap();
    b.import(stick.path()).await;
    assert_eq!(has(&b, &films), [false, true, true, true]);

    // The rest when it is asked for: by a list that the operator leaves, or by following the channel.
    let author = a.stores.key.author();
    b.stores.interest = Arc::new(move || Interest::Channels([author].into()));
    let imported = b.import(stick.path()).await;
    assert_eq!((has(&b, &films), &imported["blobs"]["over_quota"]), (vec![true; 4], &0.into()), "{imported}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_want_list_of_ours_asks_for_has_no_quota() {
    let (a, stick) = (Node::new(1), stick());
    let mut b = Node::new(2);
    b.stores.issuer_quota_bytes = 0;
    let film = a.publish("A film", &noise(1, MIB)).await.1;
    a.export_all(stick.path()).await;
    b.import(stick.path()).await;
    assert_eq!(has(&b, &[film]), [false]);
    let path = stick.path().to_owned();
    b.job(move |stores, _| wants::write(stores, &Stick::open(&path)?, TODAY, &HashSet::new())).await.unwrap();
    b.import(stick.path()).await;
    assert_eq!(has(&b, &[film]), [true]);
}
