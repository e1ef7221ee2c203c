//! `mhc get`: a content or blob into a file, resumed where a former try stopped, and verified at the end.
//!
//! The node on this machine fetches all of it, and its file is copied ([`local`]). Where that can't be, the bytes come
//! through the gateway as they arrive. The node verified them already; they are hashed again here because they went
//! through a socket or a file that somebody may have changed.

mod local;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    pin::pin,
    time::{Duration, Instant},
};

use futures::StreamExt;
use indicatif::ProgressBar;
use mhc_protocol::BlobHash;
use reqwest::{Method, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    args::{ByteRange, Get},
    client::{Client, causes},
    failure::{Exit, Failure},
    output::{Output, cell, plain, remark, size},
    progress,
};

/// How often the node is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Longest file name that is made of a manifest's, in bytes.
const MAX_NAME_BYTES: usize = 200;

/// What is to be fetched.
struct Wanted {
    content: Option<String>,
    blob: BlobHash,
    name: String,
}

/// Where it goes.
#[derive(Debug, PartialEq, Eq)]
enum Destination {
    Stdout,
    File(PathBuf),
}

/// Bytes on their way from the node.
struct Transfer<'a> {
    client: &'a Client,
    blob: BlobHash,
    bar: ProgressBar,
}

pub(super) async fn run(output: Output, client: &Client, options: Get) -> Result<(), Failure> {
    let started = Instant::now();
    let wanted = resolve(client, options.id).await?;
    let destination = destination(options.output.as_deref(), &wanted.name)?;
    if output.json && destination == Destination::Stdout {
        return Err(Failure::new(Exit::Usage, "--json and -o - both want stdout; write to a file"));
    }
    let before = sources(client, wanted.blob).await;
    let transfer = Transfer { client, blob: wanted.blob, bar: progress::bytes(0, "fetching") };
    let bytes = match (&destination, options.range) {
        (Destination::Stdout, range) => transfer.to_stdout(range).await,
        (Destination::File(file), Some(range)) => transfer.range_to_file(range, file).await,
        (Destination::File(file), None) => transfer.to_file(file).await,
    };
    transfer.bar.finish_and_clear();
    let (bytes, seconds) = (bytes?, started.elapsed().as_secs_f64());
    let sources = difference(&before, &sources(client, wanted.blob).await);
    let Destination::File(file) = destination else {
        remark(&format!("{} in {seconds:.1} s", size(bytes)));
        return Ok(());
    };
    let report = json!({
        "content": wanted.content, "blob": wanted.blob, "bytes": bytes, "seconds": seconds, "sources": sources,
        "file": file.display().to_string(),
    });
    output.result(&report, |_| text(&file, bytes, seconds, &sources))
}

fn text(file: &Path, bytes: u64, seconds: f64, sources: &[Value]) -> String {
    let mut text = format!("{}  {} in {seconds:.1} s\n", file.display(), size(bytes));
    for source in sources {
        text.push_str(&format!("  {}  {}\n", cell("node", &source["node"]), cell("bytes", &source["bytes"])));
    }
    text
}

/// A content by its id, else a blob by its hash.
async fn resolve(client: &Client, id: BlobHash) -> Result<Wanted, Failure> {
    let item = match client.get(&format!("/api/v1/videos/{id}")).await {
        Ok(item) => item,
        Err(failure) if failure.exit == Exit::NotFound => {
            return Ok(Wanted { content: None, blob: id, name: id.to_string() });
        }
        Err(failure) => return Err(failure),
    };
    let blob = item["blob"].as_str().and_then(|hash| hash.parse().ok());
    let blob = blob.ok_or_else(|| Failure::new(Exit::BadData, "the node's answer names no blob"))?;
    let name = ["file_name", "title"]
        .iter()
        .filter_map(|key| item[*key].as_str())
        .map(file_name)
        .find(|name| !name.is_empty());
    Ok(Wanted { content: Some(id.to_string()), blob, name: name.unwrap_or_else(|| id.to_string()) })
}

