//! Blobs over HTTP: whole, in ranges, and as slices that prove themselves.
//!
//! [`respond`] is for every route that serves bytes (a service's `/stream` too). It holds back the head of the answer
//! until the first verified bytes are there, so that "nobody has it" can still be said with a status. After that an
//! error cuts the connection: a body is never padded or ended as if it were complete. Dropping the body (the client
//! went away) drops the source's stream, which withdraws the demand.

use std::{ops::Range, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bao_tree::{ChunkNum, ChunkRanges, io::round_up_to_chunks_groups};
use futures::{Stream, StreamExt, stream, stream::BoxStream};
use mhc_protocol::BlobHash;
use mhc_storage::{
    blob::{BLOCK_SIZE, BlobStore},
    source::{RangeSource, SourceError},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth::Operator,
    error::{ApiError, Problem, range_not_satisfiable},
    extract::{Json, Path, Query},
    range::{self, RangeOutcome},
    upload,
};

/// What is said about a blob in the head of an answer.
#[derive(Debug, Clone)]
pub struct BlobHead {
    /// Which blob; also its ETag.
    pub hash: BlobHash,
    /// Its verified size.
    pub size_bytes: u64,
    /// Its media type. Only types that can't carry script are shown in the page; the rest is sent as an attachment.
    pub content_type: String,
    /// The name to save it under.
    pub name: Option<String>,
}

/// A blob's media type and file name, when something is known of it (a manifest names it).
pub type DescribeBlob = Arc<dyn Fn(BlobHash) -> Option<(String, Option<String>)> + Send + Sync>;

/// Hashes name their bytes for ever.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";
/// How much is read to tell a blob's type by its first bytes.
const SNIFF_BYTES: u64 = 4096;
/// Answer pieces under way from the store to the connection, for bao slices.
const BAO_PIECES: usize = 4;

type Bytestream = BoxStream<'static, Result<Bytes, SourceError>>;

/// Answers a GET or HEAD for the blob of `head`: 200, 206 (one range or `multipart/byteranges`), 304 or 416.
///
/// Returns once the first verified bytes are there. `Err` is 504 `no_source` and the like; the source decides how long
/// it looks (10 s by contract).
pub async fn respond(
    source: Arc<dyn RangeSource>,
    head: BlobHead,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let etag = format!("\"{}\"", head.hash);
    if text(headers, header::IF_NONE_MATCH).is_some_and(|tags| range::none_match_hits(tags, &etag)) {
        return build(StatusCode::NOT_MODIFIED, &etag, Body::empty(), &[]);
    }
    match requested(method, headers, &etag, head.size_bytes) {
        RangeOutcome::Unsatisfiable => Err(range_not_satisfiable(head.size_bytes)),
        RangeOutcome::Full => {
            let body = body(&source, &head, method, 0..head.size_bytes).await?;
            with_head(StatusCode::OK, &etag, &head, body, head.size_bytes, &head.content_type, None)
        }
        RangeOutcome::Single(range) => {
            let length = range.end - range.start;
            let content_range = content_range(&range, head.size_bytes);
            let body = body(&source, &head, method, range).await?;
            with_head(StatusCode::PARTIAL_CONTENT, &etag, &head, body, length, &head.content_type, Some(content_range))
        }
        RangeOutcome::Several(ranges) => several(source, head, &etag, ranges).await,
    }
}

/// Ranges count for GET only (RFC 9110, 14.2), and only in one header.
fn requested(method: &Method, headers: &HeaderMap, etag: &str, size_bytes: u64) -> RangeOutcome {
    let applies = *method == Method::GET && range::if_range_holds(text(headers, header::IF_RANGE), etag);
    let header = text(headers, header::RANGE).filter(|_| applies);
    range::parse(header, size_bytes)
}

/// The first byte that is asked for, as far as that can be told before the size is known.
fn first_byte(method: &Method, headers: &HeaderMap) -> Option<u64> {
    let whole = *method == Method::GET && !headers.contains_key(header::IF_NONE_MATCH);
    whole.then(|| range::first_byte(text(headers, header::RANGE))).flatten()
}

/// The one value of a header. Something unreadable or repeated counts as a value that matches nothing.
fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(&name).iter();
    let first = values.next()?;
    match values.next() {
        None => Some(first.to_str().unwrap_or("")),
        Some(_) => Some(""),
    }
}

