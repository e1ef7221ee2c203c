//! What a path does to packets, measured, and held against what it is to do.
//!
//! Sender and receiver are sockets of this process in two namespaces, so that one clock times both ends and each
//! direction is measured by itself.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{netns::Netns, wire::Shape};

/// Probes that look at delay and loss, and their bytes.
const PROBES: usize = 100;
/// With losses: so many are expected to be lost, that their share can be told.
const EXPECTED_LOSSES: f64 = 30.0;
const MOST_PROBES: usize = 4000;
const PROBE_BYTES: usize = 64;
/// Probes a second, so that they don't wait for each other.
const PROBES_PER_S: u64 = 1000;
/// Packets that look at the rate: bytes, IP and UDP headers; and how long more is sent than passes.
const BLAST_BYTES: usize = 1200;
const HEADER_BYTES: usize = 28;
const OVERLOAD: f64 = 1.3;
const LOOK: Duration = Duration::from_millis(1200);
/// What is still under way arrives within the delay and this.
const GRACE: Duration = Duration::from_millis(300);
/// How far the median delay may be off: a share, and the machine's own hiccups.
const DELAY_TOLERANCE: f64 = 0.03;
const DELAY_SLACK: Duration = Duration::from_millis(3);
const RATE_TOLERANCE: f64 = 0.05;
/// Standard errors by which the share of losses may be off.
const LOSS_ERRORS: f64 = 4.0;
/// So many of a lossless wire's probes may be lost to a loaded machine.
const STRAY_LOSSES: f64 = 0.01;

/// One end of a path.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The namespace.
    pub netns: &'a Netns,
    /// An address of it that the other end reaches.
    pub ip: IpAddr,
}

/// What one direction turned out to do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measured {
    /// Median one-way delay in ms.
    pub delay_ms: f64,
    /// Share of probes that were lost.
    pub loss: f64,
    /// How many probes there were.
    pub probes: usize,
    /// Mbit/s of IP packets that got through when more were sent; nothing where there is no limit to look for.
    pub mbit_s: Option<f64>,
}

/// Measures the way from `from` to `to`, which is to be of this shape.
pub fn measure(from: Place<'_>, to: Place<'_>, shape: &Shape) -> Result<Measured> {
    let count = match shape.loss > 0.0 {
        true => ((EXPECTED_LOSSES / shape.loss) as usize).clamp(PROBES, MOST_PROBES),
        false => PROBES,
    };
    let (delays, probes) = (probe(from, to, count, shape)?, count);
    let mut delays_ms: Vec<f64> = delays.iter().map(|delay| delay.as_secs_f64() * 1000.0).collect();
    delays_ms.sort_by(f64::total_cmp);
    let delay_ms = *delays_ms.get(delays_ms.len() / 2).context("no probe arrived")?;
    let loss = 1.0 - delays_ms.len() as f64 / probes as f64;
    let mbit_s = shape.rate_bits_s.map(|bits_s| blast(from, to, bits_s, shape)).transpose()?;
    Ok(Measured { delay_ms, loss, probes, mbit_s })
}

/// What is wrong with what was measured; empty when it is what it was to be.
pub fn faults(shape: &Shape, measured: &Measured) -> Vec<String> {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let mut faults = vec![];
    let delay = ms(shape.delay) + ms(shape.jitter) / 2.0;
    if (measured.delay_ms - delay).abs() > delay * DELAY_TOLERANCE + ms(DELAY_SLACK) {
        faults.push(format!("delay {:.1} ms instead of {delay:.1}", measured.delay_ms));
    }
    let error = (shape.loss * (1.0 - shape.loss) / measured.probes as f64).sqrt();
    if (measured.loss - shape.loss).abs() > LOSS_ERRORS * error + STRAY_LOSSES.min(1.0 - shape.loss) {
        faults.push(format!("loss {:.4} instead of {:.4}", measured.loss, shape.loss));
    }
    if let (Some(bits_s), is) = (shape.rate_bits_s, measured.mbit_s.unwrap_or_default()) {
        let wanted = bits_s as f64 / 1e6 * (1.0 - shape.loss);
        if (is / wanted - 1.0).abs() > RATE_TOLERANCE {
            faults.push(format!("{is:.2} Mbit/s instead of {wanted:.2}"));
        }
    }
    faults
}

