//! Sending an alert: what a request asks for becomes a signed alert, its record, and the first gossip about it.

use std::collections::{BTreeMap, BTreeSet};

use mhc_api::{ApiError, Code};
use mhc_platform::Publisher;
use mhc_protocol::{
    NetworkId, RecordId, SecretKey, Timestamp,
    alert::{
        ALERT, Alert, AlertDesk, AlertId, AlertRecord, Details, Draft, Kind, MAX_LIFE_MIN, Order, Severity, Status,
        Urgency, one_line, short_line,
    },
};
use serde::Deserialize;
use utoipa::ToSchema;

/// How long an alert holds unless it says so.
const DEFAULT_LIFE_MIN: u16 = 24 * 60;

/// An alert to send.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AlertBody {
    /// `alert`, `update` or `cancel`; `alert` when absent.
    pub(crate) kind: Option<String>,
    /// The id of the alert that this one updates or cancels.
    pub(crate) refers: Option<String>,
    /// `actual`, `exercise` or `test`; `actual` when absent.
    pub(crate) status: Option<String>,
    /// Shorthand for the status `exercise`.
    pub(crate) drill: bool,
    /// `critical`, `high` or `normal`; of an update and a cancellation as before when absent.
    pub(crate) severity: Option<String>,
    /// `immediate`, `expected` or `future`; `immediate` when absent.
    pub(crate) urgency: Option<String>,
    /// `none`, `shutdown_on` or `shutdown_off`: what nodes are to do by themselves.
    pub(crate) order: Option<String>,
    /// Minutes until it expires, at most a week; a day when absent.
    pub(crate) expires_in_min: Option<u16>,
    /// One line for narrow links, at most 85 bytes; the beginning of the text when absent.
    pub(crate) short: Option<String>,
    /// Language of the short line, two letters; that of the text it is taken from when absent.
    pub(crate) language: Option<String>,
    /// The text by language tag, such as `en` or `pt-br`.
    pub(crate) texts: BTreeMap<String, String>,
    /// Where, in words or codes. Nowhere named is everywhere.
    pub(crate) areas: BTreeSet<String>,
    /// Content that tells more.
    pub(crate) content: Option<String>,
}

/// Who signs: the key and the log that the record goes into.
pub(super) struct Issuer<'a> {
    pub(super) key: &'a SecretKey,
    pub(super) publisher: &'a dyn Publisher,
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(Code::BadRequest, message)
}

fn word<T: std::str::FromStr<Err = String>>(given: Option<&str>, absent: T) -> Result<T, ApiError> {
    given.map_or(Ok(absent), |text| text.parse().map_err(bad))
}

impl AlertBody {
    /// The alert's two forms, signed. `desk` knows those that were sent before.
    pub(super) fn sign(
        &self,
        key: &SecretKey,
        network: NetworkId,
        desk: &AlertDesk,
        now: Timestamp,
    ) -> Result<AlertRecord, ApiError> {
        let kind = word(self.kind.as_deref(), Kind::Alert)?;
        let before = self.before(kind, key, desk)?;
        let details = self.details()?;
        details.check().map_err(|error| bad(error.to_string()))?;
        let (text, language) = self.short(kind, &details)?;
        let at = desk.next_number(key.author(), now);
        let said = before.map(Alert::said);
        let status = match (self.drill, self.status.as_deref(), said) {
            (true, None, _) => Status::Exercise,
            (true, Some(_), _) => return Err(bad("give either status or drill")),
            // What ends a drill is part of it.
            (false, None, Some(said)) => said.status,
            (false, status, _) => word(status, Status::Actual)?,
        };
        let draft = Draft {
            status,
            kind,
            severity: match (self.severity.as_deref(), said) {
                (None, Some(said)) => said.severity,
                (None, None) => return Err(bad("severity: critical, high or normal")),
                (given, _) => word(given, Severity::Normal)?,
            },
            urgency: word(self.urgency.as_deref(), said.map_or(Urgency::Immediate, |said| said.urgency))?,
            order: word(self.order.as_deref(), Order::None)?,
            at,
            life_min: self.life_min(before, at),
            refers: before.map(Alert::number),
            language,
            text,
        };
        let alert = draft.sign(key, network).map_err(|error| bad(error.to_string()))?;
        Ok(AlertRecord { alert, details })
    }

    /// What it updates or cancels: an alert of the same issuer that this node knows.
    fn before<'a>(&self, kind: Kind, key: &SecretKey, desk: &'a AlertDesk) -> Result<Option<&'a Alert>, ApiError> {
        match (kind, self.refers.as_deref()) {
            (Kind::Alert, None) => Ok(None),
            (Kind::Alert, Some(_)) => Err(bad("only an update or a cancellation refers to another alert")),
            (_, None) => Err(bad("refers: the id of the alert that is meant")),
            (_, Some(id)) => {
                let id: AlertId = id.parse().map_err(|error| bad(format!("refers: {error}")))?;
                let known = desk.get(id);
                let known = known.ok_or_else(|| ApiError::new(Code::NotFound, "this node knows no such alert"))?;
                match known.issuer() == key.author() {
                    true => Ok(Some(known)),
                    false => Err(ApiError::new(Code::Forbidden, "only its issuer updates or cancels an alert")),
                }
            }
        }
    }

    /// A cancellation holds as long as what it ends would: else that could come back.
    fn life_min(&self, before: Option<&Alert>, at: Timestamp) -> u16 {
        let left_ms = before.map_or(0, |before| before.expires().saturating_ms_since(at));
        let least = u16::try_from(left_ms.div_ceil(60_000)).unwrap_or(MAX_LIFE_MIN).clamp(1, MAX_LIFE_MIN);
        self.expires_in_min.unwrap_or(if before.is_some() { least } else { DEFAULT_LIFE_MIN }).max(least)
    }

    fn details(&self) -> Result<Details, ApiError> {
        let content = self.content.as_deref().map(str::parse::<RecordId>).transpose();
        let content = content.map_err(|error| bad(format!("content: {error}")))?;
        let texts = self.texts.iter().map(|(tag, text)| (tag.to_ascii_lowercase(), text.clone())).collect();
        Ok(Details { areas: self.areas.clone(), texts, content })
    }

    /// The line for narrow links and its language.
    fn short(&self, kind: Kind, details: &Details) -> Result<(String, Option<[u8; 2]>), ApiError> {
        let first = details.texts.get_key_value("en").or_else(|| details.texts.iter().next());
        let (tag, text) = match (&self.short, first) {
            (Some(short), first) => (first.map(|(tag, _)| tag.as_str()), one_line(short)),
            (None, Some((tag, text))) => (Some(tag.as_str()), short_line(text)),
            (None, None) if kind == Kind::Cancel => (None, String::new()),
            (None, None) => return Err(bad("texts: say what has happened and what to do, in one language at least")),
        };
        let tag = self.language.as_deref().or(tag);
        let letters = tag.map(str::as_bytes).and_then(|tag| tag.first_chunk::<2>().copied());
        Ok((text, letters))
    }
}

impl Issuer<'_> {
    /// Puts the long form into the issuer's log; durable when it returns.
    pub(super) async fn publish(&self, record: &AlertRecord) -> Result<RecordId, ApiError> {
        let body = record.encode().map_err(|error| bad(error.to_string()))?;
        let published = self.publisher.publish(ALERT, body).await;
        Ok(published.map_err(mhc_platform::records_error)?.id())
    }
}
