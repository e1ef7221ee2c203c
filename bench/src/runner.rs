//! Takes turns: A, B, C, A, B, C and so on, so that whatever the machine does meanwhile meets all of them.

use anyhow::{Result, ensure};

use crate::table::{Row, Sample, Table};

/// A way of doing the thing that is measured.
pub(crate) struct Contender<'a> {
    name: String,
    ours: bool,
    run: Box<dyn FnMut() -> Result<Sample> + 'a>,
}

impl<'a> Contender<'a> {
    pub(crate) fn ours(name: &str, run: impl FnMut() -> Result<Sample> + 'a) -> Self {
        Self { name: name.into(), ours: true, run: Box::new(run) }
    }

    pub(crate) fn peer(name: &str, run: impl FnMut() -> Result<Sample> + 'a) -> Self {
        Self { name: name.into(), ours: false, run: Box::new(run) }
    }
}

/// How often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounds {
    pub(crate) counted: usize,
    /// Rounds before those, whose figures are thrown away.
    pub(crate) warm_up: usize,
}

/// Runs every contender in every round and adds their rows to `table`. A failure is reported and counted as one;
/// when nobody of ours succeeded at all, that is an error.
pub(crate) fn compare(mut table: Table, rounds: Rounds, mut contenders: Vec<Contender<'_>>) -> Result<Table> {
    let row = |one: &Contender<'_>| Row { name: one.name.clone(), ours: one.ours, samples: vec![] };
    let mut rows: Vec<Row> = contenders.iter().map(row).collect();
    for round in 0..rounds.warm_up + rounds.counted {
        let counts = round >= rounds.warm_up;
        for (one, row) in contenders.iter_mut().zip(&mut rows) {
            let sample = (one.run)();
            let shown = match &sample {
                Ok(sample) => format!("{:.3} {} {:?}", sample.value, table.unit, sample.more),
                Err(error) => format!("failed: {error:#}"),
            };
            let round =
                if counts { format!("{}/{}", round + 1 - rounds.warm_up, rounds.counted) } else { "warm-up".into() };
            eprintln!("bench: {}: {round}: {}: {shown}", table.title, one.name);
            if counts {
                row.samples.push(sample.ok());
            }
        }
    }
    ensure!(rows.iter().any(|row| row.samples.iter().any(Option::is_some)), "{}: nothing succeeded", table.title);
    table.rows = rows;
    Ok(table)
}
