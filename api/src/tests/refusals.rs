//! What isn't allowed or makes no sense, and that every such answer is a problem; the gateway's own pages.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use axum::{body::Body, http::StatusCode, routing::get};

use super::{Bench, send};
use crate::{
    ApiError, Operator, Path, Query, Routes, SetupCodes,
    testing::{TOKEN, operator_request, request},
};

#[derive(serde::Deserialize)]
struct Numbers {
    #[allow(dead_code, reason = "only that it parses matters")]
    limit: u8,
}

async fn panics() -> &'static str {
    panic!("on purpose")
}

fn service() -> Routes {
    Routes::new()
        .route("/panic", get(panics))
        .route("/fail", get(async || ApiError::internal("the secret cause")))
        .route("/number/{n}", get(async |_: Path<u8>| "ok"))
        .route("/query", get(async |_: Query<Numbers>| "ok"))
        .route("/change", axum::routing::post(async |_: Operator| "changed"))
}

#[tokio::test]
async fn every_refusal_is_a_problem() {
    let bench = Bench::new();
    let router = bench.router_with(bench.options(), vec![service()]);
    type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str, u16, &'static str);
    let json = &[("content-type", "application/json")];
    let table: &[Case] = &[
        ("GET", "/nothing", &[], "", 404, "not_found"),
        ("GET", "/api/v1/nothing", &[], "", 404, "not_found"),
        ("GET", "/..%2f..%2fetc/passwd", &[], "", 404, "not_found"),
        ("GET", "/app.js/../../etc/passwd", &[], "", 404, "not_found"),
        ("GET", "/%00", &[], "", 404, "not_found"),
        ("DELETE", "/healthz", &[], "", 405, "method_not_allowed"),
        ("OPTIONS", "/change", &[("origin", "http://evil.example")], "", 405, "method_not_allowed"),
        ("GET", "/number/300", &[], "", 404, "not_found"),
        ("GET", "/query", &[], "", 400, "bad_request"),
        ("GET", "/query?limit=-1", &[], "", 400, "bad_request"),
        ("POST", "/api/v1/setup", json, "{", 400, "bad_request"),
        ("POST", "/api/v1/setup", json, "{\"code\":7}", 400, "bad_request"),
        ("POST", "/api/v1/setup", json, "{}", 400, "bad_request"),
        ("POST", "/api/v1/setup", &[], "{\"code\":\"x\"}", 415, "unsupported_media"),
        ("POST", "/api/v1/setup", json, "{\"code\":\"x\"}", 401, "unauthorized"),
        ("POST", "/change", &[], "", 401, "unauthorized"),
        ("POST", "/change", &[("authorization", "Bearer wrong")], "", 401, "unauthorized"),
        ("POST", "/change", &[("authorization", "Basic dGVzdA==")], "", 401, "unauthorized"),
        ("POST", "/change", &[("authorization", "Bearer ")], "", 401, "unauthorized"),
        ("POST", "/blobs", &[], "abc", 401, "unauthorized"),
        ("GET", "/panic", &[], "", 500, "internal"),
        ("GET", "/fail", &[], "", 500, "internal"),
        ("GET", "/", &[("host", "evil.example")], "", 403, "forbidden"),
        ("GET", "/nothing", &[("host", "evil.example")], "", 403, "forbidden"),
        ("POST", "/change", &[("origin", "http://evil.example")], "", 403, "forbidden"),
        ("POST", "/change", &[("origin", "null")], "", 403, "forbidden"),
        ("POST", "/change", &[("sec-fetch-site", "cross-site")], "", 403, "forbidden"),
    ];
    for (method, uri, headers, body, status, code) in table {
        let mut made = request(method, uri, *body);
        for (name, value) in *headers {
            made.headers_mut().insert(*name, value.parse().unwrap());
        }
        let answer = send(&router, made).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (*status, *code), "{method} {uri} {headers:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("secret"), "causes are private");
        assert_eq!(answer.header("www-authenticate").is_empty(), *status != 401);
        assert_eq!(answer.header("allow").is_empty(), *status != 405, "{uri}");
        assert_eq!(answer.header("connection"), if body.is_empty() { "" } else { "close" }, "{uri}");
    }
    let changed = send(&router, operator_request("POST", "/change", "")).await;
    assert_eq!((changed.status, &changed.body[..]), (StatusCode::OK, &b"changed"[..]));
}

