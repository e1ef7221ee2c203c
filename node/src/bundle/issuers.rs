//! How much each maker of bundles has brought that nobody here asked for, and whether it may bring more.
//!
//! Whoever may publish can name blobs in manifests and fill sticks with them. So of the blobs that a bundle brings those
//! are counted for its maker that weren't asked for: not pinned, not on a want-list of this node, not of a channel that
//! it follows by name, and not begun by somebody who watches. What is counted is what is here of them now: what was
//! evicted or pinned since frees room.

use std::collections::{HashMap, HashSet};

use mhc_platform::catalog;
use mhc_protocol::{
    BlobHash, NodeId,
    bundle::{MAX_WANTS_BYTES, WantList},
    network::Interest,
};
use mhc_storage::{kv::KeyRange, record::Private};
use tokio::runtime::Handle;

use super::{
    JobError, Stores,
    layout::{Stick, read_small},
};
use crate::pins;

/// Which blobs came unasked: the blob and who brought it first.
const TABLE: &str = "bundle-issuers";
/// Contents of one blob that are looked at.
const MAX_CONTENTS: usize = 16;

/// What is known of all makers at the start of an import.
pub(super) struct Issuers<'a> {
    stores: &'a Stores,
    table: Private,
    /// Who brought what unasked.
    brought: HashMap<BlobHash, NodeId>,
    /// How much of that is here, by maker.
    used: HashMap<NodeId, u64>,
    /// What this node's own want-list on the stick asks for.
    listed: HashSet<BlobHash>,
    interest: Interest,
}

impl<'a> Issuers<'a> {
    /// Reads the table, and lets go of what isn't here any more or is kept on purpose.
    pub(super) fn open(stores: &'a Stores, stick: &Stick, handle: &Handle) -> Result<Self, JobError> {
        let table = stores.records.private(TABLE);
        let (mut brought, mut used, mut gone) = (HashMap::new(), HashMap::new(), vec![]);
        for (key, value) in table.scan(KeyRange::all(), usize::MAX)? {
            let pair = <[u8; 32]>::try_from(key.as_slice()).ok().zip(<[u8; 32]>::try_from(value.as_slice()).ok());
            match pair.map(|(hash, node)| (BlobHash::from_bytes(hash), NodeId::from_bytes(node))) {
                Some((hash, node)) => match stores.blobs.status(hash).filter(|status| !status.pinned) {
                    Some(status) => {
                        brought.insert(hash, node);
                        *used.entry(node).or_default() += status.local_bytes;
                    }
                    None => gone.push((key, None)),
                },
                None => gone.push((key, None)),
            }
        }
        if !gone.is_empty() {
            handle.block_on(table.update(gone))?;
        }
        let (listed, interest) = (listed(stores, stick), (stores.interest)());
        Ok(Self { stores, table, brought, used, listed, interest })
    }

    /// Whether somebody here asked for the blob.
    pub(super) fn is_asked_for(&self, hash: BlobHash) -> Result<bool, JobError> {
        if self.brought.contains_key(&hash) {
            return Ok(false);
        }
        // Of what is here in part, and wasn't brought, somebody watched something.
        if self.listed.contains(&hash) || self.stores.blobs.status(hash).is_some() {
            return Ok(true);
        }
        if pins::is_noted(&self.stores.records, hash)? {
            return Ok(true);
        }
        let Interest::Channels(channels) = &self.interest else { return Ok(false) };
        let view = self.stores.records.view(catalog::NAME)?;
        let contents = catalog::entries_of_blob(&view, hash, MAX_CONTENTS)?;
        Ok(contents.iter().any(|(_, entry)| channels.contains(&entry.author)))
    }

    /// Whether `node` may bring `bytes` more of this blob, which wasn't asked for. If so it is noted, durably, before
    /// anything of it is stored.
    pub(super) fn admit(
        &mut self,
        node: NodeId,
        hash: BlobHash,
        bytes: u64,
        handle: &Handle,
    ) -> Result<bool, JobError> {
        // Who brought it first pays for it.
        let node = *self.brought.get(&hash).unwrap_or(&node);
        let used = self.used.get(&node).copied().unwrap_or(0);
        if used.saturating_add(bytes) > self.stores.issuer_quota_bytes {
            return Ok(false);
        }
        if self.brought.insert(hash, node).is_none() {
            handle.block_on(self.table.put(hash.as_bytes(), node.as_bytes()))?;
        }
        Ok(true)
    }

    /// So much of the blob was stored.
    pub(super) fn stored(&mut self, hash: BlobHash, bytes: u64) {
        if let Some(node) = self.brought.get(&hash) {
            let used = self.used.entry(*node).or_default();
            *used = used.saturating_add(bytes);
        }
    }
}

fn listed(stores: &Stores, stick: &Stick) -> HashSet<BlobHash> {
    let file = read_small(&stick.wants_file(), MAX_WANTS_BYTES).ok().flatten();
    let list = file.and_then(|file| WantList::decode(&file).ok());
    let own = list.filter(|list| list.network == stores.network && list.is_of(&stores.key));
    own.into_iter().flat_map(|list| list.lacks).map(|lack| lack.hash).collect()
}
