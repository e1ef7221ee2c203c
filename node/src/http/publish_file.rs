//! Publishing a file of the node's own machine, without sending it through HTTP.

use std::{convert::Infallible, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use mhc_api::{ApiError, Code, Operator, extract::Json};
use mhc_platform::{
    catalog::{self, PublishedBody},
    within,
};
use mhc_protocol::manifest::Realm;
use mhc_storage::blob::{ImportMode, ImportPhase, ImportProgress, OnProgress};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use utoipa::ToSchema;

use super::{Operations, Shared};

/// The media type of a line of JSON for each event.
const NDJSON: &str = "application/x-ndjson";
/// Progress is told so often at most.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// A file on the node's own disk.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileBody {
    /// Absolute path on the node's machine.
    #[schema(value_type = String)]
    path: PathBuf,
    /// Copy it into the store instead of keeping it where it is.
    #[serde(default)]
    copy: bool,
    title: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    #[schema(value_type = String)]
    realm: Realm,
    /// Where, of the networks that this node follows; at home when absent.
    network: Option<String>,
}

type Told = Result<(StatusCode, PublishedBody), ApiError>;

/// Publishes a file of the node's machine where it lies, or with `copy` a copy of it.
///
/// With `Accept: application/x-ndjson` the answer is a line of JSON for each event: `progress` now and then, and last
/// `done` with the report or `failed` with a problem's code and words.
#[utoipa::path(
    post, path = "/api/v1/videos/reference", tag = "videos", request_body = FileBody,
    responses((status = 201), (status = 400), (status = 401), (status = 403, description = "the node may not read it"))
)]
pub(super) async fn publish_reference(
    State(ops): Shared,
    _operator: Operator,
    headers: HeaderMap,
    Json(body): Json<FileBody>,
) -> Result<Response, ApiError> {
    if !body.path.is_absolute() {
        return Err(ApiError::new(Code::BadRequest, "path must be absolute"));
    }
    within(&ops.context, body.network.as_deref())?;
    // Told apart from what may go wrong later: whoever can send the file instead then does.
    if let Err(error) = tokio::fs::File::open(&body.path).await {
        let code = if error.kind() == std::io::ErrorKind::NotFound { Code::NotFound } else { Code::Forbidden };
        return Err(ApiError::new(code, format!("this node can't read {}: {error}", body.path.display())));
    }
    let asked = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if asked.is_some_and(|types| types.contains(NDJSON)) {
        return Ok(told_as_it_goes(ops, body));
    }
    let (status, published) = publish(ops, body, Arc::new(|_: ImportProgress| {})).await?;
    Ok((status, Json(published)).into_response())
}

async fn publish(ops: Arc<Operations>, body: FileBody, progress: OnProgress) -> Told {
    let mode = if body.copy { ImportMode::Copy } else { ImportMode::Reference };
    // Held until the blob is pinned: it can't be evicted before.
    let imported = ops.context.blobs.import_file(&body.path, mode, progress).await?;
    let publication = catalog::Publication {
        title: body.title,
        description: body.description,
        tags: body.tags,
        realm: body.realm,
        file_name: body.path.file_name().map(|name| name.to_string_lossy().into_owned()),
    };
    let context = within(&ops.context, body.network.as_deref())?;
    catalog::publish_and_tell(&context, imported.hash, imported.bytes, publication).await
}

/// The work, how far it is, and whether its end has been told.
struct Work {
    result: Pin<Box<dyn Future<Output = Told> + Send>>,
    progress: watch::Receiver<Option<ImportProgress>>,
    ended: bool,
}

fn told_as_it_goes(ops: Arc<Operations>, body: FileBody) -> Response {
    let (sender, progress) = watch::channel(None);
    let on_progress: OnProgress = Arc::new(move |progress| {
        // Who asked may have gone away.
        let _ = sender.send(Some(progress));
    });
    let work = Work { result: Box::pin(publish(ops, body, on_progress)), progress, ended: false };
    let lines = stream::unfold(work, |mut work| async move {
        if work.ended {
            return None;
        }
        let event = tokio::select! {
            biased;
            told = &mut work.result => {
                work.ended = true;
                last(told)
            }
            event = next(&mut work.progress) => event,
        };
        Some((Ok::<_, Infallible>(Bytes::from(format!("{event}\n"))), work))
    });
    let headers = [(header::CONTENT_TYPE, NDJSON), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(lines)).into_response()
}

async fn next(progress: &mut watch::Receiver<Option<ImportProgress>>) -> Value {
    tokio::time::sleep(TELL_EVERY).await;
    // After the last one the result is all there is to come.
    if progress.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    let Some(ImportProgress { phase, bytes_done, bytes_total }) = *progress.borrow_and_update() else {
        return json!({ "event": "started" });
    };
    let phase = match phase {
        ImportPhase::Copying => "copying",
        _ => "hashing",
    };
    json!({ "event": "progress", "phase": phase, "done_bytes": bytes_done, "total_bytes": bytes_total })
}

fn last(told: Told) -> Value {
    match told {
        Ok((_, published)) => json!({ "event": "done", "report": published }),
        Err(error) => json!({ "event": "failed", "code": error.code().as_str(), "detail": error.message() }),
    }
}
