//! What failures of the stores are to clients.

use mhc_api::{ApiError, Code};
use mhc_storage::record::RecordsError;

/// What the record store's refusals are to a client.
pub(crate) fn records_error(error: RecordsError) -> ApiError {
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
