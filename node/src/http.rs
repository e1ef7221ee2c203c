//! `/api/v1/node`: what the operator sees and does.

mod links;
mod networks;
mod publish_file;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Instant,
};

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use mhc_api::{
    ApiError, Code, Operator, Routes,
    extract::{Json, Path, Query},
};
use mhc_platform::{Context, catalog, within};
use mhc_protocol::{BlobHash, NodeId, RecordId, mode::Mode, ticket::Ticket};
use mhc_storage::record::{Health, RecordsError};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    checks,
    doctor::Check,
    fetch::{Fetcher, Progress},
    forget,
    mode::ShutdownMode,
    net::{Net, NetError, PeerInfo},
    pins::Pins,
    satellite::Satellite,
};

/// What the operator's routes need of the node.
pub(crate) struct Operations {
    pub(crate) context: Context,
    pub(crate) net: Net,
    pub(crate) fetcher: Fetcher,
    pub(crate) pins: Pins,
    pub(crate) satellite: Arc<Satellite>,
    pub(crate) mode: ShutdownMode,
    /// Where the gateway listens, once it does.
    pub(crate) http: Arc<OnceLock<SocketAddr>>,
    pub(crate) started: Instant,
}

type Shared = State<Arc<Operations>>;

pub(crate) fn routes(operations: Operations) -> Routes {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(peers, add_peer))
        .routes(routes!(links::links))
        .routes(routes!(storage))
        .routes(routes!(jobs))
        .routes(routes!(ticket))
        .routes(routes!(blob))
        .routes(routes!(fetch_blob))
        .routes(routes!(pin, unpin))
        .routes(routes!(gc))
        .routes(routes!(run_doctor))
        .routes(routes!(digest))
        .routes(routes!(publish_file::publish_reference))
        .routes(routes!(networks::list, networks::follow))
        .routes(routes!(networks::unfollow))
        .routes(routes!(networks::set_interest))
        .with_state(Arc::new(operations))
}

/// The node at a glance.
#[derive(Debug, Serialize, ToSchema)]
struct NodeStatus {
    node: String,
    network: String,
    version: &'static str,
    uptime_s: u64,
    http: String,
    /// Peers with a connection now.
    peers: usize,
    records: u64,
    blobs: BlobCount,
    /// `normal`, `shutdown` when it goes on by itself, or `read_only` when the disk is full or failing.
    mode: &'static str,
    /// Why it is read-only.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct BlobCount {
    count: u64,
    bytes: u64,
}

/// The node at a glance.
#[utoipa::path(get, path = "/api/v1/node", tag = "node", responses((status = 200, body = NodeStatus)))]
async fn status(State(ops): Shared) -> Result<Json<NodeStatus>, ApiError> {
    let usage = ops.context.blobs.usage();
    let reason = match ops.context.records.health() {
        Health::ReadWrite => None,
        Health::ReadOnly { reason } => Some(reason),
    };
    Ok(Json(NodeStatus {
        node: ops.net.node().to_string(),
        network: ops.context.publisher.network().to_string(),
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: ops.started.elapsed().as_secs(),
        http: ops.http.get().map(|addr| format!("http://{addr}")).unwrap_or_default(),
        peers: ops.net.connected_count(),
        records: ops.context.records.count().map_err(ApiError::internal)?,
        blobs: BlobCount { count: usage.blobs, bytes: usage.owned_bytes + usage.referenced_bytes },
        mode: match (reason.is_some(), ops.mode.mode()) {
            (true, _) => "read_only",
            (false, Mode::Shutdown) => "shutdown",
            (false, Mode::Normal) => "normal",
        },
        reason,
    }))
}

