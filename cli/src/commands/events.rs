//! Long work of the node, which tells how far it is: a line of JSON for each event.

use futures::StreamExt;
use indicatif::ProgressBar;
use reqwest::{RequestBuilder, header::ACCEPT};
use serde_json::Value;

use crate::{
    client::{Client, causes},
    failure::{Exit, Failure},
    output::plain,
    progress,
};

const NDJSON: &str = "application/x-ndjson";
/// Longest line of an answer.
const MAX_LINE_BYTES: usize = 16 << 20;
/// Has the node do it and shows how far it is. Returns its report.
pub(super) async fn follow(client: &Client, request: RequestBuilder) -> Result<Value, Failure> {
    let response = client.send(request.header(ACCEPT, NDJSON)).await?;
    let bar = progress::bytes(0, "starting");
    let (mut waiting, mut chunks) = (Vec::new(), response.bytes_stream());
    let broken = |why: String| {
        Failure::new(
            Exit::Unavailable,
            format!("the node stopped answering{why}; give the same command again once it runs"),
        )
    };
    while let Some(chunk) = chunks.next().await {
        waiting.extend_from_slice(&chunk.map_err(|error| broken(format!(" ({})", causes(&error))))?);
        while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = waiting.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line)
                .map_err(|error| Failure::new(Exit::BadData, format!("the node's answer isn't JSON: {error}")))?;
            if let Some(report) = take(&bar, event)? {
                bar.finish_and_clear();
                return Ok(report);
            }
        }
        if waiting.len() > MAX_LINE_BYTES {
            return Err(Failure::new(Exit::BadData, "the node's answer has an endless line"));
        }
    }
    bar.finish_and_clear();
    Err(broken(String::new()))
}

/// Shows an event; the report when it was the last.
fn take(bar: &ProgressBar, mut event: Value) -> Result<Option<Value>, Failure> {
    match event["event"].as_str() {
        Some("progress") => {
            bar.set_message(plain(event["phase"].as_str().unwrap_or_default()));
            bar.set_length(event["total_bytes"].as_u64().unwrap_or(0));
            bar.set_position(event["done_bytes"].as_u64().unwrap_or(0));
            Ok(None)
        }
        Some("done") => Ok(Some(event["report"].take())),
        Some("failed") => {
            bar.finish_and_clear();
            let exit = Exit::from_problem(event["code"].as_str().unwrap_or_default());
            Err(Failure::new(exit, plain(event["detail"].as_str().unwrap_or("it failed"))))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_end_with_a_report_or_a_failure() {
        let bar = ProgressBar::hidden();
        let done = take(&bar, json!({ "event": "done", "report": { "damaged": 0 } }));
        assert_eq!(done.unwrap(), Some(json!({ "damaged": 0 })));
        for event in
            [json!({ "event": "started" }), json!({ "event": "progress" }), json!({ "event": "new" }), json!([])]
        {
            assert!(take(&bar, event.clone()).unwrap().is_none(), "{event}");
        }
        let failed = take(&bar, json!({ "event": "failed", "code": "storage_full", "detail": "no room" }));
        let failure = failed.expect_err("it failed");
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::Failed, "no room"));
    }
}
