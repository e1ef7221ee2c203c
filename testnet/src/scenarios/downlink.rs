//! A dish that can't send: its kernel drops whatever leaves. A carousel fills its library through loss, a fade, and
//! somebody beside it who forges.

use std::{
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mhc_protocol::BlobHash;
use serde_json::Value;

use crate::{
    Node, Rng,
    netns::Netns,
    node::text,
    preset::Preset,
    run::Scenario,
    story::{Host, Story},
    wire::Shape,
};

const LISTEN: &str = "10.77.3.2:4490";
const RATE_BITS_S: u64 = 1_000_000;
const LOSS: f64 = 0.2;
const FADE: Duration = Duration::from_secs(10);
/// What the carousel has sent before the dish tunes in.
const LATE: Duration = Duration::from_secs(15);
/// How much longer than the bare bytes take over the same channel. What is aimed at is 1.15, which the carousel's own test
/// holds; real senders took 1.31 when it was last measured, and why isn't known.
const AT_MOST: f64 = 1.6;
const OBJECTS: [usize; 3] = [1_000_000, 2_000_000, 6_000_000];
const TRUST: &str = "MHC_LINKS__SATELLITE__CAROUSEL__TRUST";

pub(super) const SCENARIO: Scenario = Scenario {
    name: "downlink",
    about: "a dish whose every packet is dropped gets 9 MB at 1 Mbit/s through 20 % loss, a fade and a forger",
    limit: Duration::from_secs(540),
    tell: |story| {
        let [station, dish, forger, shelf] =
            [story.host("station")?, story.host("dish")?, story.host("forger")?, story.host("shelf")?];
        let shape = Shape { loss: LOSS, ..Shape::delay(Duration::from_millis(270)) };
        // Wider than the carousel, so that nothing but the loss told is lost.
        let shape = shape.rate(2 * RATE_BITS_S, Duration::from_millis(300));
        let preset = Preset { name: "downlink", there: shape, back: shape, blackouts: vec![] };
        let wire = story.wire((&station, "10.77.3.1/30"), (&dish, "10.77.3.2/30"), preset)?;

        let at_station = story.node(&station, |options| options)?;
        let (invitation, sender) = (at_station.ticket()?, at_station.ready()?.node.clone());
        let works = publish(story, &at_station)?;
        let recording = record(story, &at_station, "stream")?;
        let at_forger = story.node(&forger, |options| options.peer(&invitation))?;
        let lie = story.dir().join("lie");
        fs::write(&lie, story.rng().bytes(100_000))?;
        at_forger.publish(&lie, &[])?;
        let forged = record(story, &at_forger, "forged")?;

        let _sending = send(&at_station)?;
        story.say("the carousel is on air");
        story.pass(LATE)?;
        silence(dish.netns())?;
        let sent_before = packets_sent(dish.netns())?;
        let at_dish = story.node(&dish, |options| {
            options.peer(&invitation).env(TRUST, &sender).env("MHC_LINKS__SATELLITE__CAROUSEL__LISTEN", LISTEN)
        })?;
        let tuned_in = Instant::now();
        story.say("the dish tunes in");

        let forging = AtomicBool::new(true);
        let ideal = ideal();
        let outcome = thread::scope(|scope| {
            let forger = scope.spawn(|| forge(dish.netns(), &recording, &forged, &forging));
            let outcome = (|| {
                story.pass(ideal / 3)?;
                wire.silence(true);
                story.say("a fade begins");
                story.pass(FADE)?;
                wire.silence(false);
                story.say("it is over");
                story.within_since(tuned_in, "the dish has all three", ideal.mul_f64(AT_MOST), || {
                    works.iter().try_for_each(|work| has(&at_dish, work))
                })
            })();
            forging.store(false, Ordering::Relaxed);
            let tries = forger.join().map_err(|_| anyhow::anyhow!("the forger panicked"))?;
            outcome.and(tries)
        });
        let ratio = tuned_in.elapsed().as_secs_f64() / ideal.as_secs_f64();
        story.measured("packets of the forger beside it", outcome?, "");
        story.measured("time, of what the bare bytes take", ratio, "x");
        story.check("they are what was published", works.iter().try_for_each(|work| same(&dish, &at_dish, work)))?;
        let status = at_dish.json(&["carousel", "status"])?;
        let count = |name: &str| status[name].as_u64().with_context(|| format!("{name} in {status}"));
        story.measured("packets that it refused", count("refused")?, "");
        story.holds("the forged ones are among them", count("refused")? > 0)?;
        story.holds("nothing decoded was spoiled", count("spoiled")? == 0)?;
        story.measured("packets that its kernel dropped on their way out", dropped(dish.netns())?, "");
        story.holds("not one packet left it", packets_sent(dish.netns())? == sent_before)?;

        let at_shelf = story.node(&shelf, |options| options.peer(&invitation).env(TRUST, &sender))?;
        at_shelf.json(&["carousel", "import", recording.to_str().context("UTF-8")?])?;
        let same = works.iter().try_for_each(|work| has(&at_shelf, work).and_then(|()| same(&shelf, &at_shelf, work)));
        story.check("a recording gives the same", same)?;
        Ok(Box::new((at_dish, at_shelf)))
    },
};

/// What the bare bytes take over the channel, with the fade in between.
fn ideal() -> Duration {
    let bits = OBJECTS.iter().sum::<usize>() as f64 * 8.0;
    Duration::from_secs_f64(bits / (RATE_BITS_S as f64 * (1.0 - LOSS))) + FADE
}

/// Something on air.
struct Work {
    content: String,
    blob: String,
    hash: BlobHash,
}

fn publish(story: &mut Story, node: &Node) -> Result<Vec<Work>> {
    let mut rng = story.rng();
    let works = OBJECTS.map(|len| {
        let (path, bytes) = (story.dir().join(format!("work-{len}")), rng.bytes(len));
        fs::write(&path, &bytes)?;
        let published = node.publish(&path, &[])?;
        Ok(Work { content: text(&published, "content")?, blob: text(&published, "blob")?, hash: BlobHash::of(&bytes) })
    });
    works.into_iter().collect()
}

/// A carousel's packets in a file.
fn record(story: &Story, node: &Node, name: &str) -> Result<PathBuf> {
    let file = story.dir().join(name);
    node.json(&["carousel", "send", "--to-file", file.to_str().context("UTF-8")?])?;
    Ok(file)
}

/// A command that goes on until this is dropped.
struct Sending(Child);

impl Drop for Sending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn send(node: &Node) -> Result<Sending> {
    let mut command = node.command();
    command.args(["carousel", "send", "--group", LISTEN, "--rate", &RATE_BITS_S.to_string(), "--json"]);
    Ok(Sending(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
}

/// Has the kernel drop everything that would leave the host.
fn silence(netns: &Netns) -> Result<()> {
    let rules = "add table inet silent; add chain inet silent out { type filter hook output priority 0; policy drop; }; \
                 add rule inet silent out oifname \"lo\" accept; add rule inet silent out counter";
    let output = netns.command("nft").arg(rules).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

fn json(netns: &Netns, program: &str, args: &[&str]) -> Result<Value> {
    let output = netns.command(program).args(args).output()?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
}

/// What left the host by any device but its loopback.
fn packets_sent(netns: &Netns) -> Result<u64> {
    let devices = json(netns, "ip", &["-json", "-statistics", "link"])?;
    let devices = devices.as_array().context("no devices")?.iter().filter(|device| device["ifname"] != "lo");
    devices.map(|device| device["stats64"]["tx"]["packets"].as_u64().with_context(|| format!("{device}"))).sum()
}

fn dropped(netns: &Netns) -> Result<u64> {
    let chain = json(netns, "nft", &["--json", "list", "chain", "inet", "silent", "out"])?;
    let rules = chain["nftables"].as_array().into_iter().flatten();
    let counters = rules.flat_map(|rule| rule["rule"]["expr"].as_array().into_iter().flatten());
    counters.filter_map(|expr| expr["counter"]["packets"].as_u64()).next().with_context(|| format!("{chain}"))
}

/// Somebody on the dish's own machine sends, until told to stop: a stranger's index and symbols, the sender's packets
/// with a bit flipped, and noise. Returns how many.
fn forge(netns: &Netns, recording: &Path, forged: &Path, go_on: &AtomicBool) -> Result<u64> {
    const EVERY: Duration = Duration::from_millis(50);
    let (real, stranger) = (packets(recording)?, packets(forged)?);
    ensure!(!real.is_empty() && !stranger.is_empty(), "nothing to forge from");
    let socket = netns.enter(|| Ok(UdpSocket::bind("127.0.0.1:0")?))?;
    let (mut rng, mut count) = (Rng::new(11), 0);
    while go_on.load(Ordering::Relaxed) {
        let packet = match count % 3 {
            0 => stranger[count as usize / 3 % stranger.len()].clone(),
            1 => {
                let mut packet = real[rng.below(real.len() as u64) as usize].clone();
                let at = rng.below(packet.len() as u64) as usize;
                packet[at] ^= 1 << rng.below(8);
                packet
            }
            _ => rng.bytes(1200),
        };
        socket.send_to(&packet, LISTEN)?;
        count += 1;
        thread::sleep(EVERY);
    }
    Ok(count)
}

/// The packets of a recording: each lies behind `MHCP` and its length of two bytes.
fn packets(file: &Path) -> Result<Vec<Vec<u8>>> {
    let (bytes, mut packets) = (fs::read(file)?, vec![]);
    let mut rest = bytes.as_slice();
    while let Some((len, after)) = rest.strip_prefix(b"MHCP").and_then(|rest| rest.split_first_chunk::<2>()) {
        let (packet, after) = after.split_at_checked(u16::from_le_bytes(*len).into()).context("a cut recording")?;
        packets.push(packet.to_vec());
        rest = after;
    }
    ensure!(rest.is_empty(), "not a recording at {}", bytes.len() - rest.len());
    Ok(packets)
}

/// Says why the node hasn't got all of it, if it hasn't.
fn has(node: &Node, work: &Work) -> Result<()> {
    let listed = node.list()?;
    let item = listed.iter().find(|item| item["content"] == work.content.as_str());
    ensure!(item.is_some_and(|item| item["local"]["complete"] == true), "{}: {item:?}", work.content);
    Ok(())
}

fn same(host: &Host, node: &Node, work: &Work) -> Result<()> {
    let (http, path) = (node.http()?, format!("/blobs/{}", work.blob));
    let reply = host.netns().enter(|| http.get(&path))?;
    ensure!(reply.status == 200 && BlobHash::of(&reply.body) == work.hash, "{}: {}", work.blob, reply.status);
    Ok(())
}
