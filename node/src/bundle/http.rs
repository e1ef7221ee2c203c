//! `/api/v1/node/bundles`: jobs on bundles, for the operator. Paths are those of the node's machine.
//!
//! An answer is a line of JSON for each event, as it happens: `started`, `progress` now and then, and last `done` with
//! the report or `failed` with a problem's code and words. What can be told before the work begins is an answer's
//! status. Closing the connection stops the job; what it has done stays.

use std::{collections::HashSet, convert::Infallible, path::PathBuf, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use mhc_api::{ApiError, Operator, Routes, extract::Json};
use mhc_protocol::{AuthorId, RecordId, Timestamp, bundle::day_of};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Bundles, Event, export, export::ExportRequest, import, layout::Stick, verify, wants};
use crate::author::now;

type Shared = State<Arc<Bundles>>;

/// The media type of a line of JSON for each event.
const NDJSON: &str = "application/x-ndjson";

pub(crate) fn routes(bundles: Arc<Bundles>) -> Routes {
    OpenApiRouter::new()
        .routes(routes!(export_bundle))
        .routes(routes!(import_bundles))
        .routes(routes!(verify_bundles))
        .routes(routes!(write_wants))
        .with_state(bundles)
}

/// What to export. With neither channels nor contents: all of the network.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ExportBody {
    /// Absolute path of the folder that the stick is mounted at.
    #[schema(value_type = String)]
    path: PathBuf,
    /// Authors whose logs and contents to take.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    channels: Vec<AuthorId>,
    /// Contents to take, with the logs of their authors.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    contents: Vec<RecordId>,
    /// Leave out the bytes of what was published before this day, in milliseconds since the Unix epoch.
    since: Option<u64>,
    /// Most bytes of segments.
    max_bytes: Option<u64>,
    /// Absolute path of a want-list; the one on the stick when absent.
    #[schema(value_type = Option<String>)]
    wants: Option<PathBuf>,
    /// Also copy complete media into a folder that any player opens.
    #[serde(default)]
    browsable: bool,
}

/// Where a stick is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StickBody {
    /// Absolute path of the folder that the stick is mounted at.
    #[schema(value_type = String)]
    path: PathBuf,
}

fn today() -> Timestamp {
    Timestamp(day_of(now().as_millis()))
}

/// Writes a bundle of records and blobs onto a stick.
#[utoipa::path(
    post, path = "/api/v1/node/bundles/export", tag = "node", request_body = ExportBody,
    responses(
        (status = 200, description = "events, one JSON object a line", content_type = "application/x-ndjson", body = String),
        (status = 400), (status = 401), (status = 403), (status = 404), (status = 409), (status = 507),
    )
)]
async fn export_bundle(
    State(bundles): Shared,
    _operator: Operator,
    Json(body): Json<ExportBody>,
) -> Result<Response, ApiError> {
    let request = ExportRequest {
        path: body.path,
        channels: body.channels,
        contents: body.contents,
        since: body.since.map(|ms| Timestamp(day_of(ms))),
        max_bytes: body.max_bytes,
        wants: body.wants,
        browsable: body.browsable,
    };
    let today = today();
    answer(bundles.start(move |stores, reporter| export::run(stores, &request, today, reporter))?).await
}

/// Takes in every bundle of this network on a stick, as far as it isn't here, and leaves a want-list.
#[utoipa::path(
    post, path = "/api/v1/node/bundles/import", tag = "node", request_body = StickBody,
    responses(
        (status = 200, description = "events, one JSON object a line", content_type = "application/x-ndjson", body = String),
        (status = 400), (status = 401), (status = 403, description = "only bundles of other networks"),
        (status = 404, description = "no bundle there"), (status = 409),
    )
)]
async fn import_bundles(
    State(bundles): Shared,
    _operator: Operator,
    Json(body): Json<StickBody>,
) -> Result<Response, ApiError> {
    let (now, today) = (now(), today());
    answer(bundles.start(move |stores, reporter| import::run(stores, &body.path, now, today, reporter))?).await
}

/// Reads and checks every bundle on a stick, and changes nothing.
#[utoipa::path(
    post, path = "/api/v1/node/bundles/verify", tag = "node", request_body = StickBody,
    responses(
        (status = 200, description = "events, one JSON object a line", content_type = "application/x-ndjson", body = String),
        (status = 400), (status = 401), (status = 404, description = "no bundle there"), (status = 409),
    )
)]
async fn verify_bundles(
    State(bundles): Shared,
    _operator: Operator,
    Json(body): Json<StickBody>,
) -> Result<Response, ApiError> {
    answer(bundles.start(move |stores, reporter| verify::run(stores, &body.path, reporter))?).await
}

/// Leaves a list of what this node lacks on a stick, so that the next export there brings only that.
#[utoipa::path(
    post, path = "/api/v1/node/bundles/wants", tag = "node", request_body = StickBody,
    responses(
        (status = 200, description = "events, one JSON object a line", content_type = "application/x-ndjson", body = String),
        (status = 400), (status = 401), (status = 404), (status = 409), (status = 507),
    )
)]
async fn write_wants(
    State(bundles): Shared,
    _operator: Operator,
    Json(body): Json<StickBody>,
) -> Result<Response, ApiError> {
    let today = today();
    let job = bundles.start(move |stores, reporter| {
        let stick = Stick::open(&body.path)?;
        reporter.started()?;
        wants::write(stores, &stick, today, &HashSet::new()).map(|file| json!({ "wants": file }))
    });
    answer(job?).await
}

/// A refusal as a status; else the events as they come.
pub(crate) async fn answer(mut events: mpsc::Receiver<Event>) -> Result<Response, ApiError> {
    let first = match events.recv().await {
        Some(Event::Failed(error)) => return Err(error.into()),
        Some(first) => first,
        None => return Err(ApiError::internal("a job on a bundle ended without a word")),
    };
    let events = futures::stream::once(std::future::ready(first)).chain(ReceiverStream::new(events));
    let lines = events.map(|event| Ok::<_, Infallible>(line(event)));
    let headers = [(header::CONTENT_TYPE, NDJSON), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(lines)).into_response())
}

fn line(event: Event) -> Bytes {
    let mut line = to_json(event).to_string();
    line.push('\n');
    line.into()
}

fn to_json(event: Event) -> Value {
    match event {
        Event::Started => json!({ "event": "started" }),
        Event::Progress { phase, done_bytes, total_bytes } => {
            json!({ "event": "progress", "phase": phase, "done_bytes": done_bytes, "total_bytes": total_bytes })
        }
        Event::Done(report) => json!({ "event": "done", "report": report }),
        Event::Failed(error) => {
            json!({ "event": "failed", "code": error.code().as_str(), "detail": error.to_string() })
        }
    }
}
