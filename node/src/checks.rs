//! What `mhc doctor` can only learn from the running node: whether the index says what the log says, and whether
//! the blobs are whole.

use mhc_storage::{
    blob::BlobStore,
    record::{Health, Records},
};

use crate::doctor::Check;

/// Checks the running node. With `rebuild` the index is dropped and replayed; its digest before and after tells
/// whether it was right.
pub(crate) async fn running(records: &Records, blobs: &BlobStore, rebuild: bool) -> Vec<Check> {
    let mut checks = vec![store(records)];
    if rebuild {
        checks.push(rebuild_index(records).await);
    }
    checks.push(verification(blobs));
    checks
}

fn store(records: &Records) -> Check {
    match records.health() {
        Health::ReadWrite => Check::ok("records", "the log takes records"),
        Health::ReadOnly { reason } => {
            Check::fail("records", reason, "free space on the disk of the home; the node goes on by itself")
        }
    }
}

async fn rebuild_index(records: &Records) -> Check {
    let before = records.index_digest();
    let replayed = records.rebuild().await;
    match (before, replayed, records.index_digest()) {
        (Ok(before), Ok(count), Ok(after)) if before == after => {
            Check::ok("index", format!("replayed {count} records; it was right"))
        }
        (_, Ok(count), Ok(_)) => {
            Check::warn("index", format!("replayed {count} records; it had been wrong"), "nothing: it is right now")
        }
        (_, Err(error), _) | (_, _, Err(error)) => {
            Check::fail("index", error.to_string(), "look at the node's log, then try again")
        }
    }
}

fn verification(blobs: &BlobStore) -> Check {
    let progress = blobs.verification();
    let detail = format!("{} checked, {} damaged, {} waiting", progress.blobs_done, progress.blobs_damaged, progress.blobs_left);
    match progress.blobs_damaged {
        0 => Check::ok("blobs", detail),
        _ => Check::warn("blobs", detail, "nothing: damaged parts are fetched again when somebody wants them"),
    }
}
