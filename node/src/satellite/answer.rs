//! The gateway's side of an exchange: `POST /api/v1/exchange`.

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use mhc_api::{ApiError, Code};
use mhc_protocol::{
    NodeId,
    bundle::{Frame, GROUP_BYTES, Span},
    network::{Membership, When},
};
use mhc_satellite::uplink::{ExchangeRequest, MAX_REQUEST_BYTES, PIECE_BYTES};
use tokio::{runtime::Handle, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::{Satellite, entries};
use crate::{
    author::now,
    bundle::{JobError, Receiver, Stores, chunks_of, heads, pieces_of},
};

const PAGE_RECORDS: usize = 256;
const PAGE_BYTES: usize = 1 << 20;
/// Longest wait for a whole request, and for a piece of the answer to be taken: slow links are what this is for, but
/// who stands still mustn't keep others out.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
const PIECE_TIMEOUT: Duration = Duration::from_secs(600);
/// Pieces that wait for a slow link.
const AHEAD: usize = 2;

/// Answers what a node lacks, in entries as of a bundle: records first, then pieces of blobs, up to its budget.
///
/// The request is signed by a node of the network; the answer can be checked by whoever gets it.
#[utoipa::path(
    post, path = "/api/v1/exchange", tag = "exchange",
    request_body(content = Vec<u8>, content_type = "application/cbor"),
    responses(
        (status = 200, description = "entries, back to back", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 400), (status = 403, description = "of another network, or no member of it"), (status = 413),
        (status = 503, description = "too many exchanges at a time"),
    )
)]
pub(super) async fn exchange(State(satellite): State<Arc<Satellite>>, body: Body) -> Result<Response, ApiError> {
    let busy = |_| ApiError::new(Code::Unavailable, "too many exchanges at a time; try again later");
    let permit = Arc::clone(&satellite.answering).try_acquire_owned().map_err(busy)?;
    let slow = |_| ApiError::new(Code::BadRequest, "the request took too long to come");
    let body = timeout(REQUEST_TIMEOUT, axum::body::to_bytes(body, MAX_REQUEST_BYTES)).await.map_err(slow)?;
    let body = body.map_err(|_| ApiError::new(Code::TooLarge, "a request of over 4 MiB, or one that broke off"))?;
    let request = ExchangeRequest::open(&body, now());
    let request = request.map_err(|error| ApiError::new(Code::BadRequest, error.to_string()))?;
    drop(body);
    let stores = satellite.intake.stores.clone();
    if request.wants.network != stores.network {
        return Err(ApiError::new(Code::Forbidden, "this gateway is of another network"));
    }
    if !satellite.answer_anyone && !is_member(&stores, request.node)? {
        return Err(ApiError::new(Code::Forbidden, "only members of the network are answered"));
    }
    let (out, pieces) = mpsc::channel(AHEAD);
    satellite.tasks.spawn_blocking(move || {
        let _permit = permit;
        let mut answer = Answer { stores: &stores, left_bytes: request.budget_bytes, out: &out };
        match answer.run(request) {
            Ok(()) => {}
            Err(End::Budget | End::Gone) => {}
            Err(End::Failed(error)) => {
                tracing::warn!(%error, "an exchange ended");
                // The answer is cut, so that nobody takes it for whole.
                let _ = out.blocking_send(Err(io::Error::other("cut")));
            }
        }
    });
    let headers = [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(ReceiverStream::new(pieces))).into_response())
}

fn is_member(stores: &Stores, node: NodeId) -> Result<bool, ApiError> {
    let authority = stores.records.authority(stores.network).map_err(ApiError::internal)?;
    let when = When { at: now(), position: (u64::MAX, u64::MAX) };
    let is_open = authority.latest().is_none_or(|policy| policy.membership == Membership::Open);
    Ok(is_open || authority.root() == node.into() || authority.role(node.into(), when).is_some())
}

/// Why an answer ends before everything was sent.
enum End {
    Budget,
    /// Nobody reads on, or not for long.
    Gone,
    Failed(JobError),
}

impl<E: Into<JobError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

struct Answer<'a> {
    stores: &'a Stores,
    left_bytes: u64,
    out: &'a mpsc::Sender<io::Result<Bytes>>,
}

impl Answer<'_> {
    fn run(&mut self, request: ExchangeRequest) -> Result<(), End> {
        let blobs: Vec<_> = request.wants.lacks.iter().map(|lack| lack.hash).collect();
        let receiver = Receiver::new(self.stores, request.wants)?;
        for author in heads(self.stores)? {
            self.log(author, receiver.position(author))?;
        }
        for hash in blobs {
            let (Some(status), Some(lacked)) = (self.stores.blobs.status(hash), receiver.lacked(hash)) else {
                continue;
            };
            for span in pieces_of(status.size_bytes, &(&status.ranges & lacked), PIECE_BYTES) {
                // Its end proves its size.
                if status.complete || chunks_of(&span).is_subset(&status.ranges) {
                    self.piece(hash, span)?;
                }
            }
        }
        Ok(())
    }

    fn log(&mut self, author: mhc_protocol::AuthorId, mut from: (u64, u64)) -> Result<(), End> {
        let mut seen = std::collections::HashSet::new();
        loop {
            let mut page = self.stores.records.log(self.stores.network, author, from, PAGE_RECORDS, PAGE_BYTES)?;
            page.retain(|record| seen.insert(record.id()));
            let Some(last) = page.last() else { return Ok(()) };
            from = (last.header().epoch, last.header().seq);
            for record in &page {
                self.send(entries::record(record))?;
            }
        }
    }

    /// As much of a piece as the budget allows, by halves.
    fn piece(&mut self, hash: mhc_protocol::BlobHash, mut span: Span) -> Result<(), End> {
        while (Frame::Blob { hash, span }).bytes() > self.left_bytes {
            let groups = (span.end - span.start) / GROUP_BYTES / 2;
            let smaller = Span::new(span.size_bytes, span.start, span.start + groups * GROUP_BYTES);
            span = smaller.map_err(|_| End::Budget)?;
        }
        self.send(entries::piece(self.stores, hash, span)?)
    }

    fn send(&mut self, entry: Vec<u8>) -> Result<(), End> {
        self.left_bytes = self.left_bytes.checked_sub(entry.len() as u64).ok_or(End::Budget)?;
        match Handle::current().block_on(timeout(PIECE_TIMEOUT, self.out.send(Ok(entry.into())))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }
}
