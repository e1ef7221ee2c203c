//! Alerts: sending them, calling them back, and what holds; shutdown mode.

use mhc_protocol::alert::short_line;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::{
    args::{Emergency, Life, SendAlert, ShutdownMode},
    client::Client,
    failure::Failure,
    output::{Output, aligned, cell, pairs, plain, remark, table},
};

const PATH: &str = "/api/v1/node/emergency";

pub(super) async fn run(output: Output, client: &Client, command: Emergency) -> Result<(), Failure> {
    match command {
        Emergency::Send(options) => send(output, client, options).await,
        Emergency::List { all, within } => {
            let path = if all { format!("{PATH}?all=true") } else { PATH.to_owned() };
            output.result(&client.get(&within.path(&path)).await?, list)
        }
        Emergency::Cancel { alert, text, within } => {
            let texts = text.map(|text| json!({ "en": text })).unwrap_or_else(|| json!({}));
            let body = json!({ "kind": "cancel", "refers": alert.to_string(), "texts": texts });
            let request = client.request(Method::POST, &within.path(PATH)).json(&body);
            let sent = client.document(request).await?;
            warn(&sent);
            output.result(&sent, |_| format!("called back {alert}"))
        }
        Emergency::Take { compact, within } => {
            let path = within.path(&format!("{PATH}/take"));
            let request = client.request(Method::POST, &path).json(&json!({ "compact": compact }));
            output.result(&client.document(request).await?, |alert| {
                format!("taken in and passed on:\n{}", list(&json!([alert])))
            })
        }
        Emergency::Journal { limit } => {
            let entries = client.get(&format!("/api/v1/node/journal?limit={limit}")).await?;
            let columns = [("NO", "number"), ("AT", "at"), ("EVENT", "event"), ("FACTS", "facts"), ("FITS", "fits")];
            output.result(&entries, |entries| table(entries, &columns, "nothing yet"))
        }
    }
}

pub(super) async fn mode(output: Output, client: &Client, command: ShutdownMode) -> Result<(), Failure> {
    const PATH: &str = "/api/v1/node/shutdown-mode";
    let choice = match command {
        ShutdownMode::Status => return output.result(&client.get(PATH).await?, pairs),
        ShutdownMode::On => "on",
        ShutdownMode::Off => "off",
        ShutdownMode::Auto => "auto",
    };
    let request = client.request(Method::POST, PATH).json(&json!({ "choice": choice }));
    output.result(&client.document(request).await?, pairs)
}

async fn send(output: Output, client: &Client, options: SendAlert) -> Result<(), Failure> {
    let SendAlert { text, lang, also, short, severity, urgency, areas, content, .. } = options;
    let Life(expires_in_min) = options.expires;
    let mut texts: Map<String, Value> = also.into_iter().map(|other| (other.tag, other.text.into())).collect();
    let language: String = lang.chars().take(2).collect();
    texts.insert(lang, text.clone().into());
    let severity = severity.map(|severity| severity.as_str());
    let body = json!({
        "kind": if options.update.is_some() { "update" } else { "alert" },
        "refers": options.update.map(|alert| alert.to_string()),
        "drill": options.drill,
        // Whoever alerts in a hurry means it.
        "severity": severity.or((options.update.is_none()).then_some("critical")),
        "urgency": urgency.map(|urgency| urgency.as_str()),
        "order": options.order.map(|order| order.as_str()),
        "expires_in_min": expires_in_min,
        // The line for narrow links is the beginning of this text, not of another language's.
        "short": short.or_else(|| Some(short_line(&text))),
        "language": language,
        "texts": texts,
        "areas": areas,
        "content": content.map(|content| content.to_string()),
    });
    let request = client.request(Method::POST, &options.within.path(PATH)).json(&body);
    let sent = client.document(request).await?;
    warn(&sent);
    output.result(&sent, |sent| {
        let heard = match sent["heard"].as_bool() {
            Some(true) => "on its way to every node",
            _ => "kept; nobody is connected now, and whoever comes is told",
        };
        format!(
            "{}: {heard}\ncall it back with `mhc emergency cancel {}`",
            cell("id", &sent["id"]),
            cell("id", &sent["id"])
        )
    })
}

fn warn(sent: &Value) {
    if let Some(warning) = sent["warning"].as_str() {
        remark(&plain(warning));
    }
}

fn list(alerts: &Value) -> String {
    let Some(alerts) = alerts.as_array().filter(|alerts| !alerts.is_empty()) else { return "no alert".into() };
    let show = |alert: &Value| {
        let word = |key: &str| cell(key, &alert[key]);
        let drill = if alert["drill"].as_bool() == Some(true) { "DRILL, nothing has happened. " } else { "" };
        let texts = alert["texts"].as_object().filter(|texts| !texts.is_empty());
        let mut rows = vec![vec![word("severity").to_uppercase(), format!("{drill}{}", word("short"))]];
        for (tag, text) in texts.into_iter().flatten() {
            rows.push(vec![plain(tag), cell("text", text)]);
        }
        for key in ["areas", "content", "state", "sent_at", "expires_at", "issuer", "id"] {
            if !alert[key].is_null() && alert[key] != json!([]) {
                rows.push(vec![key.into(), word(key)]);
            }
        }
        aligned(&rows)
    };
    alerts.iter().map(show).collect::<Vec<_>>().join("\n")
}
