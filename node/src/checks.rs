//! What `mhc doctor` can only learn from the running node: whether the index says what the log says, and whether
//! the blobs are whole.

use mhc_storage::{
    blob::BlobStore,
    record::{Health, Records},
};

use crate::doctor::Check;

/// Checks the running node. With `rebuild_first` the index is dropped and replayed before.
pub(crate) async fn running(records: &Records, blobs: &BlobStore, rebuild_first: bool) -> Vec<Check> {
    let mut checks = vec![store(records)];
    if rebuild_first {
        checks.push(rebuild(records).await);
    }
    checks.push(index(records).await);
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

/// Compares the index with a replay of the log in memory, which takes a blocking thread for a while.
async fn index(records: &Records) -> Check {
    let records = records.clone();
    let checked = tokio::task::spawn_blocking(move || records.check_index()).await;
    match checked {
        Ok(Ok(true)) => Check::ok("index", "it says what the log says"),
        Ok(Ok(false)) => Check::fail("index", "it doesn't say what the log says", "mhc doctor --rebuild"),
        Ok(Err(error)) => Check::fail("index", error.to_string(), "look at the node's log, then try again"),
        Err(error) => Check::fail("index", error.to_string(), "look at the node's log, then try again"),
    }
}

async fn rebuild(records: &Records) -> Check {
    match records.rebuild().await {
        Ok(count) => Check::ok("rebuild", format!("replayed {count} records")),
        Err(error) => Check::fail("rebuild", error.to_string(), "look at the node's log, then try again"),
    }
}

fn verification(blobs: &BlobStore) -> Check {
    let progress = blobs.verification();
    let detail =
        format!("{} checked, {} damaged, {} waiting", progress.blobs_done, progress.blobs_damaged, progress.blobs_left);
    match progress.blobs_damaged {
        0 => Check::ok("blobs", detail),
        _ => Check::warn("blobs", detail, "nothing: damaged parts are fetched again when somebody wants them"),
    }
}
