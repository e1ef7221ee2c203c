//! The commands and their options, declared once: parser, help, completions and manual come from here.

mod alert;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args as Options, Parser, Subcommand, ValueEnum};
use mhc_protocol::{AuthorId, BlobHash, NetworkId, RecordId, network::Role, ticket::Ticket};

pub(crate) use self::alert::{Emergency, Life, SendAlert, ShutdownMode};

/// A streaming network without a centre: publish on one node, watch on another.
#[derive(Debug, Parser)]
#[command(name = "mhc", version, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 conflict (already running), 4 not found, \
    5 refused, 6 unavailable (no node runs, or no peer has it), 7 bad data (verification failed)";

/// What every command takes.
#[derive(Debug, Clone, Options)]
pub(crate) struct Common {
    /// Folder with the node's whole state [default: $MHC_HOME, $XDG_DATA_HOME/mhc or ~/.local/share/mhc]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Print one JSON document on stdout instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Form of the log on stderr; MHC_LOG filters it (as in MHC_LOG=debug)
    #[arg(long, global = true, value_name = "FORM", default_value = "text")]
    pub(crate) log: LogForm,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogForm {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What there is to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the node in the foreground, until Ctrl-C
    Up(Up),
    /// Show the node at a glance
    Status,
    /// Print this node's invitation, for `mhc peer add` and `mhc up --peer` elsewhere
    Ticket {
        /// Print a ticket for this blob instead, for the public tool `sendme receive`
        #[arg(long, value_name = "HASH", conflicts_with = "network")]
        blob: Option<BlobHash>,
        #[command(flatten)]
        within: Within,
    },
    /// Work with another node
    #[command(subcommand)]
    Peer(Peer),
    /// List the nodes this one knows
    Peers,
    /// List the ways to other nodes and their state
    Links,
    /// Work with networks: which to follow, their rules, and who may do what in them
    #[command(subcommand)]
    Network(Network),
    /// Publish a file
    Publish(Publish),
    /// Withdraw what this node published: every node drops its title and description and stops listing it
    Withdraw {
        /// Content id, as `mhc ls` prints it
        #[arg(value_name = "CONTENT")]
        content: RecordId,
    },
    /// List what this node knows of its home network, or of another that it follows, newest first
    Ls {
        /// Also what policy or a later version hides
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        within: Within,
    },
    /// Show one content
    Show {
        /// Content id, as `mhc ls` prints it
        #[arg(value_name = "CONTENT")]
        content: BlobHash,
    },
    /// Fetch a content or a blob into a file; a stopped one goes on where it was
    Get(Get),
    /// Keep a content or a blob on this node
    Pin {
        /// Content id or blob hash
        #[arg(value_name = "CONTENT")]
        content: BlobHash,
    },
    /// Stop keeping a content or a blob
    Unpin {
        /// Content id or blob hash
        #[arg(value_name = "CONTENT")]
        content: BlobHash,
    },
    /// Free the space of what isn't kept and over the quota
    Gc,
    /// Carry records and blobs to other nodes on a stick
    #[command(subcommand)]
    Bundle(Bundle),
    /// Send to many by satellite, one way, or take in what was recorded
    #[command(subcommand)]
    Carousel(Carousel),
    /// Exchange with a gateway over a metered satellite uplink
    #[command(subcommand)]
    Satellite(Satellite),
    /// Alert everybody in the network, or see what alerts hold
    #[command(subcommand)]
    Emergency(Emergency),
    /// Go on by itself when the outside can't be reached, or see whether this node does
    #[command(subcommand)]
    ShutdownMode(ShutdownMode),
    /// Check disk, keys, clock, ports, programs and the index, and say how to mend each
    Doctor {
        /// Drop the index and make it anew from the log
        #[arg(long)]
        rebuild: bool,
    },
    /// Work with the configuration file
    #[command(subcommand)]
    Config(Config),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual
    Man {
        /// Write a page for each command into this folder instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// Options of `mhc up`.
#[derive(Debug, Options)]
pub(crate) struct Up {
    /// Address of the gateway; port 0 takes any free one [default: 127.0.0.1:8480]
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<SocketAddr>,
    /// Port of libp2p; iroh takes the next one unless set [default: 4480]
    #[arg(long, value_name = "PORT")]
    pub(crate) p2p_port: Option<u16>,
    /// Ticket of a node to connect to; a new home joins its network
    #[arg(long = "peer", value_name = "TICKET")]
    pub(crate) peers: Vec<Ticket>,
    /// Don't look for nodes in the local network
    #[arg(long)]
    pub(crate) no_mdns: bool,
}

/// What can be done with another node.
#[derive(Debug, Subcommand)]
pub(crate) enum Peer {
    /// Remember a node and connect to it
    Add {
        /// What `mhc ticket` prints there
        ticket: Ticket,
    },
}

/// Which network.
#[derive(Debug, Clone, Copy, Options)]
pub(crate) struct Within {
    /// One that this node follows [default: its home network]
    #[arg(long, value_name = "NETWORK")]
    pub(crate) network: Option<NetworkId>,
}

impl Within {
    /// The path with the network as a parameter, where one is named; the path may have parameters already.
    pub(crate) fn path(self, path: &str) -> String {
        let sign = if path.contains('?') { '&' } else { '?' };
        self.network.map_or_else(|| path.to_owned(), |network| format!("{path}{sign}network={network}"))
    }
}

/// How much of a network to follow.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum Interest {
    /// Everything
    Whole,
    /// Only these authors' channels, and what governs the network
    Channels {
        /// Author id
        #[arg(value_name = "AUTHOR", required = true)]
        authors: Vec<AuthorId>,
    },
    /// Only what the network's policy calls essential, and what governs the network
    Essential,
}

/// What can be done with the network.
#[derive(Debug, Subcommand)]
pub(crate) enum Network {
    /// Make a home with a network of its own, whose root key is here
    Create,
    /// Make a home that belongs to the network of this ticket, and remember the node that made it
    Join {
        /// What `mhc ticket` prints there
        ticket: Ticket,
    },
    /// Follow another network beside the home: see it, and publish in it with --network
    Follow {
        /// What `mhc ticket` prints on a node there
        ticket: Ticket,
        /// Only this author's channel, and what governs the network; may be given several times
        #[arg(long = "channel", value_name = "AUTHOR")]
        channels: Vec<AuthorId>,
        /// Only what the network's policy calls essential, and what governs the network
        #[arg(long, conflicts_with = "channels")]
        essential: bool,
    },
    /// Stop following a network; its records stay, unseen, until `mhc gc`
    Unfollow {
        /// The network, as `mhc network list` prints it
        network: NetworkId,
    },
    /// List the networks that this node follows
    List,
    /// Choose how much of a network to follow
    Interest {
        #[command(flatten)]
        within: Within,
        #[command(subcommand)]
        interest: Interest,
    },
    /// Show the network, its policy and who holds which role
    Show {
        /// Also grants that don't hold any more, or not yet
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        within: Within,
    },
    /// Give somebody a role
    Grant(Grant),
    /// End a grant; what its holder signed so far stays
    Revoke {
        /// The grant's id, as `mhc network show` prints it
        #[arg(value_name = "GRANT")]
        grant: RecordId,
        /// Nothing that its holder signed under it counts, not even what came before
        #[arg(long)]
        void: bool,
        /// Why, one line
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        within: Within,
    },
    /// Change the network's policy; what isn't given stays
    Policy(Policy),
}

/// Options of `mhc network grant`.
#[derive(Debug, Options)]
pub(crate) struct Grant {
    /// Whom: an author's id
    #[arg(value_name = "AUTHOR")]
    pub(crate) to: AuthorId,
    /// member, artist, relay, treasurer, moderator or admin
    pub(crate) role: Role,
    /// Only on this channel (moderators)
    #[arg(long, value_name = "AUTHOR")]
    pub(crate) channel: Option<AuthorId>,
    /// For so many days [default: without end]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(crate) days: Option<u32>,
    /// How often it may be handed on to others
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=8))]
    pub(crate) depth: u8,
    /// What for, one line
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
    #[command(flatten)]
    pub(crate) within: Within,
}

