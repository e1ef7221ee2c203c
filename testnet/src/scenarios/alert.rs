//! Thirty nodes over four kinds of link, and an alert that must reach them all: when it is quiet, and when the thin line
//! is full of copies. Then come those that mustn't be believed.

use std::{
    fs, thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow, ensure};
use data_encoding::BASE64URL_NOPAD;
use mhc_protocol::{
    SecretKey, Timestamp,
    alert::{Alert, Draft, Kind, Order, Severity, Status, Urgency},
    link::LinkClass,
};
use serde_json::{Value, json};

use super::ticket;
use crate::{
    Node, NodeOptions,
    nat::NatKind,
    node::text,
    preset::Preset,
    run::Scenario,
    story::{Host, ShapedWire, Story, Switch},
    yggdrasil::Yggdrasil,
};

const IN_CITY: usize = 12;
const IN_VILLAGE: usize = 10;
const IN_VALLEY: usize = 4;
const BEHIND_NATS: usize = 4;
const RATE: u64 = 4_000_000;
/// What is copied into the village: a minute of its line.
const COPY_BYTES: usize = 30_000_000;
const REACHED: Duration = Duration::from_secs(10);
const MET: Duration = Duration::from_secs(40);
const SETTLED: Duration = Duration::from_secs(20);
const EMERGENCY: &str = "/api/v1/node/emergency";
const LIMIT_IN_WINDOW: usize = 6;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "alert",
    about: "an alert reaches thirty nodes over mixed links, also when they are full; false ones go nowhere",
    limit: Duration::from_secs(240),
    tell: |story| {
        let (places, line) = everywhere(story)?;
        let [first, ..] = places.as_slice() else { return Err(anyhow!("no nodes")) };
        story.holds("there are thirty", places.len() == 30)?;
        first.node.json(&["network", "policy", "--name", "Province"])?;
        story.within("everybody has the network's policy", MET, || {
            still(&places, |place| {
                let records = place.ask("/api/v1/node")?["records"].as_u64();
                ensure!(records >= Some(1), "{records:?} records");
                Ok(())
            })
        })?;

        let dam =
            alert(story, first, &["The dam has broken. Go up the hill.", "--also", "de=Der Damm ist gebrochen."])?;
        reaches_all(story, "the alert has reached all thirty", &places, &dam)?;
        story.within("and so has its record", SETTLED, || {
            still(&places, |place| {
                let shown = place.shown(&dam.id)?.context("not shown")?;
                ensure!(shown["texts"]["de"] == "Der Damm ist gebrochen.", "{shown}");
                Ok(())
            })
        })?;

        fill(story, &places, &line)?;
        let water = alert(story, first, &["Boil the water.", "--severity", "high"])?;
        reaches_all(story, "another one has reached all, past the copies", &places, &water)?;
        let busy = line.rate_bits_s(story)?;
        story.measured("the village's line still carries", busy / 1e6, "Mbit/s");
        story.holds("it is still full", busy > 0.6 * RATE as f64)?;

        let called_back = Instant::now();
        first.node.json(&["emergency", "cancel", &dam.id])?;
        story.within_since(called_back, "the first one is called back everywhere", REACHED, || {
            still(&places, |place| {
                ensure!(place.shown(&dam.id)?.is_none(), "still shown");
                Ok(())
            })
        })?;
        false_ones(story, &places, &dam)?;
        flood(story, &places)?;
        Ok(Box::new((places, line)))
    },
};

/// A host with its node.
struct Place {
    host: Host,
    node: Node,
}

impl Place {
    fn ask(&self, path: &str) -> Result<Value> {
        let http = self.node.http()?;
        self.host.netns().enter(|| http.get(path)?.json())
    }

    fn metrics(&self) -> Result<String> {
        let http = self.node.http()?;
        self.host.netns().enter(|| Ok(http.get("/metrics")?.text()))
    }

