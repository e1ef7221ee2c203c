//! What a scenario is told with: hosts and what joins them, nodes, waiting, and what is expected.
//!
//! Everything that is made here belongs to one run and goes with it. What a scenario waits for and expects is noted
//! for the report; the first expectation that isn't met ends the story.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    Node, NodeOptions, Rng,
    calibrate::{self, Place},
    log::Log,
    nat::{self, NatKind},
    netns::{Netns, RunId},
    preset::Preset,
    report::{Moment, ResultRow, WireRow},
    wire::{End, Shape, Wire},
    yggdrasil::Yggdrasil,
};

/// Ports of libp2p and iroh: the defaults, since each node has a host to itself.
const PORTS: (u16, u16) = (4480, 4481);
/// What nodes log, unless `MHC_TEST_LOG` says otherwise.
const LOG_FILTER: &str = "info,mhc_node=debug";
const POLL_EVERY: Duration = Duration::from_millis(50);
/// A hiccup of the machine isn't the wire's fault: so often it is measured before the run is void.
const CALIBRATIONS: usize = 5;

/// A path isn't what it is to be: nothing that is measured over it would mean anything.
#[derive(Debug, thiserror::Error)]
#[error("void: {0}")]
pub struct Void(pub String);

/// Asks a run to end early.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Mutex<Stopping>>);

#[derive(Debug, Default)]
struct Stopping {
    reason: Option<String>,
    /// The time of the run is over.
    over: bool,
    run: Option<RunId>,
}

impl Stop {
    /// Ends the run that is under way, and every later one. What it waits for is killed, so that it goes on to its end.
    pub fn request(&self, reason: &str) {
        self.lock().reason.get_or_insert_with(|| reason.into());
        self.kill_processes();
    }

    /// Ends the run that is under way since its time is over.
    pub(crate) fn time_is_over(&self) {
        self.lock().over = true;
        self.kill_processes();
    }

    fn kill_processes(&self) {
        let run = self.lock().run.clone();
        if let Some(run) = run {
            run.kill_processes();
        }
    }

    /// Why, when it was asked.
    pub fn reason(&self) -> Option<String> {
        self.lock().reason.clone()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.lock().over
    }

    pub(crate) fn set_run(&self, run: Option<RunId>) {
        let mut stopping = self.lock();
        (stopping.run, stopping.over) = (run, false);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Stopping> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A machine of the network.
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    netns: Netns,
}

impl Host {
    /// What the scenario calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }
}

/// A switch: what is plugged into it is one LAN.
#[derive(Debug, Clone)]
pub struct Switch(Netns);

impl Switch {
    /// Forwards nothing any more, and nobody is told: what is plugged in still sees a live cable. Or goes on.
    pub fn silence(&self, cut: bool) -> Result<()> {
        let state = if cut { "down" } else { "up" };
        self.0.ip(&format!("link set br0 {state}")).map(drop)
    }
}

/// A wire of a scenario, measured to be what it is to be.
#[derive(Debug)]
pub struct ShapedWire {
    wire: Wire,
    ends: [(Host, String, String); 2],
    preset: Preset,
}

impl ShapedWire {
    /// Cuts it without anybody being told: packets vanish. Or heals it.
    pub fn silence(&self, cut: bool) {
        self.wire.cut(cut);
    }

    /// Takes its devices down at both ends, so that the kernels know; or up again. Routes over it must then be set anew.
    pub fn unplug(&self, down: bool) -> Result<()> {
        let state = if down { "down" } else { "up" };
        self.ends
            .iter()
            .try_for_each(|(host, device, _)| host.netns.ip(&format!("link set {device} {state}")).map(drop))
    }

    /// Makes another path of it.
    pub fn reshape(&self, there: Shape, back: Shape) {
        self.wire.reshape(there, back);
    }

