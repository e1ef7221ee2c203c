//! The Yggdrasil daemon of this machine, if there is one: found by the address that it gave an interface, and asked at its
//! admin socket.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mhc_protocol::link::{
    LinkClass,
    yggdrasil::{AdminError, MAX_ANSWER_BYTES, Overlay, OverlayPeer, Question},
};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::net::shared::Shared;

/// Where daemons listen that weren't told otherwise.
const DEFAULT_SOCKETS: [&str; 2] = ["/var/run/yggdrasil/yggdrasil.sock", "/var/run/yggdrasil.sock"];
const EVERY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(2);
const READ_BYTES: usize = 16 << 10;

/// What is known of the overlay on this machine.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct OverlayState {
    /// Addresses in 200::/7 that interfaces have.
    pub addresses: Vec<Ipv6Addr>,
    /// What the daemon says.
    pub admin: AdminState,
}

/// What came of asking the daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum AdminState {
    /// Nobody was asked: no interface is in the overlay and no socket is set.
    #[default]
    NotAsked,
    /// It answered.
    Answered {
        /// Where.
        socket: String,
        /// The daemon.
        overlay: Overlay,
        /// Its peerings.
        peers: Vec<OverlayPeer>,
    },
    /// It didn't.
    Failed {
        /// Where.
        socket: String,
        /// Why, in words.
        why: String,
    },
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
}

/// Asks from time to time. `admin` is the daemon's socket, a path or `tcp://address:port`; without it the places are
/// tried where daemons listen by themselves.
pub(in crate::net) async fn watch(shared: Arc<Shared>, admin: Option<PathBuf>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let addresses: Vec<Ipv6Addr> = shared.p2p_addrs().iter().filter_map(in_overlay).collect();
        let sockets = match &admin {
            Some(admin) => vec![admin.clone()],
            None if addresses.is_empty() => vec![],
            None => DEFAULT_SOCKETS.map(PathBuf::from).to_vec(),
        };
        let admin = ask_any(&sockets).await;
        let mut state = shared.links.overlay();
        let was = std::mem::replace(&mut *state, OverlayState { addresses, admin });
        tell(&was, &state);
    }
}

/// For the log: what changed, not what is.
fn tell(was: &OverlayState, is: &OverlayState) {
    if was.addresses != is.addresses {
        tracing::info!(addresses = ?is.addresses, "addresses in the Yggdrasil overlay");
    }
    match (&was.admin, &is.admin) {
        (AdminState::Failed { .. }, AdminState::Failed { .. }) => {}
        (_, AdminState::Failed { socket, why }) => tracing::info!(socket, why, "the Yggdrasil daemon doesn't answer"),
        (AdminState::Answered { .. }, AdminState::Answered { .. }) => {}
        (_, AdminState::Answered { socket, peers, .. }) => {
            tracing::info!(socket, peers = peers.len(), "the Yggdrasil daemon answers");
        }
        (_, AdminState::NotAsked) => {}
    }
}

fn in_overlay(addr: &SocketAddr) -> Option<Ipv6Addr> {
    match addr {
        SocketAddr::V6(addr) if LinkClass::of_ip((*addr.ip()).into()) == LinkClass::Yggdrasil => Some(*addr.ip()),
        _ => None,
    }
}

async fn ask_any(sockets: &[PathBuf]) -> AdminState {
    let mut state = AdminState::NotAsked;
    for socket in sockets {
        let name = socket.display().to_string();
        match ask_both(socket).await {
            Ok((overlay, peers)) => return AdminState::Answered { socket: name, overlay, peers },
            Err(error) => state = AdminState::Failed { socket: name, why: error.to_string() },
        }
    }
    state
}

async fn ask_both(socket: &Path) -> Result<(Overlay, Vec<OverlayPeer>), AskError> {
    let overlay = ask(socket, Question::OwnSelf, Overlay::parse).await?;
    Ok((overlay, ask(socket, Question::Peers, OverlayPeer::parse).await?))
}

async fn ask<T>(
    socket: &Path,
    question: Question,
    parse: impl Fn(&[u8]) -> Result<T, AdminError>,
) -> Result<T, AskError> {
    let asking = async {
        match socket.to_str().and_then(|text| text.strip_prefix("tcp://")) {
            Some(address) => exchange(tokio::net::TcpStream::connect(address).await?, question, parse).await,
            None => exchange(connect_unix(socket).await?, question, parse).await,
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.map_err(|_| AskError::Late)?
}

#[cfg(unix)]
async fn connect_unix(socket: &Path) -> io::Result<tokio::net::UnixStream> {
    let path = socket.to_str().and_then(|text| text.strip_prefix("unix://")).map_or(socket, Path::new);
    tokio::net::UnixStream::connect(path).await
}

#[cfg(not(unix))]
async fn connect_unix(_: &Path) -> io::Result<tokio::net::TcpStream> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "no unix sockets here: set links.yggdrasil.admin to tcp://…"))
}

/// Reads until there is an answer: some daemons close the connection after it, and some don't.
async fn exchange<T>(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    question: Question,
    parse: impl Fn(&[u8]) -> Result<T, AdminError>,
) -> Result<T, AskError> {
    stream.write_all(question.bytes()).await?;
    let mut answer = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let bytes = stream.read(&mut buffer).await?;
        answer.extend_from_slice(buffer.get(..bytes).unwrap_or_default());
        match parse(&answer) {
            Err(AdminError::Incomplete) if bytes > 0 && answer.len() <= MAX_ANSWER_BYTES => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &[u8] = br#"{"status":"success","response":{"address":"200::7","key":"ab"}}"#;
    const PEERS: &[u8] = br#"{"status":"success","response":{"peers":[{"remote":"tcp://192.0.2.1:9001"}]}}"#;

    /// A daemon that answers in pieces, and keeps connections open or not.
    async fn daemon(closes: bool) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut open = vec![];
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut question = [0; 256];
                let bytes = stream.read(&mut question).await.unwrap();
                let answer = if question[..bytes] == *Question::Peers.bytes() { PEERS } else { OWN };
                for piece in answer.chunks(20) {
                    stream.write_all(piece).await.unwrap();
                    stream.flush().await.unwrap();
                    tokio::task::yield_now().await;
                }
                if !closes {
                    open.push(stream);
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn a_daemon_is_asked_over_tcp() {
        for closes in [true, false] {
            let socket = PathBuf::from(format!("tcp://{}", daemon(closes).await));
            let AdminState::Answered { overlay, peers, .. } = ask_any(&[socket]).await else { panic!("no answer") };
            assert_eq!(overlay.address, "200::7".parse::<Ipv6Addr>().unwrap());
            assert_eq!(peers[0].uri, "tcp://192.0.2.1:9001");
        }
    }

    #[tokio::test]
    async fn no_daemon_and_nonsense_are_told() {
        assert_eq!(ask_any(&[]).await, AdminState::NotAsked);
        let missing = ask_any(&[PathBuf::from("/nonexistent/yggdrasil.sock")]).await;
        assert!(matches!(missing, AdminState::Failed { .. }), "{missing:?}");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = PathBuf::from(format!("tcp://{}", listener.local_addr().unwrap()));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"SSH-2.0-OpenSSH\r\n").await;
            }
        });
        let AdminState::Failed { why, .. } = ask_any(&[socket]).await else { panic!("an answer") };
        assert!(why.contains("not an answer") || why.contains("reset"), "{why}");
    }
}
