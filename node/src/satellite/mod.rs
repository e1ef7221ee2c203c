//! The satellite links: the shell around `mhc_satellite`.
//!
//! The one-way carousel: `program` says what is sent, `send` sends it, `receive` receives, from a socket for as long as
//! the node runs or from a recorded stream. What comes goes through `intake` into the stores; what goes is made by
//! `entries`; both are the entries of bundles.
//!
//! The two-way uplink: `exchange` asks a gateway over a metered link, `answer` is the gateway.

mod answer;
mod entries;
mod exchange;
mod http;
mod intake;
mod program;
mod receive;
mod send;

use std::{io, net::SocketAddr, sync::Arc};

use mhc_config::Satellite as Settings;
use mhc_protocol::NodeId;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    exchange::UplinkOptions,
    intake::Intake,
    receive::{ListenOptions, Received, Shown},
};
use crate::bundle::{Bundles as Jobs, Stores};

pub(crate) use http::routes;

/// Exchanges that are answered at a time: each may hold a request of 4 MiB and some pieces.
const MAX_ANSWERS: usize = 16;

/// The satellite links of a node.
pub(crate) struct Satellite {
    intake: Intake,
    trust: Vec<NodeId>,
    memory_bytes: usize,
    shown: Shown,
    /// Sending, for days maybe.
    sending: Jobs,
    /// Taking in recorded streams.
    importing: Jobs,
    /// Asking gateways.
    exchanging: Jobs,
    uplink: UplinkOptions,
    answer_anyone: bool,
    /// Exchanges that are answered at a time.
    answering: Arc<Semaphore>,
    /// The receiver and the answers under way.
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Why a node doesn't receive.
#[derive(Debug, thiserror::Error)]
#[error("links.satellite.carousel: can't receive at {listen}: {source}")]
pub struct ListenError {
    listen: SocketAddr,
    source: io::Error,
}

impl Satellite {
    /// Begins to receive when the settings say so.
    pub(crate) fn start(stores: Stores, settings: &Settings) -> Result<Self, ListenError> {
        let uplink = UplinkOptions {
            budget_bytes: settings.budget_bytes,
            interface: settings.uplink_interface.clone(),
            address: settings.uplink_address,
        };
        let answer_anyone = settings.answer_anyone;
        let settings = &settings.carousel;
        let intake = Intake::new(stores.clone());
        // The settings were checked; what isn't an id trusts nobody.
        let trust: Vec<NodeId> = settings.trust.iter().filter_map(|id| id.parse().ok()).collect();
        let memory_bytes = usize::try_from(settings.memory_bytes).unwrap_or(usize::MAX);
        let shown = Shown::default();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        if let Some(listen) = settings.listen {
            let options = ListenOptions { listen, interface: settings.interface, trust: trust.clone(), memory_bytes };
            let socket = receive::listen(&options).map_err(|source| ListenError { listen, source })?;
            tasks.spawn(receive::run(socket, options, intake.clone(), Arc::clone(&shown), stop.clone()));
        }
        let [sending, importing, exchanging] = [(); 3].map(|()| Jobs::new(stores.clone()));
        Ok(Self {
            intake,
            trust,
            memory_bytes,
            shown,
            sending,
            importing,
            exchanging,
            uplink,
            answer_anyone,
            answering: Arc::new(Semaphore::new(MAX_ANSWERS)),
            tasks,
            stop,
        })
    }

    /// Bytes that may still go over the uplink; none when nothing may at all.
    pub(crate) fn budget_left_bytes(&self) -> Option<u64> {
        self.uplink.budget_bytes?;
        exchange::shown(&self.intake.stores, self.uplink.budget_bytes).ok().map(|shown| shown.left_bytes())
    }

    fn received(&self) -> Received {
        self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Tells the receiver and jobs to end.
    pub(crate) fn stop(&self) {
        self.sending.stop();
        self.importing.stop();
        self.exchanging.stop();
        self.stop.cancel();
        self.tasks.close();
    }

    /// Waits for them, and for what was being stored.
    pub(crate) async fn shutdown(&self) {
        self.stop();
        self.sending.shutdown().await;
        self.importing.shutdown().await;
        self.exchanging.shutdown().await;
        // The gateway has drained; what is left of answers has nobody to read it.
        self.tasks.wait().await;
    }
}

impl Drop for Satellite {
    /// For a node that fails to start: nobody stops it then.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
