//! Shutdown mode: the shell around [`ModeSwitch`].
//!
//! It asks the anchors whether they answer, hears what alerts order and what the operator chose, and carries out what is
//! decided: the ladder leans towards the mesh, and what the policy calls essential is fetched while somebody still has it.
//! Everything else goes on as always: publishing, playing and alerting need no outside. Each change is noted in the
//! journal.

mod http;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::future::join_all;
use mhc_platform::catalog;
use mhc_protocol::{
    BlobHash, NodeId, Timestamp,
    link::LinkPolicy,
    mode::{Cause, Choice, Decision, Mode, ModeSwitch, Patience},
};
use mhc_storage::{
    blob::BlobStore,
    record::{Private, Records, RecordsError},
};
use tokio::{
    net::TcpStream,
    sync::{Notify, watch},
    time::{MissedTickBehavior, interval},
};

pub(crate) use self::http::routes;
use crate::{
    author::now,
    emergency::Emergency,
    fetch::{Fetcher, Progress},
    journal::{Facts, Journal},
    net::Net,
};

const TABLE: &str = "mode";
const CHOICE: &[u8] = b"choice";
/// How long an anchor may take to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// Anchors are asked this often within the patience, but neither more nor less often than that.
const ASKED_WITHIN_PATIENCE: u32 = 4;
const ASK_LEAST: Duration = Duration::from_secs(1);
const ASK_MOST: Duration = Duration::from_secs(15);
/// What couldn't be fetched is tried again.
const FETCH_AGAIN: Duration = Duration::from_secs(30);

/// Something outside that answers as long as there is an outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Anchor {
    /// It is connected.
    Node(NodeId),
    /// A TCP connection comes about.
    Address(SocketAddr),
}

impl std::str::FromStr for Anchor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let node = text.parse().map(Self::Node).map_err(drop);
        node.or_else(|()| text.parse().map(Self::Address).map_err(drop))
    }
}

impl std::fmt::Display for Anchor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// What the switch needs of the node.
pub(crate) struct Parts {
    pub(crate) records: Records,
    pub(crate) net: Net,
    pub(crate) fetcher: Fetcher,
    pub(crate) blobs: BlobStore,
    pub(crate) emergency: Emergency,
    pub(crate) journal: Arc<Journal>,
}

/// How much of what the policy calls essential is here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Essential {
    wanted: usize,
    complete: usize,
}

#[derive(Debug)]
struct State {
    switch: ModeSwitch,
    decision: Decision,
    /// Since when it is in this mode.
    since: Timestamp,
    /// Whether each anchor answered when it was last asked.
    answers: Vec<Option<bool>>,
    essential: Essential,
}

/// The node's mode.
#[derive(Clone)]
pub(crate) struct ShutdownMode(Arc<Inner>);

struct Inner {
    parts: Parts,
    table: Private,
    anchors: Vec<Anchor>,
    patience: Patience,
    prefetch: bool,
    started: Instant,
    state: Mutex<State>,
    /// One at a time carries out what was decided.
    applying: tokio::sync::Mutex<()>,
    /// The operator chose, or anchors were asked.
    poke: Notify,
    mode: watch::Sender<Mode>,
}

impl ShutdownMode {
    /// With what the operator chose before.
    pub(crate) fn open(parts: Parts, settings: &mhc_config::Continuity) -> Result<Self, RecordsError> {
        let table = parts.records.private(TABLE);
        let choice = match table.get(CHOICE)?.as_deref() {
            Some(b"on") => Choice::On,
            Some(b"off") => Choice::Off,
            _ => Choice::Auto,
        };
        let ms = |seconds: u32| u64::from(seconds) * 1000;
        let patience = Patience { silent_ms: ms(settings.silent_s), back_ms: ms(settings.back_s) };
        let switch = ModeSwitch::new(patience, choice);
        // The settings were checked; what isn't an anchor is none.
        let anchors: Vec<Anchor> = settings.anchors.iter().filter_map(|text| text.parse().ok()).collect();
        let state = State {
            decision: Decision { mode: Mode::Normal, cause: Cause::Nothing, again: None },
            switch,
            since: now(),
            answers: vec![None; anchors.len()],
            essential: Essential::default(),
        };
        Ok(Self(Arc::new(Inner {
            parts,
            table,
            anchors,
            patience,
            prefetch: settings.prefetch,
            started: Instant::now(),
            state: Mutex::new(state),
            applying: tokio::sync::Mutex::default(),
            poke: Notify::new(),
            mode: watch::Sender::new(Mode::Normal),
        })))
    }

    /// What the node is in.
    pub(crate) fn mode(&self) -> Mode {
        self.state().decision.mode
    }

