//! The gateway as a client sees it: without a socket where the router's answer is enough, over a real one where
//! the connection itself is the subject.

mod blobs;
mod refusals;
mod socket;
mod uploads;

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, Request, StatusCode},
};
use mhc_storage::{
    blob::{BlobOptions, BlobStore},
    source::RangeSource,
};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::{
    Gateway, GatewayOptions, OperatorToken, Routes, Scheme,
    testing::{BOUND, MemorySource, TOKEN},
};

/// A gateway over a source in memory and an empty store on disk.
struct Bench {
    _dir: TempDir,
    source: MemorySource,
    store: BlobStore,
}

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let store = BlobStore::open(dir.path(), BlobOptions::default()).unwrap();
        Self { _dir: dir, source: MemorySource::default(), store }
    }

    fn options(&self) -> GatewayOptions {
        let source: Arc<dyn RangeSource> = Arc::new(self.source.clone());
        GatewayOptions::new("127.0.0.1:0".parse().unwrap(), OperatorToken::new(TOKEN), source, self.store.clone())
    }

    fn router(&self) -> Router {
        self.router_with(self.options(), vec![])
    }

    fn router_with(&self, options: GatewayOptions, services: Vec<Routes>) -> Router {
        Gateway::new(options, services).site().router(Scheme::Http, BOUND)
    }
}

/// An answer, read to its end.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    /// The body broke off.
    cut: bool,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["instance"], format!("urn:mhc:request:{}", self.header("x-request-id")));
        problem["code"].as_str().unwrap().to_owned()
    }
}

async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    let mut cut = false;
    while let Some(frame) = next_frame(&mut body).await {
        match frame {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(_) => cut = true,
        }
    }
    Answer { status: parts.status, headers: parts.headers, body: bytes.into(), cut }
}

async fn next_frame(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    let frame = std::future::poll_fn(|cx| hyper::body::Body::poll_frame(std::pin::Pin::new(&mut *body), cx)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}
