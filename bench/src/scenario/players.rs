//! (f) Many players of one film at once, on a gateway that has all of it, and on one that fetches it as it is played.

mod client;
mod playhead;

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mhc_testnet::Rng;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout_at},
};

use self::{
    client::Connection,
    playhead::{Playhead, Seen},
};
use crate::{
    bench::{Bench, MIB, settle},
    node::{Node, Start},
    peers::{
        free_port,
        nginx::{Nginx, Site},
    },
    proc::{Proc, cpu_s_of, own_cpu_s},
    runner::{Contender, Rounds, compare},
    table::{Better, Sample, Table, median},
};

const SIZE_MIB: u64 = 1024;
const PLAYERS: u64 = 200;
/// 5 Mbit/s.
const RATE_BYTES_S: u64 = 625_000;
const PLAY: Duration = Duration::from_secs(30);
/// Bytes that a player needs in that time.
const PLAYED_BYTES: u64 = RATE_BYTES_S * PLAY.as_secs();
/// The players come within this time.
const ARRIVE: Duration = Duration::from_secs(2);
const REQUEST_BYTES: u64 = 2 * MIB;
/// A player asks for more when it has less than this ahead.
const AHEAD_S: f64 = 5.0;
const WATCH_EVERY: Duration = Duration::from_millis(500);
const WORKERS: usize = 2;
const NOTE: &str = "200 players at 5 Mbit/s for 30 s, each from an offset of its own, all within the first 2 s. A \
    player asks for 2 MiB at a time on one connection whenever it has less than 5 s ahead; its film starts, and goes \
    on after a stall, with 1 s buffered. Cores are processor time of the whole run, over 30 s.";

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let size_mib = bench.size_mib(SIZE_MIB);
    ensure!(size_mib * MIB > PLAYED_BYTES, "the film is shorter than what is played of it");
    let file = &bench.source(size_mib)?;
    let origin = Node::start(bench, "origin", &Start::default())?;
    let blob = &origin.publish(file, &[])?;
    let tickets = &[origin.ticket()?];
    let root = file.parent().context("no folder")?;
    let (ip, port) = (IpAddr::V4(Ipv4Addr::LOCALHOST), free_port()?);
    let web = Nginx::start(bench, &Site { root, ip, port, tls: false, workers: WORKERS, netns: None })?;

    let film = |host: &str, path: String| Film { host: host.into(), path, bytes: size_mib * MIB };
    let on = |node: &Node| film(node.gateway(), format!("/blobs/{blob}"));
    let name = file.file_name().context("no name")?.display();
    let (whole, web_film) = (on(&origin), film(&format!("{ip}:{port}"), format!("/{name}")));
    let rounds = Rounds { warm_up: 0, ..bench.rounds() };

    let from_all = vec![
        Contender::ours("mhc", || run(&whole, &[origin.proc()], &[])),
        Contender::peer("nginx", || run(&web_film, &web.workers().iter().collect::<Vec<_>>(), &[])),
    ];
    let table = Table::new("A gateway that has the whole film", "cores", Better::Lower).note(NOTE);
    let from_all = with_stalls(compare(table, rounds, from_all)?);

    let fetching = vec![Contender::ours("mhc", || {
        let gateway = Node::start(bench, "gateway", &Start { peers: tickets, ..Start::default() })?;
        gateway.wait_for_peers(1)?;
        settle();
        run(&on(&gateway), &[gateway.proc()], &[origin.proc()])
    })];
    let table = Table::new("A gateway that fetches it from another node", "cores", Better::Lower);
    Ok(vec![from_all, with_stalls(compare(table, rounds, fetching)?)])
}

/// Says how many stalls there were in all rounds: one must not hide behind a median.
fn with_stalls(table: Table) -> Table {
    let sum = |name: &str| -> Vec<String> {
        let rows = table.rows.iter();
        rows.map(|row| format!("{} {:.0}", row.name, row.further(name).iter().sum::<f64>())).collect()
    };
    let note = format!("Stalls in all rounds together: {}.", sum(STALLS).join(", "));
    table.note(note)
}

const STALLS: &str = "stalls";

/// What is played.
#[derive(Debug, Clone)]
struct Film {
    /// `address:port`.
    host: String,
    path: String,
    bytes: u64,
}

