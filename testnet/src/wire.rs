//! A wire between two network namespaces that behaves like a longer one: delay, jitter, loss, rate, and cuts.
//!
//! [`Queue`] decides, purely: it is told what enters and when, and says what leaves and when. [`Wire`] moves packets
//! between two TUN devices accordingly, on a thread for each direction. Needs root.
//!
//! The wire is as exact as the machine lets it be: whoever measures over it checks round trip time and rate first.

use std::{
    collections::VecDeque,
    io,
    ops::Range,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::setpriority_process,
};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::Rng;

const MTU: u16 = 1500;
/// Packets that the kernel holds for us while we are late.
const DEVICE_QUEUE: u32 = 10_000;
/// How often a thread looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Packets taken in before it is seen to those that are due.
const BATCH: usize = 32;
/// Before all other work of the machine, which isn't to look like a worse path.
const NICE: i32 = -20;

/// What one direction does to packets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Time that every packet takes.
    pub delay: Duration,
    /// Up to so much more, evenly spread. Packets never overtake each other.
    pub jitter: Duration,
    /// Share of packets that get lost, 0 to 1.
    pub loss: f64,
    /// Bits a second, counted from the IP header on; as many as come when there is none.
    pub rate_bits_s: Option<u64>,
    /// Bytes that wait for their turn at that rate; what comes beyond is dropped.
    pub buffer_bytes: u64,
}

impl Shape {
    /// A steady path of so much one-way delay.
    pub fn delay(delay: Duration) -> Self {
        Self { delay, jitter: Duration::ZERO, loss: 0.0, rate_bits_s: None, buffer_bytes: 0 }
    }

    /// With a bottleneck whose buffer holds what arrives in `buffer`.
    #[must_use]
    pub fn rate(self, bits_s: u64, buffer: Duration) -> Self {
        let buffer_bytes = (bits_s as f64 / 8.0 * buffer.as_secs_f64()) as u64;
        Self { rate_bits_s: Some(bits_s), buffer_bytes, ..self }
    }
}

/// Packets on their way in one direction. Pure; times are since any one moment, and never go back.
///
/// [`Queue::push`] what enters; sleep until [`Queue::next_due`]; [`Queue::pop`] until it has no more.
#[derive(Debug)]
pub struct Queue<P> {
    shape: Shape,
    rng: Rng,
    /// When nothing gets through.
    blackouts: Vec<Range<Duration>>,
    /// When the bottleneck has sent everything that it accepted.
    busy_until: Duration,
    /// When each packet leaves, in order.
    on_the_way: VecDeque<(Duration, P)>,
}

impl<P> Queue<P> {
    /// An empty one; the same seed and packets give the same losses and jitter.
    pub fn new(shape: Shape, seed: u64) -> Self {
        let (blackouts, on_the_way) = (vec![], VecDeque::new());
        Self { shape, rng: Rng::new(seed), blackouts, busy_until: Duration::ZERO, on_the_way }
    }

    /// From now on the path is another one. What is on its way arrives as if it weren't.
    pub fn reshape(&mut self, shape: Shape, blackouts: Vec<Range<Duration>>) {
        (self.shape, self.blackouts) = (shape, blackouts);
    }

    /// A packet of `bytes` enters. Says whether it will arrive.
    pub fn push(&mut self, now: Duration, bytes: usize, packet: P) -> bool {
        let Some(sent) = self.pass_bottleneck(now, bytes as u64) else { return false };
        if self.fraction() < self.shape.loss {
            return false;
        }
        let due = sent + self.shape.delay + self.shape.jitter.mul_f64(self.fraction());
        let due = self.on_the_way.back().map_or(due, |(last, _)| due.max(*last));
        if self.blackouts.iter().any(|dark| now < dark.end && dark.start <= due) {
            return false;
        }
        self.on_the_way.push_back((due, packet));
        true
    }

    /// When the bottleneck has sent it; nothing when its buffer is full.
    fn pass_bottleneck(&mut self, now: Duration, bytes: u64) -> Option<Duration> {
        let Some(bits_s) = self.shape.rate_bits_s else { return Some(now) };
        let time = |bytes: u64| Duration::from_secs_f64(bytes as f64 * 8.0 / bits_s as f64);
        let waiting = self.busy_until.saturating_sub(now);
        if waiting > time(self.shape.buffer_bytes) {
            return None;
        }
        self.busy_until = now + waiting + time(bytes);
        Some(self.busy_until)
    }

    /// A number from 0 to below 1.
    fn fraction(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// When the next packet leaves.
    pub fn next_due(&self) -> Option<Duration> {
        self.on_the_way.front().map(|(due, _)| *due)
    }

    /// A packet that has arrived by now.
    pub fn pop(&mut self, now: Duration) -> Option<P> {
        self.next_due().filter(|due| *due <= now)?;
        self.on_the_way.pop_front().map(|(_, packet)| packet)
    }

    /// Loses everything that is on its way.
    pub fn clear(&mut self) {
        self.on_the_way.clear();
    }
}

/// One end of a wire.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The namespace.
    pub netns: &'a str,
    /// What the device is called there.
    pub device: &'a str,
    /// Address and prefix length, as `10.78.0.1/30`.
    pub address: &'a str,
}

