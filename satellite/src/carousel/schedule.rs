//! Whose symbol is next.
//!
//! Objects take turns. As many at a time are on air as fit a window, so that a receiver needs memory for no more; their
//! symbols are mixed in proportion, so that a fade costs each of them little and they are whole at about one time. A
//! turn has the object's symbols and a margin for what is lost; whoever lost more goes on in the next turn. Weights say
//! how often turns come, and how fast a turn passes beside others.

const SCALE: u64 = 1 << 40;

#[derive(Debug, Clone)]
struct Slot {
    bytes: u64,
    /// Symbols of a turn.
    turn: u64,
    weight: u64,
    sent: u64,
    turns: u64,
    /// Position in stride scheduling: the least is next.
    pass: u64,
    active: bool,
    gone: bool,
}

/// The order of symbols. Objects are numbered in the order they were added.
#[derive(Debug, Clone)]
pub struct Schedule {
    slots: Vec<Slot>,
    window_bytes: u64,
    margin_percent: u32,
}

impl Schedule {
    /// A schedule of nothing yet. A window smaller than an object still holds one.
    pub fn new(window_bytes: u64, margin_percent: u32) -> Self {
        Self { slots: Vec::new(), window_bytes, margin_percent }
    }

    /// Adds an object of so many bytes and symbols.
    pub fn add(&mut self, bytes: u64, symbols: u32, weight: u32) {
        let symbols = u64::from(symbols.max(1));
        let turn = symbols + (symbols * u64::from(self.margin_percent)).div_ceil(100);
        let weight = u64::from(weight.max(1));
        let slot = Slot { bytes, turn, weight, sent: 0, turns: 0, pass: 0, active: false, gone: false };
        self.slots.push(slot);
        self.fill();
    }

    /// Takes an object out.
    pub fn remove(&mut self, object: usize) {
        if let Some(slot) = self.slots.get_mut(object) {
            (slot.gone, slot.active) = (true, false);
        }
        self.fill();
    }

    /// Whether it is on air now.
    pub fn is_active(&self, object: usize) -> bool {
        self.slots.get(object).is_some_and(|slot| slot.active)
    }

    /// Turns that every object has had.
    pub fn rounds(&self) -> u64 {
        self.slots.iter().filter(|slot| !slot.gone).map(|slot| slot.turns).min().unwrap_or(0)
    }

    /// The object whose symbol is next, among those on air that are `ready`.
    pub fn next(&mut self, ready: impl Fn(usize) -> bool) -> Option<usize> {
        let candidates = self.slots.iter().enumerate().filter(|(at, slot)| slot.active && ready(*at));
        let (at, least) = candidates.map(|(at, slot)| (at, slot.pass)).min_by_key(|(at, pass)| (*pass, *at))?;
        // Who wasn't ready for a while doesn't make up for it in one go.
        self.slots.iter_mut().filter(|slot| slot.active).for_each(|slot| slot.pass = slot.pass.max(least));
        let slot = self.slots.get_mut(at)?;
        slot.pass = least.saturating_add((SCALE / (slot.turn * slot.weight)).max(1));
        slot.sent += 1;
        if slot.sent >= slot.turn {
            (slot.sent, slot.active) = (0, false);
            slot.turns += 1;
            self.fill();
        }
        Some(at)
    }

    /// Puts on air whose turn it is, until the window is full.
    fn fill(&mut self) {
        loop {
            let active: u64 = self.slots.iter().filter(|slot| slot.active).map(|slot| slot.bytes).sum();
            let any = self.slots.iter().any(|slot| slot.active);
            let least = self.slots.iter().filter(|slot| slot.active).map(|slot| slot.pass).min().unwrap_or(0);
            let waiting = self.slots.iter_mut().filter(|slot| !slot.active && !slot.gone);
            let Some(next) = waiting.min_by_key(|slot| slot.turns * SCALE / slot.weight) else { return };
            if any && active.saturating_add(next.bytes) > self.window_bytes {
                return;
            }
            next.active = true;
            next.pass = next.pass.max(least);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_air_is_mixed_in_proportion() {
        let mut schedule = Schedule::new(1 << 30, 0);
        schedule.add(100, 100, 1);
        schedule.add(1_000, 1_000, 1);
        let mut counts = [0; 2];
        for _ in 0..1_100 / 2 {
            counts[schedule.next(|_| true).unwrap()] += 1;
        }
        assert!((48..=52).contains(&counts[0]), "{counts:?}");
        assert!((498..=502).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn a_window_holds_only_so_much_and_everybody_gets_a_turn() {
        let mut schedule = Schedule::new(25, 50);
        for _ in 0..5 {
            schedule.add(10, 10, 1);
        }
        let mut counts = [0; 5];
        while schedule.rounds() < 3 {
            counts[schedule.next(|_| true).unwrap()] += 1;
            assert!((0..5).filter(|at| schedule.is_active(*at)).count() <= 2);
        }
        assert!(counts.iter().all(|count| (45..=60).contains(count)), "{counts:?}");
    }

    #[test]
    fn weights_say_how_often() {
        let mut schedule = Schedule::new(10, 0);
        schedule.add(10, 10, 3);
        schedule.add(10, 10, 1);
        let mut counts = [0; 2];
        for _ in 0..400 {
            counts[schedule.next(|_| true).unwrap()] += 1;
        }
        assert_eq!(counts, [300, 100]);
    }

    #[test]
    fn who_is_not_ready_is_passed_over_and_does_not_catch_up() {
        let mut schedule = Schedule::new(1 << 30, 0);
        schedule.add(1_000, 1_000, 1);
        schedule.add(1_000, 1_000, 1);
        for _ in 0..200 {
            assert_eq!(schedule.next(|at| at == 0), Some(0));
        }
        let next: Vec<_> = (0..20).filter_map(|_| schedule.next(|_| true)).collect();
        assert_eq!(next.iter().filter(|at| **at == 1).count(), 10, "{next:?}");
        schedule.remove(0);
        assert_eq!(schedule.next(|_| true), Some(1));
        schedule.remove(1);
        assert_eq!(schedule.next(|_| true), None);
    }
}
