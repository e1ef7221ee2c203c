//! Which of the open paths to a peer carries the bytes.

use std::fmt;

use super::LinkClass;

/// What a better path must be better by before bytes move over to it: both this share and this much, so that jitter
/// doesn't make them go back and forth.
const MIN_GAIN_SHARE: f64 = 0.2;
const MIN_GAIN_MS: f64 = 10.0;
/// A lost packet in a hundred costs as much as so much more of the whole estimate.
const LOSS_WEIGHT: f64 = 10.0;
/// Packets that must have been sent before their loss says anything.
const MIN_SENT_PACKETS: u64 = 50;

/// A path that is open, as measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OpenPath {
    /// What kind of link it goes over.
    pub class: LinkClass,
    /// Round trip in milliseconds; `None` before the first was measured.
    pub rtt_ms: Option<f64>,
    /// Packets sent on it.
    pub sent_packets: u64,
    /// Of them, those that were lost.
    pub lost_packets: u64,
}

impl OpenPath {
    /// Share of packets lost, 0 to 1; 0 while too few were sent to tell.
    pub fn loss(&self) -> f64 {
        match self.sent_packets < MIN_SENT_PACKETS {
            true => 0.0,
            false => (self.lost_packets as f64 / self.sent_packets as f64).min(1.0),
        }
    }

    /// What an answer over this path costs, in milliseconds of waiting; lower is better.
    ///
    /// The class stands for what a round trip doesn't show: what somebody pays for the bytes, and whom they burden on
    /// the way. It decides between paths that are about as good, and no more: a good relay beats a bad overlay.
    pub fn cost_ms(&self) -> f64 {
        let rtt_ms = self.rtt_ms.unwrap_or_else(|| self.class.usual_rtt_ms());
        (rtt_ms + self.class.burden_ms()) * (1.0 + LOSS_WEIGHT * self.loss())
    }
}

impl LinkClass {
    /// What is expected of a path of this class before it was measured, in milliseconds.
    fn usual_rtt_ms(self) -> f64 {
        match self {
            Self::Lan => 2.0,
            Self::Direct => 60.0,
            Self::Yggdrasil | Self::Relay => 120.0,
            Self::Satellite => 650.0,
            Self::Bundle => f64::from(24 * 3_600 * 1_000),
        }
    }

    /// What its use counts beside the round trip, in milliseconds.
    fn burden_ms(self) -> f64 {
        match self {
            Self::Lan => 0.0,
            Self::Direct => 10.0,
            Self::Yggdrasil => 40.0,
            Self::Relay => 100.0,
            Self::Satellite => 2_000.0,
            Self::Bundle => 0.0,
        }
    }
}

/// Why a path was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is the only one.
    Only,
    /// Nothing was chosen before, or what was is gone.
    Best,
    /// It is so much better than the one before that moving is worth it.
    Better,
    /// It was chosen before, and nothing is enough better.
    Kept,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Only => "the only path",
            Self::Best => "the best of those that are open",
            Self::Better => "much better than the one before",
            Self::Kept => "in use, and nothing is much better",
        })
    }
}

