//! Keeping to a rate.

/// Longest time that was slept through and is made up for: what a machine with other work sleeps, and modems hold.
const BURST_US: u64 = 100_000;

/// A token bucket over packets, counted with their headers of UDP and IPv4.
#[derive(Debug, Clone)]
pub struct Pacer {
    rate_bits_per_s: u64,
    /// When the next packet may be sent.
    next_us: u64,
}

/// Bytes of the headers of UDP and IPv4.
pub(super) const HEADER_BYTES: u64 = 28;

impl Pacer {
    /// A bucket that is empty at `now_us`, microseconds of any clock that doesn't go back.
    pub fn new(rate_bits_per_s: u64, now_us: u64) -> Self {
        Self { rate_bits_per_s: rate_bits_per_s.max(1), next_us: now_us }
    }

    /// Takes a packet of `bytes`. Returns how long to wait before it is sent, in microseconds.
    pub fn take(&mut self, now_us: u64, bytes: usize) -> u64 {
        let at = self.next_us.max(now_us.saturating_sub(BURST_US));
        self.next_us = at.saturating_add(air_us(bytes, self.rate_bits_per_s));
        at.saturating_sub(now_us)
    }
}

/// How long a packet of `bytes` takes.
fn air_us(bytes: usize, rate_bits_per_s: u64) -> u64 {
    let bits = (bytes as u64).saturating_add(HEADER_BYTES).saturating_mul(8);
    bits.saturating_mul(1_000_000) / rate_bits_per_s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_and_a_late_sender_doesn_t_burst() {
        let mut pacer = Pacer::new(1_000_000, 0);
        let mut now_us = 0;
        for _ in 0..1_000 {
            now_us += pacer.take(now_us, 972);
        }
        assert_eq!(now_us, 999 * 8_000);
        now_us += 60_000_000;
        let burst = (0..).take_while(|_| pacer.take(now_us, 972) == 0).count();
        assert!(burst <= 13, "{burst}");
    }
}