/// Lets all players play, and watches what that costs the gateway and whom it fetches from.
fn run(film: &Film, gateway: &[&Proc], origin: &[&Proc]) -> Result<Sample> {
    let cpu_s = || Ok::<_, anyhow::Error>([cpu_s_of(gateway)?, cpu_s_of(origin)?, own_cpu_s()?]);
    let before = cpu_s()?;
    let mut peak_bytes = 0;
    let watch = || {
        let resident: Vec<u64> = gateway.iter().map(|proc| proc.resident_bytes()).collect::<Result<_>>()?;
        peak_bytes = peak_bytes.max(resident.iter().sum::<u64>());
        Ok(())
    };
    // One thread is enough, and leaves the others to the gateway.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seen = runtime.block_on(play_all(film, watch))?;
    let after = cpu_s()?;
    let [cores, origin_cores, own_cores] =
        std::array::from_fn(|at| (after.get(at).unwrap_or(&0.0) - before.get(at).unwrap_or(&0.0)) / PLAY.as_secs_f64());

    // Who never saw the film start waited for all of the time.
    let starts_ms: Vec<f64> = seen.iter().map(|seen| seen.start_s.unwrap_or(PLAY.as_secs_f64()) * 1000.0).collect();
    let mut sample = Sample::new(cores)
        .with(STALLS, seen.iter().map(|seen| f64::from(seen.stalls)).sum())
        .with("stalled, s", seen.iter().map(|seen| seen.stalled_s).sum())
        .with("start median, ms", median(starts_ms.clone()).context("nobody")?)
        .with("start p95, ms", percentile_95(starts_ms).context("nobody")?)
        .with("peak RSS, MB", peak_bytes as f64 / 1e6)
        .with("players' cores", own_cores);
    if !origin.is_empty() {
        sample = sample.with("other node's cores", origin_cores);
    }
    Ok(sample)
}

fn percentile_95(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) * 95 / 100).copied()
}

/// Every player, each on a task; `watch` is called now and then. Fails when any of them does.
async fn play_all(film: &Film, mut watch: impl FnMut() -> Result<()>) -> Result<Vec<Seen>> {
    let mut rng = Rng::new(PLAYERS);
    let mut players = JoinSet::new();
    for _ in 0..PLAYERS {
        let from = rng.below(film.bytes - PLAYED_BYTES + 1);
        let arrival = Duration::from_millis(rng.below(ARRIVE.as_millis().try_into()?));
        let film = film.clone();
        players.spawn(async move {
            sleep(arrival).await;
            play(&film, from).await
        });
    }
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = vec![];
    loop {
        tokio::select! {
            player = players.join_next() => match player {
                Some(player) => seen.push(player??),
                None => return Ok(seen),
            },
            _ = ticks.tick() => watch()?,
        }
    }
}

/// One player, from the moment it is opened.
async fn play(film: &Film, from: u64) -> Result<Seen> {
    let opened = Instant::now();
    let mut playhead = Playhead::new(RATE_BYTES_S as f64);
    // Whatever still comes when the time is up isn't waited for.
    if let Ok(fetched) = timeout_at(opened + PLAY, fetch(film, from, opened, &mut playhead)).await {
        fetched?;
    }
    sleep_until(opened + PLAY).await;
    Ok(playhead.finish(PLAY))
}

async fn fetch(film: &Film, from: u64, opened: Instant, playhead: &mut Playhead) -> Result<()> {
    let mut connection = Connection::open(&film.host, &film.path).await?;
    let mut asked = 0;
    while asked < PLAYED_BYTES {
        let enough_s = playhead.buffered_s(opened.elapsed()) - AHEAD_S;
        sleep(Duration::from_secs_f64(enough_s.max(0.0))).await;
        let len = REQUEST_BYTES.min(PLAYED_BYTES - asked);
        let mut came = connection.get(from + asked, len).await?;
        asked += len;
        // The head alone may come first.
        playhead.receive(opened.elapsed(), came);
        loop {
            came = connection.drop_some().await?;
            if came == 0 {
                break;
            }
            playhead.receive(opened.elapsed(), came);
        }
    }
    Ok(())
}
