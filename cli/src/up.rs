//! `mhc up`: a node in this process, until it is told to stop.

use std::{future::Future, io, path::Path, pin::pin, task::Poll, time::Duration};

use mhc_node::{Node, NodeOptions, ReadyInfo, home::Home};
use serde_json::json;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    args::Up,
    client::base_url,
    commands::load_settings,
    failure::{Exit, Failure},
    output::{self, Output, remark},
};

/// What is logged unless `MHC_LOG` says otherwise: our own words, and trouble of the libraries; but not that a first
/// node knows nobody yet, which the DHT finds worth a warning.
pub(crate) const LOG_FILTER: &str =
    "warn,libp2p_kad=error,mhc=info,mhc_node=info,mhc_platform=info,mhc_storage=info,mhc_api=info";
/// How long a clean stop may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a node on the home `dir`.
pub(crate) async fn run(output: Output, dir: &Path, options: Up) -> Result<(), Failure> {
    let (config, settled) = load_settings(dir, flags(&options))?;
    let join = options.peers.iter().chain(&settled).next().map(|ticket| ticket.network);
    mhc_node::raise_file_limit();
    // From here on a signal stops cleanly, also while the node starts.
    let mut signals = Signals::new().map_err(|error| Failure::failed(format!("can't wait for signals: {error}")))?;
    let home = Home::open(dir, join)?;
    let starting = Node::start(NodeOptions { home, config, peers: options.peers });
    let node = tokio::select! {
        node = starting => node.map_err(|error| Failure::new(Exit::from_code(error.exit_code()), error.to_string()))?,
        () = signals.next() => return Ok(()),
    };
    let (ready, stop) = (node.ready(), CancellationToken::new());
    let mut running = pin!(node.run_until(stop.clone().cancelled_owned()));
    // Its first step tells the other commands where the node is; who reads "ready" may start one at once.
    if let Poll::Ready(ended) = futures::poll!(&mut running) {
        return Ok(ended?);
    }
    announce(output, ready)?;
    until_stopped(async { Ok(running.await?) }, &mut signals, &stop).await
}

/// The settings that flags stand for.
fn flags(options: &Up) -> Vec<(&'static str, String)> {
    let http = options.http.map(|addr| ("gateway.http", addr.to_string()));
    let port = options.p2p_port.map(|port| ("p2p.port", port.to_string()));
    let mdns = options.no_mdns.then(|| ("p2p.mdns", "false".to_owned()));
    [http, port, mdns].into_iter().flatten().collect()
}

/// Says that the node serves. Programs wait for this line.
fn announce(output: Output, ready: ReadyInfo) -> Result<(), Failure> {
    let http = base_url(ready.http);
    let text = if output.json {
        let mut event = json!({ "event": "ready", "http": http, "node": ready.node, "network": ready.network });
        if let Some(setup) = ready.setup_url {
            event["setup"] = setup.into();
        }
        if let Some(https) = ready.https {
            event["https"] = format!("https://{https}").into();
        }
        event.to_string()
    } else {
        let setup = ready.setup_url.map(|url| format!("set up this browser (once): {url}\n")).unwrap_or_default();
        let front = ready.https.map(|https| format!("public   https at {https}\n")).unwrap_or_default();
        format!("{setup}node     {}\nnetwork  {}\ngateway  {http}/\n{front}Ctrl-C stops it", ready.node, ready.network)
    };
    match output::line(&text) {
        // Nobody reads along (any more): a node runs without.
        Err(failure) if failure.message.is_empty() => Ok(()),
        outcome => outcome,
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
    }
}

/// Waits for `running` to end. The first signal cancels `stop`; the second, or the time-out, ends at once.
async fn until_stopped(
    running: impl Future<Output = Result<(), Failure>>,
    signals: &mut Signals,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    tokio::pin!(running);
    tokio::select! {
        outcome = &mut running => return outcome,
        () = signals.next() => stop.cancel(),
    }
    remark("stopping; once more to stop at once");
    let deadline = Instant::now() + STOP_TIMEOUT;
    tokio::select! {
        outcome = &mut running => outcome,
        () = signals.next() => Err(Failure::failed("stopped at once")),
        () = sleep_until(deadline) => Err(Failure::failed(format!("not stopped after {} s; ended", STOP_TIMEOUT.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_settings_only_when_given() {
        let none = Up { http: None, p2p_port: None, peers: Vec::new(), no_mdns: false };
        assert_eq!(flags(&none), []);
        let all = Up { http: "[::1]:0".parse().ok(), p2p_port: Some(0), peers: Vec::new(), no_mdns: true };
        let expected = [("gateway.http", "[::1]:0".into()), ("p2p.port", "0".into()), ("p2p.mdns", "false".into())];
        assert_eq!(flags(&all), expected);
    }

    #[tokio::test]
    async fn a_node_that_ends_by_itself_ends_the_command() {
        let (mut signals, stop) = (Signals::new().unwrap(), CancellationToken::new());
        assert!(until_stopped(async { Ok(()) }, &mut signals, &stop).await.is_ok());
        let failed = until_stopped(async { Err(Failure::failed("x")) }, &mut signals, &stop).await;
        assert_eq!(failed.expect_err("it failed").message, "x");
        assert!(!stop.is_cancelled());
    }
}
