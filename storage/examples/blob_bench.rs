//! How fast the blob store is on this machine, next to what the machine does without it. Numbers are MiB/s, medians of
//! [`RUNS`] runs, and what a run took in the middle: its time, and the time of all processors together, which says more
//! when the machine is busy. The page cache is warm unless it is too small. Run with:
//!
//! ```text
//! cargo run --release -p mhc-storage --example blob_bench -- DIR SIZE_MIB [ONLY]
//! ```
//!
//! DIR should be on the disk that matters; about four times SIZE_MIB is needed there, and SIZE_MIB of memory for the
//! transfer. With ONLY just the measurements whose names contain it are made.

use std::{
    error::Error,
    fs::File,
    io::{Read, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use bao_tree::{
    BaoTree, ChunkNum, ChunkRanges,
    io::{BaoContentItem, Leaf, Parent, sync::DecodeResponseIter},
};
use bytes::Bytes;
use futures::StreamExt;
use mhc_protocol::BlobHash;
use mhc_storage::blob::{BLOCK_SIZE, BlobOptions, BlobStore, ImportMode};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const RUNS: usize = 3;
const MIB: u64 = 1 << 20;
/// Bytes of a random read.
const PIECE_BYTES: u64 = 256 << 10;
/// Bytes that fit into the store's cache.
const HOT_BYTES: u64 = 32 * MIB;
/// Bytes of items a transfer writes at once.
const BATCH_BYTES: u64 = 256 << 10;

struct Bench {
    dir: PathBuf,
    file: PathBuf,
    size_bytes: u64,
    only: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(size_mib)) = (args.next(), args.next()) else {
        return Err("usage: blob_bench DIR SIZE_MIB [ONLY]".into());
    };
    let dir = PathBuf::from(dir);
    std::fs::create_dir_all(&dir)?;
    let size_bytes = size_mib.parse::<u64>()? * MIB;
    let bench = Bench { file: dir.join("source"), dir, size_bytes, only: args.next().unwrap_or_default() };
    bench.make_source()?;
    bench.baselines()?;
    bench.imports().await?;
    let store = BlobStore::open(&bench.dir.join("store"), BlobOptions::default())?;
    let hash = store.import_file(&bench.file, ImportMode::Reference, Arc::new(|_| {})).await?.hash;
    bench.reads(&store, hash).await?;
    bench.encodings(&store, hash).await?;
    bench.transfer(&store, hash).await?;
    store.shutdown().await;
    std::fs::remove_dir_all(bench.dir.join("store"))?;
    Ok(())
}

impl Bench {
    /// Bytes that don't repeat.
    fn make_source(&self) -> Result<()> {
        let mut file = File::create(&self.file)?;
        let mut bytes = vec![0; MIB as usize];
        let mut noise = blake3::Hasher::new().update(b"blob_bench").finalize_xof();
        for _ in 0..self.size_bytes / MIB {
            noise.fill(&mut bytes);
            file.write_all(&bytes)?;
        }
        Ok(file.sync_all()?)
    }

    fn whole(&self) -> Vec<Range<u64>> {
        std::iter::once(0..self.size_bytes).collect()
    }

    fn wants(&self, name: &str) -> bool {
        name.contains(&self.only)
    }

    fn tell(&self, name: &str, bytes: u64, mut times: Vec<Duration>, cpu_s: f64) {
        times.sort_unstable();
        let median_s = times[times.len() / 2].as_secs_f64();
        let rate = bytes as f64 / MIB as f64 / median_s;
        println!("{name:<32} {rate:>8.0} MiB/s  {median_s:>7.3} s  cpu {:>7.3} s", cpu_s / RUNS as f64);
    }

    /// Measures what blocks.
    fn measure(&self, name: &str, mut run: impl FnMut() -> Result<()>) -> Result<()> {
        if !self.wants(name) {
            return Ok(());
        }
        let (mut times, cpu_s) = (Vec::new(), cpu_s());
        for _ in 0..RUNS {
            let begun = Instant::now();
            run()?;
            times.push(begun.elapsed());
        }
        self.tell(name, self.size_bytes, times, self::cpu_s() - cpu_s);
        Ok(())
    }

    /// What the machine does without the store.
    fn baselines(&self) -> Result<()> {
        let copy = self.dir.join("copy");
        self.measure("plain: read", || each_mib(&self.file, |_| Ok(())))?;
        self.measure("plain: blake3, one thread", || {
            let mut hasher = blake3::Hasher::new();
            each_mib(&self.file, |bytes| {
                hasher.update(bytes);
                Ok(())
            })?;
            std::hint::black_box(hasher.finalize());
            Ok(())
        })?;
        self.measure("plain: b3sum, all threads", || b3sum(&self.file))?;
        self.measure("plain: copy", || copy_file(&self.file, &copy).map(drop))?;
        self.measure("plain: copy, fsync", || Ok(copy_file(&self.file, &copy)?.sync_all()?))?;
        self.measure("plain: b3sum, copy", || b3sum(&self.file).and_then(|()| copy_file(&self.file, &copy)).map(drop))?;
        self.measure("plain: b3sum, copy, fsync", || {
            b3sum(&self.file)?;
            Ok(copy_file(&self.file, &copy)?.sync_all()?)
        })?;
        let _ = std::fs::remove_file(copy); // There may be none.
        Ok(())
    }

    async fn imports(&self) -> Result<()> {
        let dir = self.dir.join("imports");
        for (name, mode) in [
            ("import: reference", Some(ImportMode::Reference)),
            ("import: copy", Some(ImportMode::Copy)),
            ("import: stream", None),
        ] {
            if !self.wants(name) {
                continue;
            }
            let (mut times, cpu_s) = (Vec::new(), cpu_s());
            for _ in 0..RUNS {
                let store = BlobStore::open(&dir, BlobOptions::default())?;
                let begun = Instant::now();
                match mode {
                    Some(mode) => drop(store.import_file(&self.file, mode, Arc::new(|_| {})).await?),
                    None => drop(store.import_stream(pieces(&self.file)?, u64::MAX).await?),
                }
                times.push(begun.elapsed());
                store.shutdown().await;
                std::fs::remove_dir_all(&dir)?;
            }
            self.tell(name, self.size_bytes, times, self::cpu_s() - cpu_s);
        }
        Ok(())
    }

    async fn reads(&self, store: &BlobStore, hash: BlobHash) -> Result<()> {
        let pieces = self.size_bytes / PIECE_BYTES;
        let whole = self.whole();
        let aligned: Vec<_> = (0..pieces).map(|n| at(scatter(n, pieces) * PIECE_BYTES)).collect();
        let unaligned: Vec<_> = (0..pieces - 1).map(|n| at(scatter(n, pieces - 1) * PIECE_BYTES + 100_000)).collect();
        let hot_pieces = HOT_BYTES.min(self.size_bytes) / PIECE_BYTES - 1;
        let hot: Vec<_> = (0..pieces).map(|n| at(scatter(n, hot_pieces) * PIECE_BYTES + 100_000)).collect();
        let names = ["read: sequential", "read: random", "read: random, unaligned", "read: hot, unaligned"];
        for (name, ranges) in names.into_iter().zip([whole, aligned, unaligned, hot]) {
            self.stream(name, &ranges, |range| store.read_local(hash, range).map(|piece| Ok(piece?)).boxed()).await?;
        }
        Ok(())
    }

    async fn encodings(&self, store: &BlobStore, hash: BlobHash) -> Result<()> {
        let units: Vec<_> = (0..self.size_bytes / MIB).map(|n| n * MIB..(n + 1) * MIB).collect();
        for (name, ranges) in [("encode: whole", self.whole()), ("encode: 1 MiB each", units)] {
            self.stream(name, &ranges, |range| encoding(store.clone(), hash, range)).await?;
        }
        Ok(())
    }

    /// Measures streams, one after the other.
    async fn stream<'a>(
        &self,
        name: &str,
        ranges: &[Range<u64>],
        open: impl Fn(Range<u64>) -> futures::stream::BoxStream<'a, Result<Bytes>>,
    ) -> Result<()> {
        if !self.wants(name) {
            return Ok(());
        }
        let (mut times, cpu_s) = (Vec::new(), cpu_s());
        for _ in 0..RUNS {
            let begun = Instant::now();
            for range in ranges {
                let mut stream = open(range.clone());
                while let Some(piece) = stream.next().await {
                    std::hint::black_box(piece?);
                }
            }
            times.push(begun.elapsed());
        }
        self.tell(name, ranges.iter().map(|range| range.end - range.start).sum(), times, self::cpu_s() - cpu_s);
        Ok(())
    }

    /// Writes the blob into another store, from items that were decoded before.
    async fn transfer(&self, store: &BlobStore, hash: BlobHash) -> Result<()> {
        if !self.wants("transfer") {
            return Ok(());
        }
        let tree = BaoTree::new(self.size_bytes, BLOCK_SIZE);
        let mut batches: Vec<Vec<BaoContentItem>> = Vec::new();
        for start in (0..self.size_bytes).step_by(BATCH_BYTES as usize) {
            let range = start..(start + BATCH_BYTES).min(self.size_bytes);
            let encoded: Vec<_> = encoding(store.clone(), hash, range.clone()).collect().await;
            let encoded = encoded.into_iter().collect::<Result<Vec<Bytes>>>()?.concat();
            let root = (*hash.as_bytes()).into();
            let ranges = chunks(&range);
            let items = DecodeResponseIter::new(root, tree, &encoded[..], &ranges);
            batches.push(items.collect::<std::result::Result<_, _>>()?);
        }
        let dir = self.dir.join("transfer");
        let (mut times, mut before_last, cpu_s) = (Vec::new(), Vec::new(), cpu_s());
        for _ in 0..RUNS {
            let target = BlobStore::open(&dir, BlobOptions::default())?;
            let mut batches: Vec<_> = batches.iter().map(|batch| copies(batch)).collect();
            let begun = Instant::now();
            let partial = target.partial(hash, self.size_bytes).await?;
            let last = batches.pop().unwrap_or_default();
            for batch in batches {
                partial.write(batch).await?;
            }
            before_last.push(begun.elapsed());
            partial.write(last).await?;
            times.push(begun.elapsed());
            drop(partial);
            target.shutdown().await;
            std::fs::remove_dir_all(&dir)?;
        }
        let cpu_s = self::cpu_s() - cpu_s;
        self.tell("transfer: until the last batch", self.size_bytes, before_last, cpu_s);
        self.tell("transfer: durable", self.size_bytes, times, cpu_s);
        Ok(())
    }
}

