//! Content: publish, list, show.

use std::{io, path::Path, time::Duration};

use futures::{FutureExt, TryStreamExt};
use indicatif::ProgressBar;
use mhc_protocol::{BlobHash, RecordId};
use reqwest::{
    Body, Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use tokio::{fs::File, io::AsyncReadExt};
use tokio_util::io::ReaderStream;

use crate::{
    args::{Publish, Within},
    client::Client,
    commands::events,
    failure::{Exit, Failure},
    output::{Output, cell, pairs, remark, size, table},
    progress,
};

const READ_BYTES: usize = 256 << 10;
/// How long the node gets to refuse a large file by its length, or for want of the right, before it is sent. The
/// refusal would be lost when the connection breaks under what is being sent.
const REFUSAL_TIME: Duration = Duration::from_millis(200);
/// Files up to this length fit into the connection's buffers: there is nothing to wait for.
const SMALL_BYTES: u64 = 64 << 10;
/// Most entries a page of the feed has.
const PAGE: usize = 200;

pub(super) async fn publish(output: Output, client: &Client, options: Publish) -> Result<(), Failure> {
    let (file, bytes) = open(&options.file).await?;
    let mut answer = match on_its_machine(client, &options).await {
        // The node may run as somebody else, who can't read it: then it is sent.
        Err(failure) if !options.reference && matches!(failure.exit, Exit::Refused | Exit::NotFound) => {
            upload(client, &options, file, bytes).await?
        }
        told => told?,
    };
    if let Some(path) = answer["url"].as_str().filter(|url| url.starts_with('/')) {
        answer["url"] = Value::String(client.url(path));
    }
    if let Some(note) = answer["note"].as_str() {
        remark(&format!("note: {note}"));
    }
    output.result(&answer, |answer| {
        let [kind, bytes] = ["kind", "bytes"].map(|key| cell(key, &answer[key]));
        let [content, url] = ["content", "url"].map(|key| cell(key, &answer[key]));
        format!("published {kind}, {bytes}\ncontent  {content}\nwatch    {url}")
    })
}

/// Opens the file, or says why it can't be published before anything is sent.
async fn open(path: &Path) -> Result<(File, u64), Failure> {
    let refuse = |exit, what: String| Failure::new(exit, format!("can't publish {}: {what}", path.display()));
    // Not opened before it is known to be a file: opening a pipe would wait for its writer.
    let metadata = tokio::fs::metadata(path).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => refuse(Exit::NotFound, "there is no such file".into()),
        _ => refuse(Exit::Failed, error.to_string()),
    })?;
    if metadata.is_dir() {
        return Err(refuse(Exit::Failed, "it is a folder; publish its files one by one".into()));
    }
    if !metadata.is_file() {
        return Err(refuse(Exit::Failed, "it isn't a regular file".into()));
    }
    let file = File::open(path).await.map_err(|error| refuse(Exit::Failed, error.to_string()))?;
    Ok((file, metadata.len()))
}

/// Has the node read the file by itself: it runs on this machine.
async fn on_its_machine(client: &Client, options: &Publish) -> Result<Value, Failure> {
    let path = tokio::fs::canonicalize(&options.file).await.map_err(|error| Failure::failed(error.to_string()))?;
    let Some(path) = path.to_str() else {
        let exit = if options.reference { Exit::Usage } else { Exit::Refused };
        return Err(Failure::new(exit, "the file's path isn't Unicode; rename it, or publish without --reference"));
    };
    let mut body = json!({ "path": path, "copy": !options.reference, "tags": options.tags });
    for (field, value) in texts(options) {
        body[field] = value.into();
    }
    events::follow(client, client.request(Method::POST, "/api/v1/videos/reference").json(&body)).await
}

async fn upload(client: &Client, options: &Publish, file: File, bytes: u64) -> Result<Value, Failure> {
    let bar = progress::bytes(bytes, "uploading");
    let mut form = Form::new();
    for (field, value) in texts(options) {
        form = form.text(field, value);
    }
    for tag in &options.tags {
        form = form.text("tags", tag.clone());
    }
    form = form.part("file", part(&options.file, file, bytes, &bar));
    let answer = client.document(client.request(Method::POST, "/api/v1/videos/upload").multipart(form)).await;
    bar.finish_and_clear();
    answer
}

/// The file as the form's last field, read as it is sent and at most as long as it was found.
fn part(path: &Path, file: File, bytes: u64, bar: &ProgressBar) -> Part {
    let bar = bar.clone();
    let wait = if bytes > SMALL_BYTES { REFUSAL_TIME } else { Duration::ZERO };
    let chunks = ReaderStream::with_capacity(file.take(bytes), READ_BYTES);
    let chunks = tokio::time::sleep(wait)
        .map(move |()| chunks)
        .flatten_stream()
        .inspect_ok(move |chunk| bar.inc(chunk.len() as u64));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Part::stream_with_length(Body::wrap_stream(chunks), bytes).file_name(name)
}

