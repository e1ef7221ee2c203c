//! Errors of the API: what the caller sees apart from what the log sees.
//!
//! Every error leaves as `application/problem+json` (RFC 9457) with a stable `code`. The public message may name
//! what the caller sent and how to mend it; the private cause goes to the log only.

use std::{error::Error, fmt};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use mhc_storage::source::SourceError;
use serde::Serialize;
use utoipa::ToSchema;

/// The media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident, $title:literal;)*) => {
        /// What went wrong, as a stable word that programs may rely on. Each has one HTTP status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The word in the JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// Its HTTP status.
            pub const fn status(self) -> StatusCode {
                match self { $(Code::$name => StatusCode::$status,)* }
            }

            /// A short human title, the same for each occurrence.
            pub const fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// There is no such thing here.
    NotFound = "not_found", NOT_FOUND, "Not found";
    /// It exists, but nobody reachable has its bytes.
    NoSource = "no_source", GATEWAY_TIMEOUT, "No reachable node has it";
    /// The request can't be understood.
    BadRequest = "bad_request", BAD_REQUEST, "Bad request";
    /// No token, or a wrong one.
    Unauthorized = "unauthorized", UNAUTHORIZED, "A token is needed";
    /// Understood and refused.
    Forbidden = "forbidden", FORBIDDEN, "Forbidden";
    /// A higher subscription tier is needed.
    TierRequired = "tier_required", FORBIDDEN, "A higher tier is needed";
    /// Too many requests.
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "Too many requests";
    /// It contradicts what is already there.
    Conflict = "conflict", CONFLICT, "Conflict";
    /// The body is larger than allowed.
    TooLarge = "too_large", PAYLOAD_TOO_LARGE, "Too large";
    /// The body's media type isn't taken here.
    UnsupportedMedia = "unsupported_media", UNSUPPORTED_MEDIA_TYPE, "Unsupported media type";
    /// The disk or the quota is full.
    StorageFull = "storage_full", INSUFFICIENT_STORAGE, "Storage is full";
    /// Not now: starting, stopping or read-only.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "Unavailable";
    /// Our own failure.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Internal error";
    /// The route exists, but not with this method.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "Method not allowed";
    /// The body stopped coming.
    Timeout = "timeout", REQUEST_TIMEOUT, "The request took too long";
    /// The Range lies outside the blob.
    RangeNotSatisfiable = "range_not_satisfiable", RANGE_NOT_SATISFIABLE, "Range not satisfiable";
}

impl Code {
    /// The code that fits a bare status, for answers that weren't made from an [`ApiError`].
    pub fn of_status(status: StatusCode) -> Code {
        let exact = Code::ALL.iter().copied().find(|code| code.status() == status);
        exact.unwrap_or(if status.is_server_error() { Code::Internal } else { Code::BadRequest })
    }
}

/// The JSON of an error.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// `urn:mhc:problem:` and the code.
    #[schema(example = "urn:mhc:problem:not_found")]
    pub r#type: String,
    /// A short text, the same for each occurrence of the code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// The stable word.
    #[schema(example = "not_found")]
    pub code: String,
    /// `urn:mhc:request:` and the id of the request, as in the header `x-request-id` and in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

/// An error on its way to the caller. Use it as the `Err` of every handler.
#[derive(Debug)]
pub struct ApiError(Box<Inner>);

/// Boxed, because it is the `Err` of nearly every function here.
#[derive(Debug)]
struct Inner {
    code: Code,
    message: String,
    cause: Option<Box<dyn Error + Send + Sync>>,
    headers: HeaderMap,
}

/// Result of a handler.
pub type ApiResult<T> = Result<T, ApiError>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $code:ident;)*) => {
        $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self { Self::new(Code::$code, message) })*
    };
}