/// Seconds of processor time so far, of this process and the children it waited for. Linux counts hundredths.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(4).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn copies(items: &[BaoContentItem]) -> Vec<BaoContentItem> {
    let copy = |item: &BaoContentItem| match item {
        BaoContentItem::Parent(parent) => BaoContentItem::Parent(Parent { node: parent.node, pair: parent.pair }),
        BaoContentItem::Leaf(leaf) => BaoContentItem::Leaf(Leaf { offset: leaf.offset, data: leaf.data.clone() }),
    };
    items.iter().map(copy).collect()
}

/// The n-th of a sequence without a pattern of numbers below `count`.
fn scatter(n: u64, count: u64) -> u64 {
    let mut number = [0; 8];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut number);
    u64::from_le_bytes(number) % count.max(1)
}

fn at(start: u64) -> Range<u64> {
    start..start + PIECE_BYTES
}

fn chunks(range: &Range<u64>) -> ChunkRanges {
    ChunkRanges::from(ChunkNum::full_chunks(range.start)..ChunkNum::chunks(range.end))
}

fn encoding(store: BlobStore, hash: BlobHash, range: Range<u64>) -> futures::stream::BoxStream<'static, Result<Bytes>> {
    let (out, pieces) = tokio::sync::mpsc::channel(2);
    let done = async move { store.encode(hash, chunks(&range), out).await };
    let end = futures::stream::once(done).filter_map(|sent| async { sent.err().map(|error| Err(error.into())) });
    let pieces = tokio_stream::wrappers::ReceiverStream::new(pieces).map(Ok);
    futures::stream::select(pieces, end).boxed()
}

/// The file as an upload brings it.
fn pieces(path: &Path) -> Result<impl futures::Stream<Item = std::io::Result<Bytes>> + Send + use<>> {
    let mut file = File::open(path)?;
    let next = move || {
        let mut piece = vec![0; 64 << 10];
        let read = file.read(&mut piece).map(|read| piece.truncate(read));
        (!piece.is_empty()).then(|| read.map(|()| Bytes::from(piece)))
    };
    Ok(futures::stream::iter(std::iter::from_fn(next)))
}

fn each_mib(path: &Path, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let file = File::open(path)?;
    let mut bytes = vec![0; MIB as usize];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut bytes, at)?;
        if read == 0 {
            return Ok(());
        }
        at += read as u64;
        each(&bytes[..read])?;
    }
}

fn copy_file(from: &Path, to: &Path) -> Result<File> {
    let mut copy = File::create(to)?;
    each_mib(from, |bytes| Ok(copy.write_all(bytes)?))?;
    Ok(copy)
}

fn b3sum(path: &Path) -> Result<()> {
    match Command::new("b3sum").arg("--no-names").arg(path).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into()),
        Err(error) => Err(format!("b3sum: {error}").into()),
    }
}
