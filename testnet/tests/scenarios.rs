//! The scenarios of `mhc-testnet`, one after the other, and that nothing of a run is left however it ends.
//!
//! They need root and the programs of scripts/setup-test.sh, and say so loudly where these are missing.

// A test that can't go on panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::{Result, ensure};
use mhc_testnet::{
    netns::{self, RunId},
    preset::Preset,
    report::{Outcome, Report},
    run::{Scenario, Settings, run},
    scenarios,
    story::Stop,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Two scenarios at once would be too much for a small machine, and for what they measure.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The newest change of what `mhc` is built from.
fn newest(dir: &Path) -> SystemTime {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let times = entries.map(|path| match path.is_dir() {
        true => newest(&path),
        false => path.metadata().and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH),
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The program under test. Cargo builds it before this when it tests the whole workspace; else it is built here.
fn mhc() -> &'static Path {
    static MHC: OnceLock<PathBuf> = OnceLock::new();
    MHC.get_or_init(|| {
        let exe = std::env::current_exe().unwrap();
        let profile = exe.ancestors().nth(2).unwrap();
        let path = profile.join("mhc");
        let crates = ["api", "cli", "config", "media", "node", "platform", "protocol", "relay", "satellite", "storage"];
        let sources = crates.iter().map(|name| newest(&root().join(name).join("src"))).max().unwrap();
        if path.metadata().and_then(|file| file.modified()).is_ok_and(|built| built > sources) {
            return path;
        }
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--locked", "--package", "mhc-cli"]).current_dir(root());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "mhc can't be built");
        path
    })
}

fn skipped(test: &str) -> bool {
    let why = netns::why_not();
    if let Some(why) = &why {
        // Not by a macro: what those print is only shown when a test fails.
        let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED {test}: {why}\n");
    }
    why.is_some()
}

fn try_it(scenario: &Scenario) -> Report {
    let report = run(scenario, &Settings { mhc: mhc().to_owned(), seed: 1, keep: false }, &Stop::default());
    eprintln!("{}", report.text());
    report
}

/// Runs the scenarios of this name. A void one, whose paths weren't what they are to be, gets another chance.
fn pass(name: &str) {
    let _alone = one_at_a_time();
    if skipped(name) {
        return;
    }
    for scenario in scenarios::named(name).unwrap() {
        let mut report = try_it(&scenario);
        if report.outcome == Outcome::Void {
            report = try_it(&scenario);
        }
        assert_eq!(report.outcome, Outcome::Passed, "{}: {}", scenario.name, report.error.unwrap_or_default());
    }
}

#[test]
fn lan() {
    pass("lan");
}

#[test]
fn geo() {
    pass("geo");
}

#[test]
fn nat() {
    pass("nat");
}

#[test]
fn line() {
    pass("line");
}

#[test]
fn ladder() {
    pass("ladder");
}

#[test]
fn shutdown() {
    pass("shutdown");
}

#[test]
fn edge() {
    pass("edge");
}

#[test]
fn alert() {
    pass("alert");
}

#[test]
fn downlink() {
    pass("downlink");
}

#[test]
fn every_scenario_is_tried() {
    let tried = ["lan", "geo", "nat", "line", "ladder", "shutdown", "edge", "alert", "downlink"];
    let tried: Vec<_> = tried.iter().flat_map(|name| scenarios::named(name).unwrap()).map(|it| it.name).collect();
    for scenario in scenarios::ALL {
        assert!(tried.contains(&scenario.name), "{} has no test", scenario.name);
    }
    let error = scenarios::named("lam").unwrap_err().to_string();
    assert!(error.starts_with("no scenario 'lam'; there are: lan, "), "{error}");
}

#[test]
fn a_path_that_isnt_what_it_is_to_be_voids_the_run() {
    let _alone = one_at_a_time();
    if skipped("a_path_that_isnt_what_it_is_to_be_voids_the_run") {
        return;
    }
    let scenario = Scenario {
        name: "impossible",
        about: "a wire that no machine can make",
        limit: Duration::from_secs(60),
        tell: |story| {
            let [a, b] = [story.host("a")?, story.host("b")?];
            let impossible = Preset::steady("impossible", Duration::ZERO, 1_000_000_000_000);
            Ok(Box::new(story.wire((&a, "10.77.9.1/30"), (&b, "10.77.9.2/30"), impossible)?))
        },
    };
    let report = try_it(&scenario);
    assert_eq!((report.outcome, report.outcome.exit_code()), (Outcome::Void, 3));
    assert!(report.error.is_some_and(|error| error.contains("Mbit/s instead of 1000000")));
    assert_eq!(left_of(std::process::id()), [""; 0]);
}

/// Everything on this machine that is of a run of this process.
fn left_of(pid: u32) -> Vec<String> {
    let mine = format!("mhct-{pid}-");
    let dirs = [PathBuf::from("/run/netns"), std::env::temp_dir()];
    let names = dirs.iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
    let names =
        names.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| name.starts_with(&mine));
    let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let command = fs::read_to_string(entry.path().join("cmdline")).ok()?.replace('\0', " ");
        let home = fs::read_to_string(entry.path().join("environ")).unwrap_or_default();
        (command.contains(&mine) || home.contains(&mine)).then_some(command)
    });
    names.chain(processes).collect()
}