/// Options of `mhc network policy`.
#[derive(Debug, Options)]
pub(crate) struct Policy {
    /// What the network calls itself
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: Option<String>,
    /// Who may write
    #[arg(long)]
    pub(crate) membership: Option<Membership>,
    /// Fees, gates, quotas, essential content and emergency issuers, as in `mhc network show --json`
    #[arg(long, value_name = "FILE.json")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) within: Within,
}

/// Who may write in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Membership {
    /// Anybody.
    Open,
    /// Whoever holds a grant.
    Members,
    /// Whoever holds a grant; only artists, moderators and admins publish.
    Curated,
}

impl Membership {
    /// As the API has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Members => "members",
            Self::Curated => "curated",
        }
    }
}

/// Options of `mhc publish`.
#[derive(Debug, Options)]
pub(crate) struct Publish {
    /// The file
    pub(crate) file: PathBuf,
    /// Title [default: the file's name]
    #[arg(long)]
    pub(crate) title: Option<String>,
    /// Description
    #[arg(long)]
    pub(crate) description: Option<String>,
    /// Tag; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// Look of its page
    #[arg(long)]
    pub(crate) realm: Option<Realm>,
    /// Keep the file where it is instead of copying it; it must not change afterwards
    #[arg(long)]
    pub(crate) reference: bool,
    #[command(flatten)]
    pub(crate) within: Within,
}

