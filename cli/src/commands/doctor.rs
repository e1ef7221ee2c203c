//! `mhc doctor`: what is wrong and how it is mended. Works without a node; a running one adds what only it knows.

use std::{path::Path, time::SystemTime};

use mhc_node::{
    doctor::{self, Check, State},
    home,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    client::Client,
    failure::{Exit, Failure},
    output::{Output, coloured_stdout, plain},
    progress,
};

pub(super) async fn run(output: Output, dir: &Path, rebuild: bool) -> Result<(), Failure> {
    let running = home::running(dir)?.is_some();
    if rebuild && !running {
        return Err(Failure::new(Exit::Unavailable, "the running node rebuilds its index; start it with `mhc up`"));
    }
    let mut checks = offline(dir.to_owned(), running).await?;
    if running {
        checks.extend(online(dir, rebuild).await);
    }
    let worst = checks.iter().map(|check| check.state).max().unwrap_or(State::Ok);
    output.result(&json!({ "checks": checks }), |_| checks.iter().map(text).collect())?;
    match worst {
        State::Fail => Err(Failure::failed("something needs mending")),
        State::Ok | State::Warn => Ok(()),
    }
}

async fn offline(dir: std::path::PathBuf, running: bool) -> Result<Vec<Check>, Failure> {
    let check = move || {
        let (config, wrong) = match super::load_settings(&dir, Vec::new()) {
            Ok((config, _)) => (config, None),
            Err(error) => (mhc_config::Config::default(), Some(error.to_string())),
        };
        let settings = match wrong {
            None => Check::ok("config", "no mistakes"),
            Some(mistakes) => Check::fail("config", mistakes, "`mhc config example` shows what is right"),
        };
        let mut checks = doctor::check(&dir, &config, SystemTime::now(), running);
        checks.insert(0, settings);
        checks
    };
    tokio::task::spawn_blocking(check).await.map_err(|error| Failure::failed(format!("the checks stopped: {error}")))
}

/// What the running node finds; its silence is a finding too.
async fn online(dir: &Path, rebuild: bool) -> Vec<Check> {
    let spinner = progress::spinner(if rebuild { "rebuilding the index" } else { "checking" });
    let checks = ask(dir, rebuild).await;
    spinner.finish_and_clear();
    checks.unwrap_or_else(|failure| vec![Check::fail("node", failure.message, "see the log of `mhc up`")])
}

async fn ask(dir: &Path, rebuild: bool) -> Result<Vec<Check>, Failure> {
    let client = Client::find(dir)?;
    let request = client.request(Method::POST, &format!("/api/v1/node/doctor?rebuild={rebuild}"));
    let mut answer: Value = client.document(request).await?;
    let checks = serde_json::from_value(answer["checks"].take());
    checks.map_err(|error| Failure::new(Exit::BadData, format!("the node's answer can't be read: {error}")))
}

fn text(check: &Check) -> String {
    let (word, colour) = match check.state {
        State::Ok => ("ok  ", 32),
        State::Warn => ("warn", 33),
        State::Fail => ("FAIL", 31),
    };
    let word = if coloured_stdout() { format!("\u{1b}[{colour}m{word}\u{1b}[0m") } else { word.into() };
    let mend = check.mend.as_ref().map(|mend| format!("      {:12}  mend: {}\n", "", plain(mend)));
    format!("{word}  {:12}  {}\n{}", check.check, plain(&check.detail), mend.unwrap_or_default())
}
