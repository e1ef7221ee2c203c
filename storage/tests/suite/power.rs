//! Power loss: an ext4 file system on a loop device is shut down without flushing its journal while a child writes,
//! then mounted again. What was only in the page cache is gone, as after pulling the plug; everything acknowledged
//! must be there.

use std::{
    collections::HashSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use mhc_protocol::{BlobHash, RecordId};
use mhc_storage::blob::{BlobOptions, BlobStore};
use tempfile::TempDir;

use crate::{child, kill};

/// Sparse, and more than the longest run fills.
const IMAGE_BYTES: u64 = 4 << 30;
const BLOB_BYTES: usize = 300_000;
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, from Linux' `fs/ext4/ext4.h`. In Perl, which every Debian
/// has, since an ioctl of our own would need unsafe code.
const SHUT_DOWN: &str =
    r#"open(my $f, "<", $ARGV[0]) or die $!; my $how = pack("L", 2); ioctl($f, 0x8004587d, $how) or die $!"#;

fn rounds() -> usize {
    if std::env::var_os("MHC_SOAK").is_some() { 20 } else { 4 }
}

/// A file system that can lose its power.
struct Disk {
    dir: TempDir,
}

impl Disk {
    /// None, said loudly, where it can't be made.
    fn new() -> Option<Self> {
        let disk = Self { dir: tempfile::tempdir().unwrap() };
        let image = File::create(disk.image()).unwrap();
        image.set_len(IMAGE_BYTES).unwrap();
        fs::create_dir(disk.mount_point()).unwrap();
        let made = run(Command::new("mkfs.ext4").arg("-q").arg(disk.image())).and_then(|()| disk.mount());
        if let Err(why) = made {
            eprintln!("SKIPPED: power loss needs root, mkfs.ext4 and a loop device: {why}");
            return None;
        }
        Some(disk)
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn mount_point(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn mount(&self) -> Result<(), String> {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.image()).arg(self.mount_point()))
    }

    fn lose_power(&self) {
        run(Command::new("perl").args(["-e", SHUT_DOWN]).arg(self.mount_point())).unwrap();
    }

    fn restore_power(&self) {
        run(Command::new("umount").arg(self.mount_point())).unwrap();
        self.mount().unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may not be mounted.
        let _ = Command::new("umount").arg("--lazy").arg(self.mount_point()).output();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

#[test]
fn acknowledged_records_survive_power_loss() {
    let Some(disk) = Disk::new() else { return };
    let dir = disk.mount_point().join("records");
    let mut acknowledged = HashSet::<RecordId>::new();
    for round in 0..rounds() {
        let acks = child::spawn("records redb", &dir).stop_after(5 + 7 * round, || disk.lose_power());
        acknowledged.extend(acks.iter().map(|id| id.parse::<RecordId>().unwrap()));
        disk.restore_power();
        kill::assert_whole(&kill::open_records("redb", &dir), &acknowledged, &format!("round {round}"));
    }
}

fn content(number: usize) -> Vec<u8> {
    let mut bytes = vec![0; BLOB_BYTES];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn open_blobs(dir: &Path) -> BlobStore {
    BlobStore::open(dir, BlobOptions::default()).unwrap()
}

/// The child's part: imports blobs with ascending numbers, for ever.
pub(crate) fn import_blobs(dir: &Path) {
    let store = open_blobs(dir);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        // From the first that isn't whole: one that was being imported may be known already.
        let first = store.list().iter().filter(|(_, status)| status.pinned).count();
        for number in first.. {
            let bytes = stream::iter([Ok(Bytes::from(content(number)))]);
            let imported = store.import_stream(bytes, u64::MAX).await.unwrap();
            // Or it would be evicted when the disk is full.
            store.set_pinned(imported.hash, true).await.unwrap();
            child::acknowledge(number);
        }
    });
}

#[test]
fn acknowledged_blobs_survive_power_loss() {
    let Some(disk) = Disk::new() else { return };
    let dir = disk.mount_point().join("blobs");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut acknowledged = HashSet::<usize>::new();
    for round in 0..rounds() {
        let acks = child::spawn("blobs -", &dir).stop_after(2 + 3 * round, || disk.lose_power());
        acknowledged.extend(acks.iter().map(|number| number.parse::<usize>().unwrap()));
        disk.restore_power();
        let store = open_blobs(&dir);
        for number in &acknowledged {
            let bytes = content(*number);
            let read = runtime.block_on(whole(&store, BlobHash::of(&bytes), bytes.len() as u64));
            assert_eq!(read, Some(bytes), "round {round}: blob {number} of {}", acknowledged.len());
        }
        runtime.block_on(store.shutdown());
    }
}

async fn whole(store: &BlobStore, hash: BlobHash, size_bytes: u64) -> Option<Vec<u8>> {
    let pieces: Vec<_> = store.read_local(hash, 0..size_bytes).collect().await;
    pieces.into_iter().collect::<Result<Vec<_>, _>>().ok().map(|pieces| pieces.concat())
}
