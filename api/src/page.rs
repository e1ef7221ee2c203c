//! The page at `/`, embedded in the binary: no request ever leaves this gateway for it.

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::range;

/// Scripts and styles from here only, none inline; media from here.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    media-src 'self' blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";

const INDEX: &[u8] = include_bytes!("../web/index.html");

/// Where each file is served.
const FILES: &[(&str, &str, &[u8])] = &[
    ("/", HTML, INDEX),
    ("/setup", HTML, INDEX),
    ("/app.js", JS, include_bytes!("../web/app.js")),
    ("/alerts.js", JS, include_bytes!("../web/alerts.js")),
    ("/style.css", CSS, include_bytes!("../web/style.css")),
    ("/favicon.svg", SVG, include_bytes!("../web/favicon.svg")),
    ("/api/docs", HTML, include_bytes!("../web/docs.html")),
    ("/docs.js", JS, include_bytes!("../web/docs.js")),
];

pub(crate) fn routes() -> Router {
    FILES.iter().fold(Router::new(), |router, &(path, media_type, bytes)| {
        let etag = format!("\"{}\"", &blake3::hash(bytes).to_hex()[..32]);
        router.route(path, get(async move |headers: HeaderMap| file(&headers, &etag, media_type, bytes)))
    })
}

fn file(headers: &HeaderMap, etag: &str, media_type: &'static str, bytes: &'static [u8]) -> Response {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut response = match known {
        Some(tags) if range::none_match_hits(tags, etag) => StatusCode::NOT_MODIFIED.into_response(),
        _ => Bytes::from_static(bytes).into_response(),
    };
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    out.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    if let Ok(etag) = HeaderValue::from_str(etag) {
        out.insert(header::ETAG, etag);
    }
    response
}
