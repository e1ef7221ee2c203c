//! `/api/v1/videos`: publish, list, show, stream.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
};
use mhc_api::{
    ApiError, Code, Operator, Routes,
    blobs::{self, BlobHead},
    extract::{Json, Path, Query},
    upload::{self, Upload},
};
use mhc_protocol::{
    AuthorId, BlobHash, RecordId,
    manifest::{MediaKind, Realm},
};
use mhc_storage::record::{IndexView, RecordsError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    NAME,
    core::{self, Listing, Publication, PublishError, Published, WithdrawError},
    index::{self, Entry, Place},
};
use crate::{
    Context,
    error::{records_error, within},
    time,
};

const DEFAULT_PAGE: usize = 50;
const MAX_PAGE: usize = 200;

pub(super) fn routes(context: Context) -> Routes {
    OpenApiRouter::new()
        .routes(routes!(feed))
        .routes(routes!(by_artist))
        .routes(routes!(show, withdraw))
        .routes(routes!(publish_blob))
        .routes(routes!(upload_file))
        .routes(routes!(stream, stream_head))
        .with_state(Arc::new(context))
}

type Shared = State<Arc<Context>>;

/// One piece of content as clients see it.
#[derive(Debug, Serialize, ToSchema)]
struct Item {
    /// Content id, 64 hex digits.
    content: String,
    title: String,
    description: String,
    tags: Vec<String>,
    #[schema(value_type = String)]
    realm: Realm,
    #[schema(value_type = String)]
    kind: MediaKind,
    /// The network it was published in.
    network: String,
    /// Author id, 64 hex digits.
    author: String,
    /// Hash of the original, 64 hex digits.
    blob: String,
    /// Length of the original.
    bytes: u64,
    content_type: String,
    file_name: Option<String>,
    duration_ms: Option<u64>,
    local: Local,
    /// RFC 3339, by the author's clock.
    published_at: String,
    /// Path of the original on this gateway.
    url: String,
    /// Whether a later manifest by the same author replaces it.
    replaced: bool,
}

/// How much of it is on this node.
#[derive(Debug, Serialize, ToSchema)]
struct Local {
    bytes: u64,
    complete: bool,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
struct Feed {
    items: Vec<Item>,
    /// Cursor of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Which page of a list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    /// 1 to 200, 50 when absent.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// Also what policy or a later version hides.
    #[serde(default)]
    all: bool,
    /// What was published in this network, which this node follows; in the home when absent.
    network: Option<String>,
}

/// What became of a publication.
#[derive(Debug, Serialize, ToSchema)]
pub struct PublishedBody {
    content: String,
    blob: String,
    bytes: u64,
    #[schema(value_type = String)]
    kind: MediaKind,
    /// Path of the original on this gateway.
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

fn stream_url(content: RecordId) -> String {
    format!("/api/v1/videos/{content}/stream")
}

impl Item {
    fn new(context: &Context, view: &IndexView<'_>, content: RecordId, entry: Entry) -> Result<Self, ApiError> {
        let replaced = index::is_replaced(view, content, entry.author).map_err(internal)?;
        let manifest = entry.manifest;
        let status = context.blobs.status(manifest.original.hash);
        let local = Local {
            bytes: status.as_ref().map_or(0, |status| status.local_bytes),
            complete: status.is_some_and(|status| status.complete),
        };
        Ok(Self {
            content: content.to_string(),
            title: manifest.title,
            description: manifest.description,
            tags: manifest.tags,
            realm: manifest.realm,
            kind: manifest.kind,
            network: entry.network.to_string(),
            author: entry.author.to_string(),
            blob: manifest.original.hash.to_string(),
            bytes: manifest.original.bytes,
            content_type: manifest.original.content_type,
            file_name: manifest.original.name,
            duration_ms: manifest.duration_ms,
            local,
            published_at: time::rfc3339(entry.at),
            url: stream_url(content),
            replaced,
        })
    }
}

fn internal(error: RecordsError) -> ApiError {
    ApiError::internal(error)
}

fn no_such_content() -> ApiError {
    ApiError::new(Code::NotFound, "there is no such content on this node")
}

/// What an id in a path names, or 404: to a client a malformed id and an unknown one are the same.
fn parse_id<T: std::str::FromStr>(text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|_| no_such_content())
}

fn find(context: &Context, content: RecordId) -> Result<Entry, ApiError> {
    let view = context.records.view(NAME).map_err(internal)?;
    let entry = index::entry(&view, content).map_err(internal)?;
    // What is left of a network that isn't followed any more isn't shown.
    entry.filter(|entry| context.within(Some(entry.network)).is_some()).ok_or_else(no_such_content)
}

fn page(context: &Context, author: Option<AuthorId>, query: &PageQuery) -> Result<Feed, ApiError> {
    let limit = query.limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(ApiError::new(Code::BadRequest, format!("limit must be 1 to {MAX_PAGE}")));
    }
    let after = match &query.cursor {
        Some(cursor) => Some(
            Place::from_cursor(cursor)
                .ok_or_else(|| ApiError::new(Code::BadRequest, "cursor must be the `next` of an earlier page"))?,
        ),
        None => None,
    };
    let context = &within(context, query.network.as_deref())?;
    let view = context.records.view(NAME).map_err(internal)?;
    let listing = Listing { network: context.publisher.network(), author, all: query.all, after, limit };
    let (entries, next) = core::list(&view, listing).map_err(internal)?;
    let items = entries.into_iter().map(|(content, entry)| Item::new(context, &view, content, entry));
    Ok(Feed { items: items.collect::<Result<_, _>>()?, next: next.map(Place::to_cursor) })
}