async fn body(
    source: &Arc<dyn RangeSource>,
    head: &BlobHead,
    method: &Method,
    range: Range<u64>,
) -> Result<Body, ApiError> {
    if *method == Method::HEAD || range.is_empty() {
        return Ok(Body::empty());
    }
    Ok(Body::from_stream(begun(exactly(source, head.hash, range)).await?))
}

/// The bytes of `range`: that many, or an error.
fn exactly(source: &Arc<dyn RangeSource>, hash: BlobHash, range: Range<u64>) -> Bytestream {
    let bytes = source.read(hash, range.clone());
    stream::unfold(Some((bytes, range.end - range.start)), |state| async move {
        let (mut bytes, left) = state?;
        match bytes.next().await {
            None if left == 0 => None,
            None => Some((Err(SourceError::Lost), None)),
            Some(Err(error)) => Some((Err(error), None)),
            Some(Ok(piece)) => match left.checked_sub(piece.len() as u64) {
                Some(left) => Some((Ok(piece), Some((bytes, left)))),
                None => Some((Err(SourceError::Internal("a source gave more than was asked".into())), None)),
            },
        }
    })
    .boxed()
}

/// Waits for the first piece; an error before it can still become a status.
async fn begun(mut bytes: Bytestream) -> Result<Bytestream, ApiError> {
    match bytes.next().await {
        None => Ok(stream::empty().boxed()),
        Some(Err(error)) => Err(error.into()),
        Some(first) => Ok(stream::once(async { first }).chain(bytes).boxed()),
    }
}

/// `multipart/byteranges`. The blob's own hash can't occur inside it, so it makes a good boundary.
async fn several(
    source: Arc<dyn RangeSource>,
    head: BlobHead,
    etag: &str,
    ranges: Vec<Range<u64>>,
) -> Result<Response, ApiError> {
    let boundary = head.hash.to_string();
    let inner_type = safe_header(&head.content_type).unwrap_or("application/octet-stream").to_owned();
    let part_head = |range: &Range<u64>| {
        let content_range = content_range(range, head.size_bytes);
        format!("\r\n--{boundary}\r\nContent-Type: {inner_type}\r\nContent-Range: {content_range}\r\n\r\n")
    };
    let end = format!("\r\n--{boundary}--\r\n");
    let part_bytes = |range: &Range<u64>| part_head(range).len() as u64 + (range.end - range.start);
    let length = ranges.iter().map(part_bytes).sum::<u64>() + end.len() as u64;

    let heads: Vec<String> = ranges.iter().map(part_head).collect();
    let mut parts = heads.into_iter().zip(ranges);
    let Some((first_head, first_range)) = parts.next() else { return Err(ApiError::internal("no range to send")) };
    let first = begun(exactly(&source, head.hash, first_range)).await?;
    let hash = head.hash;
    let literal = |text: String| stream::once(async { Ok::<_, SourceError>(Bytes::from(text)) });
    let rest = stream::iter(parts)
        .flat_map(move |(part_head, range)| literal(part_head).chain(exactly(&source, hash, range)))
        .boxed();
    let body = Body::from_stream(literal(first_head).chain(first).chain(rest).chain(literal(end)));
    let media_type = format!("multipart/byteranges; boundary={boundary}");
    with_head(StatusCode::PARTIAL_CONTENT, etag, &head, body, length, &media_type, None)
}

fn content_range(range: &Range<u64>, size_bytes: u64) -> String {
    format!("bytes {}-{}/{size_bytes}", range.start, range.end - 1)
}