    /// The blackouts of its preset begin, counted from now.
    pub fn black_out(&self) {
        self.wire.black_out(&self.preset.blackouts);
    }
}

/// A run of a scenario, from inside.
pub struct Story {
    run: RunId,
    mhc: PathBuf,
    seed: u64,
    keep: bool,
    stop: Stop,
    started: Instant,
    devices: u32,
    pub(crate) timeline: Vec<Moment>,
    pub(crate) results: Vec<ResultRow>,
    pub(crate) wires: Vec<WireRow>,
    pub(crate) logs: Vec<(String, Log)>,
}

impl Story {
    pub(crate) fn new(run: RunId, mhc: &Path, seed: u64, keep: bool, stop: Stop) -> Result<Self> {
        std::fs::create_dir_all(run.dir())?;
        Ok(Self {
            run,
            mhc: mhc.to_owned(),
            seed,
            keep,
            stop,
            started: Instant::now(),
            devices: 0,
            timeline: vec![],
            results: vec![],
            wires: vec![],
            logs: vec![],
        })
    }

    /// The run's folder.
    pub fn dir(&self) -> PathBuf {
        self.run.dir()
    }

    /// Random numbers that are the same whenever the run's seed is.
    pub fn rng(&self) -> Rng {
        Rng::new(self.seed)
    }

    /// Seconds since it began.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Notes what happens.
    pub fn say(&mut self, text: impl Into<String>) {
        let moment = Moment { at_s: self.seconds(), text: text.into() };
        eprintln!("{:7.2} s  {}", moment.at_s, moment.text);
        self.timeline.push(moment);
    }

    // # The network

    /// A new machine that nothing is joined to.
    pub fn host(&mut self, name: &str) -> Result<Host> {
        Ok(Host { name: name.into(), netns: Netns::new(&self.run, name)? })
    }

    /// A new switch.
    pub fn switch(&mut self, name: &str) -> Result<Switch> {
        let netns = Netns::new(&self.run, name)?;
        netns.ip("link add br0 type bridge")?;
        netns.ip("link set br0 up")?;
        Ok(Switch(netns))
    }

    /// Plugs the host into the switch, with this address (`10.0.0.1/24`). Returns the name of its device.
    pub fn plug(&mut self, host: &Host, switch: &Switch, address: &str) -> Result<String> {
        let device = self.device("eth");
        let Switch(hub) = switch;
        hub.ip(&format!("link add {device} type veth peer name {device} netns {}", host.netns.name()))?;
        hub.ip(&format!("link set {device} master br0 up"))?;
        self.address(host, &device, address)?;
        Ok(device)
    }

    /// Joins two hosts by a short cable. Returns the name of its device, the same at both.
    pub fn cable(&mut self, (a, address_a): (&Host, &str), (b, address_b): (&Host, &str)) -> Result<String> {
        let device = self.device("eth");
        a.netns.ip(&format!("link add {device} type veth peer name {device} netns {}", b.netns.name()))?;
        self.address(a, &device, address_a)?;
        self.address(b, &device, address_b)?;
        Ok(device)
    }

    fn device(&mut self, kind: &str) -> String {
        self.devices += 1;
        format!("{kind}{}", self.devices)
    }

    fn address(&self, host: &Host, device: &str, address: &str) -> Result<()> {
        host.netns.ip(&format!("addr add {address} dev {device}"))?;
        host.netns.ip(&format!("link set {device} up")).map(drop)
    }

    /// Lays a long wire and measures it. The run is void when the wire isn't what the preset says.
    pub fn wire(&mut self, a: (&Host, &str), b: (&Host, &str), preset: Preset) -> Result<ShapedWire> {
        let device = self.device("wire");
        let end = |(host, address): (&Host, &str)| (host.clone(), device.clone(), address.to_owned());
        let ends = [end(a), end(b)];
        let [at_a, at_b] =
            [&ends[0], &ends[1]].map(|(host, device, address)| End { netns: host.netns.name(), device, address });
        let wire = Wire::new(at_a, at_b, preset.there, preset.back, self.seed)?;
        let wire = ShapedWire { wire, ends, preset };
        self.calibrate(&wire)?;
        Ok(wire)
    }