impl ApiError {
    /// An error with a message the caller may read.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { code, message: message.into(), cause: None, headers: HeaderMap::new() }))
    }

    constructors! {
        /// 404.
        not_found => NotFound;
        /// 400.
        bad_request => BadRequest;
        /// 401, with `WWW-Authenticate`.
        unauthorized => Unauthorized;
        /// 403.
        forbidden => Forbidden;
        /// 409.
        conflict => Conflict;
        /// 413.
        too_large => TooLarge;
        /// 503.
        unavailable => Unavailable;
    }

    /// 500: our own failure. The caller learns nothing of `cause`, the log all.
    pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Code::Internal, "Something failed on this node; its log has the request id.").with_cause(cause)
    }

    /// Adds the cause, for the log only.
    pub fn with_cause(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Adds a header to the answer.
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What the caller reads.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What only the log reads.
    pub fn cause(&self) -> Option<&(dyn Error + Send + Sync)> {
        self.0.cause.as_deref()
    }

    /// As JSON, with the id of the request it answers.
    pub fn problem(&self, request_id: Option<&str>) -> Problem {
        Problem {
            r#type: format!("urn:mhc:problem:{}", self.0.code.as_str()),
            title: self.0.code.title().to_owned(),
            status: self.0.code.status().as_u16(),
            detail: self.0.message.clone(),
            code: self.0.code.as_str().to_owned(),
            instance: request_id.map(|id| format!("urn:mhc:request:{id}")),
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.as_str(), self.0.message)
    }
}

impl Error for ApiError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}

/// Carried beside the response so that [`observe`](crate::observe) can log the cause and add the request id.
#[derive(Clone)]
pub(crate) struct Failure(pub(crate) std::sync::Arc<ApiError>);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = problem_response(self.0.code, &self.problem(None));
        response.headers_mut().extend(self.0.headers.clone());
        response.extensions_mut().insert(Failure(std::sync::Arc::new(self)));
        response
    }
}

/// The whole answer for `problem`.
pub(crate) fn problem_response(code: Code, problem: &Problem) -> Response {
    let body = serde_json::to_vec(problem).unwrap_or_default();
    let mut response = (code.status(), body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if code == Code::Unauthorized {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"mhc\""));
    }
    response
}

impl From<SourceError> for ApiError {
    /// For errors before the first byte is sent: after that there is no status left to choose.
    fn from(error: SourceError) -> Self {
        let made = match &error {
            SourceError::NoSource | SourceError::Lost => {
                Self::new(Code::NoSource, "No reachable node has these bytes. Try again when more peers are online.")
            }
            SourceError::OutOfRange { size } => range_not_satisfiable(*size),
            SourceError::StorageFull => storage_full(),
            SourceError::Internal(_) => return Self::internal(error),
        };
        made.with_cause(error)
    }
}

/// 416 with the size the caller should have known.
pub(crate) fn range_not_satisfiable(size_bytes: u64) -> ApiError {
    let error = ApiError::new(Code::RangeNotSatisfiable, format!("The blob has {size_bytes} bytes."));
    match HeaderValue::from_str(&format!("bytes */{size_bytes}")) {
        Ok(value) => error.with_header(header::CONTENT_RANGE, value),
        Err(_) => error,
    }
}

/// 507.
pub(crate) fn storage_full() -> ApiError {
    ApiError::new(Code::StorageFull, "The disk or the quota of this node is full. Free space, or raise the quota.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_codes_have_their_status() {
        let table = [
            ("not_found", 404),
            ("no_source", 504),
            ("bad_request", 400),
            ("unauthorized", 401),
            ("forbidden", 403),
            ("tier_required", 403),
            ("rate_limited", 429),
            ("conflict", 409),
            ("too_large", 413),
            ("unsupported_media", 415),
            ("storage_full", 507),
            ("unavailable", 503),
            ("internal", 500),
        ];
        for (text, status) in table {
            let code = Code::ALL.iter().find(|code| code.as_str() == text).unwrap();
            assert_eq!(code.status().as_u16(), status, "{text}");
        }
    }

    #[test]
    fn a_source_error_becomes_the_right_code() {
        let table = [
            (SourceError::NoSource, Code::NoSource),
            (SourceError::Lost, Code::NoSource),
            (SourceError::OutOfRange { size: 7 }, Code::RangeNotSatisfiable),
            (SourceError::StorageFull, Code::StorageFull),
            (SourceError::Internal("disk on fire".into()), Code::Internal),
        ];
        for (error, code) in table {
            let made = ApiError::from(error);
            assert_eq!(made.code(), code);
            assert!(!made.message().contains("fire"), "the cause is private");
        }
    }
}