/// A socket to send from and one that receives.
fn sockets(from: Place<'_>, to: Place<'_>) -> Result<(UdpSocket, UdpSocket)> {
    let receiver = to.netns.enter(|| Ok(UdpSocket::bind((to.ip, 0))?))?;
    let to: SocketAddr = receiver.local_addr()?;
    let sender = from.netns.enter(|| {
        let socket = UdpSocket::bind((from.ip, 0))?;
        socket.connect(to)?;
        Ok(socket)
    })?;
    receiver.set_read_timeout(Some(GRACE))?;
    Ok((sender, receiver))
}

/// How long each probe took that arrived.
fn probe(from: Place<'_>, to: Place<'_>, count: usize, shape: &Shape) -> Result<Vec<Duration>> {
    let (sender, receiver) = sockets(from, to)?;
    let started = Instant::now();
    let time = Duration::from_secs(count as u64) / PROBES_PER_S as u32;
    let until = started + time + shape.delay + shape.jitter + GRACE;
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..count {
                let due = Duration::from_micros(number as u64 * 1_000_000 / PROBES_PER_S);
                thread::sleep(due.saturating_sub(started.elapsed()));
                let mut packet = [0; PROBE_BYTES];
                let at = started.elapsed().as_nanos() as u64;
                for (to, byte) in packet.iter_mut().zip(at.to_le_bytes()) {
                    *to = byte;
                }
                let _ = sender.send(&packet);
            }
        });
        let mut delays = vec![];
        let mut packet = [0; PROBE_BYTES];
        while delays.len() < count && Instant::now() < until {
            if let Ok(8..) = receiver.recv(&mut packet)
                && let Some(at) = packet.first_chunk()
            {
                delays.push(started.elapsed().saturating_sub(Duration::from_nanos(u64::from_le_bytes(*at))));
            }
        }
        Ok(delays)
    })
}

/// What gets through when more is sent, in Mbit/s, over the time that the bottleneck is busy.
fn blast(from: Place<'_>, to: Place<'_>, bits_s: u64, shape: &Shape) -> Result<f64> {
    let (sender, receiver) = sockets(from, to)?;
    let bits = ((BLAST_BYTES + HEADER_BYTES) * 8) as f64;
    let gap = Duration::from_secs_f64(bits / (bits_s as f64 * OVERLOAD));
    let started = Instant::now();
    // Until the buffer is empty again: what is measured next mustn't wait in it.
    let drained = Duration::from_secs_f64(shape.buffer_bytes as f64 * 8.0 / bits_s as f64);
    let until = started + LOOK + shape.delay + shape.jitter + drained + GRACE;
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                thread::sleep((gap * number).saturating_sub(started.elapsed()));
                if started.elapsed() >= LOOK {
                    return;
                }
                let _ = sender.send(&[0; BLAST_BYTES]);
            }
        });
        let mut packet = [0; BLAST_BYTES];
        let (mut first, mut last, mut count) = (None, started, 0u32);
        while Instant::now() < until {
            if receiver.recv(&mut packet).is_ok() {
                last = Instant::now();
                first.get_or_insert(last);
                count += 1;
            }
        }
        let first = first.context("nothing of the blast arrived")?;
        Ok(f64::from(count - 1) * bits / 1e6 / (last - first).as_secs_f64())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_another_one_is_told() {
        let shape = Shape { loss: 0.01, ..Shape::delay(Duration::from_millis(300)) };
        let shape = shape.rate(4_000_000, Duration::from_millis(100));
        let good = Measured { delay_ms: 300.4, loss: 0.011, probes: 3000, mbit_s: Some(3.93) };
        let cases = [
            (good, ""),
            (Measured { delay_ms: 330.0, ..good }, "delay 330.0 ms instead of 300.0"),
            (Measured { loss: 0.05, ..good }, "loss 0.0500 instead of 0.0100"),
            (Measured { mbit_s: Some(5.0), ..good }, "5.00 Mbit/s instead of 3.96"),
            (Measured { mbit_s: None, ..good }, "0.00 Mbit/s instead of 3.96"),
        ];
        for (measured, fault) in cases {
            assert_eq!(faults(&shape, &measured).join("; "), fault);
        }
        let unlimited = Measured { mbit_s: None, loss: 0.0, ..good };
        assert!(faults(&Shape::delay(Duration::from_millis(300)), &unlimited).is_empty());
    }
}
