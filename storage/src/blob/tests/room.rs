//! Quota, eviction, full disks.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_least_recently_used_goes_first() {
    let fixture = Fixture::quota(4 * MIB);
    let mut hashes = Vec::new();
    for seed in 0..4 {
        hashes.push(import(&fixture.store, &content(MIB, seed)).await.hash);
    }
    fixture.store.set_pinned(hashes[1], true).await.unwrap();
    let reference = fixture.user_file("reference", &content(MIB, 10));
    let reference = import_file(&fixture.store, &reference, ImportMode::Reference).await.unwrap().hash;
    // The first is used again; the second is pinned and doesn't count: 3 MiB are used.
    read(&fixture.store, hashes[0], 0..10).await.unwrap();
    let playing = fixture.store.read_local(hashes[2], 0..MIB);
    let mut events = fixture.store.events();
    import(&fixture.store, &content(2 * MIB, 11)).await;
    assert_eq!(events.recv().await.unwrap(), BlobEvent::Removed(hashes[3]), "the oldest that isn't in use");
    assert!(fixture.store.status(hashes[0]).is_some() && fixture.store.status(hashes[2]).is_some());
    drop(playing);
    import(&fixture.store, &content(3 * MIB, 12)).await;
    let left: Vec<_> = hashes.iter().filter(|hash| fixture.store.status(**hash).is_some()).collect();
    assert_eq!(left, [&hashes[1]], "pinned");
    assert!(fixture.store.status(reference).is_some());
    let usage = fixture.store.usage();
    assert_eq!((usage.quota_used_bytes, usage.pinned_bytes, usage.referenced_bytes), (3 * MIB, MIB, MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_fit_is_refused_and_evicts_nothing() {
    let fixture = Fixture::quota(2 * MIB);
    let kept = import(&fixture.store, &content(MIB, 1)).await.hash;
    let quota = |error: BlobError| matches!(error, BlobError::QuotaExceeded { quota_bytes } if quota_bytes == 2 * MIB);
    let path = fixture.user_file("large", &content(2 * MIB + 1, 2));
    assert!(quota(import_file(&fixture.store, &path, ImportMode::Copy).await.unwrap_err()));
    for size in [2 * MIB + 1, 1 << 40, (1 << 63) - 1] {
        assert!(quota(fixture.store.partial(BlobHash::of(b"large"), size).await.unwrap_err()), "{size}");
    }
    assert!(fixture.store.status(kept).is_some());
    // A stream tells its size only as it comes.
    assert!(quota(try_import(&fixture.store, &content(3 * MIB, 3)).await.unwrap_err()));
    assert_eq!(fs::read_dir(fixture.path().join("tmp")).unwrap().count(), 0);
    import_file(&fixture.store, &path, ImportMode::Reference).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn open_transfers_and_fresh_imports_keep_their_room() {
    let fixture = Fixture::quota(3 * MIB);
    let imported = import(&fixture.store, &content(MIB, 1)).await;
    let bytes = content(2 * MIB, 2);
    let partial = fixture.store.partial(BlobHash::of(&bytes), 2 * MIB).await.unwrap();
    assert_eq!(fixture.store.usage().quota_used_bytes, 3 * MIB);
    assert!(try_import(&fixture.store, &content(MIB, 3)).await.is_err(), "all of it is in use");
    partial.write(items(&bytes, &ChunkRanges::all())).await.unwrap();
    drop((partial, imported));
    import(&fixture.store, &content(MIB, 3)).await;
    assert_eq!(fixture.store.usage().quota_used_bytes, 3 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_stays_until_it_is_let_go() {
    let fixture = Fixture::quota(2 * MIB);
    let held = import(&fixture.store, &content(MIB, 1)).await.hash;
    let guard = fixture.store.hold(held).unwrap();
    import(&fixture.store, &content(MIB, 2)).await;
    import(&fixture.store, &content(MIB, 3)).await;
    assert!(fixture.store.status(held).is_some(), "the oldest, and held");
    assert!(try_import(&fixture.store, &content(2 * MIB, 4)).await.is_err());
    drop(guard);
    import(&fixture.store, &content(2 * MIB, 4)).await;
    assert!(fixture.store.status(held).is_none());
    assert!(fixture.store.hold(held).is_none(), "nothing is known of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_gets_below_a_smaller_quota_and_deletes_strays() {
    let fixture = Fixture::new();
    for seed in 0..4 {
        import(&fixture.store, &content(MIB, seed)).await;
    }
    fixture.store.shutdown().await;
    let options = BlobOptions { quota_bytes: Some(2 * MIB), ..BlobOptions::default() };
    let store = BlobStore::open(&fixture.path(), options).unwrap();
    fs::write(fixture.path().join("data").join("no-folder"), b"left alone").unwrap();
    let stray = fixture.file("bao", BlobHash::of(b"stray"));
    fs::create_dir_all(stray.parent().unwrap()).unwrap();
    fs::write(&stray, vec![1; 8192]).unwrap();
    let report = store.gc().await.unwrap();
    assert_eq!((report.evicted, report.stray_files), (2, 1));
    assert!(report.freed_bytes >= 2 * MIB + 8192);
    assert_eq!(store.usage().quota_used_bytes, 2 * MIB);
    assert_eq!(store.gc().await.unwrap(), super::super::GcReport::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_use_survives_a_restart() {
    let mut fixture = Fixture::new();
    let first = import(&fixture.store, &content(MIB, 1)).await.hash;
    let second = import(&fixture.store, &content(MIB, 2)).await.hash;
    read(&fixture.store, first, 0..1).await.unwrap();
    fixture.restart().await;
    let used = |hash| fixture.store.status(hash).unwrap().last_used_ms;
    assert!(used(first) > used(second));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_floor_of_free_space_is_kept() {
    let fixture = Fixture::with(BlobOptions { min_free_bytes: u64::MAX / 2, ..BlobOptions::default() });
    assert!(matches!(try_import(&fixture.store, b"x").await, Err(BlobError::StorageFull)));
    assert!(matches!(fixture.store.partial(BlobHash::of(b"x"), 1).await, Err(BlobError::StorageFull)));
}

/// A file system of its own, unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(dir.path()).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_recovers() {
    let Some(disk) = SmallDisk::mount("26m") else {
        eprintln!("SKIPPED: a_full_disk_refuses_and_recovers needs the right to mount a tmpfs");
        return;
    };
    let store = BlobStore::open(&disk.0.path().join("blobs"), BlobOptions::default()).unwrap();
    let kept = content(4 * MIB, 1);
    let imported = import(&store, &kept).await;
    // A stream's size is only known when the disk is full.
    let error = try_import(&store, &content(32 * MIB, 2)).await.unwrap_err();
    assert!(matches!(error, BlobError::StorageFull), "{error}");
    let unwanted = import(&store, &content(MIB, 9)).await.hash;
    let bytes = content(8 * MIB, 3);
    let hash = BlobHash::of(&bytes);
    let partial = store.partial(hash, 8 * MIB).await.unwrap();
    partial.write(items(&bytes, &chunks(0..1024))).await.unwrap();
    // Somebody else fills the disk in the middle of the transfer.
    let filler = disk.0.path().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 65536]).is_ok() {}
    let error = partial.write(items(&bytes, &chunks(1024..8192))).await.unwrap_err();
    assert!(matches!(error, BlobError::StorageFull), "{error}");
    assert!(matches!(try_import(&store, &content(MIB, 4)).await, Err(BlobError::StorageFull)));
    assert_eq!(read(&store, imported.hash, 0..4 * MIB).await, Ok(kept.clone()), "reading works on a full disk");
    // Metadata may or may not fit; whatever it does now, it works again when there is room.
    let mut refused = 0;
    for seed in 0..64 {
        refused += u32::from(store.set_pinned(imported.hash, seed % 2 == 0).await.is_err());
    }
    eprintln!("{refused} of 64 metadata commits refused on a full disk");
    store.remove(unwanted).await.unwrap();
    drop(file);
    fs::remove_file(&filler).unwrap();
    store.set_pinned(imported.hash, false).await.unwrap();
    let missing = partial.missing(&ChunkRanges::all());
    partial.write(items(&bytes, &missing)).await.unwrap();
    assert!(store.status(hash).unwrap().complete);
    drop((partial, imported));
    // What can be evicted makes room.
    import(&store, &content(16 * MIB, 5)).await;
    assert!(store.status(BlobHash::of(&kept)).is_none());
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_opens_on_a_full_disk_and_reads() {
    let Some(disk) = SmallDisk::mount("16m") else {
        eprintln!("SKIPPED: a_store_opens_on_a_full_disk_and_reads needs the right to mount a tmpfs");
        return;
    };
    let dir = disk.0.path().join("blobs");
    let bytes = content(MIB, 1);
    let store = BlobStore::open(&dir, BlobOptions::default()).unwrap();
    let hash = import(&store, &bytes).await.hash;
    let killed = disk.0.path().join("killed");
    {
        let _structure = store.inner.structure();
        copy_dir(&dir, &killed);
    }
    store.shutdown().await;
    let mut filler = fs::File::create(disk.0.path().join("filler")).unwrap();
    while std::io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
    for dir in [dir, killed] {
        let store = BlobStore::open(&dir, BlobOptions::default()).unwrap();
        assert_eq!(read(&store, hash, 0..MIB).await, Ok(bytes.clone()));
        assert!(matches!(try_import(&store, &content(2 * MIB, 2)).await, Err(BlobError::StorageFull)));
        store.shutdown().await;
    }
}

/// A blob too large to make: a few groups are known, everything else has made-up hashes.
struct Giant {
    size_bytes: u64,
    known: Vec<u64>,
}

impl Giant {
    const GROUP: u64 = 16 * KIB;

    fn group(start: u64) -> Vec<u8> {
        content(Self::GROUP, start)
    }

    fn hash(&self, bytes: Range<u64>) -> blake3::Hash {
        let root = bytes == (0..self.size_bytes);
        if !self.known.iter().any(|group| bytes.contains(&(group * Self::GROUP))) {
            return blake3::hash(&bytes.start.to_le_bytes());
        }
        if bytes.end - bytes.start == Self::GROUP {
            return super::super::segments::hash(&Self::group(bytes.start), bytes.start, false);
        }
        let middle = bytes.start + (bytes.end - bytes.start) / 2;
        super::super::segments::merge(&self.hash(bytes.start..middle), &self.hash(middle..bytes.end), root)
    }

    /// The answer to a request for one group.
    fn encode(&self, bytes: Range<u64>, group: u64, out: &mut Vec<u8>) {
        if !bytes.contains(&(group * Self::GROUP)) {
            return;
        }
        if bytes.end - bytes.start == Self::GROUP {
            return out.extend(Self::group(bytes.start));
        }
        let middle = bytes.start + (bytes.end - bytes.start) / 2;
        for half in [bytes.start..middle, middle..bytes.end] {
            out.extend(self.hash(half).as_bytes());
        }
        self.encode(bytes.start..middle, group, out);
        self.encode(middle..bytes.end, group, out);
    }

    fn items(&self, root: blake3::Hash, group: u64) -> Vec<BaoContentItem> {
        let mut encoded = Vec::new();
        self.encode(0..self.size_bytes, group, &mut encoded);
        let (tree, ranges) = (BaoTree::new(self.size_bytes, BLOCK_SIZE), chunks(group * 16..(group + 1) * 16));
        DecodeResponseIter::new(root, tree, encoded.as_slice(), &ranges).map(Result::unwrap).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_film_larger_than_the_quota_passes_through() {
    const QUOTA_GROUPS: u64 = 16;
    let size_bytes = 64 << 30;
    let start = (32 << 30) / Giant::GROUP;
    let giant = Giant { size_bytes, known: (start - 5..start + 30).collect() };
    let root = giant.hash(0..size_bytes);
    let hash = BlobHash::from_bytes(*root.as_bytes());
    let fixture = Fixture::quota(QUOTA_GROUPS * Giant::GROUP);
    assert!(matches!(fixture.store.partial(hash, size_bytes).await, Err(BlobError::QuotaExceeded { .. })));
    let partial = fixture.store.partial_in_parts(hash, size_bytes).await.unwrap();
    let too_much = chunks(0..(QUOTA_GROUPS + 1) * 16);
    assert!(matches!(partial.reserve(&too_much).await, Err(BlobError::QuotaExceeded { .. })));
    for &group in &giant.known {
        let wanted = chunks(group * 16..(group + 1) * 16);
        partial.reserve(&wanted).await.unwrap();
        partial.write_blocking(&giant.items(root, group)).unwrap();
        let at = group * Giant::GROUP;
        assert_eq!(read(&fixture.store, hash, at..at + Giant::GROUP).await, Ok(Giant::group(at)));
        assert!(fixture.store.usage().quota_used_bytes <= QUOTA_GROUPS * Giant::GROUP);
    }
    let last = (start + 30) * 16;
    let here = fixture.store.status(hash).unwrap().ranges;
    assert!(chunks(last - 12 * 16..last).is_subset(&here), "what was played last is still here: {here:?}");
    let used = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(fixture.file("data", hash)).unwrap()) * 512;
    assert!(used <= (QUOTA_GROUPS + 1) * Giant::GROUP, "{used} bytes of disk");
    // Back to the beginning: now what lies behind goes.
    for &group in &giant.known[..5] {
        partial.write(giant.items(root, group)).await.unwrap();
    }
    assert!(!chunks(last - 16..last).is_subset(&fixture.store.status(hash).unwrap().ranges));
    drop(partial);
    assert!(fixture.store.usage().quota_used_bytes <= QUOTA_GROUPS * Giant::GROUP);
}
