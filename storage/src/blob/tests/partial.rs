//! Blobs in transfer.

use super::*;

/// Writes the answer to `ranges`.
async fn write(partial: &PartialBlob, bytes: &[u8], ranges: ChunkRanges) {
    partial.write(items(bytes, &ranges)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_out_of_order_make_the_blob() {
    let fixture = Fixture::new();
    for &size in SIZES {
        let bytes = content(size, size);
        let hash = BlobHash::of(&bytes);
        let mut events = fixture.store.events();
        let partial = fixture.store.partial(hash, size).await.unwrap();
        let end = ChunkNum::chunks(size).0;
        let mut pieces: Vec<_> = (0..end).step_by(48).map(|start| chunks(start..(start + 48).min(end))).collect();
        pieces.reverse();
        for piece in pieces {
            assert_eq!(partial.missing(&piece), piece, "{size}");
            write(&partial, &bytes, piece.clone()).await;
            assert!(partial.missing(&piece).is_empty(), "{size}");
            assert!(encode(&fixture.store, hash, piece.clone()).await.unwrap() == reference_encoding(&bytes, &piece));
        }
        let seen = events_until(&mut events, BlobEvent::Complete(hash)).await;
        assert_eq!(seen.contains(&BlobEvent::Started(hash)), size > 0);
        assert!(fixture.store.status(hash).unwrap().complete);
        assert_eq!(read(&fixture.store, hash, 0..size).await, Ok(bytes), "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_served_and_nothing_else() {
    let fixture = Fixture::new();
    let bytes = content(2 * MIB, 1);
    let hash = BlobHash::of(&bytes);
    let partial = fixture.store.partial(hash, 2 * MIB).await.unwrap();
    write(&partial, &bytes, chunks(64..128)).await;
    let status = fixture.store.status(hash).unwrap();
    assert_eq!((status.local_bytes, status.complete, &status.ranges), (64 * KIB, false, &chunks(64..128)));
    assert_eq!(read(&fixture.store, hash, 70_000..120_000).await, Ok(bytes[70_000..120_000].to_vec()));
    for range in [0..1, 60_000..70_000, 130_000..140_000] {
        assert_eq!(read(&fixture.store, hash, range).await, Err(SourceError::NoSource));
    }
    let (out, mut sent) = mpsc::channel(1);
    let error = fixture.store.encode(hash, chunks(100..129), out).await.unwrap_err();
    assert!(matches!(error, BlobError::Missing) && sent.recv().await.is_none());
    assert_eq!(partial.missing(&ChunkRanges::all()), chunks(0..64) | chunks(128..2048));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_group_count_when_the_group_is_whole() {
    let fixture = Fixture::new();
    let bytes = content(100 * KIB + 5, 2);
    let hash = BlobHash::of(&bytes);
    let partial = fixture.store.partial(hash, bytes.len() as u64).await.unwrap();
    for (piece, here) in [
        (chunks(16..20), ChunkRanges::empty()),
        (chunks(24..32), ChunkRanges::empty()),
        (chunks(100..101), ChunkRanges::empty()),
        (chunks(20..24), chunks(16..32)),
        (chunks(96..100), chunks(16..32) | chunks(96..101)),
    ] {
        write(&partial, &bytes, piece.clone()).await;
        assert_eq!(fixture.store.status(hash).unwrap().ranges, here, "after {piece:?}");
    }
    let encoded = encode(&fixture.store, hash, chunks(16..32)).await.unwrap();
    assert!(encoded == reference_encoding(&bytes, &chunks(16..32)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_goes_on_after_a_restart() {
    let mut fixture = Fixture::new();
    let bytes = content(3 * MIB, 3);
    let hash = BlobHash::of(&bytes);
    let partial = fixture.store.partial(hash, 3 * MIB).await.unwrap();
    write(&partial, &bytes, chunks(512..2048)).await;
    drop(partial);
    fixture.restart().await;
    assert_eq!(fixture.store.status(hash).unwrap().ranges, chunks(512..2048));
    let partial = fixture.store.partial(hash, 3 * MIB).await.unwrap();
    let rest = partial.missing(&ChunkRanges::all());
    write(&partial, &bytes, rest).await;
    assert_eq!(read(&fixture.store, hash, 0..3 * MIB).await, Ok(bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_keeps_what_was_acknowledged_and_verification_finds_the_rest() {
    let fixture = Fixture::new();
    let (whole, bytes) = (content(MIB, 4), content(20 * MIB, 5));
    let imported = import(&fixture.store, &whole).await;
    let hash = BlobHash::of(&bytes);
    let partial = fixture.store.partial(hash, 20 * MIB).await.unwrap();
    write(&partial, &bytes, chunks(0..17_000)).await;
    // More than 16 MiB: a checkpoint is due at once.
    let durable = |store: &BlobStore| {
        let _structure = store.inner.structure();
        store.inner.table.lock().get(hash).unwrap().durable.clone()
    };
    while durable(&fixture.store).is_empty() {
        tokio::task::yield_now().await;
    }
    write(&partial, &bytes, chunks(20_000..20_480)).await;
    let killed = fixture.after_kill();
    verified(&killed.store).await;
    let status = killed.store.status(hash).unwrap();
    assert_eq!(status.ranges, chunks(0..16_992) | chunks(20_000..20_480), "whole groups, checkpointed or not");
    assert_eq!(read(&killed.store, imported.hash, 0..MIB).await, Ok(whole));
    let partial = killed.store.partial(hash, 20 * MIB).await.unwrap();
    let rest = partial.missing(&ChunkRanges::all());
    write(&partial, &bytes, rest).await;
    assert_eq!(read(&killed.store, hash, 0..20 * MIB).await, Ok(bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_without_a_shutdown_it_opens_again() {
    let fixture = Fixture::new();
    let bytes = content(MIB, 6);
    let hash = import(&fixture.store, &bytes).await.hash;
    let Fixture { dir, store } = fixture;
    fs::write(dir.path().join("blobs/tmp/left"), b"stray").unwrap();
    fs::create_dir_all(dir.path().join("blobs/data/zz")).unwrap();
    fs::write(dir.path().join("blobs/data/zz/stray"), b"stray").unwrap();
    drop(store);
    let store = BlobStore::open(&dir.path().join("blobs"), BlobOptions::default()).unwrap();
    assert_eq!(read(&store, hash, 0..MIB).await, Ok(bytes));
    verified(&store).await;
    assert!(!dir.path().join("blobs/tmp/left").exists());
    assert!(!dir.path().join("blobs/data/zz/stray").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_and_items_outside_the_blob_are_refused() {
    let fixture = Fixture::new();
    let bytes = content(MIB, 7);
    let hash = BlobHash::of(&bytes);
    for size in [1 << 63, u64::MAX] {
        assert!(matches!(fixture.store.partial(hash, size).await, Err(BlobError::TooLarge { .. })));
    }
    for size in [1 << 50, (1 << 63) - 1] {
        assert!(matches!(fixture.store.partial(hash, size).await, Err(BlobError::StorageFull)), "{size}");
    }
    assert!(matches!(fixture.store.partial(hash, 0).await, Err(BlobError::InvalidItem)));
    assert_eq!(fixture.store.list(), []);
    let partial = fixture.store.partial(hash, MIB).await.unwrap();
    assert!(matches!(fixture.store.partial(hash, MIB + 1).await, Err(BlobError::SizeMismatch { .. })));
    for (offset, length) in [(MIB, 1024), (u64::MAX - 10, 1024), (MIB - 1024, 2048), (5, 1024), (0, 1023)] {
        let data = Bytes::from(vec![0; length]);
        let leaf = BaoContentItem::Leaf(bao_tree::io::Leaf { offset, data });
        assert!(matches!(partial.write(vec![leaf]).await, Err(BlobError::InvalidItem)), "{offset}+{length}");
    }
    assert!(fixture.store.status(hash).unwrap().ranges.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_write_while_a_player_reads() {
    let fixture = Fixture::new();
    let size = 4 * MIB + 5;
    let bytes = content(size, 8);
    let hash = BlobHash::of(&bytes);
    let partial = fixture.store.partial(hash, size).await.unwrap();
    let writers = (0..4).map(|writer| {
        let (partial, bytes) = (partial.clone(), &bytes);
        async move {
            for start in (0..4097).step_by(64).filter(|start| start / 64 % 4 == writer) {
                write(&partial, bytes, chunks(start..(start + 64).min(4097))).await;
            }
        }
    });
    let player = async {
        let mut played = Vec::new();
        for start in (0..size).step_by(100_000) {
            let end = (start + 100_000).min(size);
            let wanted = chunks(start / 1024..end.div_ceil(1024));
            until(&fixture.store, hash, |here| wanted.is_subset(here)).await;
            played.extend(read(&fixture.store, hash, start..end).await.unwrap());
        }
        played
    };
    let (played, _) = futures::join!(player, futures::future::join_all(writers));
    assert!(played == bytes);
    assert!(fixture.store.status(hash).unwrap().complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_completes_a_transfer_in_progress() {
    for mode in [ImportMode::Copy, ImportMode::Reference] {
        let fixture = Fixture::new();
        let bytes = content(2 * MIB, 9);
        let hash = BlobHash::of(&bytes);
        let partial = fixture.store.partial(hash, 2 * MIB).await.unwrap();
        write(&partial, &bytes, chunks(0..512)).await;
        let mut stream = fixture.store.read_local(hash, 0..512 * KIB);
        let first = stream.next().await.unwrap().unwrap();
        let path = fixture.user_file("video", &bytes);
        import_file(&fixture.store, &path, mode).await.unwrap();
        assert!(partial.missing(&ChunkRanges::all()).is_empty());
        write(&partial, &bytes, chunks(512..600)).await;
        let rest: Vec<u8> = stream.map(Result::unwrap).collect::<Vec<_>>().await.concat();
        assert_eq!([first.to_vec(), rest].concat(), bytes[..512 * KIB as usize]);
        assert_eq!(read(&fixture.store, hash, 0..2 * MIB).await, Ok(bytes.clone()));
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_brought_nothing_leaves_nothing() {
    let fixture = Fixture::new();
    let hash = BlobHash::of(b"never sent");
    let mut events = fixture.store.events();
    drop(fixture.store.partial(hash, 10 * MIB).await.unwrap());
    events_until(&mut events, BlobEvent::Removed(hash)).await;
    assert_eq!(fixture.store.status(hash), None);
    assert!(!fixture.file("data", hash).exists());
}
