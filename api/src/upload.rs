//! Bodies that end in the blob store, with bounded memory: `multipart/form-data` with one file, and raw ones.
//!
//! A body may be as long as the limit and as slow as its sender's line, but not silent for longer than
//! [`STALL_TIMEOUT`], and what it makes us keep in memory is bounded by [`MAX_FIELDS`] and [`MAX_FIELD_BYTES`].

use std::{
    collections::BTreeMap,
    error::Error,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, header},
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use mhc_storage::blob::{BlobError, BlobStore, Imported};
use multer::{Field, Multipart};

use crate::error::{ApiError, Code, storage_full};

/// Longest upload unless the node sets another limit: 10 GiB.
pub const DEFAULT_LIMIT_BYTES: u64 = 10 << 30;
/// A body that brings nothing for this long is given up with 408.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Most text fields in a form.
pub const MAX_FIELDS: usize = 32;
/// Longest text field.
pub const MAX_FIELD_BYTES: usize = 64 << 10;
/// Name of the form's one file field.
pub const FILE_FIELD: &str = "file";

/// Longest run of body without field content: part headers, preamble, boundary.
const MAX_OVERHEAD_BYTES: usize = 1 << 20;

/// What a form brought.
#[derive(Debug)]
pub struct Upload {
    /// The file's bytes, in the store. Not evicted as long as this is held: pin it, or publish it, before dropping.
    pub blob: Imported,
    /// The file's name as the client gave it: a label, never a path.
    pub file_name: Option<String>,
    /// The media type the client claims.
    pub content_type: Option<String>,
    fields: BTreeMap<String, Vec<String>>,
}

impl Upload {
    /// Takes the first value of a text field.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let values = self.fields.get_mut(name)?;
        (!values.is_empty()).then(|| values.remove(0))
    }

    /// Takes all values of a text field, in order.
    pub fn take_all(&mut self, name: &str) -> Vec<String> {
        self.fields.remove(name).unwrap_or_default()
    }
}

/// Reads a `multipart/form-data` request: one file field [`FILE_FIELD`] streamed into `store`, text fields in any
/// order around it. The whole body may be `limit_bytes` plus the form's own overhead.
///
/// Errors: 400 malformed, truncated or without a file; 408 stalled; 413 too long; 415 not a form; 507 no room.
pub async fn receive(request: Request, store: &BlobStore, limit_bytes: u64) -> Result<Upload, ApiError> {
    let boundary = boundary_of(request.headers())?;
    let overhead_bytes = (MAX_FIELDS * MAX_FIELD_BYTES + MAX_OVERHEAD_BYTES) as u64;
    refuse_longer(request.headers(), limit_bytes.saturating_add(overhead_bytes), limit_bytes)?;
    let overhead = Arc::new(AtomicUsize::new(0));
    let body = paced(request.into_body(), STALL_TIMEOUT, Arc::clone(&overhead));
    let mut form = Form { multipart: Multipart::new(body, boundary), overhead, fields: BTreeMap::new(), count: 0 };
    form.read(store, limit_bytes).await
}

/// Streams a raw body into `store`: 408 stalled, 413 longer than `limit_bytes`, 507 no room.
pub async fn receive_raw(request: Request, store: &BlobStore, limit_bytes: u64) -> Result<Imported, ApiError> {
    refuse_longer(request.headers(), limit_bytes, limit_bytes)?;
    let body = body_stream(request.into_body(), STALL_TIMEOUT).map_err(io::Error::other);
    store.import_stream(body, limit_bytes).await.map_err(import_error)
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("nothing came for {} s", STALL_TIMEOUT.as_secs())]
    Stalled,
    #[error("the connection ended in the middle of the body")]
    Broken(#[source] axum::Error),
    #[error("part headers or preamble longer than {MAX_OVERHEAD_BYTES} bytes")]
    Overhead,
}

struct Form<'a> {
    multipart: Multipart<'a>,
    overhead: Arc<AtomicUsize>,
    fields: BTreeMap<String, Vec<String>>,
    count: usize,
}

impl<'a> Form<'a> {
    async fn read(&mut self, store: &BlobStore, limit_bytes: u64) -> Result<Upload, ApiError> {
        let mut file = None;
        while let Some(field) = self.multipart.next_field().await.map_err(form_error)? {
            self.overhead.store(0, Ordering::Relaxed);
            match field.name() {
                Some(FILE_FIELD) if file.is_some() => return Err(ApiError::bad_request("The form has two files.")),
                Some(FILE_FIELD) => file = Some(self.file(field, store, limit_bytes).await?),
                Some(name) => {
                    let name = name.to_owned();
                    let value = self.text(field, &name).await?;
                    self.fields.entry(name).or_default().push(value);
                }
                None => return Err(ApiError::bad_request("A field of the form has no name.")),
            }
        }
        let (blob, file_name, content_type) =
            file.ok_or_else(|| ApiError::bad_request("The form has no file (field `file`)."))?;
        Ok(Upload { blob, file_name, content_type, fields: std::mem::take(&mut self.fields) })
    }

    async fn file(
        &self,
        field: Field<'a>,
        store: &BlobStore,
        limit_bytes: u64,
    ) -> Result<(Imported, Option<String>, Option<String>), ApiError> {
        let name = field.file_name().map(str::to_owned).filter(|name| !name.is_empty());
        let content_type = field.content_type().map(ToString::to_string);
        let overhead = Arc::clone(&self.overhead);
        let bytes = field.inspect(move |_| overhead.store(0, Ordering::Relaxed)).map_err(io::Error::other);
        let blob = store.import_stream(bytes, limit_bytes).await.map_err(import_error)?;
        Ok((blob, name, content_type))
    }