/// A wire between two namespaces; it is gone when this is dropped.
#[derive(Debug)]
pub struct Wire {
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    /// What times in `plan` are counted from.
    started: Instant,
    ended: AtomicBool,
    cut: AtomicBool,
    plan: Mutex<Plan>,
    /// Counts changes of the plan, so that threads take its lock only then.
    version: AtomicU64,
}

/// What the directions are to do to packets.
#[derive(Debug, Clone)]
struct Plan {
    shapes: [Shape; 2],
    blackouts: Vec<Range<Duration>>,
}

impl Wire {
    /// Lays it: `there` is what happens from `a` to `b`, `back` the other way.
    pub fn new(a: End<'_>, b: End<'_>, there: Shape, back: Shape, seed: u64) -> Result<Self> {
        let (at_a, at_b) = (Arc::new(device(a)?), Arc::new(device(b)?));
        let state = Arc::new(State {
            started: Instant::now(),
            ended: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            plan: Mutex::new(Plan { shapes: [there, back], blackouts: vec![] }),
            version: AtomicU64::new(0),
        });
        let carry = |from: &Arc<SyncDevice>, to: &Arc<SyncDevice>, direction, seed| {
            let (from, to, state) = (Arc::clone(from), Arc::clone(to), Arc::clone(&state));
            thread::spawn(move || carry(&from, &to, direction, seed, &state))
        };
        let threads = vec![carry(&at_a, &at_b, 0, seed), carry(&at_b, &at_a, 1, !seed)];
        Ok(Self { state, threads })
    }

    /// Cuts it: packets vanish silently, also those on their way. Or mends it.
    pub fn cut(&self, cut: bool) {
        self.state.cut.store(cut, Ordering::Relaxed);
    }

    /// Makes another path of it, for packets that enter from now on.
    pub fn reshape(&self, there: Shape, back: Shape) {
        self.change(|plan| plan.shapes = [there, back]);
    }

    /// Makes it carry nothing at these times from now on, whatever was planned before: a packet that would be on its
    /// way at any moment of one is lost.
    pub fn black_out(&self, times: &[Range<Duration>]) {
        let now = self.state.started.elapsed();
        self.change(|plan| plan.blackouts = times.iter().map(|time| now + time.start..now + time.end).collect());
    }

    fn change(&self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.state.plan.lock().unwrap_or_else(PoisonError::into_inner));
        self.state.version.fetch_add(1, Ordering::Release);
    }
}

