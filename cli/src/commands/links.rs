//! `mhc links`: why each byte came the way it came.

use serde_json::Value;

use crate::{
    client::Client,
    failure::Failure,
    output::{Output, aligned, cell, duration, plain, table},
};

pub(super) async fn links(output: Output, client: &Client) -> Result<(), Failure> {
    output.result(&client.get("/api/v1/node/links").await?, text)
}

fn text(report: &Value) -> String {
    let columns = [
        ("LINK", "class"),
        ("STATE", "state"),
        ("RTT", "rtt_ms"),
        ("RATE", "rate_bytes_per_s"),
        ("IN", "in_bytes"),
        ("OUT", "out_bytes"),
        ("BUDGET LEFT", "budget_left_bytes"),
        ("WHY", "why"),
    ];
    let mut text = table(&report["classes"], &columns, "no links");
    if report["policy"] == "prefer_mesh" {
        text.push_str("\nneighbours and the overlay go before the internet\n");
    }
    for peer in list(&report["peers"]) {
        text.push_str(&peer_text(peer));
    }
    text.push_str(&overlay_text(&report["yggdrasil"]));
    text
}

fn peer_text(peer: &Value) -> String {
    let name = peer["name"].as_str().filter(|name| !name.is_empty());
    let name = name.map(|name| format!(" ({})", plain(name))).unwrap_or_default();
    let carries = match peer["class"].as_str() {
        Some(class) => format!("{class}: {}", plain(peer["why"].as_str().unwrap_or_default())),
        None => "no way is open".into(),
    };
    let mut text = format!("\n{}{name}\n  by {carries}\n", cell("node", &peer["node"]));
    let rows: Vec<_> = list(&peer["paths"]).map(path_row).collect();
    aligned(&rows).lines().for_each(|line| text.push_str(&format!("  {line}\n")));
    let (count, last) = (peer["switch_count"].as_u64().unwrap_or_default(), list(&peer["switches"]).last());
    if let Some(last) = last.filter(|_| count > 1) {
        let why = plain(last["why"].as_str().unwrap_or_default());
        text.push_str(&format!("  {count} changes; the last to {}: {why}\n", cell("class", &last["class"])));
    }
    text
}

/// A star on the one that carries the bytes.
fn path_row(path: &Value) -> Vec<String> {
    let star = if path["carries"] == true { "*" } else { " " };
    let of = |key: &str| cell(key, &path[key]);
    let moved = format!("{} in, {} out", of("in_bytes"), of("out_bytes"));
    vec![format!("{star} {}", of("class")), of("route"), of("state"), of("rtt_ms"), moved, of("why")]
}

fn overlay_text(overlay: &Value) -> String {
    let admin = &overlay["admin"];
    let addresses: Vec<_> = list(&overlay["addresses"]).map(|address| cell("address", address)).collect();
    let socket = cell("socket", &admin["socket"]);
    let mut text = match admin["state"].as_str() {
        Some("answered") => {
            format!("\nYggdrasil: {}, daemon at {socket}\n", cell("address", &admin["overlay"]["address"]))
        }
        Some("failed") if addresses.is_empty() => {
            format!("\nYggdrasil: no interface, and {socket}: {}\n", cell("why", &admin["why"]))
        }
        Some("failed") => {
            format!(
                "\nYggdrasil: {}; its daemon can't be asked at {socket}: {}\n",
                addresses.join(", "),
                cell("why", &admin["why"])
            )
        }
        _ => return String::new(),
    };
    let rows: Vec<_> = list(&admin["peers"]).map(overlay_row).collect();
    aligned(&rows).lines().for_each(|line| text.push_str(&format!("  {line}\n")));
    text
}

fn overlay_row(peer: &Value) -> Vec<String> {
    let state = match (peer["up"] == true, peer["uptime_s"].as_u64()) {
        (true, Some(seconds)) => format!("up for {}", duration(seconds)),
        (true, None) => "up".into(),
        (false, _) => format!("down: {}", cell("error", &peer["error"])),
    };
    let of = |key: &str| cell(key, &peer[key]);
    vec![of("uri"), state, of("rtt_ms"), format!("{} in, {} out", of("in_bytes"), of("out_bytes"))]
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_says_what_carries_and_why() {
        let path = |class: &str, route: &str, carries: bool, why: &str| {
            json!({"class": class, "route": route, "state": if carries { "up" } else { "down" }, "carries": carries,
                "rtt_ms": if carries { Some(12) } else { None }, "in_bytes": 2048, "out_bytes": 1, "why": why})
        };
        let report = json!({
            "policy": "prefer_mesh",
            "classes": [{"class": "lan", "state": "down", "why": "no peer has an address of this kind"}],
            "peers": [{
                "node": "ab", "name": "studio", "class": "yggdrasil", "why": "lan stopped answering", "switch_count": 2,
                "switches": [{"class": "lan", "why": "the first way that answered"},
                    {"class": "yggdrasil", "why": "lan stopped answering"}],
                "paths": [path("yggdrasil", "[200::7]:4481", true, "answers in 12 ms"),
                    path("lan", "10.0.0.1:4481", false, "was silent for 3.0 s though it was asked")],
            }],
            "yggdrasil": {"addresses": ["200::8"], "admin": {"state": "answered", "socket": "/run/y.sock",
                "overlay": {"address": "200::8"}, "peers": [{"uri": "tcp://192.0.2.1:9", "up": true, "uptime_s": 61,
                    "in_bytes": 1024, "out_bytes": 0}]}},
        });
        let text = text(&report);
        for line in [
            "neighbours and the overlay go before the internet",
            "ab (studio)",
            "  by yggdrasil: lan stopped answering",
            "  * yggdrasil  [200::7]:4481  up    12 ms  2.0 KiB in, 1 B out  answers in 12 ms",
            "    lan        10.0.0.1:4481  down  -      2.0 KiB in, 1 B out  was silent for 3.0 s though it was asked",
            "  2 changes; the last to yggdrasil: lan stopped answering",
            "Yggdrasil: 200::8, daemon at /run/y.sock",
            "  tcp://192.0.2.1:9  up for 1m 01s  -  1.0 KiB in, 0 B out",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} in\n{text}");
        }
        assert_eq!(super::text(&json!({"classes": []})).trim(), "no links");
    }
}