    fn calibrate(&mut self, wire: &ShapedWire) -> Result<()> {
        let place = |(host, _, address): &'_ (Host, String, String)| -> Result<(Netns, IpAddr)> {
            let ip = address.split('/').next().unwrap_or_default();
            Ok((host.netns.clone(), ip.parse().with_context(|| format!("address {address}"))?))
        };
        let [(netns_a, ip_a), (netns_b, ip_b)] = [place(&wire.ends[0])?, place(&wire.ends[1])?];
        let [a, b] = [Place { netns: &netns_a, ip: ip_a }, Place { netns: &netns_b, ip: ip_b }];
        let (there, back) = (wire.preset.there, wire.preset.back);
        let [name_a, name_b] = [wire.ends[0].0.name(), wire.ends[1].0.name()];
        let mut faults = vec![];
        for _ in 0..CALIBRATIONS {
            let both = thread::scope(|scope| {
                let other = scope.spawn(|| calibrate::measure(b, a, &back));
                (calibrate::measure(a, b, &there), other.join())
            });
            let is = [both.0?, both.1.map_err(|_| anyhow::anyhow!("measuring panicked"))??];
            faults = [calibrate::faults(&there, &is[0]), calibrate::faults(&back, &is[1])].concat();
            if faults.is_empty() {
                for (from, to, shape, measured) in [(name_a, name_b, there, is[0]), (name_b, name_a, back, is[1])] {
                    let row = row(format!("{from}→{to} {}", wire.preset.name), &shape, measured);
                    self.say(format!(
                        "wire {}: {:.1} ms, loss {:.2} %",
                        row.wire,
                        measured.delay_ms,
                        measured.loss * 100.0
                    ));
                    self.wires.push(row);
                }
                return Ok(());
            }
            self.say(format!("wire {name_a}-{name_b}: {}", faults.join("; ")));
        }
        Err(Void(format!("the wire {name_a}-{name_b} isn't {}: {}", wire.preset.name, faults.join("; "))).into())
    }

    /// Puts a router that translates addresses between a host and a switch, and makes it the host's way out. `inside`
    /// is the host with its address and the router's, `outside` the switch with the router's address there.
    pub fn nat(&mut self, kind: NatKind, inside: (&Host, &str, &str), outside: (&Switch, &str)) -> Result<Host> {
        let (host, address, gateway) = inside;
        let router = self.host(&format!("nat-{}", host.name))?;
        self.cable((host, address), (&router, gateway))?;
        let wan = self.plug(&router, outside.0, outside.1)?;
        nat::translate(&router.netns, kind, &wan)?;
        let gateway = gateway.split('/').next().unwrap_or_default();
        host.netns.ip(&format!("route add default via {gateway}"))?;
        Ok(router)
    }

