//! Interfaces of this machine: a path whose own end is down needs no questions.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use iroh::Watcher;
use netwatch::{interfaces::State, netmon::Monitor};

use crate::net::{actor::Command, shared::Shared};

/// Follows them until the network stops.
pub(in crate::net) async fn watch(shared: Arc<Shared>) {
    let monitor = match Monitor::new().await {
        Ok(monitor) => monitor,
        Err(error) => return tracing::warn!(%error, "interfaces aren't watched"),
    };
    let mut states = monitor.interface_state();
    shared.links.set_own_addresses(addresses(&states.get()));
    while let Ok(state) = states.updated().await {
        let own = addresses(&state);
        tracing::debug!(addresses = ?own, "interfaces have changed");
        shared.links.set_own_addresses(own);
        shared.links.interfaces_changed();
        // When the queue is full, its own listeners tell the actor.
        let _ = shared.commands.try_send(Command::Interfaces);
    }
}

/// Addresses of interfaces that are up.
fn addresses(state: &State) -> BTreeSet<IpAddr> {
    let up = state.interfaces.values().filter(|interface| interface.is_up());
    up.flat_map(|interface| interface.addrs().map(|net| net.addr()).collect::<Vec<_>>()).collect()
}