/// Starts `mhc-testnet run lan` and returns once nodes run in it.
fn started() -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mhc-testnet"))
        .args(["run", "lan", "--keep", "--json", "--mhc"])
        .arg(mhc())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("b: the node serves")), "it ended early");
    // Read on, so that it never meets a full pipe.
    std::thread::spawn(move || lines.for_each(drop));
    assert!(left_of(child.id()).len() > 5, "{:?}", left_of(child.id()));
    child
}

#[test]
fn a_signal_ends_a_run_and_nothing_is_left() {
    let _alone = one_at_a_time();
    if skipped("a_signal_ends_a_run_and_nothing_is_left") {
        return;
    }
    for signal in [Signal::INT, Signal::TERM] {
        let mut child = started();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let mut stdout = String::new();
        child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert_eq!(left_of(child.id()), [""; 0]);
        let report: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(report["scenarios"][0]["outcome"], "stopped", "{report}");
        assert!(!report["scenarios"][0]["timeline"].as_array().unwrap().is_empty());
    }
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next() {
    let _alone = one_at_a_time();
    if skipped("what_a_killed_run_left_is_removed_by_the_next") {
        return;
    }
    let mut child = started();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!left_of(child.id()).is_empty());
    assert!(RunId::sweep_stale() >= 1);
    assert_eq!(left_of(child.id()), [""; 0]);
}

#[test]
fn failures_panics_and_hangs_leave_nothing() {
    let _alone = one_at_a_time();
    if skipped("failures_panics_and_hangs_leave_nothing") {
        return;
    }
    let scenario = |tell| Scenario { name: "bad", about: "it goes wrong", limit: Duration::from_secs(3), tell };
    let cases: [(Scenario, &str); 3] = [
        (
            scenario(|story| {
                let host = story.host("a")?;
                let node = story.node(&host, |options| options)?;
                story.holds("the moon is cheese", false)?;
                Ok(Box::new(node))
            }),
            "not so: the moon is cheese: it is otherwise",
        ),
        (
            scenario(|story| {
                let host = story.host("a")?;
                let _node = story.node(&host, |options| options)?;
                panic!("by mistake")
            }),
            "panicked: by mistake",
        ),
        (
            scenario(|story| {
                let host = story.host("a")?;
                let status = host.netns().command("sleep").arg("1000").status()?;
                ensure!(status.success(), "{status}");
                Ok(Box::new(()))
            }),
            "over its limit of 3s: signal: 9 (SIGKILL)",
        ),
    ];
    for (scenario, error) in cases {
        let report = try_it(&scenario);
        assert_eq!((report.outcome, report.error.as_deref()), (Outcome::Failed, Some(error)));
        assert_eq!(left_of(std::process::id()), [""; 0]);
        // A node's last words are told.
        let logs = report.logs.iter().filter(|log| !log.lines.is_empty()).count();
        assert_eq!(logs, usize::from(!error.contains("limit")));
    }
}
