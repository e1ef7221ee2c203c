//! Shutdown mode: when a node goes on by itself because the outside can't be reached.
//!
//! [`ModeSwitch`] decides. Whoever drives it tells it what the operator chose ([`ModeSwitch::choose`]), which order of an
//! alert holds ([`ModeSwitch::order`]), and how many anchors answer ([`ModeSwitch::observe`]); then asks
//! [`ModeSwitch::decide`], again at the latest when the decision says so. Time is any clock that only goes forwards.
//!
//! What the operator chose counts before an order, and an order before the anchors. Anchors count only when they have been
//! silent, or back, for a while: a short cut changes nothing, and a line that comes and goes doesn't make the mode do so.

use serde::{Deserialize, Serialize};

use crate::{Timestamp, alert::AlertId};

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// As always.
    #[default]
    Normal,
    /// It goes on by itself.
    Shutdown,
}

/// What the operator chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// Orders and anchors decide.
    #[default]
    Auto,
    /// Shutdown mode, whatever they say.
    On,
    /// Never, whatever they say.
    Off,
}

/// Why a node is in its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Nothing speaks against it.
    Nothing,
    /// The operator chose it.
    Hand,
    /// An alert that holds orders it.
    Order(AlertId),
    /// Since no anchor answers.
    Anchors,
}

/// How long anchors must be silent, or back, before that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// All silent for so long: the outside is gone.
    pub silent_ms: u64,
    /// One or more answering for so long: it is back.
    pub back_ms: u64,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What to be.
    pub mode: Mode,
    /// Why.
    pub cause: Cause,
    /// When to decide again if nothing else happens.
    pub again: Option<Timestamp>,
}

/// Decides about shutdown mode.
#[derive(Debug, Clone)]
pub struct ModeSwitch {
    patience: Patience,
    choice: Choice,
    /// The alert whose order holds, and whether it is to be in shutdown mode.
    order: Option<(AlertId, bool)>,
    /// What has been found about the outside; it is there until it was silent long enough.
    cut: bool,
    /// Since when the anchors say otherwise than `cut`.
    otherwise_since: Option<Timestamp>,
}

impl ModeSwitch {
    /// In normal mode, with what the operator chose before.
    pub fn new(patience: Patience, choice: Choice) -> Self {
        Self { patience, choice, order: None, cut: false, otherwise_since: None }
    }

    /// The operator chooses.
    pub fn choose(&mut self, choice: Choice) {
        self.choice = choice;
    }

    /// What the operator chose.
    pub fn choice(&self) -> Choice {
        self.choice
    }

    /// An alert orders shutdown mode (true) or its end; none does any more.
    pub fn order(&mut self, order: Option<(AlertId, bool)>) {
        self.order = order;
    }

    /// So many of so many anchors answer. Without anchors nothing is told by them.
    pub fn observe(&mut self, now: Timestamp, answering: usize, anchors: usize) {
        let looks_cut = anchors > 0 && answering == 0;
        if looks_cut == self.cut || anchors == 0 {
            self.otherwise_since = None;
            self.cut &= anchors > 0;
            return;
        }
        let since = *self.otherwise_since.get_or_insert(now);
        if now.saturating_ms_since(since) >= self.patience_ms() {
            self.cut = looks_cut;
            self.otherwise_since = None;
        }
    }

    fn patience_ms(&self) -> u64 {
        if self.cut { self.patience.back_ms } else { self.patience.silent_ms }
    }

    /// What to be now.
    pub fn decide(&self) -> Decision {
        let again = self.otherwise_since.map(|since| since.saturating_add_ms(self.patience_ms()));
        let (on, cause) = match (self.choice, self.order) {
            (Choice::On, _) => (true, Cause::Hand),
            (Choice::Off, _) => (false, Cause::Hand),
            (Choice::Auto, Some((alert, on))) => (on, Cause::Order(alert)),
            (Choice::Auto, None) if self.cut => (true, Cause::Anchors),
            (Choice::Auto, None) => (false, Cause::Nothing),
        };
        Decision { mode: if on { Mode::Shutdown } else { Mode::Normal }, cause, again }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { silent_ms: 30, back_ms: 60 };
    const ALERT: AlertId = AlertId::from_bytes([7; 16]);

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    /// How many of two anchors answer at which times, and whether it is then in shutdown mode.
    fn check(story: &[(u64, usize, bool)]) {
        let mut switch = ModeSwitch::new(PATIENCE, Choice::Auto);
        for (ms, answering, on) in story {
            switch.observe(at(*ms), *answering, 2);
            assert_eq!(switch.decide().mode == Mode::Shutdown, *on, "at {ms} of {story:?}");
        }
    }

    #[test]
    fn only_long_silence_counts_and_only_a_lasting_return() {
        check(&[(0, 2, false), (10, 0, false), (39, 0, false), (40, 0, true)]);
        check(&[(0, 0, false), (20, 1, false), (40, 0, false), (60, 0, false), (70, 0, true)]);
        check(&[(0, 0, false), (30, 0, true), (40, 1, true), (90, 0, true), (100, 2, true), (160, 1, false)]);
    }

    #[test]
    fn a_line_that_comes_and_goes_doesnt_flap() {
        let mut switch = ModeSwitch::new(PATIENCE, Choice::Auto);
        let mut changes = 0;
        let mut before = switch.decide().mode;
        for ms in 0..10_000 {
            // Up and down every 20 ms: shorter than either patience.
            switch.observe(at(ms), usize::from(ms / 20 % 2 == 0), 1);
            changes += usize::from(std::mem::replace(&mut before, switch.decide().mode) != before);
        }
        assert_eq!(changes, 0);
    }

    #[test]
    fn the_operator_counts_before_an_order_and_that_before_anchors() {
        let cut = |choice, order| {
            let mut switch = ModeSwitch::new(PATIENCE, choice);
            switch.order(order);
            [0, 30].into_iter().for_each(|ms| switch.observe(at(ms), 0, 1));
            let Decision { mode, cause, .. } = switch.decide();
            (mode, cause)
        };
        let cases = [
            (Choice::Auto, None, Mode::Shutdown, Cause::Anchors),
            (Choice::Auto, Some((ALERT, false)), Mode::Normal, Cause::Order(ALERT)),
            (Choice::Auto, Some((ALERT, true)), Mode::Shutdown, Cause::Order(ALERT)),
            (Choice::Off, Some((ALERT, true)), Mode::Normal, Cause::Hand),
            (Choice::On, Some((ALERT, false)), Mode::Shutdown, Cause::Hand),
        ];
        for (choice, order, mode, cause) in cases {
            assert_eq!(cut(choice, order), (mode, cause), "{choice:?} {order:?}");
        }
    }

    #[test]
    fn without_anchors_it_never_changes_by_itself_and_it_says_when_to_look_again() {
        let mut switch = ModeSwitch::new(PATIENCE, Choice::Auto);
        switch.observe(at(0), 0, 0);
        switch.observe(at(1_000_000), 0, 0);
        assert_eq!(switch.decide(), Decision { mode: Mode::Normal, cause: Cause::Nothing, again: None });
        switch.observe(at(1_000_001), 0, 1);
        assert_eq!(switch.decide().again, Some(at(1_000_031)));
        switch.observe(at(1_000_031), 0, 1);
        assert_eq!((switch.decide().cause, switch.decide().again), (Cause::Anchors, None));
        // The last anchor was taken out of the settings.
        switch.observe(at(1_000_032), 0, 0);
        assert_eq!(switch.decide().cause, Cause::Nothing);
    }
}