/// Look of a content's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Realm {
    /// Dark, red.
    Inferno,
    /// Grey.
    Purgatorio,
    /// Bright, golden.
    Paradiso,
}

impl Realm {
    /// As the API has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Inferno => "inferno",
            Self::Purgatorio => "purgatorio",
            Self::Paradiso => "paradiso",
        }
    }
}

/// Options of `mhc get`.
#[derive(Debug, Options)]
pub(crate) struct Get {
    /// Content id or blob hash
    #[arg(value_name = "CONTENT|HASH")]
    pub(crate) id: BlobHash,
    /// File to write, or - for stdout [default: the content's file name, in this folder]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Only these bytes, first and last, counted from 0
    #[arg(long, value_name = "A-B")]
    pub(crate) range: Option<ByteRange>,
}

/// First and last byte, inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteRange {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl std::str::FromStr for ByteRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "expected the first and the last byte, as in 0-1023";
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let (first, last) = text.split_once('-').ok_or(WRONG)?;
        let (first, last) = (digits(first).ok_or(WRONG)?, digits(last).ok_or(WRONG)?);
        if first > last { Err("the first byte comes after the last") } else { Ok(Self { first, last }) }
    }
}

/// What can be done with bundles.
#[derive(Debug, Subcommand)]
pub(crate) enum Bundle {
    /// Write a bundle: all of the network, or the channels and contents that are named
    Export(ExportBundle),
    /// Take in every bundle of this network; a stopped import goes on where it was
    Import {
        /// Folder that the stick is mounted at
        path: PathBuf,
    },
    /// Read and check every bundle, and change nothing
    Verify {
        /// Folder that the stick is mounted at
        path: PathBuf,
    },
    /// Leave a list of what this node lacks, so that the next export there brings only that
    Wants {
        /// Folder that the stick is mounted at
        path: PathBuf,
    },
}

/// Options of `mhc bundle export`.
#[derive(Debug, Options)]
pub(crate) struct ExportBundle {
    /// Folder that the stick is mounted at
    pub(crate) path: PathBuf,
    /// Author whose records and contents to take; may be given several times
    #[arg(long = "channel", value_name = "AUTHOR")]
    pub(crate) channels: Vec<AuthorId>,
    /// Content to take; may be given several times
    #[arg(long = "content", value_name = "ID")]
    pub(crate) contents: Vec<RecordId>,
    /// Leave out the bytes of what was published before: a day (2026-01-31, UTC) or a time back from now (12h, 30d, 2w)
    #[arg(long, value_name = "DATE|DURATION")]
    pub(crate) since: Option<Since>,
    /// Most bytes to write; what is newest comes first
    #[arg(long, value_name = "N")]
    pub(crate) max_bytes: Option<u64>,
    /// Send only what this list asks for [default: MHC/WANTS.CBR on the stick, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) wants: Option<PathBuf>,
    /// Also copy media that is complete into MEDIA, for any player
    #[arg(long)]
    pub(crate) browsable: bool,
}

/// What can be done with the satellite uplink.
#[derive(Debug, Subcommand)]
pub(crate) enum Satellite {
    /// Show this month's budget
    Status,
    /// Get records, and the bytes of contents that are named, from a gateway; a stopped one goes on where it was
    Exchange {
        /// A gateway of the network, as in https://tube.example.org
        url: String,
        /// Content whose bytes are wanted; may be given several times
        #[arg(long = "content", value_name = "ID")]
        contents: Vec<RecordId>,
        /// Most bytes on the link [default: what the month's budget allows]
        #[arg(long, value_name = "N")]
        max_bytes: Option<u64>,
    },
}

/// What can be done with the one-way carousel.
#[derive(Debug, Subcommand)]
pub(crate) enum Carousel {
    /// Send round and round to a multicast group until Ctrl-C, or once into a file
    Send(SendCarousel),
    /// Take in a recorded carousel
    Import {
        /// The file
        file: PathBuf,
    },
    /// Show what the receiver hears (links.satellite.carousel.listen says where)
    Status,
}

