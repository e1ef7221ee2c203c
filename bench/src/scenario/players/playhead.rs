//! What a viewer sees: when the film starts, and when it stands still. Pure; times are since the player was opened.
//!
//! Report every arrival with [`Playhead::receive`], in order of time, and end with [`Playhead::finish`].

use std::time::Duration;

/// So much must be buffered before the film starts, and before it goes on after a stall.
const START_S: f64 = 1.0;

/// The playhead of one player.
#[derive(Debug)]
pub(crate) struct Playhead {
    /// Bytes that a second of film has.
    rate: f64,
    received: f64,
    /// Where it stands: always while waiting, at `since` while playing.
    position: f64,
    playing: bool,
    /// Seconds at which the state began.
    since: f64,
    seen: Seen,
}

/// What the viewer saw.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Seen {
    /// Seconds until the film started; none when it never did.
    pub(crate) start_s: Option<f64>,
    pub(crate) stalls: u32,
    pub(crate) stalled_s: f64,
}

impl Playhead {
    /// `rate` in bytes a second.
    pub(crate) fn new(rate: f64) -> Self {
        Self { rate, received: 0.0, position: 0.0, playing: false, since: 0.0, seen: Seen::default() }
    }

    /// The next bytes of the film arrived.
    pub(crate) fn receive(&mut self, now: Duration, bytes: usize) {
        let now = now.as_secs_f64();
        self.advance(now);
        self.received += bytes as f64;
        if !self.playing && self.received - self.position >= START_S * self.rate {
            self.end_wait(now);
            (self.playing, self.since) = (true, now);
        }
    }

    /// Seconds of film that are buffered.
    pub(crate) fn buffered_s(&mut self, now: Duration) -> f64 {
        let now = now.as_secs_f64();
        self.advance(now);
        let played_s = if self.playing { now - self.since } else { 0.0 };
        (self.received - self.position) / self.rate - played_s
    }

    /// The viewer leaves.
    pub(crate) fn finish(mut self, now: Duration) -> Seen {
        let now = now.as_secs_f64();
        self.advance(now);
        if !self.playing && self.seen.start_s.is_some() {
            self.end_wait(now);
        }
        self.seen
    }

    fn end_wait(&mut self, now: f64) {
        match self.seen.start_s {
            None => self.seen.start_s = Some(now),
            Some(_) => self.seen.stalled_s += now - self.since,
        }
    }

    /// Stops where the received bytes end, when it got there before `now`.
    fn advance(&mut self, now: f64) {
        let end = self.since + (self.received - self.position) / self.rate;
        if self.playing && now > end {
            self.seen.stalls += 1;
            (self.playing, self.since, self.position) = (false, end, self.received);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arrivals, and what is seen then: start, count and seconds of stalls.
    type Case<'a> = (&'a [(u64, usize)], Option<f64>, u32, f64);

    /// Plays at 10 bytes a second until second 10, with bytes arriving at these milliseconds.
    fn seen(arrivals: &[(u64, usize)]) -> Seen {
        let mut playhead = Playhead::new(10.0);
        for (at_ms, bytes) in arrivals {
            playhead.receive(Duration::from_millis(*at_ms), *bytes);
        }
        playhead.finish(Duration::from_secs(10))
    }

    #[test]
    fn stalls_are_counted_and_timed() {
        let table: [Case<'_>; 7] = [
            (&[], None, 0, 0.0),
            (&[(100, 9)], None, 0, 0.0),
            (&[(500, 100)], Some(0.5), 0, 0.0),
            // Less than a second doesn't start it.
            (&[(500, 5), (1000, 5), (1500, 85)], Some(1.0), 0, 0.0),
            // Out at 2 s, a second is there again at 4 s.
            (&[(1000, 10), (3000, 5), (4000, 60)], Some(1.0), 1, 2.0),
            // Out at 2 s and at 4 s for good.
            (&[(1000, 10), (3000, 10)], Some(1.0), 2, 7.0),
            // Bytes that arrive as the last one plays are in time.
            (&[(0, 10), (1000, 90)], Some(0.0), 0, 0.0),
        ];
        for (arrivals, start_s, stalls, stalled_s) in table {
            assert_eq!(seen(arrivals), Seen { start_s, stalls, stalled_s }, "{arrivals:?}");
        }
    }

    #[test]
    fn the_buffer_is_what_is_ahead_of_the_playhead() {
        let mut playhead = Playhead::new(10.0);
        playhead.receive(Duration::from_secs(1), 50);
        assert_eq!(playhead.buffered_s(Duration::from_secs(3)), 3.0);
        assert_eq!(playhead.buffered_s(Duration::from_secs(9)), 0.0);
    }
}
