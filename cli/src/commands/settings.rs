//! What works without a node: configuration, completions, manual.

use std::{fs, path::Path};

use clap::CommandFactory;
use clap_complete::Shell;
use mhc_config::{Config, LoadError, Mistake, Sources};
use mhc_protocol::ticket::{Ticket, TicketError};
use serde_json::{Value, json};

use crate::{
    args::Args,
    failure::{Exit, Failure},
    output::Output,
};

/// The settings of the home `dir` under `flags` and the environment, and the tickets among them.
pub(crate) fn load(dir: &Path, flags: Vec<(&'static str, String)>) -> Result<(Config, Vec<Ticket>), LoadError> {
    let config = mhc_config::load(dir, &Sources { flags, ..Sources::from_process() })?;
    let (mut tickets, mut mistakes) = (Vec::new(), Vec::new());
    for text in &config.p2p.peers {
        match text.parse::<Ticket>() {
            Ok(ticket) => tickets.push(ticket),
            Err(error) => mistakes.push(wrong_ticket(text, &error)),
        }
    }
    if mistakes.is_empty() {
        return Ok((config, tickets));
    }
    Err(LoadError::Mistakes { path: dir.join(mhc_config::FILE_NAME), mistakes })
}

fn wrong_ticket(text: &str, error: &TicketError) -> Mistake {
    let start: String = text.chars().take(16).collect();
    Mistake { line: None, key: "p2p.peers".into(), message: format!("\"{start}…\": {error}") }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let exit = match error {
            LoadError::Unreadable { .. } => Exit::Failed,
            LoadError::Mistakes { .. } => Exit::Usage,
        };
        Self::new(exit, error.to_string())
    }
}

pub(super) fn example(output: Output) -> Result<(), Failure> {
    let key = |key: mhc_config::Key| {
        let environment = mhc_config::environment_name(&key.path);
        json!({ "key": key.path, "doc": key.doc, "default": key.default, "example": key.example, "environment": environment })
    };
    let keys: Vec<Value> = mhc_config::keys().into_iter().map(key).collect();
    output.result(&Value::Array(keys), |_| mhc_config::example())
}

pub(super) fn check(output: Output, dir: &Path) -> Result<(), Failure> {
    let file = dir.join(mhc_config::FILE_NAME);
    let outcome = load(dir, Vec::new());
    let mistakes = match &outcome {
        Err(LoadError::Mistakes { mistakes, .. }) => mistakes.iter().map(mistake).collect(),
        _ => Vec::new(),
    };
    let report = json!({ "file": file.display().to_string(), "ok": outcome.is_ok(), "mistakes": mistakes });
    match outcome {
        Ok(_) => output.result(&report, |_| match file.exists() {
            true => format!("{} is right", file.display()),
            false => format!("{} isn't there: all settings have their defaults", file.display()),
        }),
        Err(error) => {
            if output.json {
                output.result(&report, Value::to_string)?;
            }
            Err(error.into())
        }
    }
}

fn mistake(mistake: &Mistake) -> Value {
    json!({ "line": mistake.line, "key": mistake.key, "message": mistake.message })
}

pub(super) fn completions(output: Output, shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "mhc", &mut script);
    output.text(&String::from_utf8_lossy(&script))
}

pub(super) fn manual(output: Output, dir: Option<&Path>) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("can't write the manual: {error}"));
    if let Some(dir) = dir {
        fs::create_dir_all(dir).map_err(failed)?;
        clap_mangen::generate_to(Args::command(), dir).map_err(failed)?;
        return output.result(&json!({ "dir": dir }), |_| format!("the pages are in {}", dir.display()));
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Args::command()).render(&mut page).map_err(failed)?;
    output.text(&String::from_utf8_lossy(&page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_in_the_file_are_checked_too() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(mhc_config::FILE_NAME);
        fs::write(&file, "[p2p]\npeers = [\"mhc1aaaa\", \"mhc1!\"]\n").unwrap();
        let failure = Failure::from(load(dir.path(), Vec::new()).expect_err("no tickets"));
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(failure.message.matches("p2p.peers").count(), 2, "{}", failure.message);
        fs::write(&file, "").unwrap();
        assert!(load(dir.path(), vec![("p2p.port", "0".into())]).is_ok_and(|(config, _)| config.p2p.port == 0));
    }
}
