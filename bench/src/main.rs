//! Measures `mhc` beside the programs that people would use instead, in turns and in one run. Never shipped.
//!
//! `make bench` runs every scenario and writes docs/performance.md; `mhc-bench SCENARIO` runs one. Traffic stays on
//! loopback or inside network namespaces that are made for the run and go with it.

mod bare;
mod bench;
mod netns;
mod node;
mod peers;
mod probe;
mod proc;
mod report;
mod runner;
mod scenario;
mod table;

use std::{process::ExitCode, thread};

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::{bench::Options, report::Machine, scenario::Scenario};

/// Measures mhc beside the programs that people would use instead
#[derive(Debug, Parser)]
#[command(name = "mhc-bench", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    One(Scenario),
    /// Every scenario, one after the other
    All(Options),
    /// One end of a bare iroh stream
    #[command(subcommand)]
    Bare(bare::Bare),
    /// Small tools that look at a path from inside a namespace
    #[command(subcommand, hide = true)]
    Probe(probe::Probe),
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mhc-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Bare(command) => bare::run(command),
        Command::Probe(command) => probe::run(command),
        Command::One(scenario) => measure(&[scenario]),
        Command::All(options) => measure(&Scenario::all(&options)),
    }
}

/// Runs the scenarios; one that fails doesn't keep the others from being tried.
fn measure(scenarios: &[Scenario]) -> Result<()> {
    bench::sweep(false)?;
    clean_up_on_signal()?;
    let mut failed = vec![];
    for scenario in scenarios {
        let measured =
            Machine::look(scenario.tools()).and_then(|machine| report::publish(scenario, &machine, &scenario.run()?));
        if let Err(error) = measured {
            eprintln!("bench: ({}) failed: {error:#}", scenario.letter());
            failed.push(scenario.letter());
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// On SIGINT and SIGTERM namespaces and files are removed; processes end with this one.
fn clean_up_on_signal() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        let ended: Result<()> = runtime.block_on(async {
            let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
            bench::sweep(true)
        });
        eprintln!("mhc-bench: stopped: {ended:?}");
        std::process::exit(130);
    });
    Ok(())
}