#[tokio::test]
async fn a_long_json_body_is_refused() {
    let bench = Bench::new();
    let body = format!("{{\"code\":\"{}\"}}", "a".repeat(3 << 20));
    let mut made = request("POST", "/api/v1/setup", body);
    made.headers_mut().insert("content-type", "application/json".parse().unwrap());
    assert_eq!(send(&bench.router(), made).await.code(), "too_large");
}

#[derive(Default)]
struct OneCode(Mutex<HashSet<String>>);

impl SetupCodes for OneCode {
    fn redeem(&self, code: &str) -> Option<String> {
        self.0.lock().unwrap().take(code).map(|_| TOKEN.to_owned())
    }
}

#[tokio::test]
async fn a_setup_code_works_once() {
    let bench = Bench::new();
    let mut options = bench.options();
    options.setup = Some(Arc::new(OneCode(Mutex::new(HashSet::from(["first-start".to_owned()])))));
    let router = bench.router_with(options, vec![]);
    let redeem = || {
        let mut made = request("POST", "/api/v1/setup", "{\"code\":\"first-start\"}");
        made.headers_mut().insert("content-type", "application/json".parse().unwrap());
        made
    };
    assert_eq!(send(&router, redeem()).await.json()["token"], TOKEN);
    assert_eq!(send(&router, redeem()).await.code(), "unauthorized");
}

#[tokio::test]
async fn health_metrics_and_openapi() {
    let bench = Bench::new();
    let mut options = bench.options();
    options.readiness = Arc::new(|| Err("still opening the log".into()));
    let router = bench.router_with(options, vec![service()]);
    assert_eq!(send(&router, request("GET", "/healthz", "")).await.status, StatusCode::OK);
    let unready = send(&router, request("GET", "/readyz", "")).await;
    assert_eq!(unready.code(), "unavailable");
    assert_eq!(unready.json()["detail"], "still opening the log");
    assert_eq!(send(&bench.router(), request("GET", "/readyz", "")).await.status, StatusCode::OK);

    send(&router, request("GET", "/number/7", "")).await;
    let metrics = send(&router, request("GET", "/metrics", "")).await;
    let text = String::from_utf8_lossy(&metrics.body);
    assert!(text.contains("mhc_http_requests_total{route=\"/number/{n}\",class=\"2xx\"} 1"), "{text}");
    assert!(text.contains("mhc_http_requests_in_flight 1"), "only the scrape itself: {text}");

    let openapi = send(&router, request("GET", "/api/v1/openapi.json", "")).await.json();
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3.1"));
    for (path, method) in [
        ("/blobs/{hash}", "get"),
        ("/blobs/{hash}", "head"),
        ("/blobs/{hash}.bao", "get"),
        ("/blobs", "post"),
        ("/api/v1/setup", "post"),
    ] {
        assert!(openapi["paths"][path][method].is_object(), "{method} {path}");
    }
    assert!(openapi["components"]["schemas"]["Problem"].is_object());
}

#[tokio::test]
async fn the_page_is_self_contained() {
    let bench = Bench::new();
    let router = bench.router();
    let table = [
        ("/", "text/html; charset=utf-8"),
        ("/setup", "text/html; charset=utf-8"),
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/favicon.svg", "image/svg+xml"),
        ("/api/docs", "text/html; charset=utf-8"),
        ("/docs.js", "text/javascript; charset=utf-8"),
    ];
    for (path, media_type) in table {
        let answer = send(&router, request("GET", path, "")).await;
        assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, media_type), "{path}");
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"));
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");

        let text = String::from_utf8_lossy(&answer.body);
        assert!(path == "/favicon.svg" || !text.contains("://"), "{path} names another host");
        for inline in ["<style", " style=", " onclick=", "innerHTML", "eval("] {
            assert!(!text.contains(inline), "{path} has {inline}");
        }
        let mut again = request("GET", path, Body::empty());
        again.headers_mut().insert("if-none-match", answer.header("etag").parse().unwrap());
        assert_eq!(send(&router, again).await.status, StatusCode::NOT_MODIFIED);
    }
}
