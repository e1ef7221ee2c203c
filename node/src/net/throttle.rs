//! Token buckets, one for each node that asks something of us.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// How much is allowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    /// Tokens that may be spent at once.
    pub(super) burst: f64,
    /// Tokens that come back in a second.
    pub(super) per_s: f64,
}

/// Buckets by key. Full ones are forgotten, so the table is as large as the number of recently busy keys.
#[derive(Debug)]
pub(super) struct Throttle<K> {
    rate: Rate,
    max_keys: usize,
    buckets: HashMap<K, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl<K: Eq + Hash + Clone> Throttle<K> {
    /// With at most `max_keys` keys at a time; beyond that newcomers share nothing and have to wait.
    pub(super) fn new(rate: Rate, max_keys: usize) -> Self {
        Self { rate, max_keys, buckets: HashMap::new() }
    }

    /// Takes a token. Returns how long the caller has to wait before it acts; zero within the rate.
    pub(super) fn take(&mut self, key: &K, now: Instant) -> Duration {
        let Rate { burst, per_s } = self.rate;
        if self.buckets.len() >= self.max_keys && !self.buckets.contains_key(key) {
            self.forget_full(now);
            if self.buckets.len() >= self.max_keys {
                return Duration::from_secs(1);
            }
        }
        let bucket = self.buckets.entry(key.clone()).or_insert(Bucket { tokens: burst, at: now });
        bucket.refill(self.rate, now);
        bucket.tokens -= 1.0;
        match bucket.tokens < 0.0 {
            true => Duration::from_secs_f64(-bucket.tokens / per_s),
            false => Duration::ZERO,
        }
    }

    /// Gives a token back: what it was taken for turned out to be worth it.
    pub(super) fn refund(&mut self, key: &K) {
        if let Some(bucket) = self.buckets.get_mut(key) {
            bucket.tokens = (bucket.tokens + 1.0).min(self.rate.burst);
        }
    }

    fn forget_full(&mut self, now: Instant) {
        let rate = self.rate;
        self.buckets.retain(|_, bucket| {
            bucket.refill(rate, now);
            bucket.tokens < rate.burst
        });
    }
}

impl Bucket {
    fn refill(&mut self, rate: Rate, now: Instant) {
        let elapsed_s = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + elapsed_s * rate.per_s).min(rate.burst);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_waits_a_refund_and_time_help() {
        let start = Instant::now();
        let mut throttle = Throttle::new(Rate { burst: 2.0, per_s: 10.0 }, 2);
        let waits: Vec<_> = (0..4).map(|_| throttle.take(&"a", start).as_millis()).collect();
        assert_eq!(waits, [0, 0, 100, 200]);
        throttle.refund(&"a");
        assert_eq!(throttle.take(&"a", start).as_millis(), 200);
        assert_eq!(throttle.take(&"b", start), Duration::ZERO, "another key has its own bucket");
        assert!(throttle.take(&"c", start) > Duration::ZERO, "the table is full");
        assert_eq!(throttle.take(&"c", start + Duration::from_secs(1)), Duration::ZERO, "full buckets are forgotten");
    }
}