    /// How many alerts came to that end here.
    fn count(&self, outcome: &str) -> Result<u64> {
        let name = format!("mhc_alerts_total{{outcome=\"{outcome}\"}} ");
        let metrics = self.metrics()?;
        let count = metrics.lines().find_map(|line| line.strip_prefix(&name)).map(str::parse);
        Ok(count.transpose()?.unwrap_or(0))
    }

    /// The alert as it is shown here, if it holds.
    fn shown(&self, id: &str) -> Result<Option<Value>> {
        let list = self.ask(EMERGENCY)?;
        let list = list.as_array().context("a list")?;
        Ok(list.iter().find(|alert| alert["id"] == id).cloned())
    }

    /// Hands an alert in, as one that came by radio. The answer's status.
    fn hand_in(&self, bytes: &[u8]) -> Result<u16> {
        let body = json!({ "compact": BASE64URL_NOPAD.encode(bytes) }).to_string();
        let http = self.node.http()?;
        let json = [("content-type", "application/json")];
        let path = format!("{EMERGENCY}/take");
        self.host.netns().enter(|| Ok(http.request("POST", &path, &json, body.as_bytes())?.status))
    }
}

/// Names the places where it isn't so.
fn still(places: &[Place], check: impl Fn(&Place) -> Result<()>) -> Result<()> {
    let not = |place: &Place| check(place).err().map(|error| format!("{}: {error:#}", place.host.name()));
    let not: Vec<String> = places.iter().filter_map(not).collect();
    ensure!(not.is_empty(), "not at {}: {:?}", not.len(), not.first());
    Ok(())
}

struct Sent {
    id: String,
    compact: Vec<u8>,
    at: Instant,
}

fn alert(story: &mut Story, from: &Place, args: &[&str]) -> Result<Sent> {
    let at = Instant::now();
    let sent = from.node.json(&[&["emergency", "send"], args].concat())?;
    story.say(format!("{}: alerts everybody: {}", from.host.name(), sent["short"]));
    let compact = BASE64URL_NOPAD.decode(text(&sent, "compact")?.as_bytes())?;
    Ok(Sent { id: text(&sent, "id")?, compact, at })
}

fn reaches_all(story: &mut Story, what: &str, places: &[Place], sent: &Sent) -> Result<()> {
    let mut waiting: Vec<&Place> = places.iter().collect();
    story.within_since(sent.at, what, REACHED, || {
        // Who has it isn't asked again.
        waiting.retain(|place| !matches!(place.shown(&sent.id), Ok(Some(_))));
        let names: Vec<_> = waiting.iter().map(|place| place.host.name()).collect();
        ensure!(names.is_empty(), "not yet at {names:?}");
        Ok(())
    })
}

// # The network

/// The village's line, where its bytes are counted.
struct Line {
    gate: Host,
    device: String,
    _stage: Box<dyn std::any::Any>,
}

impl Line {
    fn received_bytes(&self) -> Result<u64> {
        let path = format!("/sys/class/net/{}/statistics/rx_bytes", self.device);
        // The file is of the namespace that the reading program was started in.
        let output = self.gate.netns().command("cat").arg(path).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().parse()?)
    }

    /// What it carries into the village now, in bits a second.
    fn rate_bits_s(&self, story: &mut Story) -> Result<f64> {
        let (before, started) = (self.received_bytes()?, Instant::now());
        story.pass(Duration::from_secs(2))?;
        Ok((self.received_bytes()? - before) as f64 * 8.0 / started.elapsed().as_secs_f64())
    }
}