/// What this node knows of its network, newest first.
#[utoipa::path(get, path = "/api/v1/videos/feed", tag = "videos", params(PageQuery), responses((status = 200, body = Feed)))]
async fn feed(State(context): Shared, Query(query): Query<PageQuery>) -> Result<Json<Feed>, ApiError> {
    page(&context, None, &query).map(Json)
}

/// What one author published, newest first.
#[utoipa::path(
    get, path = "/api/v1/videos/artist/{id}", tag = "videos",
    params(("id" = String, Path, description = "author id"), PageQuery), responses((status = 200, body = Feed))
)]
async fn by_artist(
    State(context): Shared,
    Path(id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Feed>, ApiError> {
    page(&context, Some(parse_id(&id)?), &query).map(Json)
}

/// One piece of content.
#[utoipa::path(
    get, path = "/api/v1/videos/{id}", tag = "videos",
    params(("id" = String, Path, description = "content id")), responses((status = 200, body = Item), (status = 404))
)]
async fn show(State(context): Shared, Path(id): Path<String>) -> Result<Json<Item>, ApiError> {
    let content = parse_id(&id)?;
    let entry = find(&context, content)?;
    let view = context.records.view(NAME).map_err(internal)?;
    Item::new(&context, &view, content, entry).map(Json)
}

/// What became of a withdrawal.
#[derive(Debug, Serialize, ToSchema)]
struct Withdrawn {
    content: String,
    /// Id of the record that withdraws it.
    record: String,
}

/// Withdraws what this node published: nodes everywhere drop its title, description and all else that the manifest
/// says, as soon as they hear of it, and stop listing it.
#[utoipa::path(
    delete, path = "/api/v1/videos/{id}", tag = "videos", params(("id" = String, Path, description = "content id")),
    responses((status = 200, body = Withdrawn), (status = 401), (status = 403), (status = 404))
)]
async fn withdraw(
    State(context): Shared,
    _operator: Operator,
    Path(id): Path<String>,
) -> Result<Json<Withdrawn>, ApiError> {
    let content = parse_id(&id)?;
    let entry = find(&context, content)?;
    let record = core::withdraw(&context, content, &entry).await?;
    Ok(Json(Withdrawn { content: content.to_string(), record: record.to_string() }))
}

/// The original's bytes, with ranges; what isn't here is fetched, verified and streamed as it comes.
#[utoipa::path(
    get, path = "/api/v1/videos/{id}/stream", tag = "videos",
    params(("id" = String, Path, description = "content id")),
    responses((status = 200), (status = 206), (status = 304), (status = 404), (status = 416), (status = 504))
)]
async fn stream(
    State(context): Shared,
    Path(id): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let original = find(&context, parse_id(&id)?)?.manifest.original;
    let head = BlobHead {
        hash: original.hash,
        size_bytes: context.source.size(original.hash).await?,
        content_type: original.content_type,
        name: original.name,
    };
    blobs::respond(Arc::clone(&context.source), head, &method, &headers).await
}

/// Length and type of the original.
#[utoipa::path(
    head, path = "/api/v1/videos/{id}/stream", tag = "videos",
    params(("id" = String, Path, description = "content id")), responses((status = 200), (status = 404), (status = 504))
)]
async fn stream_head(
    context: Shared,
    id: Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    stream(context, id, method, headers).await
}

/// A blob that is here already, to be published.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PublishBody {
    /// Hash of a complete local blob.
    blob: String,
    title: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    #[schema(value_type = String)]
    realm: Realm,
    file_name: Option<String>,
    /// Where, of the networks that this node follows; at home when absent.
    network: Option<String>,
}

