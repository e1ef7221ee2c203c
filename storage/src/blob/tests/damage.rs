//! Disks that forget and users that edit.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_never_served_and_fetched_again() {
    // The file, the byte, the chunks that can't be trusted any more.
    let table = [
        ("data", 0, chunks(0..16)),
        ("data", MIB, chunks(1024..1040)),
        ("data", 2 * MIB + 4, chunks(2048..2049)),
        // The root's pair: nothing can be proven.
        ("bao", 3, chunks(0..2049)),
        // The last pair in pre-order: the last group but one and its neighbour, whose subtree starts at 1920.
        ("bao", 64, chunks(0..2048)),
    ];
    for (kind, at, bad) in table {
        let fixture = Fixture::new();
        let bytes = content(2 * MIB + 5, 1);
        let size = bytes.len() as u64;
        let hash = import(&fixture.store, &bytes).await.hash;
        fixture.store.set_pinned(hash, true).await.unwrap();
        flip(&fixture.file(kind, hash), at);
        let mut events = fixture.store.events();
        let served: Vec<_> = fixture.store.read_local(hash, 0..size).collect().await;
        assert!(matches!(served.last(), Some(Err(SourceError::Lost | SourceError::NoSource))), "{kind} {at}");
        let served: Vec<u8> = served.into_iter().filter_map(Result::ok).flatten().collect();
        assert!(bytes.starts_with(&served));
        events_until(&mut events, BlobEvent::Damaged(hash)).await;
        fixture.store.verify_all().await.unwrap();
        verified(&fixture.store).await;
        let status = fixture.store.status(hash).unwrap();
        assert!(!status.complete && status.pinned);
        assert_eq!(status.ranges, chunks(0..2049) - bad.clone(), "{kind} {at}");
        assert!(matches!(encode(&fixture.store, hash, ChunkRanges::all()).await, Err(BlobError::Missing)));
        let partial = fixture.store.partial(hash, size).await.unwrap();
        let missing = partial.missing(&ChunkRanges::all());
        assert_eq!(missing, bad);
        partial.write(items(&bytes, &missing)).await.unwrap();
        assert!(fixture.store.status(hash).unwrap().complete);
        assert_eq!(read(&fixture.store, hash, 0..size).await, Ok(bytes), "{kind} {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoding_stops_at_a_flipped_bit() {
    let fixture = Fixture::new();
    let bytes = content(2 * MIB, 2);
    let hash = import(&fixture.store, &bytes).await.hash;
    flip(&fixture.file("data", hash), MIB + 7);
    let (out, mut pieces) = mpsc::channel(64);
    let error = fixture.store.encode(hash, ChunkRanges::all(), out).await.unwrap_err();
    assert!(matches!(error, BlobError::Damaged), "{error}");
    let mut sent = Vec::new();
    while let Some(piece) = pieces.recv().await {
        sent.extend_from_slice(&piece);
    }
    assert!(!sent.is_empty() && reference_encoding(&bytes, &ChunkRanges::all()).starts_with(&sent));
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_and_vanished_files_of_our_own() {
    for (kind, length) in [("data", Some(MIB)), ("data", None), ("bao", Some(64)), ("bao", None)] {
        let fixture = Fixture::new();
        let bytes = content(2 * MIB, 3);
        let hash = import(&fixture.store, &bytes).await.hash;
        let path = fixture.file(kind, hash);
        match length {
            Some(length) => fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        assert!(read(&fixture.store, hash, 0..2 * MIB).await.is_err(), "{kind} {length:?}");
        assert!(!fixture.store.status(hash).unwrap().complete);
        let partial = fixture.store.partial(hash, 2 * MIB).await.unwrap();
        while !partial.missing(&ChunkRanges::all()).is_empty() {
            partial.write(items(&bytes, &partial.missing(&ChunkRanges::all()))).await.unwrap();
            // What still claims to be here may turn out not to be.
            let _ = read(&fixture.store, hash, 0..2 * MIB).await;
        }
        assert_eq!(read(&fixture.store, hash, 0..2 * MIB).await, Ok(bytes), "{kind} {length:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_after_an_unclean_stop() {
    let fixture = Fixture::new();
    let bytes = content(MIB, 4);
    let hash = import(&fixture.store, &bytes).await.hash;
    flip(&fixture.file("data", hash), 20_000);
    let killed = fixture.after_kill();
    verified(&killed.store).await;
    assert_eq!(killed.store.status(hash).unwrap().ranges, chunks(0..16) | chunks(32..1024));
    assert_eq!(killed.store.verification().blobs_damaged, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_reference_is_noticed_and_never_served() {
    type Change = fn(&Path, &[u8]);
    let table: [(&str, Change); 5] = [
        ("edited", |path, _| flip(path, 700_000)),
        ("truncated", |path, bytes| fs::write(path, &bytes[..1000]).unwrap()),
        ("grown", |path, bytes| fs::write(path, [bytes, b"more"].concat()).unwrap()),
        ("vanished", |path, _| fs::remove_file(path).unwrap()),
        ("a folder now", |path, _| fs::remove_file(path).and_then(|()| fs::create_dir(path)).unwrap()),
    ];
    for (what, change) in table {
        let mut fixture = Fixture::new();
        let bytes = content(MIB, 5);
        let path = fixture.user_file("video", &bytes);
        let hash = import_file(&fixture.store, &path, ImportMode::Reference).await.unwrap().hash;
        change(&path, &bytes);
        let mut events = fixture.store.events();
        assert_eq!(read(&fixture.store, hash, 0..MIB).await, Err(SourceError::NoSource), "{what}");
        events_until(&mut events, BlobEvent::Damaged(hash)).await;
        verified(&fixture.store).await;
        let status = fixture.store.status(hash).unwrap();
        assert!(!status.complete && status.ranges.is_empty() && status.referenced, "{what}");
        assert!(matches!(encode(&fixture.store, hash, ChunkRanges::all()).await, Err(BlobError::Missing)), "{what}");
        fixture.restart().await;
        assert!(!fixture.store.status(hash).unwrap().complete, "{what}");
        // Fetched from elsewhere it becomes a blob of our own, and the user's file stays what it is.
        let left = fs::read(&path).ok();
        let partial = fixture.store.partial(hash, MIB).await.unwrap();
        partial.write(items(&bytes, &ChunkRanges::all())).await.unwrap();
        assert_eq!(read(&fixture.store, hash, 0..MIB).await, Ok(bytes), "{what}");
        assert_eq!(fs::read(&path).ok(), left, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_behind_our_back_it_is_caught_by_the_tree() {
    let fixture = Fixture::new();
    let bytes = content(MIB, 6);
    let path = fixture.user_file("video", &bytes);
    let hash = import_file(&fixture.store, &path, ImportMode::Reference).await.unwrap().hash;
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    flip(&path, 700_000);
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    let served: Vec<_> = fixture.store.read_local(hash, 0..MIB).collect().await;
    assert_eq!(served.last(), Some(&Err(SourceError::Lost)));
    assert!(fixture.store.status(hash).unwrap().ranges.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_only_touched_or_comes_back_is_offered_again() {
    let fixture = Fixture::new();
    let bytes = content(MIB, 7);
    let path = fixture.user_file("video", &bytes);
    let hash = import_file(&fixture.store, &path, ImportMode::Reference).await.unwrap().hash;
    let whole = chunks(0..1024);
    fs::File::options().write(true).open(&path).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(read(&fixture.store, hash, 0..10).await, Err(SourceError::NoSource));
    until(&fixture.store, hash, |here| *here == whole).await;
    fs::remove_file(&path).unwrap();
    assert_eq!(read(&fixture.store, hash, 0..10).await, Err(SourceError::NoSource));
    verified(&fixture.store).await;
    fs::write(&path, &bytes).unwrap();
    fixture.store.verify_all().await.unwrap();
    until(&fixture.store, hash, |here| *here == whole).await;
    assert_eq!(read(&fixture.store, hash, 0..MIB).await, Ok(bytes));
}
