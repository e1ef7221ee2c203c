//! Options of `mhc emergency` and `mhc shutdown-mode`.

use clap::{Args as Options, Subcommand};
use mhc_protocol::{
    RecordId,
    alert::{AlertId, MAX_LIFE_MIN, Order, Severity, Urgency},
};

use super::Within;

/// What can be done with alerts.
#[derive(Debug, Subcommand)]
pub(crate) enum Emergency {
    /// Send an alert to every node, by every link, or update an earlier one
    Send(SendAlert),
    /// List the alerts that hold, the worst first
    List {
        /// Also cancellations, and what was cancelled or replaced, until it has expired
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        within: Within,
    },
    /// Call an alert back
    Cancel {
        /// The alert, as `mhc emergency list` prints it
        #[arg(value_name = "ALERT")]
        alert: AlertId,
        /// Why, one line
        #[arg(long, value_name = "TEXT")]
        text: Option<String>,
        #[command(flatten)]
        within: Within,
    },
    /// Take in an alert that came by a link of another kind, such as radio, and pass it on
    Take {
        /// The compact form, as `mhc emergency list --json` has it
        #[arg(value_name = "COMPACT")]
        compact: String,
        #[command(flatten)]
        within: Within,
    },
    /// Show what this node did and refused about alerts and shutdown mode, newest first
    Journal {
        /// Most entries
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1_000))]
        limit: u64,
    },
}

/// Options of `mhc emergency send`.
#[derive(Debug, Options)]
pub(crate) struct SendAlert {
    /// What has happened and what to do
    #[arg(value_name = "TEXT")]
    pub(crate) text: String,
    /// Language of the text
    #[arg(long, value_name = "TAG", default_value = "en")]
    pub(crate) lang: String,
    /// The text in another language, as in fr=TEXT; may be given several times
    #[arg(long = "also", value_name = "TAG=TEXT")]
    pub(crate) also: Vec<Translation>,
    /// One line for narrow links, at most 85 bytes [default: the beginning of the text]
    #[arg(long, value_name = "TEXT")]
    pub(crate) short: Option<String>,
    /// critical: life is in danger; high: much is at stake; normal: worth knowing [default: critical, or as the alert that it updates]
    #[arg(long)]
    pub(crate) severity: Option<Severity>,
    /// immediate, expected (within the hour) or future [default: immediate]
    #[arg(long)]
    pub(crate) urgency: Option<Urgency>,
    /// Where; may be given several times [default: everywhere]
    #[arg(long = "area", value_name = "TEXT")]
    pub(crate) areas: Vec<String>,
    /// Content that tells more
    #[arg(long, value_name = "ID")]
    pub(crate) content: Option<RecordId>,
    /// How long it holds, in minutes, hours or days, as in 30m, 12h, 2d; at most 7d
    #[arg(long, value_name = "TIME", default_value = "1d")]
    pub(crate) expires: Life,
    /// Nothing has happened: people practise
    #[arg(long)]
    pub(crate) drill: bool,
    /// The alert that this one takes the place of
    #[arg(long, value_name = "ALERT")]
    pub(crate) update: Option<AlertId>,
    /// What nodes do by themselves while it holds: shutdown_on or shutdown_off
    #[arg(long)]
    pub(crate) order: Option<Order>,
    #[command(flatten)]
    pub(crate) within: Within,
}

/// A text in another language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Translation {
    pub(crate) tag: String,
    pub(crate) text: String,
}

impl std::str::FromStr for Translation {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (tag, text) = text.split_once('=').ok_or("expected a language and a text, as in fr=TEXT")?;
        Ok(Self { tag: tag.into(), text: text.into() })
    }
}

/// How long an alert holds, in minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life(pub(crate) u16);

impl std::str::FromStr for Life {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "expected minutes, hours or days, as in 30m, 12h, 2d";
        let units = [('m', 1), ('h', 60), ('d', 24 * 60)];
        let found = units.iter().find_map(|(unit, minutes)| Some((text.strip_suffix(*unit)?, *minutes)));
        let (digits, minutes) = found.ok_or(WRONG)?;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let count = digits.parse::<u16>().ok().filter(|_| is_number).ok_or(WRONG)?;
        let life = count.checked_mul(minutes).filter(|life| (1..=MAX_LIFE_MIN).contains(life));
        life.map(Self).ok_or("an alert holds for a minute at least and seven days at most")
    }
}

/// What can be done about shutdown mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(crate) enum ShutdownMode {
    /// Be in shutdown mode, whatever anchors and alerts say
    On,
    /// Never be, whatever they say
    Off,
    /// Let alerts and anchors decide (continuity.anchors)
    Auto,
    /// Show the mode and why
    Status,
}