/// Publishes a blob that was added before.
#[utoipa::path(
    post, path = "/api/v1/videos", tag = "videos", request_body = PublishBody,
    responses((status = 201, body = PublishedBody), (status = 200, body = PublishedBody), (status = 401), (status = 404))
)]
async fn publish_blob(
    State(context): Shared,
    _operator: Operator,
    Json(body): Json<PublishBody>,
) -> Result<Response, ApiError> {
    let context = within(&context, body.network.as_deref())?;
    let hash: BlobHash =
        body.blob.parse().map_err(|error| ApiError::new(Code::BadRequest, format!("blob: {error}")))?;
    let publication = Publication {
        title: body.title,
        description: body.description,
        tags: body.tags,
        realm: body.realm,
        file_name: body.file_name,
    };
    match context.blobs.status(hash) {
        Some(status) if status.complete => publish_response(&context, hash, status.size_bytes, publication).await,
        _ => Err(ApiError::new(Code::NotFound, "this blob isn't complete on this node; add it with POST /blobs first")),
    }
}

/// Uploads and publishes a file: `multipart/form-data` with the text fields `title`, `description`, `tags`
/// (repeated), `realm` and `network`, and the file as `file`.
#[utoipa::path(
    post, path = "/api/v1/videos/upload", tag = "videos",
    responses((status = 201, body = PublishedBody), (status = 200, body = PublishedBody), (status = 400), (status = 401), (status = 413), (status = 507))
)]
async fn upload_file(
    State(context): Shared,
    _operator: Operator,
    request: axum::extract::Request,
) -> Result<Response, ApiError> {
    let mut upload = upload::receive(request, &context.blobs, context.max_upload_bytes).await?;
    let context = within(&context, upload.take("network").as_deref().filter(|network| !network.is_empty()))?;
    // Held until the blob is pinned: it can't be evicted before.
    let imported = upload.blob.clone();
    publish_response(&context, imported.hash, imported.bytes, publication(upload)?).await
}

fn publication(mut upload: Upload) -> Result<Publication, ApiError> {
    let realm = match upload.take("realm").as_deref() {
        None | Some("") => Realm::default(),
        Some("inferno") => Realm::Inferno,
        Some("purgatorio") => Realm::Purgatorio,
        Some("paradiso") => Realm::Paradiso,
        Some(_) => return Err(ApiError::new(Code::BadRequest, "realm must be inferno, purgatorio or paradiso")),
    };
    Ok(Publication {
        title: upload.take("title"),
        description: upload.take("description").unwrap_or_default(),
        // A form may send one field for each tag, or all of them in one, separated by commas.
        tags: upload.take_all("tags").iter().flat_map(|tags| tags.split(',')).map(str::to_owned).collect(),
        realm,
        file_name: upload.file_name,
    })
}

/// Publishes a complete local blob and says what became of it: 201, or 200 when it was published before.
pub async fn publish_and_tell(
    context: &Context,
    hash: BlobHash,
    bytes: u64,
    publication: Publication,
) -> Result<(StatusCode, PublishedBody), ApiError> {
    let published = core::publish(context, hash, bytes, publication).await?;
    let status = if published.new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, PublishedBody::new(published, hash, bytes)))
}

async fn publish_response(
    context: &Context,
    hash: BlobHash,
    bytes: u64,
    publication: Publication,
) -> Result<Response, ApiError> {
    let (status, body) = publish_and_tell(context, hash, bytes, publication).await?;
    Ok((status, Json(body)).into_response())
}

impl PublishedBody {
    fn new(published: Published, hash: BlobHash, bytes: u64) -> Self {
        Self {
            content: published.content.to_string(),
            blob: hash.to_string(),
            bytes,
            kind: published.kind,
            url: stream_url(published.content),
            note: published.note,
        }
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Manifest(error) => Self::new(Code::BadRequest, error.to_string()),
            PublishError::Inspect(error) => Self::internal(error),
            PublishError::Blob(error) => error.into(),
            PublishError::Records(error) => records_error(error),
        }
    }
}

impl From<WithdrawError> for ApiError {
    fn from(error: WithdrawError) -> Self {
        match error {
            WithdrawError::NotOurs => Self::new(Code::Forbidden, error.to_string()),
            WithdrawError::Records(error) => records_error(error),
            WithdrawError::Blob(error) => error.into(),
            WithdrawError::Body(error) => Self::internal(error),
        }
    }
}

/// Media type and file name that a manifest gives this blob, for answers that know only its hash.
pub fn content_type_of(context: &Context, hash: BlobHash) -> Option<(String, Option<String>)> {
    let view = context.records.view(NAME).ok()?;
    let (_, entry) = index::entries_of_blob(&view, hash, 1).ok()?.pop()?;
    Some((entry.manifest.original.content_type, entry.manifest.original.name))
}