/// A city on a switch, a village behind a thin line, a valley that only Yggdrasil reaches, and four hosts behind NATs.
fn everywhere(story: &mut Story) -> Result<(Vec<Place>, Line)> {
    let [city, village] = [story.switch("city")?, story.switch("village")?];
    let line = line(story, &city, &village)?;
    let city_hosts = plugged(story, &city, "c", IN_CITY, "10.78.0")?;
    let village_hosts = plugged(story, &village, "v", IN_VILLAGE, "10.78.1")?;
    let [first, second, others @ ..] = city_hosts.as_slice() else { return Err(anyhow!("a city of one")) };
    let (valley_hosts, overlay) = valley(story, second)?;

    let mut places = vec![];
    let at_first = start(story, &mut places, first, &[])?;
    let at_second = start(story, &mut places, second, &[&at_first])?;
    let in_overlay = over_yggdrasil(places.last().context("a place")?)?;
    let mut before = at_second.clone();
    for host in others {
        before = start(story, &mut places, host, &[&at_first, &before])?;
    }
    let mut before = at_second;
    for host in &village_hosts {
        // Each knows one in the city and its neighbour: there is more than one way.
        before = start(story, &mut places, host, &[&at_first, &before])?;
    }
    for host in &valley_hosts {
        start(story, &mut places, host, &[&in_overlay])?;
    }
    for n in 1..=BEHIND_NATS {
        let host = story.host(&format!("n{n}"))?;
        let inside = (&host, &*format!("10.79.{n}.2/24"), &*format!("10.79.{n}.1/24"));
        story.nat(NatKind::PortRestrictedCone, inside, (&city, &format!("10.78.0.{}/24", 200 + n)))?;
        start(story, &mut places, &host, &[&at_first])?;
    }
    Ok((places, Line { _stage: Box::new((line.0, overlay)), gate: line.1, device: line.2 }))
}

/// The thin line with a router at each end, the village's one, and its device there.
fn line(story: &mut Story, city: &Switch, village: &Switch) -> Result<(ShapedWire, Host, String)> {
    let [gate, village_gate] = [story.host("gate")?, story.host("vgate")?];
    story.plug(&gate, city, "10.78.0.254/24")?;
    story.plug(&village_gate, village, "10.78.1.254/24")?;
    let thin = Preset::steady("thin", Duration::from_millis(60), RATE);
    let wire = story.wire((&gate, "10.78.9.1/30"), (&village_gate, "10.78.9.2/30"), thin)?;
    for (host, route) in [(&gate, "10.78.1.0/24 via 10.78.9.2"), (&village_gate, "10.78.0.0/24 via 10.78.9.1")] {
        host.netns().ip(&format!("route add {route}"))?;
        host.netns().sysctl("net/ipv4/ip_forward", "1")?;
    }
    let shown = village_gate.netns().ip("-o route get 10.78.9.1")?;
    let device = shown.split_whitespace().skip_while(|word| *word != "dev").nth(1);
    let device = device.with_context(|| format!("no device in {shown}"))?.to_owned();
    Ok((wire, village_gate, device))
}

/// Hosts on a switch, with a way out by its router.
fn plugged(story: &mut Story, switch: &Switch, name: &str, count: usize, net: &str) -> Result<Vec<Host>> {
    let mut hosts = vec![];
    for n in 1..=count {
        let host = story.host(&format!("{name}{n}"))?;
        story.plug(&host, switch, &format!("{net}.{n}/24"))?;
        host.netns().ip(&format!("route add default via {net}.254"))?;
        hosts.push(host);
    }
    Ok(hosts)
}

/// Hosts with a cable each to a mast that runs Yggdrasil and no node, as does `anchor`: they reach each other, and it, by
/// the overlay alone.
fn valley(story: &mut Story, anchor: &Host) -> Result<(Vec<Host>, Vec<Yggdrasil>)> {
    const LISTEN: &str = "tcp://0.0.0.0:9001";
    let mast = story.host("mast")?;
    let hosts = (1..=IN_VALLEY).map(|n| story.host(&format!("y{n}"))).collect::<Result<Vec<_>>>()?;
    for (n, host) in hosts.iter().chain([anchor]).enumerate() {
        story.cable((&mast, &format!("10.78.2{n}.1/30")), (host, &format!("10.78.2{n}.2/30")))?;
    }
    let mut daemons = vec![story.yggdrasil(&mast, &[LISTEN], &[])?];
    for (n, host) in hosts.iter().chain([anchor]).enumerate() {
        daemons.push(story.yggdrasil(host, &[], &[&format!("tcp://10.78.2{n}.1:9001")])?);
    }
    Ok((hosts, daemons))
}

