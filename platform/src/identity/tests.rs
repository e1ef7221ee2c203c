use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::StatusCode,
};
use futures::future::BoxFuture;
use mhc_api::{Gateway, GatewayOptions, OperatorToken, Scheme, testing};
use mhc_protocol::{
    AuthorId, BlobHash, NetworkId, SecretKey, Timestamp,
    record::{RecordKind, VerifiedRecord},
};
use mhc_storage::{
    blob::{BlobOptions, BlobStore},
    record::{Records, RecordsError, testing::open},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use super::*;
use crate::{InspectError, Inspection, Inspector, Publisher};

static CLOCK: AtomicU64 = AtomicU64::new(1_795_000_000_000);

fn tick() -> Timestamp {
    Timestamp::from_millis(CLOCK.fetch_add(1_000, Ordering::Relaxed))
}

struct Signer {
    key: SecretKey,
    records: Records,
}

fn root() -> SecretKey {
    SecretKey::from_seed(&[9; 32])
}

impl Publisher for Signer {
    fn network(&self) -> NetworkId {
        root().network()
    }

    fn author(&self) -> AuthorId {
        self.key.author()
    }

    fn publish(&self, kind: RecordKind, body: Vec<u8>) -> BoxFuture<'_, Result<VerifiedRecord, RecordsError>> {
        Box::pin(async move { self.records.publish(&self.key, self.network(), kind, body, [0; 16], tick()).await })
    }
}

/// Never asked here.
struct Blind;

impl Inspector for Blind {
    fn inspect(&self, _: BlobHash) -> BoxFuture<'_, Result<Inspection, InspectError>> {
        Box::pin(async { Err(InspectError("nothing to see".into())) })
    }
}

/// A node of the network whose root is key 9; its own key is `seed`.
struct Fixture {
    router: Router,
    records: Records,
    author: AuthorId,
    _dirs: [TempDir; 2],
}

impl Fixture {
    fn new(seed: u8, has_root: bool) -> Self {
        let (records, dir) = open(vec![Arc::new(Identity)]).unwrap();
        let blob_dir = tempfile::tempdir().unwrap();
        let options = BlobOptions { min_free_bytes: 0, ..BlobOptions::default() };
        let blobs = BlobStore::open(blob_dir.path(), options).unwrap();
        let signer = |key: SecretKey| Arc::new(Signer { key, records: records.clone() }) as Arc<dyn Publisher>;
        let key = SecretKey::from_seed(&[seed; 32]);
        let author = key.author();
        let context = Context {
            records: records.clone(),
            blobs: blobs.clone(),
            source: Arc::new(blobs.clone()),
            publisher: signer(key),
            root: has_root.then(|| signer(root())),
            elsewhere: Arc::new(|_| None),
            clock: Arc::new(tick),
            inspector: Arc::new(Blind),
            max_upload_bytes: 1 << 20,
        };
        let operator = OperatorToken::new(testing::TOKEN);
        let options = GatewayOptions::new(testing::BOUND, operator, Arc::new(blobs.clone()), blobs);
        let routes = vec![Arc::new(Identity).routes(context)];
        let router = Gateway::new(options, routes).site().router(Scheme::Http, testing::BOUND);
        Self { router, records, author, _dirs: [dir, blob_dir] }
    }

