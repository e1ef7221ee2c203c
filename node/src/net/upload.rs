//! The gate that every piece of an answer passes on its way out: the upload cap, fair shares, viewers before copies.
//! [`Uploads`] decides; this waits.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use mhc_protocol::{
    NodeId, Timestamp,
    sched::DemandClass,
    upload::{PieceId, Uploads},
};
use tokio::sync::oneshot;

#[derive(Debug)]
pub(super) struct Gate {
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    uploads: Uploads,
    waiting: HashMap<PieceId, oneshot::Sender<()>>,
}

/// A piece that may be sent. Drop it when it is.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    gate: &'a Gate,
    piece: PieceId,
}

impl Gate {
    /// With a cap in bytes per second, or none.
    pub(super) fn new(cap_bytes_per_s: Option<u64>) -> Self {
        let state = State { uploads: Uploads::new(cap_bytes_per_s), waiting: HashMap::new() };
        Self { started: Instant::now(), state: Mutex::new(state) }
    }

    /// Waits until `bytes` may be sent to `node`.
    pub(super) async fn turn(&self, node: NodeId, class: DemandClass, bytes: u64) -> Turn<'_> {
        let (granted, mut grant) = oneshot::channel();
        let piece = {
            let mut state = self.lock();
            let piece = state.uploads.ask(self.now(), node, class, bytes);
            state.waiting.insert(piece, granted);
            self.let_pass(&mut state);
            piece
        };
        // From here on dropping the future gives the place back.
        let turn = Turn { gate: self, piece };
        loop {
            let wake = self.lock().uploads.next_wake().map(|at| self.started + Duration::from_millis(at.as_millis()));
            let wake = wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(1));
            tokio::select! {
                biased;
                // The sender is dropped only with the state.
                _ = &mut grant => return turn,
                () = tokio::time::sleep_until(wake.into()) => self.let_pass(&mut self.lock()),
            }
        }
    }

    fn let_pass(&self, state: &mut State) {
        for piece in state.uploads.poll(self.now()) {
            if let Some(waiting) = state.waiting.remove(&piece) {
                let _ = waiting.send(()); // It left just now, and says so.
            }
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.started.elapsed().as_millis() as u64)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.waiting.remove(&self.piece);
        state.uploads.done(self.piece);
        self.gate.let_pass(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_gives_up_waiting_holds_nobody_up() {
        let gate = Gate::new(Some(1_000));
        let node = NodeId::from_bytes([1; 32]);
        let first = gate.turn(node, DemandClass::Playhead, 300).await;
        let leaving = gate.turn(node, DemandClass::Playhead, 1 << 40);
        assert!(tokio::time::timeout(Duration::from_millis(5), leaving).await.is_err(), "the cap is used up");
        drop(first);
        drop(gate.turn(node, DemandClass::Background, 10).await);
        assert!(gate.lock().waiting.is_empty());
    }
}