/// Known peers, connected ones first.
#[utoipa::path(get, path = "/api/v1/node/peers", tag = "node", responses((status = 200, body = Vec<Object>)))]
async fn peers(State(ops): Shared) -> Json<Vec<PeerInfo>> {
    Json(ops.net.peers())
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AddPeer {
    /// What `mhc ticket` prints on the other node.
    ticket: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct AddedPeer {
    #[schema(value_type = String)]
    node: NodeId,
}

/// Remembers a peer by its ticket and connects to it.
#[utoipa::path(
    post, path = "/api/v1/node/peers", tag = "node", request_body = AddPeer,
    responses((status = 201, body = AddedPeer), (status = 400), (status = 401), (status = 409))
)]
async fn add_peer(
    State(ops): Shared,
    _operator: Operator,
    Json(body): Json<AddPeer>,
) -> Result<(StatusCode, Json<AddedPeer>), ApiError> {
    let ticket: Ticket =
        body.ticket.parse().map_err(|error| ApiError::new(Code::BadRequest, format!("ticket: {error}")))?;
    let node = ticket.node;
    ops.net.add_peer(ticket).await.map_err(net_error)?;
    Ok((StatusCode::CREATED, Json(AddedPeer { node })))
}

/// What the network's refusals are to a client.
fn net_error(error: NetError) -> ApiError {
    let code = match error {
        NetError::OwnTicket | NetError::OtherNetwork { .. } | NetError::TooManyNetworks { .. } | NetError::Home => {
            Code::Conflict
        }
        NetError::Channels { .. } => Code::BadRequest,
        NetError::NotFollowed => Code::NotFound,
        NetError::Stopped => Code::Unavailable,
        error => return ApiError::internal(error),
    };
    ApiError::new(code, error.to_string())
}

#[derive(Debug, Serialize, ToSchema)]
struct Storage {
    blobs: u64,
    /// Verified bytes in the node's own files.
    owned_bytes: u64,
    /// Of them, bytes that are never evicted.
    pinned_bytes: u64,
    /// Bytes of files published where they lie.
    referenced_bytes: u64,
    /// What counts against the quota.
    quota_used_bytes: u64,
    quota_bytes: Option<u64>,
    items: Vec<StoredBlob>,
}

#[derive(Debug, Serialize, ToSchema)]
struct StoredBlob {
    blob: String,
    size_bytes: u64,
    local_bytes: u64,
    complete: bool,
    pinned: bool,
    referenced: bool,
}

/// What is kept here.
#[utoipa::path(get, path = "/api/v1/node/storage", tag = "node", responses((status = 200, body = Storage)))]
async fn storage(State(ops): Shared) -> Json<Storage> {
    let usage = ops.context.blobs.usage();
    let items = ops.context.blobs.list().into_iter().map(|(hash, status)| StoredBlob {
        blob: hash.to_string(),
        size_bytes: status.size_bytes,
        local_bytes: status.local_bytes,
        complete: status.complete,
        pinned: status.pinned,
        referenced: status.referenced,
    });
    Json(Storage {
        blobs: usage.blobs,
        owned_bytes: usage.owned_bytes,
        pinned_bytes: usage.pinned_bytes,
        referenced_bytes: usage.referenced_bytes,
        quota_used_bytes: usage.quota_used_bytes,
        quota_bytes: usage.quota_bytes,
        items: items.collect(),
    })
}

/// Work in the background.
#[derive(Debug, Serialize, ToSchema)]
struct Job {
    /// `fetch` for somebody who waits, `pin` to keep.
    kind: &'static str,
    blob: String,
    done_bytes: u64,
    /// Absent until the size is proven.
    total_bytes: Option<u64>,
    /// Providers in use.
    providers: usize,
}

