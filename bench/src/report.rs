//! The result for people, for programs, and for docs/performance.md.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    bench::{Options, root},
    peers::version,
    scenario::Scenario,
    table::Table,
};

const PAGE: &str = "docs/performance.md";
/// From this load on, the machine did something else too.
const BUSY_LOAD: f64 = 0.5;

/// What must be known to make sense of figures.
pub(crate) struct Machine {
    cpus: usize,
    kernel: String,
    /// Mean count of running processes over the minute before the start.
    load: f64,
    /// Program and version.
    peers: Vec<(&'static str, String)>,
}

impl Machine {
    /// Looks at the machine; to be called before the scenario loads it.
    pub(crate) fn look(tools: &[&'static str]) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| path.to_owned());
        let release = read("/proc/sys/kernel/osrelease")?;
        let load = read("/proc/loadavg")?.split(' ').next().and_then(|load| load.parse().ok()).context("no load")?;
        let peers = tools.iter().map(|tool| Ok((*tool, version(tool)?))).collect::<Result<_>>()?;
        Ok(Self {
            cpus: std::thread::available_parallelism()?.get(),
            kernel: release.trim().split('-').next().unwrap_or_default().to_owned(),
            load,
            peers,
        })
    }

    fn sentence(&self) -> String {
        let peers: String = self.peers.iter().map(|(name, version)| format!(", {name} {version}")).collect();
        let busy = match self.load {
            load if load < BUSY_LOAD => String::new(),
            load => format!(" **Other work ran on the machine** (load {load:.1} before the start)."),
        };
        format!("On {} CPUs, Linux {}{peers}.{busy}", self.cpus, self.kernel)
    }

    fn json(&self) -> Value {
        let peers = self.peers.iter().map(|(name, version)| ((*name).to_owned(), json!(version)));
        json!({
            "cpus": self.cpus, "kernel": self.kernel, "load_before": self.load,
            "peers": peers.collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// Prints the result, and writes it into the page where that is asked for.
pub(crate) fn publish(scenario: &Scenario, machine: &Machine, tables: &[Table]) -> Result<()> {
    let options = scenario.options();
    let text: Vec<String> = tables.iter().map(Table::markdown).collect();
    let text = format!("{}\n{} Made by `{}`.\n", text.join("\n"), machine.sentence(), command(scenario, options));
    if options.json {
        let tables: Vec<_> = tables.iter().map(Table::json).collect();
        println!("{}", json!({ "scenario": scenario.letter(), "machine": machine.json(), "tables": tables }));
    } else {
        println!("## {}\n\n{text}", scenario.title());
    }
    if options.write {
        let path = root()?.join(PAGE);
        let page = fs::read_to_string(&path).with_context(|| PAGE)?;
        fs::write(&path, put(&page, scenario, &text))?;
    }
    Ok(())
}

fn command(scenario: &Scenario, options: &Options) -> String {
    let size = options.size_mib.map(|size| format!(" --size-mib {size}")).unwrap_or_default();
    format!("mhc-bench {} --runs {}{size}", scenario.letter(), options.runs)
}

/// The page with `text` between the markers of the scenario, which are added at the end when they aren't there.
fn put(page: &str, scenario: &Scenario, text: &str) -> String {
    let (from, to) =
        (format!("<!-- bench:{} -->", scenario.letter()), format!("<!-- /bench:{} -->", scenario.letter()));
    let block = format!("{from}\n{text}{to}");
    let around = page.split_once(&from).and_then(|(before, rest)| Some((before, rest.split_once(&to)?.1)));
    match around {
        Some((before, after)) => format!("{before}{block}{after}"),
        None => format!("{}\n\n## {}\n\n{block}\n", page.trim_end(), scenario.title()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_replaces_the_former_one() {
        let options = Options { runs: 5, size_mib: None, json: false, write: false, mhc: None };
        let scenario = Scenario::A(options);
        let once = put("# Page\n", &scenario, "first\n");
        assert_eq!(once, "# Page\n\n## One provider, loopback\n\n<!-- bench:a -->\nfirst\n<!-- /bench:a -->\n");
        let twice = put(&format!("{once}\nMore.\n"), &scenario, "second\n");
        assert_eq!(twice, format!("{}\nMore.\n", once.replace("first", "second")));
    }
}
