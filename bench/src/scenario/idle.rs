//! (g) What a hundred connected peers cost a node that has nothing to do.

use std::{thread, time::Duration};

use anyhow::{Context, Result};

use crate::{
    bench::Bench,
    node::{Node, Start},
    proc::Proc,
    table::{Better, Row, Sample, Table, median},
};

const PEERS: u16 = 100;
/// After a start, and after the last peer came.
const SETTLE: Duration = Duration::from_secs(15);
const IDLE: Duration = Duration::from_secs(60);
/// Memory is looked at so often meanwhile.
const LOOKS: u32 = 6;
const CPU: &str = "CPU, ms a minute";
const NOTE: &str = "One node alone, then with 100 others that each were given its ticket; all of them on this \
    machine, and idle for a minute. Memory is looked at every 10 s.";

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let node = Node::start(bench, "measured", &Start::default())?;
    thread::sleep(SETTLE);
    let alone = watch(&[node.proc()])?.pop().context("no process")?;
    let tickets = &[node.ticket()?];
    // One after the other, which keeps the machine from choking.
    let others: Vec<Node> = (0..PEERS)
        .map(|_| Node::start(bench, "peer", &Start { peers: tickets, ..Start::default() }))
        .collect::<Result<_>>()?;
    eprintln!("bench: {} peers started", others.len());
    node.wait_for_peers(PEERS.into())?;
    thread::sleep(SETTLE);

    let procs: Vec<&Proc> = [&node].into_iter().chain(&others).map(Node::proc).collect();
    let mut watched = watch(&procs)?;
    node.wait_for_peers(PEERS.into())?;
    let mean_other = mean(watched.split_off(1).as_slice());
    let with_peers = watched.pop().context("no process")?;
    let before = middle(&alone)?;
    let each = with_peers.iter().map(|sample| each_peer(sample, &before)).collect();

    let mut table = Table::new("Idle", "RSS, kB", Better::Lower).note(NOTE);
    table.rows = vec![
        row("alone", alone),
        row("with 100 peers", with_peers),
        row("added by each peer", each),
        row("one of the others, mean", mean_other),
    ];
    Ok(vec![table])
}

fn row(name: &str, samples: Vec<Sample>) -> Row {
    Row { name: name.into(), ours: true, samples: samples.into_iter().map(Some).collect() }
}

/// Memory of each process at every look, with the processor time of the whole minute.
fn watch(procs: &[&Proc]) -> Result<Vec<Vec<Sample>>> {
    let cpu_s = || procs.iter().map(|proc| proc.cpu_s()).collect::<Result<Vec<f64>>>();
    let before = cpu_s()?;
    let mut resident = vec![vec![]; procs.len()];
    for _ in 0..LOOKS {
        thread::sleep(IDLE / LOOKS);
        for (seen, proc) in resident.iter_mut().zip(procs) {
            seen.push(proc.resident_bytes()? as f64 / 1000.0);
        }
    }
    let spent = cpu_s()?.into_iter().zip(before).map(|(after, before)| after - before);
    let per_minute = |spent_s: f64| spent_s * 1000.0 * 60.0 / IDLE.as_secs_f64();
    let samples = |(seen, spent_s): (Vec<f64>, f64)| {
        seen.into_iter().map(|resident_kb| Sample::new(resident_kb).with(CPU, per_minute(spent_s))).collect()
    };
    Ok(resident.into_iter().zip(spent).map(samples).collect())
}

fn each_peer(with: &Sample, before: &Sample) -> Sample {
    let share = |with: f64, before: f64| (with - before) / f64::from(PEERS);
    Sample::new(share(with.value, before.value)).with(CPU, share(cpu(with), cpu(before)))
}

fn cpu(sample: &Sample) -> f64 {
    sample.more.first().map_or(0.0, |(_, value)| *value)
}

fn middle(samples: &[Sample]) -> Result<Sample> {
    let of = |figure: fn(&Sample) -> f64| median(samples.iter().map(figure).collect()).context("no samples");
    Ok(Sample::new(of(|sample| sample.value)?).with(CPU, of(cpu)?))
}

/// The mean over the processes, look by look.
fn mean(processes: &[Vec<Sample>]) -> Vec<Sample> {
    let count = processes.len() as f64;
    let at = |look: usize, figure: fn(&Sample) -> f64| {
        processes.iter().filter_map(|samples| samples.get(look)).map(figure).sum::<f64>() / count
    };
    let looks = processes.first().map_or(0, Vec::len);
    (0..looks).map(|look| Sample::new(at(look, |sample| sample.value)).with(CPU, at(look, cpu))).collect()
}
