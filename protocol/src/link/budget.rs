//! The budget of a metered link: debited before anything goes, so that it can't be exceeded.

use super::types::Traffic;

/// One part in so many of a budget is kept for alerts.
pub const ALERT_SHARE: u64 = 5;

/// What a metered link may still carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    left_bytes: u64,
    /// Of that, what only alerts may use.
    reserve_bytes: u64,
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        Self { left_bytes: bytes, reserve_bytes: bytes / ALERT_SHARE }
    }

    pub(super) fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// What bytes of this kind may use.
    pub(super) fn room(&self, traffic: Traffic) -> u64 {
        match traffic {
            Traffic::Alert => self.left_bytes,
            _ => self.left_bytes.saturating_sub(self.reserve_bytes),
        }
    }

    /// Takes up to `bytes`, and says how many.
    pub(super) fn take(&mut self, traffic: Traffic, bytes: u64) -> u64 {
        let taken = bytes.min(self.room(traffic));
        self.left_bytes -= taken;
        self.reserve_bytes = self.reserve_bytes.min(self.left_bytes);
        taken
    }

    /// Gives back what of a grant wasn't used, or takes what was used beyond it, as far as there is any.
    pub(super) fn settle(&mut self, granted_bytes: u64, used_bytes: u64) {
        self.left_bytes = match granted_bytes.checked_sub(used_bytes) {
            Some(unused) => self.left_bytes.saturating_add(unused),
            None => self.left_bytes.saturating_sub(used_bytes - granted_bytes),
        };
        self.reserve_bytes = self.reserve_bytes.min(self.left_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_is_for_alerts_and_nothing_is_exceeded() {
        let mut budget = Budget::new(100);
        assert_eq!(budget.take(Traffic::Record, 1000), 80);
        assert_eq!(budget.take(Traffic::Waited, 1), 0);
        assert_eq!(budget.take(Traffic::Alert, 15), 15);
        assert_eq!(budget.take(Traffic::Alert, 15), 5);
        budget.settle(80, 50);
        assert_eq!((budget.left_bytes(), budget.room(Traffic::Record)), (30, 30));
        budget.settle(0, 100);
        assert_eq!(budget.left_bytes(), 0);
    }
}
