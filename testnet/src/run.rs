//! Runs scenarios, and takes away what they made, whatever happens.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};

use crate::{
    netns::RunId,
    report::{LogTail, Outcome, Report},
    story::{Stop, Story, Void},
};

/// Lines of each log that are shown when a run doesn't pass.
const LOG_LINES: usize = 25;

/// What a scenario built; it goes when the run has ended.
pub type Stage = Box<dyn Any>;

/// A scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it tries, in a line.
    pub about: &'static str,
    /// When it is given up.
    pub limit: Duration,
    /// The story. What it returns lives until the run ends.
    pub tell: fn(&mut Story) -> Result<Stage>,
}

/// How to run scenarios.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The `mhc` program.
    pub mhc: PathBuf,
    /// Repeats a run as far as the machine lets it.
    pub seed: u64,
    /// Whether everything stays at the end, or where it fails, until the run is stopped.
    pub keep: bool,
}

/// Runs one. Nothing of it is left when this returns.
pub fn run(scenario: &Scenario, settings: &Settings, stop: &Stop) -> Report {
    let run = RunId::next();
    let _swept = Sweep(run.clone());
    eprintln!("=== {}: {}", scenario.name, scenario.about);
    stop.set_run(Some(run.clone()));
    let (mut report, started) = (empty(scenario, settings.seed), std::time::Instant::now());
    let story = Story::new(run, &settings.mhc, settings.seed, settings.keep, stop.clone());
    let told = story.map_or_else(Err, |mut story| {
        let told = tell(scenario, settings, stop, &mut story);
        report.timeline = std::mem::take(&mut story.timeline);
        report.results = std::mem::take(&mut story.results);
        report.wires = std::mem::take(&mut story.wires);
        if told.is_err() {
            let tail = |(name, log): &(String, crate::log::Log)| LogTail {
                name: name.clone(),
                lines: log.last_lines(LOG_LINES),
            };
            report.logs = story.logs.iter().map(tail).collect();
        }
        told
    });
    report.seconds = started.elapsed().as_secs_f64();
    if let Err(error) = told {
        report.outcome = match () {
            () if stop.reason().is_some() => Outcome::Stopped,
            () if error.is::<Void>() => Outcome::Void,
            () => Outcome::Failed,
        };
        let over = if stop.is_over() { format!("over its limit of {:?}: ", scenario.limit) } else { String::new() };
        report.error = Some(format!("{over}{error:#}"));
    }
    stop.set_run(None);
    report
}

fn empty(scenario: &Scenario, seed: u64) -> Report {
    Report {
        scenario: scenario.name,
        outcome: Outcome::Passed,
        error: None,
        seed,
        seconds: 0.0,
        wires: vec![],
        results: vec![],
        timeline: vec![],
        logs: vec![],
    }
}

/// Tells the story within its limit. A panic is a failure like others.
fn tell(scenario: &Scenario, settings: &Settings, stop: &Stop, story: &mut Story) -> Result<()> {
    let limit = (!settings.keep).then_some(scenario.limit);
    let _watched = limit.map(|limit| Watch::start(limit, stop.clone()));
    let stage = catch_unwind(AssertUnwindSafe(|| (scenario.tell)(story)));
    let stage = stage.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        anyhow!("panicked: {}", text.unwrap_or("for no reason given"))
    })??;
    story.pause();
    drop(stage);
    Ok(())
}

/// Takes away what the run made, also in a panic.
struct Sweep(RunId);

impl Drop for Sweep {
    fn drop(&mut self) {
        self.0.sweep();
    }
}

/// Kills what a story hangs on when its time is over.
struct Watch(#[expect(dead_code, reason = "dropped to end the watch")] mpsc::Sender<()>);

impl Watch {
    fn start(limit: Duration, stop: Stop) -> Self {
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || {
            if ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                stop.time_is_over();
            }
        });
        Self(sender)
    }
}

/// Where films are kept between runs: in the folder of builds, else among temporary files.
pub fn fixtures() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    let built = exe.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists()).map(Path::to_owned);
    built.map_or_else(|| std::env::temp_dir().join("mhc-testnet-films"), |dir| dir.join("tmp"))
}
