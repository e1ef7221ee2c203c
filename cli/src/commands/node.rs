//! The node itself: status, ticket, peers, what it keeps.

use std::{
    io::{self, IsTerminal},
    time::{SystemTime, UNIX_EPOCH},
};

use mhc_protocol::{BlobHash, ticket::Ticket};
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    args::Within,
    client::Client,
    failure::Failure,
    output::{Output, aligned, cell, duration, pairs},
};

pub(super) async fn status(output: Output, client: &Client) -> Result<(), Failure> {
    output.result(&client.get("/api/v1/node").await?, pairs)
}

pub(super) async fn ticket(
    output: Output,
    client: &Client,
    blob: Option<BlobHash>,
    within: Within,
) -> Result<(), Failure> {
    let path = match blob {
        Some(hash) => format!("/api/v1/node/ticket?blob={hash}"),
        None => within.path("/api/v1/node/ticket"),
    };
    let answer = client.get(&path).await?;
    output.result(&answer, |answer| {
        let ticket = answer["ticket"].as_str().unwrap_or_default();
        let code = if io::stdout().is_terminal() { qr_code(ticket) } else { String::new() };
        format!("{ticket}\n{code}")
    })
}

/// `text` as a QR code of half-block characters; nothing when it is too long for one. Tickets are base32, whose
/// upper case takes QR's compact alphanumeric mode, and they are read in either case.
fn qr_code(text: &str) -> String {
    let text = if text.starts_with("mhc1") { text.to_ascii_uppercase() } else { text.to_owned() };
    let code = QrCode::with_error_correction_level(text, EcLevel::L);
    let draw = |code: QrCode| code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    code.map(draw).unwrap_or_default()
}

pub(super) async fn add_peer(output: Output, client: &Client, ticket: &Ticket) -> Result<(), Failure> {
    let request = client.request(Method::POST, "/api/v1/node/peers").json(&json!({ "ticket": ticket.to_string() }));
    let answer = client.document(request).await?;
    output.result(&answer, |_| format!("added node {}; `mhc peers` shows whether it answers", ticket.node))
}

pub(super) async fn peers(output: Output, client: &Client) -> Result<(), Failure> {
    let peers = client.get("/api/v1/node/peers").await?;
    output.result(&peers, |peers| {
        let rows: Vec<_> = peers.as_array().into_iter().flatten().map(|peer| peer_row(now_ms(), peer)).collect();
        if rows.is_empty() {
            return "no peers yet; add one with `mhc peer add TICKET`".into();
        }
        let heading = ["NODE", "NAME", "LINKS", "IN", "OUT", "LAST SEEN"].map(String::from).to_vec();
        aligned(&std::iter::once(heading).chain(rows).collect::<Vec<_>>())
    })
}

fn peer_row(now_ms: u64, peer: &Value) -> Vec<String> {
    let links: Vec<String> = peer["links"].as_array().into_iter().flatten().map(link_text).collect();
    let links = if links.is_empty() { "-".into() } else { links.join(", ") };
    let [node, name, bytes_in, bytes_out] = ["node", "name", "bytes_in", "bytes_out"].map(|key| cell(key, &peer[key]));
    let seen = peer["last_seen"].as_u64().map_or("-".into(), |at_ms| ago(now_ms, at_ms));
    vec![node, name, links, bytes_in, bytes_out, seen]
}

fn ago(now_ms: u64, at_ms: u64) -> String {
    format!("{} ago", duration(now_ms.saturating_sub(at_ms) / 1000))
}

fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// `direct 192.0.2.1:4481 12 ms`, with a star on the one that carries the data.
fn link_text(link: &Value) -> String {
    let star = if link["selected"] == true { "*" } else { "" };
    let rtt = if link["rtt_ms"].is_null() { String::new() } else { format!(" {}", cell("rtt_ms", &link["rtt_ms"])) };
    format!("{}{star} {}{rtt}", cell("class", &link["class"]), cell("addr", &link["addr"]))
}

pub(super) async fn pin(output: Output, client: &Client, content: BlobHash) -> Result<(), Failure> {
    let request = client.request(Method::PUT, &format!("/api/v1/node/pins/{content}"));
    output.result(&client.document(request).await?, |answer| match answer["complete"] == true {
        true => "kept, and all of it is here".into(),
        false => "kept; what is missing is being fetched".into(),
    })
}

pub(super) async fn unpin(output: Output, client: &Client, content: BlobHash) -> Result<(), Failure> {
    let request = client.request(Method::DELETE, &format!("/api/v1/node/pins/{content}"));
    output.result(&client.document(request).await?, |_| "released; it goes when its space is needed".into())
}

pub(super) async fn gc(output: Output, client: &Client) -> Result<(), Failure> {
    let request = client.request(Method::POST, "/api/v1/node/gc");
    output.result(&client.document(request).await?, |freed| {
        let [bytes, blobs, records] = ["freed_bytes", "evicted", "forgotten_records"].map(|key| cell(key, &freed[key]));
        format!("freed {bytes} of {blobs} blob(s), dropped {records} record(s)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_shown_with_their_links() {
        let peer = json!({
            "node": "ab", "name": null, "bytes_in": 2048, "bytes_out": 0, "last_seen": 1000,
            "links": [
                {"class": "direct", "addr": "192.0.2.1:4481", "rtt_ms": 12, "selected": true},
                {"class": "lan", "addr": "10.0.0.1:1", "rtt_ms": null, "selected": false},
            ],
        });
        let row = peer_row(62_000, &peer);
        assert_eq!(row[2], "direct* 192.0.2.1:4481 12 ms, lan 10.0.0.1:1");
        assert_eq!((row[0].as_str(), row[1].as_str(), row[3].as_str()), ("ab", "-", "2.0 KiB"));
        assert_eq!(row[5], "1m 01s ago");
        assert_eq!(peer_row(0, &json!({})), ["-"; 6]);
    }

    #[test]
    fn a_ticket_has_a_qr_code_and_an_endless_text_none() {
        assert!(qr_code("mhc1abcdef").lines().count() > 10);
        assert_eq!(qr_code(&"a".repeat(10_000)), "");
    }
}