/// Chooses among `paths`; `current` is the index of the one in use. `None` when there is none.
pub fn choose(paths: &[OpenPath], current: Option<usize>) -> Option<(usize, Reason)> {
    let costs: Vec<f64> = paths.iter().map(OpenPath::cost_ms).collect();
    let (best, cost) = costs.iter().copied().enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let Some((current, before)) = current.and_then(|at| costs.get(at).map(|cost| (at, *cost))) else {
        return Some((best, if paths.len() == 1 { Reason::Only } else { Reason::Best }));
    };
    let gain = before - cost;
    Some(match gain >= MIN_GAIN_MS && gain >= before * MIN_GAIN_SHARE {
        true => (best, Reason::Better),
        false if paths.len() == 1 => (current, Reason::Only),
        false => (current, Reason::Kept),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(class: LinkClass, rtt_ms: f64) -> OpenPath {
        OpenPath { class, rtt_ms: Some(rtt_ms), sent_packets: 1_000, lost_packets: 0 }
    }

    fn lossy(class: LinkClass, rtt_ms: f64, lost_packets: u64) -> OpenPath {
        OpenPath { lost_packets, ..path(class, rtt_ms) }
    }

    #[test]
    fn figures_decide_and_the_class_between_equals() {
        use LinkClass::{Direct, Lan, Relay, Satellite, Yggdrasil};
        let cases = [
            ("lan before all else", vec![path(Relay, 20.0), path(Direct, 15.0), path(Lan, 1.0)], 2),
            ("direct before an overlay as good", vec![path(Yggdrasil, 30.0), path(Direct, 30.0)], 1),
            ("an overlay before a relay as good", vec![path(Relay, 30.0), path(Yggdrasil, 30.0)], 1),
            ("a good relay before a bad overlay", vec![path(Yggdrasil, 400.0), path(Relay, 40.0)], 1),
            ("a relay before a direct path that loses much", vec![lossy(Direct, 60.0, 300), path(Relay, 80.0)], 1),
            ("anything before a satellite", vec![path(Satellite, 600.0), path(Relay, 900.0)], 1),
            (
                "what isn't measured is taken for usual",
                vec![OpenPath { rtt_ms: None, ..path(Direct, 0.0) }, path(Yggdrasil, 35.0)],
                0,
            ),
        ];
        for (what, paths, expected) in cases {
            assert_eq!(choose(&paths, None), Some((expected, Reason::Best)), "{what}");
        }
    }

    #[test]
    fn bytes_stay_where_they_are_unless_it_is_worth_it() {
        let paths = [path(LinkClass::Direct, 50.0), path(LinkClass::Direct, 45.0)];
        assert_eq!(choose(&paths, Some(0)), Some((0, Reason::Kept)));
        let paths = [path(LinkClass::Direct, 50.0), path(LinkClass::Direct, 20.0)];
        assert_eq!(choose(&paths, Some(0)), Some((1, Reason::Better)));
        assert_eq!(choose(&paths[..1], Some(0)), Some((0, Reason::Only)));
        assert_eq!(choose(&paths, Some(7)), Some((1, Reason::Best)), "what was chosen is gone");
        assert_eq!(choose(&[], None), None);
    }

    fn any_path() -> impl Strategy<Value = OpenPath> {
        let class = prop_oneof![
            Just(LinkClass::Lan),
            Just(LinkClass::Direct),
            Just(LinkClass::Yggdrasil),
            Just(LinkClass::Relay),
            Just(LinkClass::Satellite),
        ];
        (class, prop::option::of(0.0..2_000.0), 0..2_000_u64, 0..2_000_u64).prop_map(
            |(class, rtt_ms, sent_packets, lost_packets)| OpenPath { class, rtt_ms, sent_packets, lost_packets },
        )
    }

    proptest! {
        /// Figures that differ by some per cent from one look to the next move nothing.
        #[test]
        fn noise_moves_nothing(
            paths in prop::collection::vec(any_path(), 1..6),
            noise in prop::collection::vec(prop::collection::vec(0.97..1.03, 6), 1..50),
        ) {
            let (mut current, mut moves) = (choose(&paths, None).map(|(at, _)| at), 0);
            for round in noise {
                let noisy: Vec<_> = paths
                    .iter()
                    .zip(round)
                    .map(|(path, factor)| OpenPath { rtt_ms: path.rtt_ms.map(|rtt| rtt * factor), ..*path })
                    .collect();
                let next = choose(&noisy, current).map(|(at, _)| at);
                moves += u32::from(next != current);
                current = next;
            }
            prop_assert_eq!(moves, 0);
        }

        /// Something open is always chosen, and it is never much worse than another.
        #[test]
        fn nothing_much_better_is_left_idle(
            paths in prop::collection::vec(any_path(), 1..6),
            current in prop::option::of(0_usize..8),
        ) {
            let (at, _) = choose(&paths, current).expect("one is open");
            for other in &paths {
                let gain = paths[at].cost_ms() - other.cost_ms();
                prop_assert!(gain < MIN_GAIN_MS || gain < paths[at].cost_ms() * MIN_GAIN_SHARE);
            }
        }
    }
}
