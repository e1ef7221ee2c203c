//! (b) Four providers behind capped links: what they give together, and what the good ones still give when one is a
//! hundred times slower, one falls silent, or both.

mod swarm;

use anyhow::{Context, Result};

use crate::{
    bench::Bench,
    netns::Lan,
    runner::{Contender, compare},
    table::{Better, Table},
};
use swarm::Swarm;

const PROVIDERS: usize = 4;
const CAP_KBIT_S: u64 = 50_000;
const SLOW_KBIT_S: u64 = CAP_KBIT_S / 100;
/// Who is slow and who falls silent in the bad cases; the others are good.
const SLOW: usize = 2;
const SILENT: usize = 3;
/// Part of the payload that the client has when one falls silent.
const SILENT_AFTER: f64 = 0.1;
const NOTE: &str = "Payload as share of what the caps let through, which count Ethernet frames of 1514 bytes. Slow: one of \
    four has 0.5 Mbit/s instead of 50. Silent: one is stopped (SIGSTOP) when the client has a tenth; the share is of the \
    least time in which the others can send the rest. `of curl's, %` is the same as share of what curl gets from each \
    nginx at once, measured before each table; when a cap is off by more than 5 %, the run is void. What was sent is \
    frames of all providers together.";

/// What is wrong with the providers.
#[derive(Debug, Clone, Copy)]
struct Case {
    title: &'static str,
    slow: bool,
    silent: bool,
}

const CASES: [Case; 4] = [
    Case { title: "all good", slow: false, silent: false },
    Case { title: "one slow", slow: true, silent: false },
    Case { title: "one silent", slow: false, silent: true },
    Case { title: "one slow, one silent", slow: true, silent: true },
];

impl Case {
    /// What each provider may send, in kbit/s.
    fn caps(self) -> [u64; PROVIDERS] {
        let mut caps = [CAP_KBIT_S; PROVIDERS];
        if self.slow {
            caps[SLOW] = SLOW_KBIT_S;
        }
        caps
    }

    /// The least time in which they can send so much, in seconds.
    fn least_s(self, bytes: u64) -> f64 {
        let all: u64 = self.caps().iter().sum();
        let time = |part: f64, kbit_s: u64| part * bytes as f64 / bytes_s(kbit_s);
        if self.silent { time(SILENT_AFTER, all) + time(1.0 - SILENT_AFTER, all - CAP_KBIT_S) } else { time(1.0, all) }
    }
}

fn bytes_s(kbit_s: u64) -> f64 {
    kbit_s as f64 * 1000.0 / 8.0
}

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let lan = Lan::new(PROVIDERS as u8 + 1)?;
    let (client, providers) = lan.split()?;
    let swarm = &mut Swarm::start(bench, client, providers)?;
    let mut tables = vec![];
    for case in CASES {
        for (host, kbit_s) in providers.iter().zip(case.caps()) {
            host.cap(kbit_s)?;
        }
        swarm.enter(bench, case)?;
        tables.push(table(bench, swarm, case)?);
    }
    tables.last_mut().context("no table")?.notes.push(NOTE.into());
    Ok(tables)
}

fn table(bench: &Bench, swarm: &Swarm<'_>, case: Case) -> Result<Table> {
    let mut contenders = vec![Contender::ours("mhc get", || swarm.ours(bench))];
    if !case.silent {
        contenders.push(Contender::peer("rqbit", || swarm.rqbit(bench)));
        contenders.push(Contender::peer("aria2", || swarm.aria2(bench)));
    }
    if !case.slow && !case.silent {
        contenders.push(Contender::peer("curl, a quarter of each", || swarm.quarters(bench)));
    }
    let title = format!("{} MiB from four providers, {}", swarm.size_mib(), case.title);
    compare(Table::new(title, "% of the caps", Better::Higher), bench.rounds(), contenders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_time_counts_what_the_silent_one_gave() {
        let [good, slow, silent, both] = CASES.map(|case| case.least_s(25_000_000));
        assert_eq!(good, 1.0);
        assert!((slow - 200.0 / 150.5).abs() < 1e-9, "{slow}");
        assert!((silent - (0.1 + 0.9 * 200.0 / 150.0)).abs() < 1e-9, "{silent}");
        assert!((both - (0.1 * 200.0 / 150.5 + 0.9 * 200.0 / 100.5)).abs() < 1e-9, "{both}");
    }
}
