//! The remote node's side of an exchange, over a metered uplink.

use std::{fs, net::IpAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use mhc_platform::catalog;
use mhc_protocol::{
    BlobHash, RecordId, Timestamp,
    bundle::{Frame, day_of},
    cbor,
};
use mhc_satellite::{
    Budget,
    uplink::{CONNECT_TIMEOUT, Debit, ExchangeRequest, Meter, Priority, READ_TIMEOUT, month_of, on_link, within},
};
use reqwest::{StatusCode, header::CONTENT_TYPE, redirect::Policy};
use serde::Serialize;
use tokio::runtime::Handle;

use super::intake::{Intake, Taken};
use crate::{
    author::now,
    bundle::{JobError, Reporter, Stores, collect_for},
};

const METER_TABLE: &str = "satellite-meter";
const METER_KEY: &[u8] = b"uplink";
const MAX_METER_BYTES: usize = 256;
/// How often a job that waits for bytes looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How the uplink is used.
#[derive(Debug, Clone, Default)]
pub(super) struct UplinkOptions {
    pub(super) budget_bytes: Option<u64>,
    pub(super) interface: Option<String>,
    pub(super) address: Option<IpAddr>,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// The gateway's address, such as `https://tube.example.org`.
    pub(super) url: String,
    /// Contents whose blobs are wanted; records are in any case.
    pub(super) contents: Vec<RecordId>,
    /// Most bytes on the link.
    pub(super) max_bytes: Option<u64>,
}

/// What an exchange brought.
#[derive(Debug, Serialize)]
pub(super) struct Exchanged {
    /// Bytes of the request.
    sent_bytes: u64,
    /// Bytes of the answer.
    received_bytes: u64,
    /// Bytes on the link, as they were metered.
    carried_bytes: u64,
    #[serde(flatten)]
    taken: Taken,
    /// Blobs that were asked for and aren't whole yet.
    incomplete: u64,
    budget: Shown,
}

/// The budget at present.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Shown {
    budget_bytes: Option<u64>,
    spent_bytes: u64,
    /// What is left of all of it; a fifth is only for alerts.
    left_bytes: u64,
    /// What is left for all else.
    usable_bytes: u64,
}

impl Shown {
    pub(super) fn left_bytes(&self) -> u64 {
        self.left_bytes
    }
}

/// The meter as it is kept.
pub(super) fn meter(stores: &Stores) -> Result<Meter, JobError> {
    let kept = stores.records.private(METER_TABLE).get(METER_KEY)?;
    kept.map_or(Ok(Meter::default()), |bytes| cbor::decode(&bytes, MAX_METER_BYTES).map_err(JobError::internal))
}

/// Durable when it returns.
fn keep(stores: &Stores, meter: &Meter) -> Result<(), JobError> {
    let bytes = cbor::encode(meter).map_err(JobError::internal)?;
    Ok(Handle::current().block_on(stores.records.private(METER_TABLE).put(METER_KEY, bytes))?)
}

/// What there is to show of the budget.
pub(super) fn shown(stores: &Stores, budget_bytes: Option<u64>) -> Result<Shown, JobError> {
    let (meter, month) = (meter(stores)?, month_of(now().as_millis()));
    let budget: Budget = meter.budget(month, budget_bytes);
    let usable_bytes = meter.left_bytes(month, budget_bytes.unwrap_or(0), Priority::Rest);
    let left_bytes = budget_bytes.map_or(0, |_| budget.left_bytes().unwrap_or(0));
    Ok(Shown { budget_bytes, spent_bytes: budget.spent_bytes, left_bytes, usable_bytes })
}

