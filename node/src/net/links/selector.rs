//! Tells iroh which of the paths it has open carries.

use std::sync::Arc;

use iroh::endpoint::transports::{FourTuple, PathSelection, PathSelectionContext, PathSelector};
use mhc_protocol::{NodeId, link::Route};

use super::Links;
use crate::net::ids;

/// Asks the ladder. iroh calls it when a path opens or closes, never in between.
#[derive(Debug)]
pub(in crate::net) struct LadderSelector(pub(in crate::net) Arc<Links>);

impl PathSelector for LadderSelector {
    fn select(&self, context: &PathSelectionContext<'_>) -> PathSelection {
        let current = context.current();
        let mut open: Vec<(Route, Option<u64>)> = vec![];
        let mut node = None;
        let mut candidates = vec![];
        for path in context.paths() {
            let (Some(route), Some(stats)) = (route_of(path.network_path()), path.stats()) else { continue };
            let rtt_ms = u64::try_from(stats.rtt.as_millis()).ok();
            // The same address may be open on several connections: the best of them is what it can do.
            match open.iter_mut().find(|(other, _)| *other == route) {
                Some((_, least)) => *least = (*least).into_iter().chain(rtt_ms).min(),
                None => open.push((route.clone(), rtt_ms)),
            }
            node = node.or_else(|| node_of(path.network_path()));
            candidates.push((route, path));
        }
        let now = self.0.now();
        let chosen = self.0.ladder().select(now, node, &open, current.and_then(route_of).as_ref());
        let mut selection = PathSelection::none();
        let Some(chosen) = chosen else { return selection };
        let ways = || candidates.iter().filter(|(route, _)| *route == chosen).map(|(_, path)| path);
        // Of several ways to one address, the one in use stays.
        let kept = ways().find(|path| Some(path.network_path()) == current);
        if let Some(path) = kept.or_else(|| ways().next()) {
            selection.set(path);
        }
        selection
    }
}

fn route_of(path: &FourTuple) -> Option<Route> {
    match path {
        FourTuple::Ip { remote, .. } => Some(Route::Ip(*remote)),
        FourTuple::Relay { url, .. } => Some(Route::Relay(url.to_string())),
        FourTuple::Custom { .. } => None,
    }
}

/// A relay's path says whose it is.
fn node_of(path: &FourTuple) -> Option<NodeId> {
    match path {
        FourTuple::Relay { endpoint_id, .. } => Some(ids::node_of_endpoint(*endpoint_id)),
        FourTuple::Ip { .. } | FourTuple::Custom { .. } => None,
    }
}
