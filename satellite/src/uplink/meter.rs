//! The budget of a metered link.
//!
//! A debit is taken, and made durable by the caller, before the first byte is sent; what wasn't used is given back
//! afterwards. Whatever happens in between, a kill too, the budget is never exceeded. A fifth of it is kept for what
//! is most urgent.

use serde::{Deserialize, Serialize};

use crate::Budget;

/// How urgent what is carried is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Alerts: may use all of the budget.
    P0,
    /// Records, and what somebody asked for: all but a fifth.
    Rest,
}

/// What was carried this month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Meter {
    month: u32,
    spent_bytes: u64,
}

/// Bytes that were taken out of a month's budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debit {
    month: u32,
    bytes: u64,
}

impl Debit {
    /// How many.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Meter {
    /// A fresh month has nothing spent. A clock that goes back into an older month changes nothing.
    fn turn(&mut self, month: u32) {
        if month > self.month {
            *self = Self { month, spent_bytes: 0 };
        }
    }

    /// What may still be carried in `month` at that priority.
    pub fn left_bytes(&self, month: u32, budget_bytes: u64, priority: Priority) -> u64 {
        let spent = if month > self.month { 0 } else { self.spent_bytes };
        let allowed = match priority {
            Priority::P0 => budget_bytes,
            Priority::Rest => budget_bytes - budget_bytes / 5,
        };
        allowed.saturating_sub(spent)
    }

    /// Takes `bytes` out of the budget; none when there aren't so many left.
    pub fn debit(&mut self, month: u32, budget_bytes: u64, priority: Priority, bytes: u64) -> Option<Debit> {
        if bytes > self.left_bytes(month, budget_bytes, priority) {
            return None;
        }
        self.turn(month);
        self.spent_bytes = self.spent_bytes.saturating_add(bytes);
        Some(Debit { month: self.month, bytes })
    }

    /// Gives back what of a debit wasn't carried, once. After the end of its month there is nothing to give back. More
    /// than was debited is counted too.
    pub fn settle(&mut self, debit: Debit, carried_bytes: u64) {
        if debit.month == self.month {
            self.spent_bytes = self.spent_bytes.saturating_sub(debit.bytes).saturating_add(carried_bytes);
        }
    }

    /// As shown: the whole of the budget.
    pub fn budget(&self, month: u32, allowed_bytes: Option<u64>) -> Budget {
        Budget { allowed_bytes, spent_bytes: if month > self.month { 0 } else { self.spent_bytes } }
    }
}

/// The month (UTC) of a time in milliseconds since the Unix epoch, counted from year 0. By Howard Hinnant's
/// `civil_from_days`.
pub fn month_of(ms: u64) -> u32 {
    let days = ms / 86_400_000 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let months = (era * 400 + year) * 12 + from_march + 2;
    u32::try_from(months).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        const DAY: u64 = 86_400_000;
        // Days since 1970 of some firsts, and the months between.
        let cases = [(0, 0), (31, 1), (59, 2), (365, 12), (789, 25), (790, 26), (20_454, 672), (20_485, 673)];
        for (day, months) in cases {
            assert_eq!(month_of(day * DAY) - month_of(0), months, "{day}");
        }
        assert_eq!(month_of(31 * DAY - 1), month_of(0));
        assert_eq!(month_of(0), 1970 * 12);
        assert!(month_of(u64::MAX) > month_of(1 << 50));
    }

    #[test]
    fn a_fifth_is_kept_for_what_is_urgent_and_a_new_month_begins_anew() {
        let mut meter = Meter::default();
        assert!(meter.debit(1, 100, Priority::Rest, 81).is_none());
        let debit = meter.debit(1, 100, Priority::Rest, 80).unwrap();
        assert!(meter.debit(1, 100, Priority::Rest, 1).is_none());
        assert!(meter.debit(1, 100, Priority::P0, 20).is_some());
        assert!(meter.debit(1, 100, Priority::P0, 1).is_none());
        meter.settle(debit, 30);
        assert_eq!(meter.left_bytes(1, 100, Priority::Rest), 30);
        assert_eq!(meter.left_bytes(2, 100, Priority::Rest), 80);
        let late = meter.debit(1, 100, Priority::Rest, 30).unwrap();
        assert!(meter.debit(2, 100, Priority::Rest, 80).is_some());
        meter.settle(late, 0);
        assert_eq!(meter.left_bytes(2, 100, Priority::P0), 20, "another month's debit gives nothing back");
        assert!(meter.debit(1, 100, Priority::Rest, 1).is_none(), "a clock that goes back opens nothing");
    }

    proptest! {
        /// Whatever is asked for, carried or lost by a kill: a month carries no more than its budget.
        #[test]
        fn the_budget_is_never_exceeded(
            budget in 0_u64..10_000,
            steps in proptest::collection::vec((0_u32..3, any::<bool>(), 0_u64..4_000, 0_u64..=100, any::<bool>()), 0..60),
        ) {
            let (mut meter, mut month) = (Meter::default(), 1);
            let (mut carried, mut rest) = (0, 0);
            for (later, urgent, bytes, percent, killed) in steps {
                if later == 2 {
                    (month, carried, rest) = (month + 1, 0, 0);
                }
                let priority = if urgent { Priority::P0 } else { Priority::Rest };
                let Some(debit) = meter.debit(month, budget, priority, bytes) else { continue };
                let used = bytes * percent / 100;
                carried += used;
                rest += if urgent { 0 } else { used };
                if !killed {
                    meter.settle(debit, used);
                }
                prop_assert!(carried <= budget && rest <= budget - budget / 5);
                prop_assert!(meter.budget(month, None).spent_bytes >= carried);
            }
        }
    }
}