/// Starts a node that knows those of these tickets. Returns its own.
fn start(story: &mut Story, places: &mut Vec<Place>, host: &Host, tickets: &[&str]) -> Result<String> {
    let peers = |options: NodeOptions| tickets.iter().fold(options, |options, ticket| options.peer(ticket));
    let node = story.node(host, |options| peers(options).env("MHC_LOG", "warn,mhc_node::emergency=info"))?;
    let ticket = node.ticket()?;
    places.push(Place { host: host.clone(), node });
    Ok(ticket)
}

/// An invitation with only the address that the overlay gave its host.
fn over_yggdrasil(place: &Place) -> Result<String> {
    let in_overlay = |addr: &std::net::SocketAddr| LinkClass::of_ip(addr.ip()) == LinkClass::Yggdrasil;
    ticket(&place.node, |ticket| {
        ticket.p2p.retain(in_overlay);
        ticket.iroh.retain(in_overlay);
    })
}

// # What it has to bear

/// Has the village copy something big, and waits until its line is full.
fn fill(story: &mut Story, places: &[Place], line: &Line) -> Result<()> {
    let from = places.get(2).context("a third")?;
    let file = story.dir().join("big.bin");
    fs::write(&file, story.rng().bytes(COPY_BYTES))?;
    let content = text(&from.node.publish(&file, &[])?, "content")?;
    let copying = |place: &&Place| !place.host.name().starts_with('c');
    story.within("everybody knows of something big", SETTLED, || {
        still(places, |place| {
            let listed = place.ask("/api/v1/videos/feed?limit=5")?;
            ensure!(listed.to_string().contains(&content), "{listed}");
            Ok(())
        })
    })?;
    for place in places.iter().filter(copying) {
        place.node.json(&["pin", &content])?;
    }
    story.say("all who aren't in the city copy it");
    let mut rate = 0.0;
    let started = Instant::now();
    while rate < 0.8 * RATE as f64 && started.elapsed() < SETTLED {
        rate = line.rate_bits_s(story)?;
    }
    story.measured("the village's line carries", rate / 1e6, "Mbit/s");
    story.holds("it is full", rate >= 0.8 * RATE as f64)
}

fn root_key(first: &Place) -> Result<SecretKey> {
    let text = fs::read_to_string(first.node.home().join("keys/network.key"))?;
    let seed = data_encoding::HEXLOWER.decode(text.trim().as_bytes())?;
    Ok(SecretKey::from_seed(seed.as_slice().try_into()?))
}

fn now_ms() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64)
}

fn draft(text: &str, at_ms: u64) -> Draft {
    Draft {
        status: Status::Actual,
        kind: Kind::Alert,
        severity: Severity::Critical,
        urgency: Urgency::Immediate,
        order: Order::None,
        at: Timestamp::from_millis(at_ms),
        life_min: 60,
        refers: None,
        language: Some(*b"en"),
        text: text.into(),
    }
}

