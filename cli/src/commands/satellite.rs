//! The satellite uplink: its budget, and exchanges over it.

use reqwest::Method;
use serde_json::{Value, json};

use super::events;
use crate::{
    args::Satellite,
    client::Client,
    failure::Failure,
    output::{Output, cell, pairs},
};

pub(super) async fn run(output: Output, client: &Client, command: Satellite) -> Result<(), Failure> {
    match command {
        Satellite::Status => output.result(&client.get("/api/v1/node/satellite").await?, status),
        Satellite::Exchange { url, contents, max_bytes } => {
            let body = json!({ "url": url, "contents": contents, "max_bytes": max_bytes });
            let request = client.request(Method::POST, "/api/v1/node/satellite/exchange").json(&body);
            output.result(&events::follow(client, request).await?, exchanged)
        }
    }
}

fn status(budget: &Value) -> String {
    match budget["budget_bytes"].is_null() {
        true => {
            "nothing may go over an uplink; set links.satellite.budget_bytes to what it may carry in a month".into()
        }
        false => pairs(budget),
    }
}

fn exchanged(report: &Value) -> String {
    let count = |key: &str| cell(key, &report[key]);
    let left = cell("usable_bytes", &report["budget"]["usable_bytes"]);
    let mut lines = vec![
        format!("records  {} new, {} known", count("new_records"), count("known_records")),
        format!("blobs    {} new", count("new_bytes")),
        format!("link     {} carried, {left} left this month", count("carried_bytes")),
    ];
    let rest = [
        ("incomplete", "blob(s) aren't whole yet; give the same command again, to any gateway"),
        ("waiting_records", "record(s) wait for others"),
        ("refused_records", "record(s) are against the rules of their log"),
        ("damaged", "entries weren't what they said"),
    ];
    for (key, what) in rest {
        if report[key].as_u64().unwrap_or(0) > 0 {
            lines.push(format!("{} {what}", report[key]));
        }
    }
    lines.join("\n")
}