    /// Decides and acts until it is dropped.
    pub(crate) fn run(&self) -> impl Future<Output = ()> + Send + 'static {
        let mode = self.clone();
        async move {
            tokio::join!(mode.ask_anchors(), mode.decide(), mode.prefetch());
        }
    }

    /// The operator chooses. Durable when it returns.
    async fn choose(&self, choice: Choice) -> Result<(), RecordsError> {
        let word: &[u8] = match choice {
            Choice::Auto => b"auto",
            Choice::On => b"on",
            Choice::Off => b"off",
        };
        self.0.table.put(CHOICE, word).await?;
        self.state().switch.choose(choice);
        self.apply().await;
        Ok(())
    }

    async fn ask_anchors(&self) {
        let patience = Duration::from_millis(self.0.patience.silent_ms.min(self.0.patience.back_ms));
        let mut ticks = interval((patience / ASKED_WITHIN_PATIENCE).clamp(ASK_LEAST, ASK_MOST));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let answers = join_all(self.0.anchors.iter().map(|anchor| self.answers(*anchor))).await;
            let answering = answers.iter().filter(|answers| **answers).count();
            let at = self.elapsed();
            {
                let mut state = self.state();
                state.switch.observe(at, answering, answers.len());
                state.answers = answers.into_iter().map(Some).collect();
            }
            self.0.poke.notify_one();
        }
    }

    async fn answers(&self, anchor: Anchor) -> bool {
        match anchor {
            Anchor::Node(node) => self.0.parts.net.peers().iter().any(|peer| peer.node == node && peer.connected),
            Anchor::Address(address) => {
                tokio::time::timeout(ANSWER, TcpStream::connect(address)).await.is_ok_and(|connected| connected.is_ok())
            }
        }
    }

    async fn decide(&self) {
        let mut orders = self.0.parts.emergency.changes();
        loop {
            self.apply().await;
            tokio::select! {
                () = self.0.poke.notified() => {}
                changed = orders.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// Brings the node in line with what is decided now.
    async fn apply(&self) {
        let _applying = self.0.applying.lock().await;
        match self.0.parts.emergency.order(self.0.parts.net.network(), now()) {
            Ok(order) => self.state().switch.order(order),
            Err(error) => tracing::warn!(%error, "orders of alerts not read"),
        }
        let (before, decision) = {
            let mut state = self.state();
            let decision = state.switch.decide();
            if state.decision.mode != decision.mode {
                state.since = now();
            }
            (std::mem::replace(&mut state.decision, decision), decision)
        };
        if before.mode == decision.mode && before.cause == decision.cause {
            return;
        }
        let policy = match decision.mode {
            Mode::Normal => LinkPolicy::Normal,
            Mode::Shutdown => LinkPolicy::PreferMesh,
        };
        self.0.parts.net.set_link_policy(policy);
        self.0.mode.send_replace(decision.mode);
        let why = why(&decision);
        tracing::warn!(mode = word(decision.mode), why, "the mode was decided");
        let mut facts = Facts::from([("mode", word(decision.mode).to_owned()), ("why", why.to_owned())]);
        if let Cause::Order(alert) = decision.cause {
            facts.insert("alert", alert.to_string());
        }
        self.0.parts.journal.note(now(), "mode", facts).await;
    }

    /// In shutdown mode, fetches what the policy calls essential and isn't here.
    async fn prefetch(&self) {
        let mut mode = self.0.mode.subscribe();
        while self.0.prefetch {
            if mode.wait_for(|mode| *mode == Mode::Shutdown).await.map(drop).is_err() {
                return;
            }
            let fetching = async {
                self.fetch_essential().await;
                tokio::time::sleep(FETCH_AGAIN).await;
            };
            let over = async { mode.wait_for(|mode| *mode == Mode::Normal).await.map(drop) };
            tokio::select! {
                () = fetching => {}
                _ = over => {}
            }
        }
    }

    async fn fetch_essential(&self) {
        let wanted = match self.essential() {
            Ok(wanted) => wanted,
            Err(error) => return tracing::warn!(%error, "what is essential isn't known"),
        };
        for hash in self.note_essential(&wanted) {
            if let Err(error) = self.0.parts.fetcher.fetch_all(hash, watch::Sender::new(Progress::default())).await {
                tracing::debug!(%hash, %error, "essential content not fetched");
            }
            self.note_essential(&wanted);
        }
    }

    /// Counts what is here; returns what isn't.
    fn note_essential(&self, wanted: &[BlobHash]) -> Vec<BlobHash> {
        let is_here = |hash: &BlobHash| self.0.parts.blobs.status(*hash).is_some_and(|status| status.complete);
        let missing: Vec<_> = wanted.iter().copied().filter(|hash| !is_here(hash)).collect();
        self.state().essential = Essential { wanted: wanted.len(), complete: wanted.len() - missing.len() };
        missing
    }

    /// The originals of what the home network's policy calls essential, as far as their records are here.
    fn essential(&self) -> Result<Vec<BlobHash>, RecordsError> {
        let Parts { records, net, .. } = &self.0.parts;
        let authority = records.authority(net.network())?;
        let essential = authority.latest().map(|policy| &policy.essential).into_iter().flatten();
        let view = records.view(catalog::NAME)?;
        let entries = essential.map(|content| catalog::entry(&view, *content)).collect::<Result<Vec<_>, _>>()?;
        Ok(entries.into_iter().flatten().map(|entry| entry.manifest.original.hash).collect())
    }

    /// Time that only goes forwards.
    fn elapsed(&self) -> Timestamp {
        Timestamp::from_millis(u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As people read it.
fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Normal => "normal",
        Mode::Shutdown => "shutdown",
    }
}

fn why(decision: &Decision) -> &'static str {
    match (decision.mode, decision.cause) {
        (_, Cause::Hand) => "the operator chose it",
        (_, Cause::Order(_)) => "an alert that holds orders it",
        (_, Cause::Anchors) => "no anchor answers",
        (_, Cause::Nothing) => "nothing speaks against it",
    }
}
