//! Our store as reconciliation sees it.

use mhc_protocol::{
    AuthorId, NetworkId, RecordId,
    reconcile::{Logs, Page, Position, Store},
    record::MAX_ENVELOPE_BYTES,
    wire::{Head, MAX_LOG_BYTES},
};
use mhc_storage::record::{Records, RecordsError};

use super::pulls::Session;

/// The head of an author's log.
pub(super) fn head(records: &Records, network: NetworkId, author: AuthorId) -> Result<Option<Head>, RecordsError> {
    let heads = records.heads(network, before(author), 1)?;
    Ok(heads.into_iter().map(from_store).find(|head| head.author == author))
}

pub(super) fn from_store(head: mhc_storage::record::Head) -> Head {
    Head { author: head.author, epoch: head.epoch, seq: head.seq, id: head.id }
}

/// The author right before another in their order; none before the first.
fn before(author: AuthorId) -> Option<AuthorId> {
    let mut bytes = *author.as_bytes();
    for byte in bytes.iter_mut().rev() {
        let (less, borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !borrowed {
            return Some(AuthorId::from_bytes(bytes));
        }
    }
    None
}

/// A session's view of the store it pulls into.
pub(super) struct Local {
    pub(super) records: Records,
    pub(super) network: NetworkId,
    pub(super) session: Session,
}

impl Store for Local {
    type Error = RecordsError;

    fn head(&self, author: AuthorId) -> Result<Option<Head>, RecordsError> {
        head(&self.records, self.network, author)
    }

    fn knows(&self, id: RecordId) -> Result<bool, RecordsError> {
        match self.records.get(id) {
            Ok(record) => Ok(record.is_some()),
            Err(RecordsError::Damaged(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn may_pull(&self, theirs: &Head, ours: Option<&Head>) -> bool {
        self.session.claim(theirs, ours)
    }

    fn pulled(&self, theirs: &Head, ours: Option<&Head>, brought: bool) {
        self.session.pulled(theirs, ours, brought);
    }
}

/// Where answers take records from.
pub(super) struct Reader<'a> {
    pub(super) records: &'a Records,
    pub(super) network: NetworkId,
}

impl Reader<'_> {
    /// Those of the records that are here and of the network, as many as there is room for.
    pub(super) fn records(&self, ids: &[RecordId]) -> Result<Vec<Vec<u8>>, RecordsError> {
        let (mut envelopes, mut bytes) = (vec![], 0);
        for id in ids {
            let record = match self.records.get(*id) {
                Err(RecordsError::Damaged(_)) => None,
                record => record?,
            };
            let Some(record) = record.filter(|record| record.header().network == self.network) else { continue };
            let envelope = record.to_bytes();
            bytes += envelope.len();
            if bytes > MAX_LOG_BYTES {
                break;
            }
            envelopes.push(envelope);
        }
        Ok(envelopes)
    }
}

impl Logs for Reader<'_> {
    type Error = RecordsError;

    fn log(
        &self,
        author: AuthorId,
        from: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Page, RecordsError> {
        let records = self.records.log(self.network, author, from, max_records.saturating_add(1), max_bytes)?;
        let mut envelopes: Vec<_> = records.iter().map(|record| record.to_bytes()).collect();
        let bytes: usize = envelopes.iter().map(Vec::len).sum();
        // The store stops where a record doesn't fit, and doesn't say whether there was one.
        let more = envelopes.len() > max_records || bytes + MAX_ENVELOPE_BYTES > max_bytes;
        envelopes.truncate(max_records);
        Ok(Page { envelopes, more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_author_before() {
        let author = |first: u8, last: u8| {
            let mut id = [0; 32];
            (id[0], id[31]) = (first, last);
            AuthorId::from_bytes(id)
        };
        assert_eq!(before(author(0, 0)), None);
        assert_eq!(before(author(3, 2)), Some(author(3, 1)));
        let mut borrowed = [0xff; 32];
        borrowed[0] = 2;
        assert_eq!(before(author(3, 0)), Some(AuthorId::from_bytes(borrowed)));
    }
}