pub(super) fn run(
    intake: &Intake,
    options: &UplinkOptions,
    asked: &Asked,
    reporter: &mut Reporter,
) -> Result<Exchanged, JobError> {
    let stores = &intake.stores;
    let budget_bytes = options.budget_bytes.ok_or_else(|| {
        JobError::Refused("nothing may go over the satellite: links.satellite.budget_bytes isn't set".into())
    })?;
    let client = client(options)?;
    let blobs = blobs_of(stores, &asked.contents)?;
    let (month, today) = (month_of(now().as_millis()), Timestamp(day_of(now().as_millis())));
    let wants = collect_for(stores, today, &blobs)?;
    let mut request = ExchangeRequest { node: stores.key.node(), at: now(), budget_bytes: 0, wants };
    let seal = |request: &ExchangeRequest| request.seal(&stores.key).map_err(JobError::internal);
    // The number of the budget itself takes up to eight bytes more.
    let request_bytes = seal(&request)?.len() as u64 + 16;
    let mut meter = meter(stores)?;
    let usable = meter.left_bytes(month, budget_bytes, Priority::Rest).min(asked.max_bytes.unwrap_or(u64::MAX));
    let answer_bytes = within(usable).saturating_sub(request_bytes);
    let refused = || JobError::Refused("the satellite's budget doesn't allow it; see `mhc satellite status`".into());
    if answer_bytes == 0 {
        return Err(refused());
    }
    request.budget_bytes = answer_bytes;
    let body = seal(&request)?;
    reporter.started()?;
    let debit = meter.debit(month, budget_bytes, Priority::Rest, on_link(request_bytes + answer_bytes));
    let debit = debit.ok_or_else(refused)?;
    keep(stores, &meter)?;
    let counter = Counter::start(options.interface.as_deref());
    let mut exchange = Exchange { intake, reporter, taken: Taken::default(), received_bytes: 0 };
    let sent_bytes = body.len() as u64;
    let ended = exchange.run(&client, &asked.url, body, answer_bytes);
    let (taken, received_bytes) = (exchange.taken, exchange.received_bytes);
    let carried_bytes = counter.carried(on_link(sent_bytes + received_bytes));
    settle(stores, debit, carried_bytes)?;
    ended?;
    let is_whole = |hash: &&BlobHash| stores.blobs.status(**hash).is_some_and(|status| status.complete);
    let incomplete = (blobs.len() - blobs.iter().filter(is_whole).count()) as u64;
    let budget = shown(stores, options.budget_bytes)?;
    Ok(Exchanged { sent_bytes, received_bytes, carried_bytes, taken, incomplete, budget })
}

fn settle(stores: &Stores, debit: Debit, carried_bytes: u64) -> Result<(), JobError> {
    let mut meter = meter(stores)?;
    meter.settle(debit, carried_bytes);
    keep(stores, &meter)
}

/// The blobs of these contents.
fn blobs_of(stores: &Stores, contents: &[RecordId]) -> Result<Vec<BlobHash>, JobError> {
    let view = stores.records.view(catalog::NAME)?;
    let mut blobs = Vec::new();
    for content in contents {
        let entry = catalog::entry(&view, *content)?;
        let entry = entry.ok_or_else(|| {
            JobError::NotFound(format!(
                "this node knows no content {content}; an exchange without it brings the records"
            ))
        })?;
        blobs.extend(entry.manifest.thumbnails.iter().chain([&entry.manifest.original]).map(|blob| blob.hash));
    }
    blobs.dedup();
    Ok(blobs)
}

fn client(options: &UplinkOptions) -> Result<reqwest::Client, JobError> {
    // Fails when one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT);
    // By default, a connection is given up when it doesn't answer for less than a reconfiguration of the link takes.
    builder = builder.tcp_keepalive(None).tcp_user_timeout(READ_TIMEOUT);
    builder = builder.no_proxy().redirect(Policy::none()).local_address(options.address);
    if let Some(interface) = &options.interface {
        builder = builder.interface(interface);
    }
    builder.build().map_err(|error| JobError::Link(format!("can't make an HTTP client: {error}")))
}

/// What the interface itself says that it carried.
struct Counter {
    files: Vec<String>,
    before: Option<u64>,
}

impl Counter {
    fn start(interface: Option<&str>) -> Self {
        let path = |name: &str, file: &str| format!("/sys/class/net/{name}/statistics/{file}");
        let files = interface.map(|name| vec![path(name, "rx_bytes"), path(name, "tx_bytes")]).unwrap_or_default();
        let mut counter = Self { files, before: None };
        counter.before = counter.read();
        counter
    }

    fn read(&self) -> Option<u64> {
        let read = |file: &String| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
        let counts: Option<Vec<u64>> = self.files.iter().map(read).collect();
        counts.filter(|counts| !counts.is_empty()).map(|counts| counts.iter().sum())
    }

    /// The interface's count, which others may have added to, or else the estimate.
    fn carried(&self, estimate_bytes: u64) -> u64 {
        let counted = self.before.zip(self.read()).and_then(|(before, after)| after.checked_sub(before));
        counted.unwrap_or(estimate_bytes)
    }
}

