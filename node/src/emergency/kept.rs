//! Alerts as they are kept: a private table, by network and id.

use mhc_protocol::{NetworkId, RecordId, Timestamp, alert::Alert, cbor};
use mhc_storage::{
    kv::KeyRange,
    record::{Private, RecordsError},
};
use serde::{Deserialize, Serialize};

pub(super) const TABLE: &str = "alerts";
const MAX_ROW_BYTES: usize = 1024;

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) network: NetworkId,
    pub(super) alert: Alert,
    /// When it came.
    pub(super) taken_at: Timestamp,
    /// Its long form, once that is here.
    pub(super) record: Option<RecordId>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    v: u8,
    alert: Vec<u8>,
    taken_at: Timestamp,
    record: Option<RecordId>,
}

/// Durable when it returns.
pub(super) async fn put(table: &Private, kept: &Kept) -> Result<(), RecordsError> {
    let Kept { network, alert, taken_at, record } = kept;
    let row = Row { v: 1, alert: alert.bytes().to_vec(), taken_at: *taken_at, record: *record };
    // Numbers and short lists always encode.
    table.put(key(*network, alert), cbor::encode(&row).unwrap_or_default()).await
}

pub(super) async fn remove(table: &Private, alerts: &[(NetworkId, Alert)]) -> Result<(), RecordsError> {
    table.update(alerts.iter().map(|(network, alert)| (key(*network, alert), None)).collect()).await
}

/// All of them. A row that isn't what was written is left out: its record brings the alert back.
pub(super) fn all(table: &Private) -> Result<Vec<Kept>, RecordsError> {
    let rows = table.scan(KeyRange::all(), usize::MAX)?;
    let read = |key: &[u8], value: &[u8]| {
        let network = NetworkId::from_bytes(*key.first_chunk::<32>()?);
        let row: Row = cbor::decode(value, MAX_ROW_BYTES).ok()?;
        let alert = Alert::verify(&row.alert, network).ok()?;
        (row.v == 1).then_some(Kept { network, alert, taken_at: row.taken_at, record: row.record })
    };
    Ok(rows.iter().filter_map(|(key, value)| read(key, value)).collect())
}

fn key(network: NetworkId, alert: &Alert) -> Vec<u8> {
    [network.as_bytes().as_slice(), alert.id().as_bytes()].concat()
}