fn with_head(
    status: StatusCode,
    etag: &str,
    head: &BlobHead,
    body: Body,
    length: u64,
    media_type: &str,
    content_range: Option<String>,
) -> Result<Response, ApiError> {
    let inline = shown_inline(&head.content_type);
    let policy = if inline { "frame-ancestors 'self'" } else { "sandbox; default-src 'none'; frame-ancestors 'none'" };
    let media_type = safe_header(media_type).unwrap_or("application/octet-stream");
    let mut fields = vec![
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CONTENT_TYPE, media_type.to_owned()),
        (header::CONTENT_DISPOSITION, disposition(inline, head.name.as_deref())),
        (header::CONTENT_SECURITY_POLICY, policy.to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    fields.extend(content_range.map(|value| (header::CONTENT_RANGE, value)));
    build(status, etag, body, &fields)
}

fn build(status: StatusCode, etag: &str, body: Body, fields: &[(HeaderName, String)]) -> Result<Response, ApiError> {
    let mut response = Response::builder()
        .status(status)
        .header(header::ETAG, etag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CACHE_CONTROL, IMMUTABLE);
    for (name, value) in fields {
        response = response.header(name, value);
    }
    response.body(body).map_err(ApiError::internal)
}

/// `value` when it can stand in a header.
fn safe_header(value: &str) -> Option<&str> {
    (!value.is_empty() && HeaderValue::from_str(value).is_ok() && value.is_ascii()).then_some(value)
}

/// Media that a browser shows without running anything in it. SVG, HTML, XML and PDF aren't.
fn shown_inline(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let playable = essence.strip_prefix("video/").or(essence.strip_prefix("audio/"));
    let token = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-+_".contains(&byte));
    let image = matches!(essence.as_str(), "image/png" | "image/jpeg" | "image/gif" | "image/webp" | "image/avif");
    image || playable.is_some_and(|name| !name.is_empty() && token(name) && !name.ends_with("xml"))
}

/// `Content-Disposition` with the name in both spellings of RFC 6266.
fn disposition(inline: bool, name: Option<&str>) -> String {
    let kind = if inline { "inline" } else { "attachment" };
    let Some(name) = name.map(plain_name).filter(|name| !name.is_empty()) else { return kind.to_owned() };
    let ascii: String = name.chars().map(|c| if c.is_ascii() && !"\"\\%".contains(c) { c } else { '_' }).collect();
    if ascii == name {
        format!("{kind}; filename=\"{ascii}\"")
    } else {
        format!("{kind}; filename=\"{ascii}\"; filename*=UTF-8''{}", ext_value(&name))
    }
}

/// A file name without folders, control characters or marks that turn the writing direction; at most 120 characters,
/// the ending kept.
fn plain_name(name: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let base = name.rsplit(['/', '\\']).next().unwrap_or("");
    let clean: Vec<char> = base.chars().filter(|c| !c.is_control() && !turns(*c)).collect();
    let skip = clean.len().saturating_sub(120);
    let text: String = clean[skip..].iter().collect();
    text.trim().trim_start_matches('.').to_owned()
}

/// RFC 5987 `value-chars`.
fn ext_value(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// What the blob routes need.
#[derive(Clone)]
pub(crate) struct BlobRoutes {
    pub(crate) source: Arc<dyn RangeSource>,
    pub(crate) store: BlobStore,
    pub(crate) describe: Option<DescribeBlob>,
    pub(crate) limit_bytes: u64,
}

pub(crate) fn routes(state: BlobRoutes) -> crate::Routes {
    let mut routes: crate::Routes =
        OpenApiRouter::new().routes(routes!(get_blob, head_blob)).routes(routes!(add_blob)).with_state(state);
    // The router can't match `{hash}.bao`; get_blob tells the two apart. Here it is for the reader of the OpenAPI.
    #[derive(utoipa::OpenApi)]
    #[openapi(paths(bao_slice_described))]
    struct Bao;
    routes.get_openapi_mut().merge(<Bao as utoipa::OpenApi>::openapi());
    routes
}

/// Which slice of a blob.
#[derive(Debug, Deserialize, IntoParams)]
pub(crate) struct SliceQuery {
    /// `a-b`, first and last byte as in a Range header; `a-` to the end; the whole when absent.
    range: Option<String>,
}

/// A blob's bytes
///
/// What isn't local is fetched, verified and streamed as it comes.
#[utoipa::path(get, path = "/blobs/{hash}", tag = "blobs",
    params(("hash" = String, Path, description = "BLAKE3 hash, 64 hex digits")),
    responses(
        (status = 200, description = "All of it", content_type = "application/octet-stream"),
        (status = 206, description = "One range, or multipart/byteranges", content_type = "application/octet-stream"),
        (status = 304, description = "The client has it"),
        (status = 404, description = "Not a hash", body = Problem, content_type = "application/problem+json"),
        (status = 416, description = "Range outside the blob", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "no_source: nobody reachable has it", body = Problem, content_type = "application/problem+json"),
    ))]
