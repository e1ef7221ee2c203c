//! What failures of the stores are to clients, and what they name wrongly.

use mhc_api::{ApiError, Code};
use mhc_protocol::NetworkId;
use mhc_storage::record::RecordsError;

use crate::Context;

/// What the record store's refusals are to a client.
pub fn records_error(error: RecordsError) -> ApiError {
    match error {
        RecordsError::StorageFull => ApiError::new(Code::StorageFull, error.to_string()),
        RecordsError::LogIncomplete(_) | RecordsError::IndexStale => {
            ApiError::new(Code::Unavailable, error.to_string())
        }
        RecordsError::Denied(_) => ApiError::new(Code::Forbidden, error.to_string()),
        RecordsError::OverQuota => ApiError::new(Code::RateLimited, error.to_string()),
        error => ApiError::internal(error),
    }
}

/// The network that a request names, which this node must follow; the home when it names none.
pub fn within(context: &Context, network: Option<&str>) -> Result<Context, ApiError> {
    let network: Option<NetworkId> = match network {
        Some(text) => Some(text.parse().map_err(|error| ApiError::new(Code::BadRequest, format!("network: {error}")))?),
        None => None,
    };
    let unknown = "this node doesn't follow that network; `mhc network list` shows which it does";
    context.within(network).ok_or_else(|| ApiError::new(Code::NotFound, unknown))
}
