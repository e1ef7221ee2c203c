use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode, header},
};
use futures::future::BoxFuture;
use mhc_api::{Gateway, GatewayOptions, OperatorToken, Scheme, testing};
use mhc_protocol::{
    AuthorId, BlobHash, NetworkId, SecretKey, Timestamp,
    manifest::{BlobRef, MediaKind},
    record::{RecordKind, VerifiedRecord},
};
use mhc_storage::{
    blob::{BlobOptions, BlobStore},
    record::{
        Projection, Records, RecordsError, RecordsOptions,
        testing::{
            Author, a_governed_network_converges, order_and_duplicates_are_irrelevant, replay_rebuilds_the_index,
        },
    },
};
use tempfile::TempDir;
use tower::ServiceExt;

use super::*;
use crate::{InspectError, Inspection, Inspector, Publisher};

const START: u64 = 1_790_000_000_000;

/// Publishes as one key, a second later each time.
struct NodeAuthor {
    key: SecretKey,
    records: Records,
    clock: AtomicU64,
}

impl Publisher for NodeAuthor {
    fn network(&self) -> NetworkId {
        self.key.network()
    }

    fn author(&self) -> AuthorId {
        self.key.author()
    }

    fn publish(&self, kind: RecordKind, body: Vec<u8>) -> BoxFuture<'_, Result<VerifiedRecord, RecordsError>> {
        let now = Timestamp::from_millis(self.clock.fetch_add(1_000, Ordering::Relaxed));
        Box::pin(async move { self.records.publish(&self.key, self.network(), kind, body, [0; 16], now).await })
    }
}

/// Takes everything for a video.
struct Videos;

impl Inspector for Videos {
    fn inspect(&self, _: BlobHash) -> BoxFuture<'_, Result<Inspection, InspectError>> {
        let inspection = Inspection {
            kind: MediaKind::Video,
            content_type: "video/mp4".into(),
            duration_ms: Some(1_000),
            note: None,
        };
        Box::pin(async { Ok(inspection) })
    }
}

/// A node's catalogue without a network.
struct Fixture {
    context: Context,
    router: Router,
    _dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let projections: Vec<Arc<dyn Projection>> = vec![Arc::new(Catalog)];
        let options = RecordsOptions { min_free_bytes: 0, ..RecordsOptions::default() };
        let records = Records::open(&dir.path().join("records"), options, projections).unwrap();
        let options = BlobOptions { min_free_bytes: 0, ..BlobOptions::default() };
        let blobs = BlobStore::open(&dir.path().join("blobs"), options).unwrap();
        let author = NodeAuthor { key: SecretKey::from_seed(&[3; 32]), records: records.clone(), clock: START.into() };
        let context = Context {
            records,
            blobs: blobs.clone(),
            source: Arc::new(blobs.clone()),
            publisher: Arc::new(author),
            root: None,
            elsewhere: Arc::new(|_| None),
            clock: Arc::new(|| Timestamp::from_millis(START)),
            inspector: Arc::new(Videos),
            max_upload_bytes: 1 << 20,
        };
        let operator = OperatorToken::new(testing::TOKEN);
        let options = GatewayOptions::new(testing::BOUND, operator, Arc::new(blobs.clone()), blobs);
        let routes = vec![Arc::new(Catalog).routes(context.clone())];
        let router = Gateway::new(options, routes).site().router(Scheme::Http, testing::BOUND);
        Self { context, router, _dir: dir }
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, serde_json::Value) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(serde_json::Value::Null))
    }

    async fn get(&self, uri: &str) -> (StatusCode, serde_json::Value) {
        self.send(testing::request("GET", uri, Body::empty())).await
    }

    /// Uploads `content` with a title.
    async fn upload(&self, content: &str, title: &str) -> (StatusCode, serde_json::Value) {
        let form = [("title", title), ("tags", "one,two"), ("realm", "inferno")];
        self.send(upload_request(&form, content)).await
    }
}

fn upload_request(fields: &[(&str, &str)], content: &str) -> Request<Body> {
    let mut body = String::new();
    for (name, value) in fields {
        body += &format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    }
    body += &format!(
        "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"dir/a.mp4\"\r\n\r\n{content}\r\n--x--\r\n"
    );
    let mut request = testing::operator_request("POST", "/api/v1/videos/upload", body);
    let form = "multipart/form-data; boundary=x".parse().unwrap();
    request.headers_mut().insert(header::CONTENT_TYPE, form);
    request
}

