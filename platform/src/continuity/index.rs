//! The table `alerts`: network, inverted time of the alert, record id; no value.

use mhc_protocol::{NetworkId, RecordId, Timestamp, alert::AlertRecord, record::VerifiedRecord};
use mhc_storage::{
    kv::KeyRange,
    record::{IndexView, RecordsError, Rows},
};

const ALERTS: &str = "alerts";

pub(super) fn insert(rows: &mut Rows, record: &VerifiedRecord, alert: &AlertRecord) {
    let at = (!alert.alert.number()).to_be_bytes();
    let network = record.header().network;
    rows.put(ALERTS, [network.as_bytes().as_slice(), &at, record.id().as_bytes()].concat(), []);
}

/// Records of a network's alerts that were sent since then, newest first, at most `limit`.
pub fn alerts_since(
    view: &IndexView<'_>,
    network: NetworkId,
    since: Timestamp,
    limit: usize,
) -> Result<Vec<RecordId>, RecordsError> {
    let rows = view.scan(ALERTS, KeyRange::prefix(network.as_bytes()), limit)?;
    let row = |key: &[u8]| {
        let (at, id) = key.get(32..)?.split_first_chunk::<8>()?;
        Some((Timestamp::from_millis(!u64::from_be_bytes(*at)), RecordId::from_bytes(id.try_into().ok()?)))
    };
    let rows = rows.iter().filter_map(|(key, _)| row(key));
    Ok(rows.take_while(|(at, _)| *at >= since).map(|(_, id)| id).collect())
}
