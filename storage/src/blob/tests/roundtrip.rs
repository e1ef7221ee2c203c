//! In and out again, whole and in parts.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn every_size_comes_out_as_it_went_in() {
    let mut fixture = Fixture::new();
    for &size in SIZES {
        let bytes = content(size, size);
        let imported = import(&fixture.store, &bytes).await;
        assert_eq!((imported.hash, imported.bytes), (BlobHash::of(&bytes), size));
        let path = fixture.user_file("again", &bytes);
        assert_eq!(import_file(&fixture.store, &path, ImportMode::Copy).await.unwrap().hash, imported.hash);
    }
    fixture.restart().await;
    assert_eq!(fixture.store.verification().blobs_left, 0, "nothing to verify after a clean stop");
    for &size in SIZES {
        let bytes = content(size, size);
        let hash = BlobHash::of(&bytes);
        let status = fixture.store.status(hash).unwrap();
        assert!(status.complete && status.local_bytes == size && status.size_bytes == size, "{size}: {status:?}");
        assert_eq!(read(&fixture.store, hash, 0..size).await, Ok(bytes.clone()), "{size}");
        let encoded = encode(&fixture.store, hash, ChunkRanges::all()).await.unwrap();
        assert!(encoded == reference_encoding(&bytes, &ChunkRanges::all()), "{size}");
    }
    assert_eq!(fixture.store.list().len(), SIZES.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_makes_the_tree_that_bao_tree_makes() {
    const GROUP: u64 = 16 * KIB;
    let groups = [0, 1, 2, 3, 63, 64, 65, 127, 128, 129, 193, 320, 449];
    let around = groups.iter().flat_map(|groups| [-1, 0, 1].map(|off| (groups * GROUP).checked_add_signed(off)));
    let fixture = Fixture::new();
    for size in around.flatten() {
        let bytes = content(size, size);
        let (hash, tree) = (BlobHash::of(&bytes), PreOrderMemOutboard::create(&bytes, BLOCK_SIZE).data);
        let path = fixture.user_file("source", &bytes);
        for way in ["reference", "copy", "stream"] {
            let imported = match way {
                "reference" => import_file(&fixture.store, &path, ImportMode::Reference).await.unwrap(),
                "copy" => import_file(&fixture.store, &path, ImportMode::Copy).await.unwrap(),
                _ => import(&fixture.store, &bytes).await,
            };
            assert_eq!((imported.hash, imported.bytes), (hash, size), "{way}");
            let stored = fs::read(fixture.file("bao", hash)).unwrap_or_default();
            assert!(stored == tree, "{size} bytes by {way}");
            fixture.store.remove(hash).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn references_read_like_copies_and_stay_the_users() {
    let mut fixture = Fixture::new();
    for &size in SIZES {
        let bytes = content(size, size);
        let path = fixture.user_file(&size.to_string(), &bytes);
        let imported = import_file(&fixture.store, &path, ImportMode::Reference).await.unwrap();
        assert!(!fixture.file("data", imported.hash).exists());
    }
    fixture.restart().await;
    for &size in SIZES {
        let bytes = content(size, size);
        let hash = BlobHash::of(&bytes);
        assert!(fixture.store.status(hash).unwrap().referenced);
        assert_eq!(read(&fixture.store, hash, 0..size).await, Ok(bytes.clone()), "{size}");
        fixture.store.remove(hash).await.unwrap();
        assert_eq!(fs::read(fixture.dir.path().join(size.to_string())).unwrap(), bytes);
    }
    assert_eq!(fixture.store.gc().await.unwrap().stray_files, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn byte_ranges() {
    let fixture = Fixture::new();
    let size = 3 * MIB + 100;
    let bytes = content(size, 1);
    let hash = import(&fixture.store, &bytes).await.hash;
    let inside = [
        0..0,
        0..1,
        5..5,
        1023..1025,
        16383..16385,
        262_143..262_145,
        262_144..524_288,
        1..size,
        size - 1..size,
        size..size,
    ];
    for range in inside {
        let want = bytes[range.start as usize..range.end as usize].to_vec();
        assert_eq!(read(&fixture.store, hash, range.clone()).await, Ok(want), "{range:?}");
    }
    #[allow(clippy::reversed_empty_ranges, reason = "what a caller's mistake looks like")]
    for range in [0..size + 1, size..size + 1, size + 1..size + 1, 0..u64::MAX, 5..4] {
        assert_eq!(read(&fixture.store, hash, range.clone()).await, Err(SourceError::OutOfRange { size }), "{range:?}");
    }
    assert_eq!(read(&fixture.store, BlobHash::of(b"other"), 0..1).await, Err(SourceError::NoSource));
}

#[tokio::test(flavor = "multi_thread")]
async fn encodings_are_what_bao_tree_sends() {
    let fixture = Fixture::new();
    let from = |start| ChunkRanges::from(ChunkNum(start)..);
    let asked = [
        ChunkRanges::empty(),
        ChunkRanges::all(),
        chunks(0..1),
        chunks(3..5),
        chunks(15..17),
        chunks(16..32),
        chunks(255..257),
        chunks(256..512),
        chunks(100..4000),
        chunks(0..16) | chunks(700..701) | chunks(1023..1030),
        from(300),
        from(u64::MAX),
        from(1 << 40),
        chunks(5..6) | from(u64::MAX - 1),
        chunks(1_000_000..1_000_001),
    ];
    for &size in SIZES {
        let bytes = content(size, size);
        let hash = import(&fixture.store, &bytes).await.hash;
        for ranges in &asked {
            let encoded = encode(&fixture.store, hash, ranges.clone()).await.unwrap();
            assert!(encoded == reference_encoding(&bytes, ranges), "{ranges:?} of {size} bytes");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_that_cannot_be() {
    let fixture = Fixture::new();
    let missing = fixture.dir.path().join("missing");
    for mode in [ImportMode::Copy, ImportMode::Reference] {
        let error = import_file(&fixture.store, &missing, mode).await.unwrap_err();
        assert!(matches!(error, BlobError::Unreadable { .. }), "{error}");
        let error = import_file(&fixture.store, fixture.dir.path(), mode).await.unwrap_err();
        assert!(matches!(error, BlobError::NotAFile { .. }), "{error}");
    }
    for (limit_bytes, length, fits) in [(0, 0, true), (0, 1, false), (1000, 1000, true), (1000, 1001, false)] {
        let stream = futures::stream::iter([Ok(Bytes::from(content(length, 2)))]);
        let result = fixture.store.import_stream(stream, limit_bytes).await;
        assert_eq!(result.is_ok(), fits, "{length} of {limit_bytes}");
        assert!(fits || matches!(result, Err(BlobError::TooLarge { .. })));
    }
    let broken = futures::stream::iter([Ok(Bytes::from("begin")), Err(std::io::Error::other("client left"))]);
    let error = fixture.store.import_stream(broken, u64::MAX).await.unwrap_err();
    assert!(matches!(error, BlobError::Stream(_)), "{error}");
    assert_eq!(fs::read_dir(fixture.path().join("tmp")).unwrap().count(), 0, "nothing is left behind");
    assert_eq!(fixture.store.usage().quota_used_bytes, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_ends_at_the_total() {
    let fixture = Fixture::new();
    let path = fixture.user_file("video", &content(5 * MIB, 3));
    for (mode, phases) in [(ImportMode::Copy, 2), (ImportMode::Reference, 1)] {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        fixture.store.import_file(&path, mode, Arc::new(move |step| sink.lock().unwrap().push(step))).await.unwrap();
        let seen = seen.lock().unwrap();
        assert!(seen.is_sorted_by_key(|step| (step.phase, step.bytes_done)));
        let finished = seen.iter().filter(|step| step.bytes_done == 5 * MIB && step.bytes_total == 5 * MIB);
        assert!(finished.count() >= phases);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_store_on_the_same_folder_is_refused_and_shutdown_lets_go() {
    let fixture = Fixture::new();
    let open = || BlobStore::open(&fixture.path(), BlobOptions::default());
    assert!(matches!(open(), Err(BlobError::Locked)));
    fixture.store.shutdown().await;
    let other = open().unwrap();
    assert!(matches!(try_import(&fixture.store, b"x").await, Err(BlobError::Closed)));
    assert!(matches!(fixture.store.gc().await, Err(BlobError::Closed)));
    import(&other, b"x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_while_reading_ends_the_stream_with_an_error() {
    let fixture = Fixture::new();
    let bytes = content(8 * MIB, 4);
    let hash = import(&fixture.store, &bytes).await.hash;
    let mut stream = fixture.store.read_local(hash, 0..8 * MIB);
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first, bytes[..first.len()]);
    assert!(fixture.store.remove(hash).await.unwrap() >= 8 * MIB);
    let rest: Vec<_> = stream.collect().await;
    assert_eq!(rest.last(), Some(&Err(SourceError::Lost)));
    let served: Vec<u8> = rest.into_iter().filter_map(Result::ok).flatten().collect();
    assert!(bytes[first.len()..].starts_with(&served));
    assert_eq!(fixture.store.status(hash), None);
    assert_eq!(fixture.store.remove(hash).await.unwrap(), 0);
    assert_eq!(import(&fixture.store, &bytes).await.hash, hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_replaces_a_reference_but_not_the_other_way() {
    let fixture = Fixture::new();
    let bytes = content(MIB, 5);
    let path = fixture.user_file("video", &bytes);
    let modes = [(ImportMode::Reference, true), (ImportMode::Copy, false), (ImportMode::Reference, false)];
    for (mode, referenced) in modes {
        let hash = import_file(&fixture.store, &path, mode).await.unwrap().hash;
        assert_eq!(fixture.store.status(hash).unwrap().referenced, referenced);
        assert_eq!(read(&fixture.store, hash, 0..MIB).await, Ok(bytes.clone()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hot_comes_from_memory_and_goes_with_the_blob() {
    let fixture = Fixture::new();
    let bytes = content(2 * MIB, 6);
    let range = 300_000..400_000;
    let want = bytes[300_000..400_000].to_vec();
    let hash = import(&fixture.store, &bytes).await.hash;
    for _ in 0..2 {
        assert_eq!(read(&fixture.store, hash, range.clone()).await, Ok(want.clone()));
    }
    flip(&fixture.file("data", hash), 350_000);
    assert_eq!(read(&fixture.store, hash, range.clone()).await, Ok(want.clone()), "what was validated");
    assert!(matches!(encode(&fixture.store, hash, ChunkRanges::all()).await, Err(BlobError::Damaged)));
    assert_eq!(read(&fixture.store, hash, range.clone()).await, Err(SourceError::NoSource), "withdrawn");
    fixture.store.remove(hash).await.unwrap();
    assert_eq!(read(&fixture.store, hash, range).await, Err(SourceError::NoSource));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoder_begins_small_and_ends_after_an_error() {
    let fixture = Fixture::new();
    let bytes = content(4 * MIB, 7);
    let hash = import(&fixture.store, &bytes).await.hash;
    flip(&fixture.file("data", hash), 3 * MIB);
    let mut encoder = fixture.store.encoder(hash, &ChunkRanges::all()).unwrap();
    let mut sent = Vec::new();
    let error = loop {
        match encoder.next().await.unwrap() {
            Ok(piece) => sent.push(piece),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, BlobError::Damaged) && encoder.next().await.is_none());
    assert!(sent[0].len() < 70_000 && sent.iter().all(|piece| piece.len() < 540_000));
    assert!(reference_encoding(&bytes, &ChunkRanges::all()).starts_with(&sent.concat()));
    assert!(matches!(fixture.store.encoder(hash, &ChunkRanges::all()), Err(BlobError::Missing)));
}