/// Transfers going on.
#[utoipa::path(get, path = "/api/v1/node/jobs", tag = "node", responses((status = 200, body = Vec<Job>)))]
async fn jobs(State(ops): Shared) -> Json<Vec<Job>> {
    let transfers = ops.fetcher.active().into_iter().map(|transfer| Job {
        kind: if ops.pins.is_wanted(transfer.hash) { "pin" } else { "fetch" },
        blob: transfer.hash.to_string(),
        done_bytes: ops.context.blobs.status(transfer.hash).map_or(0, |status| status.local_bytes),
        total_bytes: transfer.size_bytes,
        providers: transfer.providers.len(),
    });
    Json(transfers.collect())
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct TicketQuery {
    /// Make a ticket for this blob that the public tool `sendme` understands.
    blob: Option<String>,
    /// Invite to this network, which this node follows, instead of the home.
    network: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct TicketBody {
    ticket: String,
}

/// An invitation to this node, or a ticket for one blob.
#[utoipa::path(get, path = "/api/v1/node/ticket", tag = "node", params(TicketQuery), responses((status = 200, body = TicketBody), (status = 404)))]
async fn ticket(
    State(ops): Shared,
    _operator: Operator,
    Query(query): Query<TicketQuery>,
) -> Result<Json<TicketBody>, ApiError> {
    let Some(blob) = query.blob else {
        let network = within(&ops.context, query.network.as_deref())?.publisher.network();
        return Ok(Json(TicketBody { ticket: ops.net.ticket_of(network).to_string() }));
    };
    let hash = find_blob(&ops.context, &blob)?;
    if !ops.context.blobs.status(hash).is_some_and(|status| status.complete) {
        return Err(ApiError::new(Code::NotFound, "this blob isn't complete on this node"));
    }
    let name = catalog::content_type_of(&ops.context, hash).and_then(|(_, name)| name);
    let name = name.unwrap_or_else(|| hash.to_string());
    let ticket = crate::blob_ticket::make(&ops.context.blobs, &ops.net, hash, name).await?;
    Ok(Json(TicketBody { ticket }))
}

#[derive(Debug, Serialize, ToSchema)]
struct BlobInfo {
    blob: String,
    /// Verified length; 0 while unknown.
    size_bytes: u64,
    local_bytes: u64,
    complete: bool,
    pinned: bool,
    /// Who sent how much of it since this node started.
    sources: Vec<BlobSource>,
}

#[derive(Debug, Serialize, ToSchema)]
struct BlobSource {
    #[schema(value_type = String)]
    node: NodeId,
    bytes: u64,
}

/// How much of a blob is here and who sent it.
#[utoipa::path(
    get, path = "/api/v1/node/blobs/{id}", tag = "node",
    params(("id" = String, Path, description = "blob hash or content id")), responses((status = 200, body = BlobInfo), (status = 404))
)]
async fn blob(State(ops): Shared, Path(id): Path<String>) -> Result<Json<BlobInfo>, ApiError> {
    let hash = find_blob(&ops.context, &id)?;
    let status = ops.context.blobs.status(hash);
    let sources = ops.fetcher.sources(hash).into_iter();
    Ok(Json(BlobInfo {
        blob: hash.to_string(),
        size_bytes: status.as_ref().map_or(0, |status| status.size_bytes),
        local_bytes: status.as_ref().map_or(0, |status| status.local_bytes),
        complete: status.as_ref().is_some_and(|status| status.complete),
        pinned: status.is_some_and(|status| status.pinned),
        sources: sources.map(|source| BlobSource { node: source.node, bytes: source.bytes }).collect(),
    }))
}

#[derive(Debug, Serialize, ToSchema)]
struct FetchedBlob {
    size_bytes: u64,
    /// The file that holds it, for programs on this machine. What they read from it isn't verified: check the hash.
    #[schema(value_type = Option<String>)]
    file: Option<std::path::PathBuf>,
}

/// Fetches all of a blob; answers once it is here.
///
/// Closing the connection ends the fetch. What has come stays.
#[utoipa::path(
    post, path = "/api/v1/node/blobs/{id}/fetch", tag = "node",
    params(("id" = String, Path, description = "blob hash or content id")),
    responses((status = 200, body = FetchedBlob), (status = 401), (status = 504, description = "no_source: nobody has all of it"))
)]
async fn fetch_blob(
    State(ops): Shared,
    _operator: Operator,
    Path(id): Path<String>,
) -> Result<Json<FetchedBlob>, ApiError> {
    let hash = find_blob(&ops.context, &id)?;
    let size_bytes = ops.fetcher.fetch_all(hash, watch::Sender::new(Progress::default())).await?;
    Ok(Json(FetchedBlob { size_bytes, file: ops.context.blobs.path(hash) }))
}

/// The blob that an id names: a content's original, or the blob itself.
fn find_blob(context: &Context, id: &str) -> Result<BlobHash, ApiError> {
    let not_found = || ApiError::new(Code::NotFound, "there is no such content or blob on this node");
    let content: RecordId = id.parse().map_err(|_| not_found())?;
    let view = context.records.view(catalog::NAME).map_err(ApiError::internal)?;
    match catalog::entry(&view, content).map_err(ApiError::internal)? {
        Some(entry) => Ok(entry.manifest.original.hash),
        None => Ok(BlobHash::from_bytes(*content.as_bytes())),
    }
}

