//! Three machines on one switch. They were told which network they belong to and nobody's address.

use std::time::Duration;

use super::{connected, lists, play_ranges, publish_film, ticket};
use crate::{NodeOptions, run::Scenario};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "lan",
    about: "three nodes on a switch find each other, and play what one of them published",
    limit: Duration::from_secs(120),
    tell: |story| {
        let switch = story.switch("switch")?;
        let [a, b, c] = [story.host("a")?, story.host("b")?, story.host("c")?];
        for (host, address) in [(&a, "10.77.1.1/24"), (&b, "10.77.1.2/24"), (&c, "10.77.1.3/24")] {
            story.plug(host, &switch, address)?;
        }

        let at_a = story.node(&a, |options| NodeOptions { mdns: true, ..options })?;
        // An invitation without an address: which network, and nothing of where anybody is.
        let invitation = ticket(&at_a, |ticket| {
            ticket.p2p.clear();
            ticket.iroh.clear();
        })?;
        let at_b = story.node(&b, |options| NodeOptions { mdns: true, ..options }.peer(&invitation))?;
        let at_c = story.node(&c, |options| NodeOptions { mdns: true, ..options }.peer(&invitation))?;
        story.within("all three are connected", Duration::from_secs(5), || {
            connected(&at_a, &[&at_b, &at_c])?;
            connected(&at_b, &[&at_a, &at_c])?;
            connected(&at_c, &[&at_a, &at_b])
        })?;

        let published = publish_film(story, &a, &at_a)?;
        for (host, node) in [(&b, &at_b), (&c, &at_c)] {
            let what = format!("{} lists it", host.name());
            story.within(&what, Duration::from_secs(5), || lists(node, &published.content))?;
            let what = format!("{} plays it, byte for byte", host.name());
            story.check(&what, play_ranges(host, node, &published))?;
        }
        Ok(Box::new([at_a, at_b, at_c]))
    },
};