    /// Starts a Yggdrasil daemon on a host that listens at `listen` and connects to `peers`, both URIs.
    pub fn yggdrasil(&mut self, host: &Host, listen: &[&str], peers: &[&str]) -> Result<Yggdrasil> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let dir = self.dir().join(format!("yggdrasil-{}", host.name));
        let daemon = Yggdrasil::start(&host.netns, &dir, &owned(listen), &owned(peers))?;
        self.logs.push((format!("yggdrasil of {}", host.name), daemon.log()));
        self.say(format!("{}: yggdrasil is up at {}", host.name, daemon.address()));
        Ok(daemon)
    }

    /// Starts a node on a host, with what `change` makes of the options: no mDNS and no peers to begin with.
    pub fn node(&mut self, host: &Host, change: impl FnOnce(NodeOptions) -> NodeOptions) -> Result<Node> {
        let options = NodeOptions {
            netns: Some(host.netns.name().into()),
            ports: PORTS,
            print_log: false,
            ..NodeOptions::new(&self.mhc, &host.name)
        }
        .env("MHC_LOG", LOG_FILTER);
        let mut node = Node::prepare(change(options), self.dir().join(&host.name).join("home"));
        self.logs.push((host.name.clone(), node.log_handle()));
        node.restart()?;
        self.say(format!("{}: the node serves", host.name));
        Ok(node)
    }

    // # Waiting and expecting

    /// Waits until `check` answers, at most for `limit`; how long it took is a result. A check says by its error why it
    /// isn't satisfied yet.
    pub fn within<T>(&mut self, what: &str, limit: Duration, check: impl FnMut() -> Result<T>) -> Result<T> {
        self.within_since(Instant::now(), what, limit, check)
    }

    /// The same with the time counted from a moment in the past.
    pub fn within_since<T>(
        &mut self,
        since: Instant,
        what: &str,
        limit: Duration,
        check: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let answer = self.wait(since, limit, check);
        let (seconds, at_most) = (since.elapsed().as_secs_f64(), Some(limit.as_secs_f64()));
        let passed = answer.is_ok();
        self.result(ResultRow { what: what.into(), value: seconds.into(), unit: "s", at_most, passed });
        if !passed {
            self.pause();
        }
        answer.with_context(|| format!("{what}: not within {limit:?}"))
    }

    fn wait<T>(&self, since: Instant, limit: Duration, mut check: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            let error = match check() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            self.go_on()?;
            if since.elapsed() >= limit {
                return Err(error);
            }
            thread::sleep(POLL_EVERY);
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.go_on()?;
            thread::sleep(POLL_EVERY.min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    /// Expects this to have succeeded.
    pub fn check<T>(&mut self, what: &str, done: Result<T>) -> Result<T> {
        let passed = done.is_ok();
        self.result(ResultRow { what: what.into(), value: passed.into(), unit: "", at_most: None, passed });
        if !passed {
            self.pause();
        }
        done.with_context(|| format!("not so: {what}"))
    }

    /// Expects this to be so.
    pub fn holds(&mut self, what: &str, so: bool) -> Result<()> {
        self.check(what, so.then_some(()).context("it is otherwise"))
    }

    /// Notes what was measured, whatever it is.
    pub fn measured(&mut self, what: &str, value: impl Into<Value>, unit: &'static str) {
        self.result(ResultRow { what: what.into(), value: value.into(), unit, at_most: None, passed: true });
    }

    fn result(&mut self, row: ResultRow) {
        let ok = if row.passed { "" } else { "NOT OK: " };
        let value = match (&row.value, row.unit) {
            (Value::Bool(_), _) => String::new(),
            (Value::Number(number), unit) => format!(": {:.2} {unit}", number.as_f64().unwrap_or_default()),
            (value, _) => format!(": {value}"),
        };
        self.say(format!("{ok}{}{value}", row.what));
        self.results.push(row);
    }

    fn go_on(&self) -> Result<()> {
        match self.stop.reason() {
            Some(reason) => bail!("stopped: {reason}"),
            None if self.stop.is_over() => bail!("its time is over"),
            None => Ok(()),
        }
    }

    /// With `--keep`: leaves everything as it is until the run is told to stop.
    pub(crate) fn pause(&mut self) {
        if !self.keep || self.stop.reason().is_some() {
            return;
        }
        self.say(format!("kept: look around with `ip netns exec {} sh`; Ctrl-C ends it", self.run.name("HOST")));
        while self.stop.reason().is_none() {
            thread::sleep(POLL_EVERY);
        }
    }
}

fn row(wire: String, shape: &Shape, measured: calibrate::Measured) -> WireRow {
    let delay_ms = (shape.delay + shape.jitter / 2).as_secs_f64() * 1000.0;
    let mbit_s = shape.rate_bits_s.map(|bits_s| bits_s as f64 / 1e6 * (1.0 - shape.loss));
    WireRow { wire, wanted: (delay_ms, shape.loss, mbit_s), measured }
}