/// A name without folders, hidden files and tricks, of one that came from the network; empty when nothing is left.
fn file_name(text: &str) -> String {
    let last = text.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = plain(last).chars().map(|c| if "<>:\"|?*".contains(c) { '_' } else { c }).collect();
    let name = name.trim().trim_start_matches(['.', '-', ' ']).trim_end_matches(['.', ' ']);
    let mut end = name.len().min(MAX_NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

/// Where `output` says, or into a file named `name`, which is never one that is there already: whoever published
/// it chose the name.
fn destination(output: Option<&Path>, name: &str) -> Result<Destination, Failure> {
    let file = match output {
        Some(path) if path == Path::new("-") => return Ok(Destination::Stdout),
        Some(path) if !path.is_dir() => return Ok(Destination::File(path.to_owned())),
        Some(dir) => dir.join(name),
        None => PathBuf::from(name),
    };
    if file.symlink_metadata().is_ok() {
        let message = format!("{} is there already; name another file with -o", file.display());
        return Err(Failure::new(Exit::Conflict, message));
    }
    Ok(Destination::File(file))
}

/// Who sent how much of the blob to the node since it started.
async fn sources(client: &Client, blob: BlobHash) -> BTreeMap<String, u64> {
    // What isn't known is left out: it is no reason to fail.
    let info = client.get(&format!("/api/v1/node/blobs/{blob}")).await.unwrap_or_default();
    let source = |source: &Value| Some((source["node"].as_str()?.to_owned(), source["bytes"].as_u64()?));
    info["sources"].as_array().into_iter().flatten().filter_map(source).collect()
}

fn difference(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Vec<Value> {
    let gained = after.iter().map(|(node, bytes)| (node, bytes.saturating_sub(before.get(node).copied().unwrap_or(0))));
    gained.filter(|(_, bytes)| *bytes > 0).map(|(node, bytes)| json!({ "node": node, "bytes": bytes })).collect()
}

/// `file` with `.suffix` behind its whole name.
fn beside(file: &Path, suffix: &str) -> PathBuf {
    file.with_added_extension(suffix)
}

fn io_failure(what: &str, file: &Path) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::failed(format!("can't {what} {}: {error}", file.display()))
}

/// Opens the file that grows beside the one that is wanted, for this process alone.
fn open_part(part: &Path) -> Result<fs::File, Failure> {
    let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(part);
    let file = file.map_err(io_failure("write", part))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            Err(Failure::new(Exit::Conflict, format!("another `mhc get` is writing {}", part.display())))
        }
        Err(fs::TryLockError::Error(error)) => Err(io_failure("lock", part)(error)),
    }
}

