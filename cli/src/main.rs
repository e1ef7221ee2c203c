//! `mhc`: starts a node (`mhc up`), and works with one that runs through its HTTP API (everything else).
//!
//! The commands are declared once, in [`args`]; help, completions and the manual come from there. What a program
//! reads goes to stdout, everything else to stderr; exit codes are in [`failure`].

mod args;
mod client;
mod commands;
mod failure;
mod logs;
mod output;
mod progress;
mod up;

use std::process::ExitCode;

use clap::Parser;

use crate::{args::Args, failure::Failure};

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = runtime().and_then(|runtime| {
        let outcome = runtime.block_on(commands::run(args));
        // Whatever still runs was told to stop and had its time.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            failure.exit.into()
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| Failure::failed(format!("can't start: {error}")))
}