    async fn send(&self, method: &str, uri: &str, body: Option<Value>) -> (StatusCode, Value) {
        let content = body.as_ref().map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let mut request = testing::request(method, uri, content);
        let headers = request.headers_mut();
        headers.insert("authorization", format!("Bearer {}", testing::TOKEN).parse().unwrap());
        if body.is_some() {
            headers.insert("content-type", "application/json".parse().unwrap());
        }
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Brings over everything that `other` has.
    async fn pull(&self, other: &Self) {
        for head in other.records.heads(root().network(), None, 99).unwrap() {
            let log = other.records.log(root().network(), head.author, (0, 0), 99, usize::MAX).unwrap();
            self.records.append(log).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_founder_closes_the_network_and_hands_on_the_keys() {
    let (founder, other) = (Fixture::new(1, true), Fixture::new(2, false));
    let (status, network) = founder.send("GET", "/api/v1/network", None).await;
    assert_eq!((status, &network["membership"], &network["revision"]), (StatusCode::OK, &json!("open"), &json!(0)));
    let change = json!({ "membership": "curated", "name": "Village" });
    let (status, network) = founder.send("PATCH", "/api/v1/network", Some(change)).await;
    assert_eq!((status, &network["name"], &network["roles"]), (StatusCode::OK, &json!("Village"), &json!(["admin"])));

    other.pull(&founder).await;
    let artist = json!({ "to": other.author, "role": "artist" });
    let (status, problem) = other.send("POST", "/api/v1/network/grants", Some(artist.clone())).await;
    assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")));

    let admin = json!({ "to": other.author, "role": "admin", "depth": 1, "until": "2126-01-01T00:00:00Z" });
    let (status, signed) = founder.send("POST", "/api/v1/network/grants", Some(admin)).await;
    assert_eq!(status, StatusCode::CREATED);
    other.pull(&founder).await;
    assert_eq!(other.send("POST", "/api/v1/network/grants", Some(artist)).await.0, StatusCode::CREATED);
    founder.pull(&other).await;
    let uri = format!("/api/v1/network/grants?to={}", other.author);
    let (_, grants) = founder.send("GET", &uri, None).await;
    let roles: Vec<_> = grants.as_array().unwrap().iter().map(|grant| grant["role"].clone()).collect();
    assert_eq!(roles.len(), 2, "{grants}");

    let uri = format!("/api/v1/network/grants/{}?void=true&reason=test", signed["record"].as_str().unwrap());
    assert_eq!(founder.send("DELETE", &uri, None).await.0, StatusCode::OK);
    let (_, grants) = founder.send("GET", "/api/v1/network/grants?all=true", None).await;
    let states: Vec<_> = grants.as_array().unwrap().iter().map(|grant| (&grant["role"], &grant["state"])).collect();
    assert!(states.contains(&(&json!("admin"), &json!("revoked"))), "{grants}");
    assert!(!states.iter().any(|(role, _)| **role == json!("artist")), "a void admin's grants are void");
}

#[tokio::test]
async fn bad_requests_say_what_is_wrong() {
    let (founder, other) = (Fixture::new(1, true), Fixture::new(2, false));
    let id = other.author.to_string();
    let cases = [
        ("POST", "/api/v1/network/grants", json!({ "to": "x", "role": "member" }), 400),
        ("POST", "/api/v1/network/grants", json!({ "to": id, "role": "king" }), 400),
        ("POST", "/api/v1/network/grants", json!({ "to": id, "role": "member", "until": "tomorrow" }), 400),
        ("POST", "/api/v1/network/grants", json!({ "to": id, "role": "member", "until": "2001-01-01T00:00:00Z" }), 400),
        ("POST", "/api/v1/network/grants", json!({ "to": id, "role": "member", "channel": id }), 400),
        ("POST", "/api/v1/network/grants", json!({ "to": id, "role": "member", "depth": 9 }), 400),
        ("POST", "/api/v1/network/grants", json!({ "to": id, "role": "member", "note": "two\nlines" }), 400),
        ("PATCH", "/api/v1/network", json!({ "membership": "closed" }), 400),
        (
            "PATCH",
            "/api/v1/network",
            json!({ "quotas": { "king": { "day_records": 1, "kinds": {}, "records": 1 } } }),
            400,
        ),
        ("DELETE", "/api/v1/network/grants/12", Value::Null, 404),
        ("DELETE", &format!("/api/v1/network/grants/{id}"), Value::Null, 404),
    ];
    for (method, uri, body, expected) in cases {
        let body = Some(body).filter(|body| !body.is_null());
        let (status, problem) = founder.send(method, uri, body.clone()).await;
        assert_eq!(status.as_u16(), expected, "{method} {uri} {body:?}: {problem}");
    }
    let (status, _) = other.send("PATCH", "/api/v1/network", Some(json!({ "name": "mine" }))).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}