    async fn text(&mut self, mut field: Field<'a>, name: &str) -> Result<String, ApiError> {
        self.count += 1;
        if self.count > MAX_FIELDS || name.len() > 256 {
            return Err(ApiError::too_large(format!(
                "The form has more than {MAX_FIELDS} fields, or a very long name."
            )));
        }
        let mut text = Vec::new();
        while let Some(piece) = field.chunk().await.map_err(form_error)? {
            self.overhead.store(0, Ordering::Relaxed);
            if text.len() + piece.len() > MAX_FIELD_BYTES {
                return Err(ApiError::too_large(format!("The field {name:?} is longer than {MAX_FIELD_BYTES} bytes.")));
            }
            text.extend_from_slice(&piece);
        }
        String::from_utf8(text).map_err(|_| ApiError::bad_request(format!("The field {name:?} isn't UTF-8.")))
    }
}

fn boundary_of(headers: &HeaderMap) -> Result<String, ApiError> {
    let unsupported = || ApiError::new(Code::UnsupportedMedia, "Send multipart/form-data with a boundary.");
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    multer::parse_boundary(content_type.ok_or_else(unsupported)?).map_err(|_| unsupported())
}

/// 413 before the first byte when the announced length is already too much.
fn refuse_longer(headers: &HeaderMap, most_bytes: u64, limit_bytes: u64) -> Result<(), ApiError> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match announced {
        Some(length) if length > most_bytes => Err(too_long(limit_bytes)),
        _ => Ok(()),
    }
}

fn too_long(limit_bytes: u64) -> ApiError {
    ApiError::too_large(format!("At most {limit_bytes} bytes can be uploaded here."))
}

/// The body's data, with an error when it stalls.
fn body_stream(body: Body, stall: Duration) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
    stream::unfold(Some(body.into_data_stream()), move |body| async move {
        let mut body = body?;
        match tokio::time::timeout(stall, body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(data))) => Some((Ok(data), Some(body))),
            Ok(Some(Err(error))) => Some((Err(BodyError::Broken(error)), None)),
            Err(_) => Some((Err(BodyError::Stalled), None)),
        }
    })
}

/// The body for `multer`, with an error when `overhead` (reset by the reader at each sign of progress) runs over.
///
/// `multer` buffers whatever is ready, polls twice in a row, and gives up when the end of the stream shows up in the
/// second of these together with the first data. So after each piece the stream isn't ready for two polls.
fn paced(
    body: Body,
    stall: Duration,
    overhead: Arc<AtomicUsize>,
) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
    let judge = move |piece: Bytes| {
        // One piece may itself be large; it is what came before, without progress, that counts.
        let before = overhead.fetch_add(piece.len(), Ordering::Relaxed);
        if before > MAX_OVERHEAD_BYTES { Err(BodyError::Overhead) } else { Ok(piece) }
    };
    let pieces = Box::pin(body_stream(body, stall).map(move |piece| piece.and_then(&judge)));
    stream::unfold((pieces, false), |(mut pieces, begun)| async move {
        if begun {
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
        pieces.next().await.map(|piece| (piece, (pieces, true)))
    })
}

fn form_error(error: multer::Error) -> ApiError {
    match find_body_error(&error) {
        Some(fault) => body_error(fault),
        None => ApiError::bad_request(format!("The form is malformed or cut short: {error}.")).with_cause(error),
    }
}

fn import_error(error: BlobError) -> ApiError {
    match &error {
        BlobError::TooLarge { limit_bytes } => too_long(*limit_bytes),
        BlobError::Stream(cause) => match find_body_error(cause) {
            Some(fault) => body_error(fault),
            None => ApiError::bad_request("The body is malformed or cut short."),
        }
        .with_cause(error),
        _ => ApiError::from(error),
    }
}

fn body_error(error: &BodyError) -> ApiError {
    match error {
        BodyError::Stalled => ApiError::new(Code::Timeout, "The body stopped coming; send it again."),
        BodyError::Broken(_) | BodyError::Overhead => ApiError::bad_request(format!("Bad body: {error}.")),
    }
}

/// Our own error somewhere in the chain of causes.
fn find_body_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a BodyError> {
    std::iter::successors(Some(error), |error| inner_error(*error)).find_map(|error| error.downcast_ref())
}

fn inner_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>() {
        // io::Error's source() skips the error it wraps.
        Some(wrapper) => wrapper.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    }
}

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        match &error {
            BlobError::Missing | BlobError::Changed { .. } | BlobError::Damaged => {
                Self::new(Code::NoSource, "These bytes aren't on this node.").with_cause(error)
            }
            BlobError::TooLarge { limit_bytes } => too_long(*limit_bytes),
            BlobError::StorageFull | BlobError::QuotaExceeded { .. } => storage_full().with_cause(error),
            BlobError::NotAFile { .. } | BlobError::Unreadable { .. } => {
                Self::bad_request(error.to_string()).with_cause(error)
            }
            BlobError::Closed => Self::unavailable("This node is stopping.").with_cause(error),
            _ => Self::internal(error),
        }
    }
}