async fn get_blob(
    State(state): State<BlobRoutes>,
    Path(name): Path<String>,
    slice: Query<SliceQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    match name.strip_suffix(".bao") {
        Some(hash) => bao_slice(state, parse_hash(hash)?, slice.0, &method).await,
        None => {
            let head = state.head(parse_hash(&name)?, first_byte(&method, &headers)).await?;
            respond(state.source, head, &method, &headers).await
        }
    }
}

/// A blob's size and type
#[utoipa::path(head, path = "/blobs/{hash}", tag = "blobs",
    params(("hash" = String, Path, description = "BLAKE3 hash, 64 hex digits")),
    responses((status = 200, description = "Size and type"), (status = 404, description = "Not a hash"),
        (status = 504, description = "Nobody reachable has it")))]
async fn head_blob(
    state: State<BlobRoutes>,
    name: Path<String>,
    slice: Query<SliceQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    get_blob(state, name, slice, method, headers).await
}

/// What `POST /blobs` answers.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct AddedBlob {
    /// BLAKE3 hash, 64 hex digits.
    blob: String,
    /// Its size.
    bytes: u64,
}

/// Add a blob without publishing it
#[utoipa::path(post, path = "/blobs", tag = "blobs", request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "It is in the store", body = AddedBlob),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 507, body = Problem, content_type = "application/problem+json"),
    ))]
async fn add_blob(
    State(state): State<BlobRoutes>,
    _operator: Operator,
    request: Request,
) -> Result<impl IntoResponse, ApiError> {
    let imported = upload::receive_raw(request, &state.store, state.limit_bytes).await?;
    let location = [(header::LOCATION, format!("/blobs/{}", imported.hash))];
    let added = AddedBlob { blob: imported.hash.to_string(), bytes: imported.bytes };
    Ok((StatusCode::CREATED, location, Json(added)))
}

/// A slice of a blob that proves itself
///
/// 8 bytes: the blob's size, little endian. Then the bao encoding (bao-tree, chunk groups of 16 KiB) of the chunk
/// groups that cover the range: in pre-order, 64-byte pairs of child hashes for each node that has more than one
/// group below and touches the range, and the bytes of each group that does. A client checks it against the hash,
/// piece by piece; the size itself is proven when the slice holds the blob's last group.
#[utoipa::path(get, path = "/blobs/{hash}.bao", tag = "blobs",
    params(("hash" = String, Path, description = "BLAKE3 hash, 64 hex digits"), SliceQuery),
    responses(
        (status = 200, description = "Size and bao stream", content_type = "application/octet-stream"),
        (status = 400, description = "range isn't `a-b`", body = Problem, content_type = "application/problem+json"),
        (status = 416, description = "Outside the blob", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "no_source", body = Problem, content_type = "application/problem+json"),
    ))]
#[allow(dead_code, reason = "only its description is used, see routes()")]
fn bao_slice_described() {}

fn parse_hash(text: &str) -> Result<BlobHash, ApiError> {
    text.parse().map_err(|_| ApiError::not_found("A blob is named by 64 hexadecimal digits."))
}

impl BlobRoutes {
    /// What is known of a blob; `from` is the first byte that will be sent, if one will be.
    async fn head(&self, hash: BlobHash, from: Option<u64>) -> Result<BlobHead, ApiError> {
        let size_bytes = match from {
            Some(from) => self.source.size_and_start(hash, from).await?,
            None => self.source.size(hash).await?,
        };
        let known = self.describe.as_ref().and_then(|describe| describe(hash));
        let (content_type, name) = match known {
            Some(known) => known,
            None => (self.sniff(hash, size_bytes).await, None),
        };
        Ok(BlobHead { hash, size_bytes, content_type, name })
    }

