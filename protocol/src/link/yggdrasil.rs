//! What a Yggdrasil daemon's admin socket says: one JSON object to a question, of 0.4 and of 0.5.
//!
//! A daemon is another program that anybody may have put there: what it says is bounded, and only shown.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use super::LinkClass;

/// Longest answer that is read.
pub const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Most peers that are taken from an answer.
pub const MAX_OVERLAY_PEERS: usize = 256;
const MAX_TEXT_CHARS: usize = 200;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// About the daemon itself: [`Overlay::parse`].
    OwnSelf,
    /// About its peerings: [`OverlayPeer::parse`].
    Peers,
}

impl Question {
    /// The bytes to send.
    pub fn bytes(self) -> &'static [u8] {
        match self {
            Self::OwnSelf => br#"{"request":"getself","arguments":{}}"#,
            Self::Peers => br#"{"request":"getpeers","arguments":{}}"#,
        }
    }
}

/// Why an answer can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// It isn't all there yet.
    #[error("the answer ends early")]
    Incomplete,
    /// It is more than anybody would say.
    #[error("the answer has more than {MAX_ANSWER_BYTES} bytes")]
    TooLong,
    /// It isn't what a daemon says.
    #[error("not an answer of a Yggdrasil daemon: {0}")]
    Malformed(String),
    /// The daemon says no.
    #[error("the daemon refused: {0}")]
    Refused(String),
}

/// The daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Overlay {
    /// Its address, in 200::/7.
    pub address: Ipv6Addr,
    /// The subnet that it may give to others, as it says.
    pub subnet: String,
    /// Its key in hexadecimal, as it says.
    pub key: String,
    /// Its version, as it says; `unknown` where the package doesn't tell.
    pub version: String,
}

/// One of its peerings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OverlayPeer {
    /// Where it leads, as a URI.
    pub uri: String,
    /// Whether it works. Daemons before 0.5 only list those that do.
    pub up: bool,
    /// Whether the other side called.
    pub inbound: bool,
    /// The other side's address in the overlay.
    pub address: Option<Ipv6Addr>,
    /// Bytes that came.
    pub in_bytes: u64,
    /// Bytes that went.
    pub out_bytes: u64,
    /// How long it has been up, in seconds.
    pub uptime_s: u64,
    /// Round trip in milliseconds, when the daemon measures it.
    pub rtt_ms: Option<u64>,
    /// Why it doesn't work.
    pub error: Option<String>,
}

#[derive(Deserialize)]
struct Answer<T> {
    status: String,
    #[serde(default)]
    error: Option<String>,
    response: Option<T>,
}

#[derive(Deserialize)]
struct SelfBody {
    address: String,
    #[serde(default)]
    subnet: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    build_version: String,
}

#[derive(Deserialize)]
struct PeersBody {
    /// Null when there are none.
    #[serde(default)]
    peers: Option<Vec<PeerBody>>,
}

#[derive(Deserialize)]
struct PeerBody {
    #[serde(default)]
    remote: String,
    #[serde(default = "yes")]
    up: bool,
    #[serde(default)]
    inbound: bool,
    #[serde(default)]
    address: String,
    #[serde(default)]
    bytes_recvd: u64,
    #[serde(default)]
    bytes_sent: u64,
    /// Seconds.
    #[serde(default)]
    uptime: f64,
    /// Nanoseconds.
    #[serde(default)]
    latency: Option<u64>,
    #[serde(default)]
    last_error: Option<String>,
}

fn yes() -> bool {
    true
}

impl Overlay {
    /// From the answer to [`Question::OwnSelf`].
    ///
    /// # Errors
    /// [`AdminError::Incomplete`] when more is to come; the others are final.
    pub fn parse(answer: &[u8]) -> Result<Self, AdminError> {
        let body: SelfBody = parse(answer)?;
        let address = overlay_address(&body.address)
            .ok_or_else(|| AdminError::Malformed(format!("{:?} isn't in 200::/7", plain(&body.address))))?;
        let version = if body.build_version.is_empty() { "unknown".into() } else { plain(&body.build_version) };
        Ok(Self { address, subnet: plain(&body.subnet), key: plain(&body.key), version })
    }
}

impl OverlayPeer {
    /// From the answer to [`Question::Peers`]; at most [`MAX_OVERLAY_PEERS`].
    ///
    /// # Errors
    /// As of [`Overlay::parse`].
    pub fn parse(answer: &[u8]) -> Result<Vec<Self>, AdminError> {
        let body: PeersBody = parse(answer)?;
        let peer = |body: PeerBody| Self {
            uri: plain(&body.remote),
            up: body.up,
            inbound: body.inbound,
            address: overlay_address(&body.address),
            in_bytes: body.bytes_recvd,
            out_bytes: body.bytes_sent,
            // A conversion from floats saturates, and takes what isn't a number for 0.
            uptime_s: body.uptime as u64,
            rtt_ms: body.latency.filter(|ns| *ns > 0).map(|ns| ns.div_ceil(1_000_000)),
            error: body.last_error.filter(|error| !error.is_empty()).map(|error| plain(&error)),
        };
        Ok(body.peers.unwrap_or_default().into_iter().take(MAX_OVERLAY_PEERS).map(peer).collect())
    }
}

