//! Making room: records of networks that aren't followed any more, and of authors who aren't of interest, go when the
//! operator asks for it.

use mhc_protocol::{AuthorId, NetworkId, network::Scope};
use mhc_storage::record::{Records, RecordsError};

use crate::net::Net;

/// Heads read at a time.
const PAGE: usize = 1024;

/// Drops the logs that nobody here wants; returns how many records they had. The log of `own` stays in every network:
/// begun anew it would fork.
pub(crate) async fn unwanted(net: &Net, records: &Records, own: AuthorId) -> Result<u64, RecordsError> {
    let mut dropped = 0;
    for network in records.networks()? {
        let wanted = net.scope(network)?;
        let is_wanted =
            |author: AuthorId| author == own || wanted.as_ref().is_some_and(|wanted| wanted.contains(author));
        if wanted == Some(Scope::All) {
            continue;
        }
        // Whoever governs goes last: with each, all that is left would be decided anew.
        let governors = records.authority(network)?.governors();
        dropped += forget(records, network, |author| !is_wanted(author) && !governors.contains(&author)).await?;
        dropped += forget(records, network, |author| !is_wanted(author)).await?;
    }
    Ok(dropped)
}

async fn forget(
    records: &Records,
    network: NetworkId,
    unwanted: impl Fn(AuthorId) -> bool,
) -> Result<u64, RecordsError> {
    let (mut dropped, mut after) = (0, None);
    loop {
        let heads = records.heads(network, after, PAGE)?;
        after = heads.last().map(|head| head.author);
        let authors: Vec<_> = heads.iter().map(|head| head.author).filter(|author| unwanted(*author)).collect();
        dropped += records.forget(network, &authors).await?;
        if heads.len() < PAGE {
            return Ok(dropped);
        }
    }
}