    /// The type by the first bytes, where they are here; nothing is fetched just to name it.
    async fn sniff(&self, hash: BlobHash, size_bytes: u64) -> String {
        let mut bytes = self.store.read_local(hash, 0..size_bytes.min(SNIFF_BYTES));
        let mut first = Vec::new();
        while let Some(Ok(piece)) = bytes.next().await {
            first.extend_from_slice(&piece);
        }
        infer::get(&first).map_or("application/octet-stream", |kind| kind.mime_type()).to_owned()
    }
}

async fn bao_slice(
    state: BlobRoutes,
    hash: BlobHash,
    query: SliceQuery,
    method: &Method,
) -> Result<Response, ApiError> {
    let size_bytes = state.source.size(hash).await?;
    let range = slice_range(query.range.as_deref(), size_bytes)?;
    let chunks = chunk_groups(&range);
    let etag = format!("\"{hash}.bao.{}-{}\"", range.start, range.end);
    let fields = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, "attachment".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    if *method == Method::HEAD {
        return build(StatusCode::OK, &etag, Body::empty(), &fields);
    }
    make_local(&state, hash, range, &chunks, size_bytes).await?;
    let size = Bytes::copy_from_slice(&size_bytes.to_le_bytes());
    let encoded = begun(encode(state.store, hash, chunks).boxed()).await?;
    let body = stream::once(async { Ok(size) }).chain(encoded);
    build(StatusCode::OK, &etag, Body::from_stream(body), &fields)
}

/// `a-b` (both included) or `a-`. An end behind the blob is cut, a start behind it is 416.
fn slice_range(text: Option<&str>, size_bytes: u64) -> Result<Range<u64>, ApiError> {
    let Some(text) = text else { return Ok(0..size_bytes) };
    let malformed = || ApiError::bad_request("range is `a-b`: the first and the last byte, or `a-`.");
    if text.starts_with('-') || text.contains(',') {
        return Err(malformed());
    }
    match range::parse(Some(&format!("bytes={text}")), size_bytes) {
        RangeOutcome::Single(range) => Ok(range),
        RangeOutcome::Unsatisfiable => Err(range_not_satisfiable(size_bytes)),
        RangeOutcome::Full | RangeOutcome::Several(_) => Err(malformed()),
    }
}

/// The whole chunk groups around a byte range.
fn chunk_groups(range: &Range<u64>) -> ChunkRanges {
    let chunks = ChunkRanges::from(ChunkNum::full_chunks(range.start)..ChunkNum::chunks(range.end));
    round_up_to_chunks_groups(chunks, BLOCK_SIZE)
}

/// Reads the range through the source, which leaves it in the store.
async fn make_local(
    state: &BlobRoutes,
    hash: BlobHash,
    range: Range<u64>,
    chunks: &ChunkRanges,
    size_bytes: u64,
) -> Result<(), ApiError> {
    let all = ChunkRanges::from(..ChunkNum::chunks(size_bytes));
    let wanted = chunks & &all;
    if state.store.status(hash).is_some_and(|blob| blob.complete || blob.ranges.is_superset(&wanted)) {
        return Ok(());
    }
    let mut bytes = state.source.read(hash, range);
    while let Some(piece) = bytes.next().await {
        piece?;
    }
    Ok(())
}

/// The store's encoding as a stream that ends with the store's own error, if it has one.
fn encode(
    store: BlobStore,
    hash: BlobHash,
    chunks: ChunkRanges,
) -> impl Stream<Item = Result<Bytes, SourceError>> + Send {
    let (out, pieces) = mpsc::channel(BAO_PIECES);
    let mut task = JoinSet::new(); // aborts when the stream is dropped
    task.spawn(async move { store.encode(hash, chunks, out).await });
    let end = async move {
        match task.join_next().await {
            Some(Ok(Ok(_))) | None => None,
            Some(Ok(Err(error))) => Some(Err(SourceError::from(error))),
            Some(Err(error)) => Some(Err(SourceError::Internal(error.to_string()))),
        }
    };
    ReceiverStream::new(pieces).map(Ok).chain(stream::once(end).filter_map(futures::future::ready))
}
