//! Kinds of long path.

use std::{ops::Range, time::Duration};

use crate::wire::Shape;

/// What a path does to packets in each direction.
#[derive(Debug, Clone)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// From the first end to the second.
    pub there: Shape,
    /// From the second to the first.
    pub back: Shape,
    /// When nothing gets through, from when the story says so.
    pub blackouts: Vec<Range<Duration>>,
}

impl Preset {
    /// A steady path, the same in both directions, with a buffer of 100 ms at its bottleneck.
    pub fn steady(name: &'static str, delay: Duration, bits_s: u64) -> Self {
        let shape = Shape::delay(delay).rate(bits_s, Duration::from_millis(100));
        Self { name, there: shape, back: shape, blackouts: vec![] }
    }

    /// Delay, loss, rate and outages of a poor geostationary link: 300 ms each way, 1 % loss, 4 Mbit/s, and two blackouts
    /// of 15 s. Figures of a path, not a model of radio.
    pub fn geo() -> Self {
        let seconds = |from, to| Duration::from_secs(from)..Duration::from_secs(to);
        let shape = Shape { loss: 0.01, ..Shape::delay(Duration::from_millis(300)) };
        let shape = shape.rate(4_000_000, Duration::from_millis(300));
        Self { name: "geo", there: shape, back: shape, blackouts: vec![seconds(2, 17), seconds(20, 35)] }
    }
}