impl Transfer<'_> {
    async fn to_stdout(&self, range: Option<ByteRange>) -> Result<u64, Failure> {
        let mut hasher = blake3::Hasher::new();
        let response = match range {
            Some(range) => self.ask_range(range).await?,
            None => self.ask(None).await?,
        };
        let written = |error: io::Error| Failure::stdout(&error);
        let bytes = self.copy(response, &mut io::stdout(), &mut hasher, written).await?;
        if range.is_none() && !self.is_whole(&hasher) {
            return Err(self.wrong());
        }
        Ok(bytes)
    }

    async fn range_to_file(&self, range: ByteRange, file: &Path) -> Result<u64, Failure> {
        let response = self.ask_range(range).await?;
        let part = beside(file, &format!("{}-{}.part", range.first, range.last));
        let mut out = open_part(&part)?;
        out.set_len(0).map_err(io_failure("write", &part))?;
        let bytes = self.copy(response, &mut out, &mut blake3::Hasher::new(), io_failure("write", &part)).await?;
        finish(&out, &part, file)?;
        Ok(bytes)
    }

    async fn to_file(&self, file: &Path) -> Result<u64, Failure> {
        let part = beside(file, "part");
        let mut out = open_part(&part)?;
        if let Some(stored) = self.stored().await?
            && let Ok(bytes) = local::copy(&stored, &out, self.blob)
        {
            // Not synced, as `cp` doesn't: the node's store has the bytes durably.
            place(&part, file)?;
            return Ok(bytes);
        }
        let (mut hasher, mut here) = (blake3::Hasher::new(), out.metadata().map_err(io_failure("read", &part))?.len());
        if here > 0 {
            hasher.update_reader(&mut out).map_err(io_failure("read", &part))?;
        }
        let resumed = here > 0;
        if !(resumed && self.is_whole(&hasher)) {
            here = self.append(&mut out, &part, &mut hasher, here).await?;
        }
        if !self.is_whole(&hasher) && resumed {
            remark("what was left of a former try doesn't fit; starting anew");
            hasher = blake3::Hasher::new();
            here = self.append(&mut out, &part, &mut hasher, 0).await?;
        }
        if !self.is_whole(&hasher) {
            // It would never fit.
            let _ = fs::remove_file(&part);
            return Err(self.wrong());
        }
        finish(&out, &part, file)?;
        Ok(here)
    }

    /// Lets the node fetch all of it, and returns the file in its store. None when there is no such thing (the node is
    /// elsewhere or not one of ours) or not all of it could be had: the gateway then gives what there is.
    async fn stored(&self) -> Result<Option<PathBuf>, Failure> {
        let fetch = self.client.request(Method::POST, &format!("/api/v1/node/blobs/{}/fetch", self.blob));
        let mut fetched = pin!(self.client.document(fetch));
        loop {
            tokio::select! {
                fetched = &mut fetched => return match fetched {
                    Ok(fetched) => Ok(fetched["file"].as_str().map(PathBuf::from)),
                    Err(failure) if failure.exit == Exit::Unavailable && self.bar.position() == 0 => Err(failure),
                    Err(_) => Ok(None),
                },
                () = tokio::time::sleep(LOOK_EVERY) => self.show_progress().await,
            }
        }
    }

    async fn show_progress(&self) {
        // What isn't known is left out: it is no reason to fail.
        let info = self.client.get(&format!("/api/v1/node/blobs/{}", self.blob)).await.unwrap_or_default();
        self.bar.set_length(info["size_bytes"].as_u64().unwrap_or_default());
        self.bar.set_position(info["local_bytes"].as_u64().unwrap_or_default());
    }

    /// Adds what comes after the first `here` bytes, or writes all of it when the node doesn't go on from there.
    /// Returns the length at the end.
    async fn append(
        &self,
        out: &mut fs::File,
        part: &Path,
        hasher: &mut blake3::Hasher,
        here: u64,
    ) -> Result<u64, Failure> {
        let failed = io_failure("write", part);
        let response = match self.ask((here > 0).then_some(here)).await {
            // There is nothing behind that many bytes: the part is of something longer.
            Err(failure) if here > 0 && failure.exit == Exit::Usage => self.ask(None).await?,
            other => other?,
        };
        let start = if response.status() == StatusCode::PARTIAL_CONTENT { here } else { 0 };
        if start == 0 {
            *hasher = blake3::Hasher::new();
        }
        out.set_len(start).and_then(|()| out.seek(SeekFrom::Start(start))).map_err(&failed)?;
        self.bar.set_position(start);
        Ok(start + self.copy(response, out, hasher, failed).await?)
    }

    /// Asks for the whole blob, or for what comes from byte `from` on if it is still the same.
    async fn ask(&self, from: Option<u64>) -> Result<Response, Failure> {
        let mut request = self.client.request(Method::GET, &format!("/blobs/{}", self.blob));
        if let Some(from) = from {
            request = request.header(header::RANGE, format!("bytes={from}-"));
            request = request.header(header::IF_RANGE, format!("\"{}\"", self.blob));
        }
        let response = self.client.send(request).await?;
        match content_range(&response) {
            Some((first, ..)) if Some(first) != from => Err(Failure::new(Exit::BadData, "the node sent another range")),
            None if response.status() == StatusCode::PARTIAL_CONTENT => {
                Err(Failure::new(Exit::BadData, "the node doesn't say which range it sent"))
            }
            _ => Ok(response),
        }
    }

    async fn ask_range(&self, range: ByteRange) -> Result<Response, Failure> {
        let request = self.client.request(Method::GET, &format!("/blobs/{}", self.blob));
        let request = request.header(header::RANGE, format!("bytes={}-{}", range.first, range.last));
        let response = self.client.send(request).await?;
        match content_range(&response) {
            Some((first, last)) if first == range.first && last <= range.last => Ok(response),
            _ => Err(Failure::new(Exit::BadData, "the node didn't send the range it was asked for")),
        }
    }

    /// Copies the body into `out` and `hasher`. A body that ends early is a failure: more of it may come later.
    /// Writing blocks this thread, which has nothing else to do.
    async fn copy(
        &self,
        response: Response,
        out: &mut impl Write,
        hasher: &mut blake3::Hasher,
        failed: impl Fn(io::Error) -> Failure,
    ) -> Result<u64, Failure> {
        let expected = response.content_length();
        self.bar.set_length(self.bar.position() + expected.unwrap_or(0));
        let mut chunks = response.bytes_stream();
        let (mut bytes, mut broken) = (0, None);
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(chunk) => {
                    hasher.update(&chunk);
                    out.write_all(&chunk).map_err(&failed)?;
                    bytes += chunk.len() as u64;
                    self.bar.inc(chunk.len() as u64);
                }
                Err(error) => {
                    broken = Some(causes(&error));
                    break;
                }
            }
        }
        out.flush().map_err(&failed)?;
        match broken {
            None if expected.is_none_or(|expected| expected == bytes) => Ok(bytes),
            why => Err(broken_off(bytes, expected, why.as_deref())),
        }
    }

    fn is_whole(&self, hasher: &blake3::Hasher) -> bool {
        hasher.finalize() == blake3::Hash::from_bytes(*self.blob.as_bytes())
    }

    fn wrong(&self) -> Failure {
        let message = format!("what came isn't blob {}: verification failed", self.blob);
        Failure::new(Exit::BadData, message)
    }
}

fn broken_off(bytes: u64, expected: Option<u64>, why: Option<&str>) -> Failure {
    let whole = expected.map_or("all".into(), size);
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    let message = format!(
        "it broke off after {} of {whole}{why}: no source has the rest now; the same command goes on from there",
        size(bytes)
    );
    Failure::new(Exit::Unavailable, message)
}

/// First and last byte of `Content-Range: bytes 0-9/100`.
fn content_range(response: &Response) -> Option<(u64, u64)> {
    let value = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (first, last) = value.strip_prefix("bytes ")?.split_once('/')?.0.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Puts a complete part where it belongs, durably.
fn finish(out: &fs::File, part: &Path, file: &Path) -> Result<(), Failure> {
    out.sync_all().map_err(io_failure("write", part))?;
    place(part, file)
}

fn place(part: &Path, file: &Path) -> Result<(), Failure> {
    fs::rename(part, file).map_err(io_failure("put in place", file))
}

#[cfg(test)]
mod tests;