/// Alerts that mustn't be believed are handed in all over the place.
fn false_ones(story: &mut Story, places: &[Place], called_back: &Sent) -> Result<()> {
    let root = root_key(places.first().context("a first")?)?;
    let stranger = SecretKey::from_seed(&[66; 32]);
    let (network, now) = (root.network(), now_ms()?);
    let sign = |key: &SecretKey, draft: Draft| -> Result<Alert> { Ok(draft.sign(key, network)?) };
    let expired = Draft { life_min: 1, ..draft("It was true once", now - 120_000) };
    let mut altered = sign(&root, draft("Altered", now))?.bytes().to_vec();
    if let Some(letter) = altered.get_mut(51) {
        *letter ^= 0x20;
    }
    let elsewhere = draft("Elsewhere", now).sign(&root, stranger.network())?;
    let cases = [
        ("one that was called back", "replayed", 409, called_back.compact.clone()),
        ("one that has expired", "expired", 409, sign(&root, expired)?.bytes().to_vec()),
        (
            "one of the day after tomorrow",
            "early",
            409,
            sign(&root, draft("Later", now + 48 * 3_600_000))?.bytes().to_vec(),
        ),
        ("one by a stranger", "not_issuer", 403, sign(&stranger, draft("Believe me", now))?.bytes().to_vec()),
        ("one that was altered", "forged", 400, altered),
        ("one of another network", "forged", 400, elsewhere.bytes().to_vec()),
        ("no alert at all", "malformed", 400, vec![1; 200]),
    ];
    for (n, (what, outcome, status, bytes)) in cases.into_iter().enumerate() {
        // In the city, the village, the valley and behind a NAT in turn.
        let place = places.get((n + 1) * 4 % places.len()).context("a place")?;
        let before = place.count(outcome)?;
        let answer = place.hand_in(&bytes)?;
        let counted = place.count(outcome)? - before;
        story.holds(
            &format!("{what} is dropped and counted at {}", place.host.name()),
            (answer, counted) == (status, 1),
        )?;
    }
    story.check(
        "nobody shows any of them",
        still(places, |place| {
            let shown = place.ask(EMERGENCY)?;
            ensure!(shown.as_array().is_some_and(|shown| shown.len() == 1), "{shown}");
            Ok(())
        }),
    )
}

/// The issuer's key is in the wrong hands: more than it may send, at twelve places at once.
fn flood(story: &mut Story, places: &[Place]) -> Result<()> {
    const SENT: usize = 12;
    let root = root_key(places.first().context("a first")?)?;
    let now = now_ms()?;
    let alerts = (0..SENT).map(|n| draft(&format!("Flood {n}"), now + n as u64).sign(&root, root.network()));
    let alerts = alerts.collect::<Result<Vec<_>, _>>()?;
    let answers = thread::scope(|scope| {
        let hand = |(place, alert): (&'_ Place, &Alert)| place.hand_in(alert.bytes());
        let handed = places.iter().step_by(2).zip(&alerts).map(|both| scope.spawn(move || hand(both)));
        let handed: Vec<_> = handed.collect();
        handed.into_iter().map(|answer| answer.join().map_err(|_| anyhow!("panicked"))?).collect::<Result<Vec<_>>>()
    })?;
    story.say(format!("{SENT} alerts of one issuer at once, at as many nodes: {answers:?}"));
    story.within("every node has dropped and counted what is too many", REACHED, || {
        let dropped = places.iter().map(|place| place.count("too_many")).collect::<Result<Vec<_>>>()?;
        ensure!(
            dropped.iter().sum::<u64>() > 0 && answers.iter().all(|status| [201, 429].contains(status)),
            "{dropped:?}"
        );
        still(places, |place| {
            let shown = place.ask(EMERGENCY)?;
            let shown = shown.as_array().context("a list")?.len();
            ensure!(shown >= LIMIT_IN_WINDOW - 1, "{shown}");
            Ok(())
        })
    })?;
    story.pass(Duration::from_secs(3))?;
    // One of the six in ten minutes was called back before.
    story.check(
        "nobody shows more than an issuer may send",
        still(places, |place| {
            let shown = place.ask(EMERGENCY)?;
            ensure!(shown.as_array().is_some_and(|shown| shown.len() < LIMIT_IN_WINDOW), "{shown}");
            Ok(())
        }),
    )?;
    let dropped = places.iter().map(|place| place.count("too_many")).sum::<Result<u64>>()?;
    story.measured("alerts over the limit that were dropped, over all nodes", dropped, "");
    Ok(())
}