fn titles(feed: &serde_json::Value) -> Vec<&str> {
    feed["items"].as_array().unwrap().iter().map(|item| item["title"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn what_is_uploaded_is_listed_shown_and_streamed() {
    let node = Fixture::new();
    let (status, published) = node.upload("the film", "A film").await;
    assert_eq!(status, StatusCode::CREATED, "{published}");
    let (_, feed) = node.get("/api/v1/videos/feed").await;
    let item = &feed["items"][0];
    assert_eq!(item["content"], published["content"]);
    assert_eq!(item["tags"], serde_json::json!(["one", "two"]));
    assert_eq!(item["local"], serde_json::json!({"bytes": 8, "complete": true}));
    assert_eq!(item["published_at"], "2026-09-21T14:13:20Z");
    assert_eq!(item["file_name"], "a.mp4");
    let (_, shown) = node.get(&format!("/api/v1/videos/{}", published["content"].as_str().unwrap())).await;
    assert_eq!(&shown, item);
    let stream = testing::request("GET", published["url"].as_str().unwrap(), Body::empty());
    let response = node.router.clone().oneshot(stream).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "video/mp4");
    assert_eq!(to_bytes(response.into_body(), 100).await.unwrap(), "the film");
    assert!(node.context.blobs.list().iter().all(|(_, status)| status.pinned));
}

#[tokio::test]
async fn publishing_the_same_again_gives_the_same_content() {
    let node = Fixture::new();
    let (_, first) = node.upload("the film", "A film").await;
    let (status, again) = node.upload("the film", "A film").await;
    assert_eq!((status, &again["content"]), (StatusCode::OK, &first["content"]));
    let (status, other) = node.upload("the film", "Another title").await;
    assert_eq!(status, StatusCode::CREATED);
    assert_ne!(other["content"], first["content"]);
}

#[tokio::test]
async fn pages_follow_each_other_newest_first() {
    let node = Fixture::new();
    for n in 0..5 {
        node.upload(&format!("film {n}"), &format!("{n}")).await;
    }
    let mut seen = Vec::new();
    let mut uri = "/api/v1/videos/feed?limit=2".to_owned();
    loop {
        let (_, feed) = node.get(&uri).await;
        seen.extend(titles(&feed).into_iter().map(str::to_owned));
        let Some(next) = feed["next"].as_str() else { break };
        uri = format!("/api/v1/videos/feed?limit=2&cursor={next}");
    }
    assert_eq!(seen, ["4", "3", "2", "1", "0"]);
    let author = node.context.publisher.author();
    let (_, feed) = node.get(&format!("/api/v1/videos/artist/{author}?limit=1")).await;
    assert_eq!(titles(&feed), ["4"]);
}

#[tokio::test]
async fn what_was_replaced_is_hidden_unless_by_another_author() {
    let node = Fixture::new();
    let (_, old) = node.upload("the film", "Old").await;
    let (_, new) = node.upload("the film", "New").await;
    let id = |published: &serde_json::Value| published["content"].as_str().unwrap().parse().unwrap();
    let view = node.context.records.view(NAME).unwrap();
    let mut manifest = entry(&view, id(&new)).unwrap().unwrap().manifest;
    drop(view);
    manifest.title = "Newest".into();
    manifest.supersedes = Some(id(&old));
    let body = manifest.encode().unwrap();
    let stranger = SecretKey::from_seed(&[4; 32]);
    let network = node.context.publisher.network();
    let now = Timestamp::from_millis(START);
    node.context.records.publish(&stranger, network, MANIFEST, body.clone(), [0; 16], now).await.unwrap();
    let (_, feed) = node.get("/api/v1/videos/feed").await;
    assert_eq!(titles(&feed).len(), 3, "a stranger replaces nothing");
    node.context.publisher.publish(MANIFEST, body).await.unwrap();
    let (_, feed) = node.get("/api/v1/videos/feed").await;
    assert!(!titles(&feed).contains(&"Old"), "{feed}");
    let (_, feed) = node.get("/api/v1/videos/feed?all=true").await;
    assert!(titles(&feed).contains(&"Old"), "{feed}");
}

#[tokio::test]
async fn bad_requests_are_answered_with_problems() {
    let node = Fixture::new();
    let missing = "0".repeat(64);
    let long = "x".repeat(201);
    let cases: Vec<(Request<Body>, StatusCode, &str)> = vec![
        (upload_request(&[("title", &long)], "x"), StatusCode::BAD_REQUEST, "bad_request"),
        (upload_request(&[("realm", "limbo")], "x"), StatusCode::BAD_REQUEST, "bad_request"),
        (testing::request("GET", "/api/v1/videos/feed?limit=0", ""), StatusCode::BAD_REQUEST, "bad_request"),
        (testing::request("GET", "/api/v1/videos/feed?limit=201", ""), StatusCode::BAD_REQUEST, "bad_request"),
        (testing::request("GET", "/api/v1/videos/feed?cursor=!!", ""), StatusCode::BAD_REQUEST, "bad_request"),
        (testing::request("GET", "/api/v1/videos/feed?page=1", ""), StatusCode::BAD_REQUEST, "bad_request"),
        (testing::request("GET", "/api/v1/videos/nonsense", ""), StatusCode::NOT_FOUND, "not_found"),
        (testing::request("GET", &format!("/api/v1/videos/{missing}"), ""), StatusCode::NOT_FOUND, "not_found"),
        (testing::request("GET", &format!("/api/v1/videos/{missing}/stream"), ""), StatusCode::NOT_FOUND, "not_found"),
        (testing::request("POST", "/api/v1/videos/upload", ""), StatusCode::UNAUTHORIZED, "unauthorized"),
        (testing::request("POST", "/api/v1/videos", "{}"), StatusCode::UNAUTHORIZED, "unauthorized"),
    ];
    for (request, status, code) in cases {
        let name = format!("{} {}", request.method(), request.uri());
        let (got, problem) = node.send(request).await;
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{name}: {problem}");
    }
    let head = Request::builder()
        .method(Method::HEAD)
        .uri(format!("/api/v1/videos/{missing}/stream"))
        .header(header::HOST, testing::BOUND.to_string());
    assert_eq!(node.send(head.body(Body::empty()).unwrap()).await.0, StatusCode::NOT_FOUND);
}

/// Manifests by two authors, replacements, a fork, and a body that isn't a manifest.
fn records() -> Vec<VerifiedRecord> {
    let network = SecretKey::from_seed(&[9; 32]).network();
    let (mut one, mut two) = (Author::new(1, network), Author::new(2, network));
    let mut records = vec![one.write(MANIFEST, body("first", None)).unwrap()];
    let first = records[0].id();
    records.push(two.write(MANIFEST, body("by another", Some(first))).unwrap());
    records.push(one.write(MANIFEST, b"junk".as_slice()).unwrap());
    let mut rival = one.clone();
    let second = one.write(MANIFEST, body("second", Some(first))).unwrap();
    let rival_second = rival.write(MANIFEST, body("a rival of the second", None)).unwrap();
    // The log goes on behind the smaller id; what follows the other isn't kept.
    let winner = if second.id() < rival_second.id() { &mut one } else { &mut rival };
    records.push(winner.write(MANIFEST, body("third", None)).unwrap());
    records.extend([second, rival_second]);
    records.push(two.write(RecordKind::new("unknown.v1"), b"x".as_slice()).unwrap());
    records
}

fn body(title: &str, supersedes: Option<mhc_protocol::RecordId>) -> Vec<u8> {
    let original = BlobRef {
        hash: BlobHash::of(title.as_bytes()),
        bytes: title.len() as u64,
        content_type: "video/mp4".into(),
        name: None,
    };
    Manifest { supersedes, ..Manifest::new(title, MediaKind::Video, original) }.encode().unwrap()
}

/// Over all services, so that a new one is tested by being listed.
fn projections() -> Vec<Arc<dyn Projection>> {
    crate::services().into_iter().map(|service| service as Arc<dyn Projection>).collect()
}

#[tokio::test]
async fn a_replay_rebuilds_the_same_index() {
    replay_rebuilds_the_index(projections(), &records()).await.unwrap();
}

#[tokio::test]
async fn a_thousand_orders_of_a_governed_network_make_one_index() {
    let bodies: Vec<_> = ["one", "two", "three"].map(|title| (MANIFEST, body(title, None))).into();
    a_governed_network_converges(projections(), &bodies, 1_000).await.unwrap();
}

#[tokio::test]
async fn order_and_duplicates_change_nothing() {
    order_and_duplicates_are_irrelevant(projections(), &records()).await.unwrap();
}