/// Options of `mhc carousel send`.
#[derive(Debug, Options)]
pub(crate) struct SendCarousel {
    /// Write the stream into this file
    #[arg(long, value_name = "FILE", conflicts_with = "group", required_unless_present = "group")]
    pub(crate) to_file: Option<PathBuf>,
    /// Send to this group (or address) and port
    #[arg(long, value_name = "ADDR")]
    pub(crate) group: Option<SocketAddr>,
    /// IPv4 address of the interface to send on
    #[arg(long, value_name = "IP", requires = "group")]
    pub(crate) interface: Option<IpAddr>,
    /// How many routers may pass it on [default: 1]
    #[arg(long, value_name = "N", requires = "group", value_parser = clap::value_parser!(u8))]
    pub(crate) hops: Option<u8>,
    /// Bits a second, headers included; k and M are understood
    #[arg(long, value_name = "BITS", default_value = "1M")]
    pub(crate) rate: BitRate,
    /// Symbols sent in each turn for what gets lost, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub(crate) margin: u32,
    /// Turns that everything gets [default: 1 in a file, without end to a group]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rounds: Option<u64>,
    /// Content to send; may be given several times [default: the newest]
    #[arg(long = "content", value_name = "ID")]
    pub(crate) contents: Vec<RecordId>,
    /// Also send the newest when contents are named
    #[arg(long)]
    pub(crate) newest: bool,
    /// Most bytes that are on air [default: 1 GiB]
    #[arg(long, value_name = "BYTES")]
    pub(crate) capacity: Option<u64>,
}

/// Bits a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BitRate(pub(crate) u64);

impl std::str::FromStr for BitRate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "expected bits a second, as in 64k, 2M or 500000";
        let (digits, unit) = match text.char_indices().next_back() {
            Some((end, 'k')) => (&text[..end], 1_000),
            Some((end, 'M')) => (&text[..end], 1_000_000),
            _ => (text, 1),
        };
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let rate = digits.parse::<u64>().ok().filter(|_| is_number).and_then(|rate| rate.checked_mul(unit));
        match rate {
            Some(rate) if (1_000..=10_000_000_000).contains(&rate) => Ok(Self(rate)),
            Some(_) => Err("a rate is 1k to 10000M"),
            None => Err(WRONG),
        }
    }
}

/// From when on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// The start of a day in UTC, in milliseconds since the Unix epoch.
    Day { at_ms: u64 },
    /// So long ago.
    Ago { ms: u64 },
}

impl std::str::FromStr for Since {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "expected a day as in 2026-01-31, or hours, days or weeks as in 12h, 30d, 2w";
        const HOUR_MS: u64 = 3_600_000;
        let units = [('h', HOUR_MS), ('d', 24 * HOUR_MS), ('w', 7 * 24 * HOUR_MS)];
        for (unit, unit_ms) in units {
            if let Some(count) = text.strip_suffix(unit).filter(|count| count.bytes().all(|byte| byte.is_ascii_digit()))
            {
                let ms = count.parse::<u64>().ok().and_then(|count| count.checked_mul(unit_ms));
                return ms.map(|ms| Self::Ago { ms }).ok_or(WRONG);
            }
        }
        let day: jiff::civil::Date = text.parse().map_err(|_| WRONG)?;
        let midnight = day.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| WRONG)?;
        let at_ms = u64::try_from(midnight.timestamp().as_millisecond()).map_err(|_| "that is before 1970")?;
        Ok(Self::Day { at_ms })
    }
}