fn parse<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T, AdminError> {
    if answer.len() > MAX_ANSWER_BYTES {
        return Err(AdminError::TooLong);
    }
    // What comes behind the first object isn't asked for.
    let mut objects = serde_json::Deserializer::from_slice(answer).into_iter::<Answer<T>>();
    let answer = match objects.next() {
        None => return Err(AdminError::Incomplete),
        Some(Err(error)) if error.is_eof() => return Err(AdminError::Incomplete),
        Some(Err(error)) => return Err(AdminError::Malformed(plain(&error.to_string()))),
        Some(Ok(answer)) => answer,
    };
    match (answer.status.as_str(), answer.response) {
        ("success", Some(response)) => Ok(response),
        ("success", None) => Err(AdminError::Malformed("no response".into())),
        (_, _) => Err(AdminError::Refused(plain(answer.error.as_deref().unwrap_or("without saying why")))),
    }
}

fn overlay_address(text: &str) -> Option<Ipv6Addr> {
    text.parse().ok().filter(|address: &Ipv6Addr| LinkClass::of_ip((*address).into()) == LinkClass::Yggdrasil)
}

/// Text to be shown: short, and without what would move a terminal's cursor.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn malformed(error: &AdminError) -> bool {
        matches!(error, AdminError::Malformed(_))
    }

    #[test]
    fn daemons_of_both_kinds_are_understood() {
        let own = br#"{"status":"success","request":null,"response":{"build_name":"unknown","build_version":"unknown",
            "key":"b860","address":"200:8f3e:f34c:a9f7:fe1b:130d:263b:ecbc","coords":[],"subnet":"300:8f3e::/64"}}"#;
        let own = Overlay::parse(own).unwrap();
        assert_eq!((own.key.as_str(), own.version.as_str(), own.subnet.as_str()), ("b860", "unknown", "300:8f3e::/64"));
        // 0.4.7, as it answers.
        let old = br#"{"status":"success","request":null,"response":{"peers":[{
            "address":"200:739f:f041:aafb:98e1:3003:deff:c9cb","key":"c630","port":1,"priority":0,"coords":[1],
            "remote":"tcp://127.0.0.1:60326","bytes_recvd":1239,"bytes_sent":692,"uptime":3.225102409}]}}"#;
        let peers = OverlayPeer::parse(old).unwrap();
        assert_eq!((peers[0].uri.as_str(), peers[0].up, peers[0].uptime_s), ("tcp://127.0.0.1:60326", true, 3));
        assert_eq!((peers[0].in_bytes, peers[0].out_bytes, peers[0].rtt_ms), (1239, 692, None));
        // 0.5 lists peerings that are down, too.
        let new = br#"{"request":{"request":"getpeers"},"status":"success","response":{"peers":[
            {"remote":"tls://192.0.2.1:443","up":false,"inbound":false,"key":"","port":0,"priority":0,
             "last_error":"connection refused\u001b[31m","last_error_time":1000},
            {"remote":"quic://[2001:db8::1]:9","up":true,"inbound":true,"address":"201::1","latency":1500000,
             "bytes_recvd":1,"bytes_sent":2,"uptime":1e300}]}} trailing"#;
        let peers = OverlayPeer::parse(new).unwrap();
        assert_eq!((peers[0].up, peers[0].error.as_deref()), (false, Some("connection refused[31m")));
        assert_eq!((peers[1].rtt_ms, peers[1].uptime_s, peers[1].inbound), (Some(2), u64::MAX, true));
    }

    #[test]
    fn what_isnt_an_answer_is_told() {
        type Check = fn(&AdminError) -> bool;
        let incomplete: Check = |error| *error == AdminError::Incomplete;
        let refused: Check = |error| matches!(error, AdminError::Refused(_));
        let cases: [(&str, Check); 12] = [
            ("", incomplete),
            ("   ", incomplete),
            (r#"{"status":"succ"#, incomplete),
            (r#"{"status":"success","response":{"peers":["#, incomplete),
            (r#"{"status":"error","error":"Unknown action","response":null}"#, refused),
            (r#"{"status":"error"}"#, refused),
            (r#"{"status":"success","response":null}"#, malformed),
            (r#"{"status":"success"}"#, malformed),
            (r#"[1]"#, malformed),
            ("HTTP/1.1 400 Bad Request", malformed),
            (r#"{"status":"success","response":{"address":"10.0.0.1"}}"#, malformed),
            (r#"{"status":"success","response":{"address":"2001:db8::1"}}"#, malformed),
        ];
        for (text, check) in cases {
            let error = Overlay::parse(text.as_bytes()).unwrap_err();
            assert!(check(&error), "{text}: {error:?}");
        }
        assert_eq!(Overlay::parse(&vec![b' '; MAX_ANSWER_BYTES + 1]), Err(AdminError::TooLong));
        assert_eq!(OverlayPeer::parse(br#"{"status":"success","response":{"peers":null}}"#), Ok(vec![]));
        assert_eq!(OverlayPeer::parse(br#"{"status":"success","response":{}}"#), Ok(vec![]));
        let many = vec!["{}"; MAX_OVERLAY_PEERS + 9].join(",");
        let many = format!(r#"{{"status":"success","response":{{"peers":[{many}]}}}}"#);
        assert_eq!(OverlayPeer::parse(many.as_bytes()).unwrap().len(), MAX_OVERLAY_PEERS);
        let deep = format!(r#"{{"status":"success","x":{}"#, "[".repeat(100_000));
        assert_eq!(Overlay::parse(deep.as_bytes()), Err(AdminError::Incomplete));
        let deep = format!(r#"{{"status":"success","response":{{"peers":{}"#, "[".repeat(100_000));
        assert!(malformed(&OverlayPeer::parse(deep.as_bytes()).unwrap_err()));
    }
}
