//! Bundles: what the node writes onto a stick, and what it takes from one.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    args::{Bundle, ExportBundle, Since},
    client::Client,
    commands::events,
    failure::{Exit, Failure},
    output::{Output, cell, plain, remark},
};

/// Problems told to a person.
const MAX_TOLD: usize = 20;

pub(super) async fn run(output: Output, client: &Client, command: Bundle) -> Result<(), Failure> {
    match command {
        Bundle::Export(options) => {
            let report = job(client, "export", export_body(&options)?).await?;
            output.result(&report, exported)
        }
        Bundle::Import { path } => {
            let report = job(client, "import", json!({ "path": absolute(&path)? })).await?;
            output.result(&report, imported)?;
            verdict(&report)
        }
        Bundle::Verify { path } => {
            let report = job(client, "verify", json!({ "path": absolute(&path)? })).await?;
            output.result(&report, verified)?;
            verdict(&report)
        }
        Bundle::Wants { path } => {
            let report = job(client, "wants", json!({ "path": absolute(&path)? })).await?;
            output.result(&report, |report| format!("wrote {}", cell("wants", &report["wants"])))
        }
    }
}

fn export_body(options: &ExportBundle) -> Result<Value, Failure> {
    let wants = options.wants.as_deref().map(absolute).transpose()?;
    let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis());
    let since = options.since.map(|since| match since {
        Since::Day { at_ms } => at_ms,
        Since::Ago { ms } => now_ms.unwrap_or(u64::MAX).saturating_sub(ms),
    });
    Ok(json!({
        "path": absolute(&options.path)?, "channels": options.channels, "contents": options.contents, "since": since,
        "max_bytes": options.max_bytes, "wants": wants, "browsable": options.browsable,
    }))
}

/// The path as the node has to know it: it runs in another folder.
pub(super) fn absolute(path: &Path) -> Result<String, Failure> {
    let path: PathBuf = std::path::absolute(path).map_err(|error| Failure::failed(error.to_string()))?;
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::new(Exit::Usage, "the path isn't Unicode; give another name to the folder"))
}

/// Has the node do it and shows how far it is. Returns its report.
async fn job(client: &Client, name: &str, body: Value) -> Result<Value, Failure> {
    let request = client.request(Method::POST, &format!("/api/v1/node/bundles/{name}")).json(&body);
    events::follow(client, request).await
}

fn exported(report: &Value) -> String {
    let [records, blobs, bytes] = ["records", "blobs", "bytes"].map(|key| cell(key, &report[key]));
    let mut lines = match report["path"].as_str() {
        Some(path) => vec![format!("wrote {}: {records} record(s), {blobs} blob(s), {bytes}", plain(path))],
        None => vec![],
    };
    if report["by_wants"] == true {
        lines.push("what the want-list doesn't ask for was left out".into());
    }
    if report["begun_again"] == true {
        lines.push("an interrupted export of the same was begun again".into());
    }
    if report["cut"] == true {
        lines.push("not everything fits within --max-bytes: the oldest was left out".into());
    }
    if report["absent"].as_u64().unwrap_or(0) > 0 {
        lines.push(format!("{} blob(s) aren't on this node", report["absent"]));
    }
    if report["media"].as_u64().unwrap_or(0) > 0 {
        lines.push(format!("{} file(s) for any player in MEDIA", report["media"]));
    }
    lines.extend(notes(report));
    lines.join("\n")
}

fn imported(report: &Value) -> String {
    let count = |section: &str, key: &str| cell(key, &report[section][key]);
    let mut lines = vec![
        format!("records  {} new, {} known", count("records", "new"), count("records", "known")),
        format!(
            "blobs    {} complete, {} partial; {} new",
            count("blobs", "complete"),
            count("blobs", "partial"),
            count("blobs", "new_bytes")
        ),
    ];
    let rest = [
        ("records", "waiting", "record(s) wait for others"),
        ("records", "refused", "record(s) are against the rules of their log"),
        ("records", "not_now", "record(s) can't be taken now"),
        ("blobs", "unknown", "blob(s) belong to nothing that is known here"),
        ("blobs", "no_room", "blob(s) had no room"),
        ("blobs", "over_quota", "blob(s) that nobody asked for were over their maker's quota"),
    ];
    for (section, key, what) in rest {
        if report[section][key].as_u64().unwrap_or(0) > 0 {
            lines.push(format!("{} {what}", report[section][key]));
        }
    }
    if let Some(wants) = report["wants"].as_str() {
        lines.push(format!("what is still missing is listed in {} for the next export", plain(wants)));
    }
    lines.extend(notes(report));
    lines.join("\n")
}

fn verified(report: &Value) -> String {
    let mut lines = vec![];
    for bundle in report["bundles"].as_array().into_iter().flatten() {
        let [name, node, bytes] = ["bundle", "node", "bytes"].map(|key| cell(key, &bundle[key]));
        let other = if bundle["ours"] == true { "" } else { ", of another network" };
        lines.push(format!("{name}  {bytes}, made by {node}{other}"));
    }
    let [records, pieces, bytes] = ["records", "pieces", "bytes"].map(|key| cell(key, &report[key]));
    lines.push(format!("right: {records} record(s), {pieces} piece(s) of blobs, {bytes}"));
    lines.join("\n")
}

fn notes(report: &Value) -> Vec<String> {
    let notes = report["notes"].as_array().into_iter().flatten();
    notes.filter_map(Value::as_str).map(|note| format!("note: {}", plain(note))).collect()
}

/// How a job ends that could do only a part.
fn verdict(report: &Value) -> Result<(), Failure> {
    let damaged = report["damaged"].as_u64().unwrap_or(0);
    if damaged > 0 {
        let damages = report["damages"].as_array().into_iter().flatten().take(MAX_TOLD);
        damages.for_each(|damage| remark(&damage_line(damage)));
        return Err(Failure::new(Exit::BadData, format!("{damaged} problem(s) found; all else is good")));
    }
    match report["blobs"]["no_room"].as_u64() {
        None | Some(0) => Ok(()),
        Some(_) => Err(Failure::failed("there wasn't room for everything; free space or raise storage.quota_bytes")),
    }
}

/// `bundle 0000001A, segment 0, entry 12: what is wrong`.
fn damage_line(damage: &Value) -> String {
    let place = |key: &str| damage[key].as_u64().map(|number| format!(", {key} {number}")).unwrap_or_default();
    let [bundle, what] = ["bundle", "what"].map(|key| cell(key, &damage[key]));
    format!("bundle {bundle}{}{}: {what}", place("segment"), place("entry"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_decides_how_it_ends() {
        let cases = [
            (json!({ "damaged": 0 }), None),
            (json!({ "damaged": 0, "blobs": { "no_room": 0 } }), None),
            (json!({ "damaged": 2, "damages": [] }), Some(Exit::BadData)),
            (json!({ "damaged": 2, "blobs": { "no_room": 1 } }), Some(Exit::BadData)),
            (json!({ "damaged": 0, "blobs": { "no_room": 1 } }), Some(Exit::Failed)),
        ];
        for (report, exit) in cases {
            assert_eq!(verdict(&report).err().map(|failure| failure.exit), exit, "{report}");
        }
    }

    #[test]
    fn damage_is_told_with_its_place() {
        let damage = json!({ "bundle": "0000001A", "segment": 0, "entry": 12, "what": "bad\u{1b}[2J" });
        assert_eq!(damage_line(&damage), "bundle 0000001A, segment 0, entry 12: bad [2J");
        assert_eq!(damage_line(&json!({ "bundle": "A", "what": "w" })), "bundle A: w");
    }
}
