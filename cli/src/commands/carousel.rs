//! The one-way carousel: what the node sends, takes in and hears.

use reqwest::Method;
use serde_json::{Value, json};

use super::{bundle::absolute, events};
use crate::{
    args::{Carousel, SendCarousel},
    client::Client,
    failure::Failure,
    output::{Output, cell, plain, table},
};

pub(super) async fn run(output: Output, client: &Client, command: Carousel) -> Result<(), Failure> {
    match command {
        Carousel::Send(options) => {
            let report = job(client, "send", send_body(&options)?).await?;
            output.result(&report, sent)
        }
        Carousel::Import { file } => {
            let report = job(client, "import", json!({ "path": absolute(&file)? })).await?;
            output.result(&report, received)
        }
        Carousel::Status => output.result(&client.get("/api/v1/node/carousel").await?, status),
    }
}

async fn job(client: &Client, name: &str, body: Value) -> Result<Value, Failure> {
    let request = client.request(Method::POST, &format!("/api/v1/node/carousel/{name}")).json(&body);
    events::follow(client, request).await
}

fn send_body(options: &SendCarousel) -> Result<Value, Failure> {
    let to_file = options.to_file.as_deref().map(absolute).transpose()?;
    Ok(json!({
        "to_file": to_file, "group": options.group, "interface": options.interface, "hops": options.hops,
        "rate_bits_per_s": options.rate.0, "margin_percent": options.margin, "rounds": options.rounds,
        "contents": options.contents, "newest": options.newest, "capacity_bytes": options.capacity,
    }))
}

fn sent(report: &Value) -> String {
    let [objects, of, bytes, rounds] =
        ["objects", "object_bytes", "bytes", "rounds"].map(|key| cell(key, &report[key]));
    let mut lines = vec![format!("sent {objects} object(s) of {of} in {rounds} round(s), {bytes}")];
    if let Some(path) = report["path"].as_str() {
        lines.push(format!("wrote {}", plain(path)));
    }
    for (key, what) in
        [("left_out", "object(s) had no room within --capacity"), ("absent", "blob(s) aren't on this node")]
    {
        if report[key].as_u64().unwrap_or(0) > 0 {
            lines.push(format!("{} {what}", report[key]));
        }
    }
    lines.join("\n")
}

fn received(report: &Value) -> String {
    let count = |key: &str| cell(key, &report[key]);
    let mut lines = vec![
        format!("objects  {} decoded", count("decoded")),
        format!("records  {} new, {} known", count("new_records"), count("known_records")),
        format!("blobs    {} new", count("new_bytes")),
        format!(
            "packets  {} symbols kept, {} not needed, {} refused",
            count("symbols"),
            count("ignored"),
            count("refused")
        ),
    ];
    if report["pages"] == 0 {
        lines.push("no index by a node that is trusted was heard; see links.satellite.carousel.trust".into());
    }
    let rest = [
        ("waiting_records", "record(s) wait for others"),
        ("refused_records", "record(s) are against the rules of their log"),
        ("left_pieces", "piece(s) of blobs weren't needed or had no room"),
        ("damaged", "entries weren't what they said"),
        ("no_room", "symbols had no room in memory"),
        ("spoiled", "object(s) weren't what the index says"),
        ("skipped_bytes", "bytes of the file were no packets"),
    ];
    for (key, what) in rest {
        if report[key].as_u64().unwrap_or(0) > 0 {
            lines.push(format!("{} {what}", report[key]));
        }
    }
    lines.join("\n")
}

fn status(report: &Value) -> String {
    let Some(listen) = report["listen"].as_str() else {
        return "this node receives no carousel; see links.satellite.carousel.listen".into();
    };
    let columns = [
        ("OBJECT", "object"),
        ("KIND", "kind"),
        ("BYTES", "bytes"),
        ("SYMBOLS", "symbols"),
        ("NEEDED", "needed"),
        ("DONE", "done"),
    ];
    let objects = table(&report["objects"], &columns, "nothing that is wanted is on air");
    format!("receives at {}\n{}\n{objects}", plain(listen), received(report))
}