/// What can be done with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print a file with every setting, its meaning and its default
    Example,
    /// Check the file, the environment and name each mistake
    Check,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_declaration_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn days_and_durations_are_understood_or_refused() {
        const DAY_MS: u64 = 86_400_000;
        let cases = [
            ("1970-01-02", Some(Since::Day { at_ms: DAY_MS })),
            ("2026-01-31", Some(Since::Day { at_ms: 1_769_817_600_000 })),
            ("12h", Some(Since::Ago { ms: DAY_MS / 2 })),
            ("30d", Some(Since::Ago { ms: 30 * DAY_MS })),
            ("2w", Some(Since::Ago { ms: 14 * DAY_MS })),
            ("1969-12-31", None),
            ("2026-02-30", None),
            ("", None),
            ("d", None),
            ("-1d", None),
            ("+1d", None),
            ("1.5d", None),
            ("30", None),
            ("99999999999999999999d", None),
            ("9999999999999999999w", None),
        ];
        for (text, since) in cases {
            assert_eq!(text.parse::<Since>().ok(), since, "{text}");
        }
    }

    #[test]
    fn rates_are_understood_or_refused() {
        for (text, rate) in [("64k", Some(64_000)), ("2M", Some(2_000_000)), ("500000", Some(500_000))] {
            assert_eq!(text.parse().ok(), rate.map(BitRate), "{text}");
        }
        for text in ["", "k", "-1M", "+1M", "1.5M", "1G", "0", "999", "99999999999999999999M", "20000M"] {
            assert!(text.parse::<BitRate>().is_err(), "{text}");
        }
    }

    #[test]
    fn command_lines_are_understood_or_refused() {
        let id = "ab".repeat(32);
        let cases: &[(&str, bool)] = &[
            ("up --http 127.0.0.1:0 --p2p-port 0 --no-mdns --json", true),
            ("--home /x --json status", true),
            ("status --home /x --log json", true),
            ("ticket --blob ID", true),
            ("get ID -o - --range 0-0", true),
            ("publish a.mp4 --tag a --tag b --realm inferno --reference", true),
            ("bundle export /stick --channel ID --channel ID --since 30d --max-bytes 1000 --browsable", true),
            ("bundle export /stick --content ID --since 2026-01-31 --wants /x/WANTS.CBR", true),
            ("bundle import /stick --json", true),
            ("bundle verify /stick", true),
            ("bundle wants /stick", true),
            ("bundle", false),
            ("bundle export", false),
            ("bundle export /stick --channel ../x", false),
            ("bundle export /stick --since yesterday", false),
            ("bundle export /stick --max-bytes -1", false),
            ("emergency send Flood --also fr=Crue --severity high --expires 12h --drill --area Valley", true),
            ("emergency send Flood --update 00112233445566778899aabbccddeeff --order shutdown_on", true),
            ("emergency send", false),
            ("emergency send Flood --also fr", false),
            ("emergency send Flood --severity terrible", false),
            ("emergency send Flood --urgency soon", false),
            ("emergency send Flood --expires 8d", false),
            ("emergency send Flood --expires 0m", false),
            ("emergency send Flood --expires +1d", false),
            ("emergency send Flood --expires 99999999d", false),
            ("emergency send Flood --order dance", false),
            ("emergency list --all", true),
            ("emergency cancel 00112233445566778899aabbccddeeff --text mistake", true),
            ("emergency cancel 0011", false),
            ("emergency take AQ", true),
            ("emergency journal --limit 10", true),
            ("emergency journal --limit 0", false),
            ("shutdown-mode on", true),
            ("shutdown-mode off", true),
            ("shutdown-mode auto", true),
            ("shutdown-mode status --json", true),
            ("shutdown-mode", false),
            ("shutdown-mode maybe", false),
            ("config example", true),
            ("withdraw ID", true),
            ("withdraw x", false),
            ("network create", true),
            ("network show --all", true),
            ("network grant ID moderator --channel ID --days 30 --depth 2 --note hello", true),
            ("network revoke ID --void --reason spam", true),
            ("network policy --name Village --membership curated --file policy.json", true),
            ("network grant ID king", false),
            ("network grant ID member --days 0", false),
            ("network grant ID member --depth 9", false),
            ("network revoke 12", false),
            ("network policy --membership closed", false),
            ("network join nonsense", false),
            ("network list", true),
            ("network unfollow ID", true),
            ("network follow nonsense", false),
            ("network interest whole --network ID", false),
            ("network interest --network ID channels ID ID", true),
            ("network interest essential", true),
            ("network interest channels", false),
            ("network interest some", false),
            ("network show --network ID", true),
            ("ls --network ID", true),
            ("ls --network 12", false),
            ("publish a.mp4 --network ID", true),
            ("ticket --network ID", true),
            ("ticket --network ID --blob ID", false),
            ("completions bash", true),
            ("man", true),
            ("", false),
            ("fly", false),
            ("up --http localhost", false),
            ("up --p2p-port 65536", false),
            ("up --peer mhc1nonsense", false),
            ("peer add", false),
            ("peer add blobaaa", false),
            ("ticket --blob 12", false),
            ("show ../etc/passwd", false),
            ("get IDx", false),
            ("get ID --range 5", false),
            ("get ID --range 5-4", false),
            ("get ID --range -4", false),
            ("get ID --range 5-", false),
            ("get ID --range +1-2", false),
            ("get ID --range 0-18446744073709551616", false),
            ("publish", false),
            ("publish a --realm limbo", false),
            ("--log xml status", false),
            ("completions cobol", false),
        ];
        for (line, good) in cases {
            let line = line.replace("ID", &id);
            let parsed = Args::try_parse_from(std::iter::once("mhc").chain(line.split_whitespace()));
            assert_eq!(parsed.is_ok(), *good, "{line}");
        }
    }
}
