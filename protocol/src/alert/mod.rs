//! Emergency broadcasts, after the Common Alerting Protocol (CAP 1.2).
//!
//! An alert has two forms. The [compact](Alert) one is at most 200 bytes, is signed by itself, needs nothing that was
//! sent before, and goes first on every link. The long one is a record of kind [`ALERT`] in the issuer's log: the compact
//! form with [`Details`] beside it, such as texts in several languages. Records are durable and travel over every link,
//! also by stick and satellite; so whoever missed the one gets the other.
//!
//! Who may alert a network is said by its policy and grants ([`Action::Broadcast`](crate::network::Action)). What becomes
//! of an alert that comes in is [`AlertDesk`]'s to decide.

mod compact;
mod desk;
mod details;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::{
    compact::{
        ALERT_VERSION, Alert, AlertError, AlertId, Draft, MAX_ALERT_BYTES, MAX_SHORT_BYTES, one_line, short_line,
    },
    desk::{AlertDesk, Dropped, MAX_KNOWN, Standing, WINDOW_ALERTS, WINDOW_MS},
    details::{AlertRecord, Details, DetailsError, MAX_AREA_CHARS, MAX_AREAS, MAX_LANGUAGES, MAX_TEXT_CHARS},
};
use crate::record::RecordKind;

/// Records whose body is an [`AlertRecord`].
pub const ALERT: RecordKind = RecordKind::new("alert.v1");
/// Longest life of an alert, in minutes: a week.
pub const MAX_LIFE_MIN: u16 = 7 * 24 * 60;

/// An enumeration that is two bits on the wire and a word everywhere else.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal, { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            /// All of them, as they are numbered.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As it is written.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            fn from_bits(bits: u8) -> Result<Self, AlertError> {
                Self::ALL.get(usize::from(bits)).copied().ok_or(AlertError::Invalid($what))
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().find(|word| word.as_str() == text).copied().ok_or_else(|| {
                    let words: Vec<_> = Self::ALL.iter().map(|word| word.as_str()).collect();
                    format!("{} is one of {}", $what, words.join(", "))
                })
            }
        }
    };
}

words!(
    /// Whether an alert is meant (CAP `status`).
    Status, "the status", {
        /// It has happened.
        Actual = "actual",
        /// People practise; nothing has happened.
        Exercise = "exercise",
        /// Machines are tried; people needn't do anything.
        Test = "test",
    }
);

words!(
    /// What an alert is to others (CAP `msgType`).
    Kind, "the kind", {
        /// The first word about something.
        Alert = "alert",
        /// Takes the place of an earlier one.
        Update = "update",
        /// Ends an earlier one.
        Cancel = "cancel",
    }
);

words!(
    /// How bad it is: CAP's `Extreme`, `Severe`, and the rest.
    Severity, "the severity", {
        /// Life is in danger.
        Critical = "critical",
        /// Much is at stake.
        High = "high",
        /// Worth knowing.
        Normal = "normal",
    }
);

words!(
    /// How soon to act (CAP `urgency`).
    Urgency, "the urgency", {
        /// Now.
        Immediate = "immediate",
        /// Within the hour.
        Expected = "expected",
        /// Later.
        Future = "future",
    }
);

words!(
    /// What nodes are to do by themselves.
    Order, "the order", {
        /// Only show it.
        None = "none",
        /// Go into shutdown mode while the alert holds.
        ShutdownOn = "shutdown_on",
        /// Leave shutdown mode.
        ShutdownOff = "shutdown_off",
    }
);
