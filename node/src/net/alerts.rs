//! Alerts by gossip: each that arrives waits here for a verdict before it travels on, and those of this node go out.

use libp2p::{
    PeerId,
    gossipsub::{MessageAcceptance, MessageId},
};
use mhc_protocol::{NetworkId, NodeId, wire::Topic};
use tokio::sync::{mpsc, oneshot};

use super::{
    Net,
    actor::{Command, Verdict},
    book::Fault,
    ids,
};

/// Alerts that wait for a verdict. More at a time are a flood; records bring what is lost in it.
pub(super) const WAITING: usize = 256;

/// An alert that a peer passed on. It travels no further until one of the three has been said.
#[derive(Debug)]
pub struct IncomingAlert {
    /// The network of the topic that it came by.
    pub network: NetworkId,
    /// What came: anything.
    pub bytes: Vec<u8>,
    pub(super) message: MessageId,
    pub(super) from: PeerId,
    pub(super) verdicts: mpsc::Sender<Verdict>,
}

impl IncomingAlert {
    /// Who passed it on.
    pub fn from(&self) -> Option<NodeId> {
        ids::node_of(&self.from)
    }

    /// It is durable here: it travels on.
    pub async fn accept(self) {
        self.answer(MessageAcceptance::Accept).await;
    }

    /// It goes no further, without blame: whoever passed it on may know less than this node.
    pub async fn ignore(self) {
        self.answer(MessageAcceptance::Ignore).await;
    }

    /// It goes no further, and no honest node would have passed it on.
    pub async fn reject(self, net: &Net, why: &str) {
        if let Some(node) = self.from() {
            net.0.shared.report(node, &Fault::JunkGossip(why.into()));
        }
        self.answer(MessageAcceptance::Reject).await;
    }

    async fn answer(self, acceptance: MessageAcceptance) {
        let Self { message, from, verdicts, .. } = self;
        // The swarm is gone when the node stops.
        let _ = verdicts.send(Verdict { message, from, acceptance }).await;
    }
}

impl Net {
    /// Alerts as peers pass them on. Once: whoever takes this must answer each of them.
    pub fn incoming_alerts(&self) -> Option<mpsc::Receiver<IncomingAlert>> {
        let waiting = self.0.incoming_alerts.lock();
        waiting.unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    /// Gossips an alert; whether anybody was there to hear it.
    pub async fn spread_alert(&self, network: NetworkId, bytes: Vec<u8>) -> bool {
        let (reply, published) = oneshot::channel();
        let command = Command::Publish(Topic::Alerts(network), bytes, reply);
        let sent = self.0.shared.commands.send(command).await.is_ok();
        sent && matches!(published.await, Ok(super::actor::Published::Sent))
    }

    /// As if a peer had begun to listen.
    pub(crate) fn expect_alert_listener(&self) {
        self.0.shared.alerts_poke.notify_one();
    }

    /// Resolves when a peer begins to listen to alerts: it may have missed some.
    pub async fn alert_listener(&self) {
        self.0.shared.alerts_poke.notified().await;
    }
}
