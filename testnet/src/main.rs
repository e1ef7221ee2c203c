//! `mhc-testnet`: networks of real nodes in network namespaces, for tests and drills. docs/testnet.md is its manual.

use std::{path::PathBuf, process::ExitCode, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use mhc_testnet::{
    netns::{self, RunId},
    report::{Outcome, Report},
    run::{self, Scenario, Settings},
    scenarios,
    story::Stop,
};
use tokio::signal::unix::{SignalKind, signal};

/// Exit code when networks can't be made on this machine.
const CANT: u8 = 4;
const STOPPED: i32 = 130;
/// After a signal, a run may take so long to take away what it made.
const CLEAN_UP: Duration = Duration::from_secs(20);
const DEFAULT_SEED: u64 = 1;

/// Networks of real nodes in network namespaces, for tests and drills
#[derive(Debug, Parser)]
#[command(name = "mhc-testnet", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios, one after the other; needs root
    ///
    /// Exit codes: 0 all passed, 1 one failed, 2 usage, 3 one was void (a path wasn't what it is to be) and none
    /// failed, 4 networks can't be made here, 130 stopped.
    Run {
        /// Names of scenarios, beginnings of names up to a dash, or `all`
        #[arg(required = true)]
        scenarios: Vec<String>,
        /// Print one JSON document on stdout instead of tables
        #[arg(long)]
        json: bool,
        /// Leave everything standing at the end, or where it fails, until Ctrl-C
        #[arg(long)]
        keep: bool,
        /// Repeats losses, jitter and content
        #[arg(long, default_value_t = DEFAULT_SEED)]
        seed: u64,
        /// The program to try [default: `mhc` beside this one]
        #[arg(long, value_name = "FILE")]
        mhc: Option<PathBuf>,
    },
    /// List the scenarios
    List,
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::List => {
            scenarios::ALL.iter().for_each(|scenario| println!("{:24} {}", scenario.name, scenario.about));
            ExitCode::SUCCESS
        }
        Command::Run { scenarios, json, keep, seed, mhc } => match prepare(&scenarios, mhc) {
            Ok((scenarios, mhc)) => run_all(&scenarios, &Settings { mhc, seed, keep }, json),
            Err((code, error)) => {
                eprintln!("mhc-testnet: {error:#}");
                ExitCode::from(code)
            }
        },
    }
}

/// Finds out everything that can be wrong before anything is made. The error comes with its exit code.
fn prepare(names: &[String], mhc: Option<PathBuf>) -> Result<(Vec<Scenario>, PathBuf), (u8, anyhow::Error)> {
    let named = names.iter().map(|name| scenarios::named(name)).collect::<Result<Vec<_>>>();
    let scenarios = named.map_err(|error| (2, error))?.concat();
    let mhc = program(mhc).map_err(|error| (2, error))?;
    if let Some(why) = netns::why_not() {
        return Err((CANT, anyhow::Error::msg(why)));
    }
    Ok((scenarios, mhc))
}

fn program(given: Option<PathBuf>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("mhc"),
    };
    ensure!(
        path.is_file(),
        "no program at {}: build it with `cargo build -p mhc-cli`, or name one with --mhc",
        path.display()
    );
    path.canonicalize().with_context(|| path.display().to_string())
}

fn run_all(scenarios: &[Scenario], settings: &Settings, json: bool) -> ExitCode {
    let stale = RunId::sweep_stale();
    if stale > 0 {
        eprintln!("mhc-testnet: removed what {stale} killed runs left");
    }
    let stop = Stop::default();
    if let Err(error) = stop_on_signal(stop.clone()) {
        eprintln!("mhc-testnet: {error:#}");
        return ExitCode::FAILURE;
    }
    let mut reports: Vec<Report> = vec![];
    for scenario in scenarios {
        let report = run::run(scenario, settings, &stop);
        if !json {
            println!("{}", report.text());
        }
        let stopped = report.outcome == Outcome::Stopped;
        reports.push(report);
        if stopped {
            break;
        }
    }
    if json {
        println!("{}", serde_json::json!({ "scenarios": reports }));
    }
    let worst = reports.iter().map(|report| report.outcome).max().unwrap_or(Outcome::Passed);
    ExitCode::from(worst.exit_code())
}

/// On SIGINT and SIGTERM the run ends as if it had failed. If it hangs, everything is taken away under it.
fn stop_on_signal(stop: Stop) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    drop(guard);
    thread::spawn(move || {
        let name = runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => "SIGINT", _ = terminate.recv() => "SIGTERM" }
        });
        stop.request(name);
        thread::sleep(CLEAN_UP);
        RunId::sweep_mine();
        std::process::exit(STOPPED);
    });
    Ok(())
}
