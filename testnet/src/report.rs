//! What came of a run: for machines as JSON, for people as tables.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use crate::calibrate::Measured;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything was as expected.
    Passed,
    /// A path wasn't what it is to be, so nothing can be told.
    Void,
    /// Something wasn't as expected.
    Failed,
    /// It was told to stop.
    Stopped,
}

impl Outcome {
    /// The exit code of the program: 0, 3 for a void run, 1 for a failed and 130 for a stopped one.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Failed => 1,
            Self::Void => 3,
            Self::Stopped => 130,
        }
    }
}

/// A run of a scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Which.
    pub scenario: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, when it didn't pass.
    pub error: Option<String>,
    /// Repeats losses, jitter and content of this run.
    pub seed: u64,
    /// How long it took.
    pub seconds: f64,
    /// What each shaped wire turned out to do.
    pub wires: Vec<WireRow>,
    /// What was expected, and what came.
    pub results: Vec<ResultRow>,
    /// What happened when.
    pub timeline: Vec<Moment>,
    /// The last that each process logged, when the run didn't pass.
    pub logs: Vec<LogTail>,
}

/// A direction of a shaped wire.
#[derive(Debug, Clone, Serialize)]
pub struct WireRow {
    /// `from→to preset`.
    pub wire: String,
    /// What it is to do: delay in ms (with half the jitter), share of loss, Mbit/s.
    pub wanted: (f64, f64, Option<f64>),
    /// What it does.
    pub measured: Measured,
}

/// One expectation.
#[derive(Debug, Clone, Serialize)]
pub struct ResultRow {
    /// What is looked at.
    pub what: String,
    /// What it was: a number, a text, true.
    pub value: Value,
    /// Unit of a number.
    pub unit: &'static str,
    /// The most that a number may be.
    pub at_most: Option<f64>,
    /// Whether it is as expected.
    pub passed: bool,
}

/// An event of the story.
#[derive(Debug, Clone, Serialize)]
pub struct Moment {
    /// Seconds since the run began.
    pub at_s: f64,
    /// What happened.
    pub text: String,
}

/// The end of a log.
#[derive(Debug, Clone, Serialize)]
pub struct LogTail {
    /// Whose.
    pub name: String,
    /// Its last lines.
    pub lines: Vec<String>,
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("{}: {:?} in {:.1} s (seed {})\n", self.scenario, self.outcome, self.seconds, self.seed);
        let rate = |mbit_s: Option<f64>| mbit_s.map_or("-".into(), |mbit_s| format!("{mbit_s:.2}"));
        let wires = self.wires.iter().map(|row| {
            let (delay_ms, loss, mbit_s) = row.wanted;
            let is = &row.measured;
            vec![
                row.wire.clone(),
                format!("{:.1} of {delay_ms:.1}", is.delay_ms),
                format!("{:.2} of {:.2}", is.loss * 100.0, loss * 100.0),
                format!("{} of {}", rate(is.mbit_s), rate(mbit_s)),
            ]
        });
        table(&mut text, &["wire", "delay, ms", "loss, %", "Mbit/s"], wires.collect());
        let results = self.results.iter().map(|row| {
            let value = match &row.value {
                Value::Number(number) => format!("{:.2} {}", number.as_f64().unwrap_or_default(), row.unit),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let limit = row.at_most.map_or(String::new(), |limit| format!("at most {limit} {}", row.unit));
            vec![row.what.clone(), value, limit, if row.passed { "ok" } else { "NOT OK" }.into()]
        });
        table(&mut text, &["what", "measured", "expected", ""], results.collect());
        for log in &self.logs {
            let _ = writeln!(text, "--- the last that {} logged ---", log.name);
            for line in &log.lines {
                let _ = writeln!(text, "{line}");
            }
        }
        if let Some(error) = &self.error {
            let _ = writeln!(text, "{}: {error}", self.scenario);
        }
        text
    }
}

/// Appends a table whose columns are as wide as they must be; nothing when it has no rows.
fn table(text: &mut String, head: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let mut lines = vec![head.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let _ = writeln!(text, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