/// The fields of a publication that were given.
fn texts(options: &Publish) -> Vec<(&'static str, String)> {
    let realm = options.realm.map(|realm| realm.as_str().to_owned());
    let network = options.within.network.map(|network| network.to_string());
    let (title, description) = (options.title.clone(), options.description.clone());
    let fields = [("title", title), ("description", description), ("realm", realm), ("network", network)];
    fields.into_iter().filter_map(|(field, value)| Some((field, value?))).collect()
}

pub(super) async fn withdraw(output: Output, client: &Client, content: RecordId) -> Result<(), Failure> {
    let request = client.request(Method::DELETE, &format!("/api/v1/videos/{content}"));
    let answer = client.document(request).await?;
    output.result(&answer, |_| format!("withdrew {content}; every node drops it as soon as it hears of that"))
}

pub(super) async fn list(output: Output, client: &Client, all: bool, within: Within) -> Result<(), Failure> {
    let mut items: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut page = client.get(&within.path(&page_path(all, cursor.as_deref()))).await?;
        if let Value::Array(page) = page["items"].take() {
            items.extend(page);
        }
        let next = page["next"].as_str().map(String::from);
        // A cursor that stands still would never end.
        if next.is_none() || next == cursor {
            break;
        }
        cursor = next;
    }
    output.result(&Value::Array(items), listing)
}

fn page_path(all: bool, cursor: Option<&str>) -> String {
    let mut path = format!("/api/v1/videos/feed?limit={PAGE}");
    if all {
        path.push_str("&all=true");
    }
    if let Some(cursor) = cursor {
        path.push_str("&cursor=");
        // Everything but letters and digits is escaped: the cursor is the node's own secret language.
        for byte in cursor.bytes() {
            match byte {
                byte if byte.is_ascii_alphanumeric() => path.push(byte.into()),
                byte => path.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    path
}

fn listing(items: &Value) -> String {
    let mut items = items.clone();
    for item in items.as_array_mut().into_iter().flatten() {
        item["here"] = Value::String(share(&item["local"], &item["bytes"]));
    }
    let columns = [
        ("CONTENT", "content"),
        ("TITLE", "title"),
        ("SIZE", "bytes"),
        ("LENGTH", "duration_ms"),
        ("HERE", "here"),
        ("PUBLISHED", "published_at"),
    ];
    table(&items, &columns, "nothing yet; publish with `mhc publish FILE`, or add a peer with `mhc peer add TICKET`")
}

/// How much of it is on this node.
fn share(local: &Value, bytes: &Value) -> String {
    match (local["bytes"].as_u64(), bytes.as_u64()) {
        _ if local["complete"] == true => "all".into(),
        (None | Some(0), _) => "-".into(),
        (Some(here), Some(whole)) if whole > 0 => format!("{}%", (u128::from(here) * 100 / u128::from(whole)).min(99)),
        (Some(here), _) => size(here),
    }
}

pub(super) async fn show(output: Output, client: &Client, content: BlobHash) -> Result<(), Failure> {
    output.result(&client.get(&format!("/api/v1/videos/{content}")).await?, pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_asked_for_whatever_the_cursor() {
        assert_eq!(page_path(false, None), "/api/v1/videos/feed?limit=200");
        assert_eq!(
            page_path(true, Some("a+/=&é")),
            "/api/v1/videos/feed?limit=200&all=true&cursor=a%2B%2F%3D%26%C3%A9"
        );
    }

    #[test]
    fn the_listing_says_how_much_is_here() {
        let local = |bytes: u64, complete: bool| json!({ "bytes": bytes, "complete": complete });
        let cases = [
            (local(0, false), json!(100), "-"),
            (local(50, false), json!(100), "50%"),
            (local(1000, false), json!(1000), "99%"),
            (local(100, true), json!(100), "all"),
            (local(u64::MAX, false), json!(u64::MAX), "99%"),
            (local(1024, false), json!(null), "1.0 KiB"),
            (json!(null), json!(null), "-"),
        ];
        for (local, bytes, text) in cases {
            assert_eq!(share(&local, &bytes), text, "{local} {bytes}");
        }
        assert!(listing(&json!([])).starts_with("nothing yet"));
        let text =
            listing(&json!([{"content": "ab", "title": "T", "bytes": 1, "local": {"bytes": 1, "complete": true}}]));
        assert!(text.lines().nth(1).unwrap().starts_with("ab       T      1 B   -       all"), "{text}");
    }

    #[tokio::test]
    async fn what_is_no_readable_file_is_refused_before_anything_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let cases = [
            (dir.path().join("none"), Exit::NotFound),
            (dir.path().into(), Exit::Failed),
            ("/dev/null".into(), Exit::Failed),
        ];
        for (path, exit) in cases {
            let failure = open(&path).await.expect_err("it is no file");
            assert_eq!(failure.exit, exit, "{}", failure.message);
        }
        let file = dir.path().join("file");
        std::fs::write(&file, "abc").unwrap();
        assert_eq!(open(&file).await.unwrap().1, 3);
    }
}