struct Exchange<'a> {
    intake: &'a Intake,
    reporter: &'a mut Reporter,
    taken: Taken,
    received_bytes: u64,
}

impl Exchange<'_> {
    /// What has come when it fails stays.
    fn run(&mut self, client: &reqwest::Client, url: &str, body: Vec<u8>, most_bytes: u64) -> Result<(), JobError> {
        let url = format!("{}/api/v1/exchange", url.trim_end_matches('/'));
        let handle = Handle::current();
        let sending = client.post(&url).header(CONTENT_TYPE, "application/cbor").body(body).send();
        self.reporter.phase("asking", 0)?;
        let response = handle.block_on(self.watched(sending))?.map_err(|error| link(&error))?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(match status {
                StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                    JobError::Refused("the gateway refuses: it is of another network, or answers members only".into())
                }
                status => JobError::Link(format!("the gateway answers {status}")),
            });
        }
        self.reporter.phase("receiving", most_bytes)?;
        let (mut response, mut waiting) = (response, BytesMut::new());
        loop {
            let chunk = handle.block_on(self.watched(response.chunk()))?;
            let Some(chunk) = chunk.map_err(|error| link(&error))? else { break };
            self.received_bytes += chunk.len() as u64;
            if self.received_bytes > most_bytes {
                return Err(JobError::Link("the gateway sends more than it was allowed".into()));
            }
            waiting.extend_from_slice(&chunk);
            while let Some(entry) = next_entry(&mut waiting)? {
                self.taken = self.taken.and(self.intake.take(&entry, now())?);
            }
            self.reporter.advance(chunk.len() as u64)?;
        }
        match waiting.is_empty() {
            true => Ok(()),
            false => Err(JobError::Link("the answer broke off".into())),
        }
    }

    /// Waits, and ends when the job is to.
    async fn watched<T>(&mut self, work: impl Future<Output = T>) -> Result<T, JobError> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(LOOK_EVERY) => self.reporter.advance(0)?,
            }
        }
    }
}

/// The first entry when it is whole. Its length is bounded by its head.
fn next_entry(waiting: &mut BytesMut) -> Result<Option<Bytes>, JobError> {
    const LONGEST_HEAD: usize = mhc_protocol::bundle::BLOB_HEAD_BYTES;
    let frame = match Frame::decode(waiting) {
        Ok(frame) => frame,
        Err(_) if waiting.len() < LONGEST_HEAD => return Ok(None),
        Err(error) => return Err(JobError::Link(format!("the answer isn't one: {error}"))),
    };
    let length = usize::try_from(frame.bytes()).map_err(JobError::internal)?;
    Ok((waiting.len() >= length).then(|| waiting.split_to(length).freeze()))
}

fn link(error: &reqwest::Error) -> JobError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    JobError::Link(format!("{text}; what has come stays, and any gateway can go on"))
}

#[cfg(test)]
mod tests {
    use mhc_protocol::bundle::Span;

    use super::*;

    fn entry(size_bytes: u64) -> Vec<u8> {
        let frame = Frame::Blob { hash: BlobHash::of(b"film"), span: Span::new(size_bytes, 0, size_bytes).unwrap() };
        let mut entry = frame.encode();
        entry.resize(usize::try_from(frame.bytes()).unwrap(), 7);
        entry
    }

    #[test]
    fn entries_are_found_whatever_the_pieces_and_noise_ends_the_answer() {
        let entries = [entry(1), entry(40_000), entry(0)];
        for step in [1, 71, 1_000, 100_000] {
            let (mut waiting, mut found) = (BytesMut::new(), vec![]);
            for piece in entries.concat().chunks(step) {
                waiting.extend_from_slice(piece);
                while let Some(entry) = next_entry(&mut waiting).unwrap() {
                    found.push(entry.to_vec());
                }
            }
            assert_eq!((found, waiting.len()), (entries.to_vec(), 0), "{step}");
        }
        let mut noise = BytesMut::from(&[7; 72][..]);
        assert!(next_entry(&mut noise).is_err());
    }

    #[test]
    fn an_interface_that_is_not_there_is_metered_by_estimate() {
        assert_eq!(Counter::start(Some("no-such-one")).carried(5), 5);
        assert_eq!(Counter::start(None).carried(5), 5);
        assert!(Counter::start(Some("lo")).carried(u64::MAX) < u64::MAX, "loopback counts");
    }
}
