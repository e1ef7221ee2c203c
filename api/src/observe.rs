//! What is put around every request: an id, a span without personal data, figures, caught panics, errors rendered
//! as problems, and the security headers.
//!
//! Neither the span nor the log names the address, the path's ids, the query or a header: only the route's template.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes},
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tracing::Instrument;

use crate::{
    error::{ApiError, Code, Failure, PROBLEM_JSON, problem_response},
    metrics::{HttpMetrics, RequestLabels},
};

/// The header that carries the request's id; the same id is in the log and in a problem's `instance`.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives out ids and counts.
pub(crate) struct Observer {
    metrics: HttpMetrics,
    /// Random per process, so that ids of two runs don't meet in a log.
    prefix: u32,
    next: AtomicU64,
}

impl Observer {
    pub(crate) fn new(metrics: HttpMetrics) -> Self {
        Self { metrics, prefix: getrandom::u32().unwrap_or_default(), next: AtomicU64::new(1) }
    }

    fn next_id(&self) -> String {
        format!("{:08x}-{:x}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// The template of the route that was taken, on its way out.
#[derive(Clone)]
struct Route(String);

/// Innermost: notes the route's template for [`observe`], which is outside of routing.
pub(crate) async fn note_route(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| Route(path.as_str().to_owned()));
    let mut response = next.run(request).await;
    if let Some(route) = route {
        response.extensions_mut().insert(route);
    }
    response
}

/// Outermost middleware.
pub(crate) async fn observe(State(observer): State<Arc<Observer>>, request: Request, next: Next) -> Response {
    let id = observer.next_id();
    let span = tracing::info_span!("http", id, method = %request.method());
    let in_flight = InFlight::new(observer.metrics.clone());
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
    let mut response = answer.unwrap_or_else(|_| ApiError::internal("a handler panicked").into_response());

    let route = response.extensions_mut().remove::<Route>().map_or_else(|| "other".to_owned(), |route| route.0);
    span.in_scope(|| log_failure(&response, &route));
    response = render(response, &id);
    let class = status_class(response.status().as_u16());
    observer.metrics.requests.get_or_create(&RequestLabels { route, class }).inc();
    add_headers(response.headers_mut(), &id);
    response.map(|body| Body::new(Counted { body, in_flight, span }))
}

fn status_class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

fn log_failure(response: &Response, route: &str) {
    let Some(Failure(error)) = response.extensions().get() else { return };
    let cause = error.cause().map(ToString::to_string).unwrap_or_default();
    match error.code() {
        Code::Internal => tracing::error!(route, %error, cause, "request failed"),
        Code::StorageFull => tracing::warn!(route, %error, cause, "request failed"),
        _ => tracing::debug!(route, %error, cause, "request refused"),
    }
}

/// Every error leaves as a problem with the request's id; what axum answers by itself (404, 405, ...) too.
fn render(response: Response, id: &str) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let (parts, body) = response.into_parts();
    let made = match parts.extensions.get::<Failure>() {
        Some(Failure(error)) => problem_response(error.code(), &error.problem(Some(id))),
        None if parts.headers.get(header::CONTENT_TYPE).is_some_and(|value| value == PROBLEM_JSON) => {
            return Response::from_parts(parts, body);
        }
        None => {
            let code = Code::of_status(status);
            let mut problem = ApiError::new(code, plain_detail(status)).problem(Some(id));
            problem.status = status.as_u16();
            let mut made = problem_response(code, &problem);
            *made.status_mut() = status;
            made
        }
    };
    keep_headers(made, parts.headers)
}

/// What the first answer said beyond its body stays: Allow, Content-Range, Retry-After.
fn keep_headers(mut made: Response, headers: HeaderMap) -> Response {
    for (name, value) in &headers {
        if *name != header::CONTENT_LENGTH && !made.headers().contains_key(name) {
            made.headers_mut().insert(name, value.clone());
        }
    }
    made
}

fn plain_detail(status: axum::http::StatusCode) -> String {
    match status.as_u16() {
        404 => "There is nothing at this address. See /api/docs.".to_owned(),
        405 => "This address doesn't take that method; `Allow` says which.".to_owned(),
        _ => status.canonical_reason().unwrap_or("The request failed.").to_owned(),
    }
}

fn add_headers(headers: &mut HeaderMap, id: &str) {
    const DEFAULTS: [(HeaderName, &str); 5] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in DEFAULTS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
}

/// Counts a request until its body is sent or dropped.
struct InFlight(HttpMetrics);

impl InFlight {
    fn new(metrics: HttpMetrics) -> Self {
        metrics.in_flight.inc();
        Self(metrics)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

/// A body that is counted as it goes out.
struct Counted {
    body: Body,
    in_flight: InFlight,
    span: tracing::Span,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let frame = ready!(this.span.in_scope(|| Pin::new(&mut this.body).poll_frame(cx)));
        let metrics = &this.in_flight.0;
        match &frame {
            Some(Ok(frame)) => {
                metrics.bytes_out.inc_by(frame.data_ref().map_or(0, |data| data.len() as u64));
            }
            Some(Err(error)) => {
                metrics.bodies_cut.inc();
                this.span.in_scope(|| tracing::info!(%error, "body cut off"));
            }
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
