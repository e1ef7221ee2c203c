//! (d) Publishing a file: until `mhc publish` returns, when the blob is on the disk and announced, beside hashing and
//! copying the same file to the same disk.

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::{
    bench::{Bench, LONGEST, settle},
    node::{Node, Start},
    proc::run,
    runner::{Contender, compare},
    table::{Better, Sample, Table},
};

const SIZE_MIB: u64 = 4096;
const NOTE: &str = "Wall time of the whole command, the file in the page cache, homes and copies new in each round, \
    `sync` before each. A blob is durable when `mhc publish` returns; `cp` leaves its copy to the kernel unless `sync` \
    follows. `--reference` leaves the file where it is, so that `b3sum` is what it compares with.";

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let size_mib = bench.size_mib(SIZE_MIB);
    let file = &bench.source(size_mib)?;
    let contenders = vec![
        Contender::ours("mhc publish", || publish(bench, file, &[])),
        Contender::ours("mhc publish --reference", || publish(bench, file, &["--reference"])),
        Contender::peer("b3sum && cp", || shell(bench, file, r#"b3sum "$0" && cp "$0" "$1""#)),
        Contender::peer("b3sum && cp && sync", || shell(bench, file, r#"b3sum "$0" && cp "$0" "$1" && sync "$1""#)),
        Contender::peer("b3sum", || shell(bench, file, r#"b3sum "$0""#)),
    ];
    let table = Table::new(format!("Publishing {size_mib} MiB"), "s", Better::Lower).note(NOTE);
    Ok(vec![compare(table, bench.rounds(), contenders)?])
}

fn publish(bench: &Bench, file: &Path, further: &[&str]) -> Result<Sample> {
    let node = Node::start(bench, "publisher", &Start::default())?;
    settle();
    let before = node.proc().cpu_s()?;
    let finished = node.publish_timed(file, further)?;
    Ok(sample(finished.seconds, finished.cpu_s + node.proc().cpu_s()? - before))
}

/// Runs `script` with the file as `$0` and a path for the copy as `$1`.
fn shell(bench: &Bench, file: &Path, script: &str) -> Result<Sample> {
    let dir = bench.fresh_dir("copy")?;
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(file).arg(dir.path().join("copy"));
    settle();
    let finished = run(&command, LONGEST)?;
    Ok(sample(finished.seconds, finished.cpu_s))
}

fn sample(seconds: f64, cpu_s: f64) -> Sample {
    Sample::new(seconds).with("CPU, s", cpu_s)
}
