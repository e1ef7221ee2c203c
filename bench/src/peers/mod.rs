//! The programs that people would use instead.

pub(crate) mod nginx;
pub(crate) mod rqbit;
pub(crate) mod sendme;
pub(crate) mod wrk;

use std::{net::TcpListener, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

use crate::bench::root;

/// A port that is free on loopback now.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A program that scripts/setup-bench.sh built, or one of the system's.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let ours = root()?.join("target/tools-release/bin").join(name);
    let built = ["sendme", "rqbit"].contains(&name);
    ensure!(ours.exists() || !built, "{name} isn't there: run scripts/setup-bench.sh first");
    Ok(if built { ours } else { name.into() })
}

/// What a peer says its version is: its first word that begins with a digit.
pub(crate) fn version(name: &str) -> Result<String> {
    let argument = if ["nginx", "wrk"].contains(&name) { "-v" } else { "--version" };
    let output = Command::new(program(name)?).arg(argument).output();
    let output = output.with_context(|| format!("{name} isn't there: run scripts/setup-bench.sh first"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // Debian's own number behind a dash says nothing of the program.
    let mut words = text.split([' ', '/', '\n', '-']).map(|word| word.trim_start_matches('v'));
    let found = words.find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'));
    Ok(found.with_context(|| format!("{name}: no version in {text}"))?.to_owned())
}