/// Keeps a content or blob here: fetches what is missing and never evicts it.
#[utoipa::path(
    put, path = "/api/v1/node/pins/{id}", tag = "node", params(("id" = String, Path, description = "blob hash or content id")),
    responses((status = 202, description = "pinned; the rest is being fetched"), (status = 200, description = "pinned and complete"), (status = 401), (status = 404))
)]
async fn pin(State(ops): Shared, _operator: Operator, Path(id): Path<String>) -> Result<Response, ApiError> {
    let hash = find_blob(&ops.context, &id)?;
    let complete = ops.pins.pin(hash).await.map_err(ApiError::internal)?;
    let status = if complete { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, blob(State(ops), Path(id)).await?).into_response())
}

/// Lets go of it: it may be evicted when room is needed.
#[utoipa::path(
    delete, path = "/api/v1/node/pins/{id}", tag = "node", params(("id" = String, Path, description = "blob hash or content id")),
    responses((status = 200, body = BlobInfo), (status = 401), (status = 404))
)]
async fn unpin(State(ops): Shared, _operator: Operator, Path(id): Path<String>) -> Result<Json<BlobInfo>, ApiError> {
    let hash = find_blob(&ops.context, &id)?;
    ops.pins.unpin(hash).await.map_err(ApiError::internal)?;
    blob(State(ops), Path(id)).await
}

#[derive(Debug, Serialize, ToSchema)]
struct Freed {
    freed_bytes: u64,
    evicted: u64,
    /// Records of networks that aren't followed any more, and of authors who aren't of interest.
    forgotten_records: u64,
}

/// Frees what the quota asks for, removes stray files, and drops records that aren't wanted any more.
#[utoipa::path(post, path = "/api/v1/node/gc", tag = "node", responses((status = 200, body = Freed), (status = 401)))]
async fn gc(State(ops): Shared, _operator: Operator) -> Result<Json<Freed>, ApiError> {
    let Context { records, publisher, blobs, .. } = &ops.context;
    let forgotten = forget::unwanted(&ops.net, records, publisher.author()).await;
    let forgotten_records = forgotten.map_err(ApiError::internal)?;
    let report = blobs.gc().await?;
    Ok(Json(Freed { freed_bytes: report.freed_bytes, evicted: report.evicted, forgotten_records }))
}

#[derive(Debug, Serialize, ToSchema)]
struct Digest {
    records: u64,
    /// BLAKE3 over the whole index.
    index: String,
}

/// What this node knows, in one hash: nodes of one version that hold the same records have the same. Reads the whole index.
#[utoipa::path(get, path = "/api/v1/node/digest", tag = "node", responses((status = 200, body = Digest), (status = 401)))]
async fn digest(State(ops): Shared, _operator: Operator) -> Result<Json<Digest>, ApiError> {
    let records = ops.context.records.clone();
    let digest = tokio::task::spawn_blocking(move || Ok((records.count()?, records.index_digest()?)));
    let digest: Result<_, RecordsError> = digest.await.map_err(ApiError::internal)?;
    let (records, index) = digest.map_err(ApiError::internal)?;
    Ok(Json(Digest { records, index: BlobHash::from_bytes(index).to_string() }))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct DoctorQuery {
    /// Drop the index and replay it from the log.
    #[serde(default)]
    rebuild: bool,
}

#[derive(Debug, Serialize, ToSchema)]
struct DoctorReport {
    #[schema(value_type = Vec<Object>)]
    checks: Vec<Check>,
}

/// Checks what only the running node can check: index against log, and blobs.
#[utoipa::path(
    post, path = "/api/v1/node/doctor", tag = "node", params(DoctorQuery),
    responses((status = 200, body = DoctorReport), (status = 401))
)]
async fn run_doctor(
    State(ops): Shared,
    _operator: Operator,
    Query(query): Query<DoctorQuery>,
) -> Result<Json<DoctorReport>, ApiError> {
    let checks = checks::running(&ops.context.records, &ops.context.blobs, query.rebuild).await;
    Ok(Json(DoctorReport { checks }))
}
