//! Moments as texts (RFC 3339), as they are in JSON.

use mhc_protocol::Timestamp;

/// The moment in UTC.
pub fn rfc3339(at: Timestamp) -> String {
    let time = i64::try_from(at.as_millis()).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.unwrap_or_default().to_string()
}

/// The moment that a text names.
pub fn parse(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok().map(Timestamp::from_millis)
}