impl State {
    fn plan(&self) -> Plan {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// A TUN device of ours in the namespace of `end`, ready for use.
fn device(end: End<'_>) -> Result<SyncDevice> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // Made here and moved there: it stays connected with us.
    let name = format!("w{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let device = DeviceBuilder::new().name(&name).mtu(MTU).tx_queue_len(DEVICE_QUEUE).enable(false).build_sync();
    let device = device.context("making a TUN device needs root")?;
    device.set_nonblocking(true)?;
    ip(&["link", "set", &name, "netns", end.netns, "name", end.device])?;
    ip(&["-n", end.netns, "addr", "add", end.address, "dev", end.device])?;
    ip(&["-n", end.netns, "link", "set", end.device, "up"])?;
    Ok(device)
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("ip")?;
    ensure!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// One direction, until the wire ends or a device is gone.
fn carry(from: &SyncDevice, to: &SyncDevice, direction: usize, seed: u64, state: &State) {
    // On Linux this is the thread's alone. Where it isn't allowed, the calibration tells.
    let _ = setpriority_process(None, NICE);
    let started = state.started;
    let Plan { shapes, .. } = state.plan();
    let Some(shape) = shapes.get(direction) else { return };
    let (mut queue, mut version) = (Queue::new(*shape, seed), 0);
    let mut buffer = vec![0; usize::from(u16::MAX)];
    while !state.ended.load(Ordering::Relaxed) {
        let until_due = queue.next_due().map_or(LOOK_EVERY, |due| due.saturating_sub(started.elapsed()));
        if wait_readable(from, until_due.min(LOOK_EVERY)).is_err() {
            return;
        }
        let newest = state.version.load(Ordering::Acquire);
        if newest != version {
            version = newest;
            let Plan { shapes, blackouts } = state.plan();
            let Some(shape) = shapes.get(direction) else { return };
            queue.reshape(*shape, blackouts);
        }
        for _ in 0..BATCH {
            match from.recv(&mut buffer) {
                Ok(bytes) => {
                    let packet = buffer.get(..bytes).unwrap_or_default().to_vec();
                    queue.push(started.elapsed(), bytes, packet);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
        if state.cut.load(Ordering::Relaxed) {
            queue.clear();
        }
        while let Some(packet) = queue.pop(started.elapsed()) {
            // A packet that the other side doesn't take is a lost one.
            let _ = to.send(&packet);
        }
    }
}

fn wait_readable(device: &SyncDevice, timeout: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(device, PollFlags::IN)], Some(&timeout)) {
        Err(error) if error != rustix::io::Errno::INTR => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: usize = 1250;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Pushes one packet at each of these milliseconds, and says when each leaves that does.
    fn leave(shape: Shape, at_ms: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        let mut queue = Queue::new(shape, 7);
        for at in at_ms {
            queue.push(ms(at), PACKET, ());
        }
        let mut left = vec![];
        while let Some(due) = queue.next_due() {
            assert!(due == Duration::ZERO || queue.pop(due - Duration::from_nanos(1)).is_none(), "too early");
            assert!(queue.pop(due).is_some());
            left.push(due);
        }
        left
    }

    #[test]
    fn every_packet_takes_the_delay() {
        assert_eq!(leave(Shape::delay(ms(300)), [0, 5, 5]), [ms(300), ms(305), ms(305)]);
    }

    #[test]
    fn packets_leave_one_after_the_other_at_the_rate() {
        // 10 Mbit/s: a packet takes 1 ms.
        let shape = Shape::delay(ms(10)).rate(10_000_000, ms(100));
        assert_eq!(leave(shape, [0, 0, 0, 50]), [ms(11), ms(12), ms(13), ms(61)]);
        // For a second, twice what fits, a hundred times: the rate comes out of it and the buffer is full at the end.
        let left = leave(shape, (0..1000).flat_map(|at| [at, at]));
        assert_eq!(left.iter().filter(|due| **due <= ms(1010)).count(), 1000);
        assert!(left.len().abs_diff(1100) <= 1, "{}", left.len());
    }

    #[test]
    fn a_full_buffer_drops_what_comes() {
        let mut queue = Queue::new(Shape::delay(ms(0)).rate(10_000_000, ms(3)), 1);
        let taken: Vec<bool> = (0..6).map(|_| queue.push(ms(0), PACKET, ())).collect();
        // One is being sent, three wait.
        assert_eq!(taken, [true, true, true, true, false, false]);
        assert!(queue.push(ms(2), PACKET, ()));
    }

    #[test]
    fn jitter_spreads_and_never_reorders() {
        let shape = Shape { jitter: ms(20), ..Shape::delay(ms(10)) };
        let left = leave(shape, 0..1000);
        assert!(left.is_sorted());
        let late = |(at, due): (u64, &Duration)| *due - ms(at);
        let late: Vec<Duration> = (0..1000).zip(&left).map(late).collect();
        assert!(late.iter().all(|late| *late >= ms(10) && *late <= ms(30)), "{late:?}");
        assert!(late.iter().any(|late| *late > ms(25)));
        assert_eq!(left, leave(shape, 0..1000), "the same seed");
    }

    #[test]
    fn the_share_of_losses_is_as_told() {
        let lost = 10_000 - leave(Shape { loss: 0.05, ..Shape::delay(ms(1)) }, 0..10_000).len();
        assert!((400..600).contains(&lost), "{lost}");
        assert_eq!(leave(Shape { loss: 1.0, ..Shape::delay(ms(1)) }, 0..100), [Duration::ZERO; 0]);
    }

    #[test]
    fn nothing_gets_through_a_blackout() {
        let mut queue = Queue::new(Shape::delay(ms(300)), 1);
        queue.reshape(Shape::delay(ms(300)), vec![ms(1000)..ms(2000), ms(5000)..ms(6000)]);
        // Whatever would be on its way at any moment of a blackout is lost.
        let cases = [(0, true), (699, true), (700, false), (1999, false), (2000, true), (4701, false), (6000, true)];
        for (at, arrives) in cases {
            assert_eq!(queue.push(ms(at), PACKET, ()), arrives, "{at} ms");
        }
    }

    #[test]
    fn a_path_can_become_another_one() {
        let mut queue = Queue::new(Shape::delay(ms(300)), 1);
        queue.push(ms(0), PACKET, 'a');
        queue.reshape(Shape::delay(ms(10)), vec![]);
        queue.push(ms(1), PACKET, 'b');
        assert_eq!([queue.pop(ms(299)), queue.pop(ms(300)), queue.pop(ms(300))], [None, Some('a'), Some('b')]);
    }

    #[test]
    fn a_cut_loses_what_is_on_its_way() {
        let mut queue = Queue::new(Shape::delay(ms(300)), 1);
        queue.push(ms(0), PACKET, ());
        queue.clear();
        assert_eq!((queue.next_due(), queue.pop(ms(1000))), (None, None));
    }
}
