//! (i) The record store: taking records in as sync does, and making the index anew, beside what checking signatures
//! alone takes.

use std::time::Instant;

use anyhow::{Context, Result};
use mhc_platform::services;
use mhc_protocol::{
    BlobHash, SecretKey, Timestamp,
    manifest::{BlobRef, MANIFEST, Manifest, MediaKind},
    record::{Body, Draft, Record},
};
use mhc_storage::record::{Projection, Records, RecordsOptions};

use crate::{
    bench::Bench,
    runner::{Contender, compare},
    table::{Better, Sample, Table},
};

const AUTHORS: u64 = 100;
const EACH: u64 = 1_000;
const AT: Timestamp = Timestamp::from_millis(1_795_000_000_000);
/// As many as a page of sync.
const PAGE: usize = 256;
const NOTE: &str = "100,000 manifests of 100 authors, some 600 bytes each with four rows in the index, on the disk. \
    Taking in: in pages of 256, each checked and durable before the next. Rebuilding: beside the old index, in steps \
    between which writes would go on. Checking: decoding and the signature alone, on one core.";

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let envelopes = &envelopes().context("signing")?;
    let count = envelopes.len() as f64;
    let dir = bench.fresh_dir("records")?;
    let filled = &open(dir.path())?;
    runtime.block_on(take_in(filled, envelopes))?;
    let contenders = vec![
        Contender::ours("rebuilding the index", || {
            let started = Instant::now();
            let records = runtime.block_on(filled.rebuild())?;
            Ok(Sample::new(records as f64 / started.elapsed().as_secs_f64()))
        }),
        Contender::ours("taking in", || {
            let dir = bench.fresh_dir("records")?;
            let records = open(dir.path())?;
            let started = Instant::now();
            runtime.block_on(take_in(&records, envelopes))?;
            Ok(Sample::new(count / started.elapsed().as_secs_f64()))
        }),
        Contender::peer("checking", || {
            let started = Instant::now();
            for envelope in envelopes {
                Record::verify(envelope, AT)?;
            }
            Ok(Sample::new(count / started.elapsed().as_secs_f64()))
        }),
    ];
    let table = Table::new("100,000 manifests", "records/s", Better::Higher).note(NOTE);
    Ok(vec![compare(table, bench.rounds(), contenders)?])
}

fn open(dir: &std::path::Path) -> Result<Records> {
    let services = services().into_iter().map(|service| service as std::sync::Arc<dyn Projection>).collect();
    Ok(Records::open(dir, RecordsOptions::default(), services)?)
}

async fn take_in(records: &Records, envelopes: &[Vec<u8>]) -> Result<()> {
    for page in envelopes.chunks(PAGE) {
        let page = page.iter().map(|envelope| Record::verify(envelope, AT)).collect::<Result<_, _>>()?;
        records.append(page).await?;
    }
    Ok(())
}

fn envelopes() -> Result<Vec<Vec<u8>>> {
    let network = SecretKey::from_seed(&[9; 32]).network();
    let mut envelopes = Vec::new();
    for author in 0..AUTHORS {
        let key = SecretKey::from_seed(BlobHash::of(&author.to_le_bytes()).as_bytes());
        let mut prev = None;
        for seq in 0..EACH {
            let body = Body { salt: [0; 16], bytes: manifest(author * EACH + seq).encode()? };
            let record = Draft { network, epoch: 0, seq, prev, at: AT, kind: MANIFEST, body }.sign(&key)?;
            prev = Some(record.id());
            envelopes.push(record.to_bytes());
        }
    }
    Ok(envelopes)
}

fn manifest(number: u64) -> Manifest {
    let original = BlobRef {
        hash: BlobHash::of(&number.to_le_bytes()),
        bytes: 1 << 20,
        content_type: "video/mp4".into(),
        name: Some("film.mp4".into()),
    };
    Manifest {
        description: "What happens in it, in a sentence or two, as an artist would write it.".into(),
        tags: vec!["short".into(), "village".into()],
        language: Some("en".into()),
        duration_ms: Some(60_000),
        ..Manifest::new(format!("Film {number}"), MediaKind::Video, original)
    }
}
