//! Two nodes behind routers that translate addresses, and a public one. What the product does there today: everything
//! travels through the public node, which fetches what it plays and serves what it holds. Two nodes of which neither
//! can be reached from outside don't connect to each other; that needs somebody to introduce or relay them.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Result;

use super::{connected, lists, play_ranges, publish_film};
use crate::{
    nat::{self, NatKind},
    run::{Scenario, Stage},
    story::{Story, Void},
};

const LIMIT: Duration = Duration::from_secs(90);

const fn scenario(name: &'static str, about: &'static str, tell: fn(&mut Story) -> Result<Stage>) -> Scenario {
    Scenario { name, about, limit: LIMIT, tell }
}

pub(super) const FULL_CONE: Scenario =
    scenario("nat-full-cone", "two nodes behind full-cone NATs and a public one", |story| {
        tell(story, NatKind::FullCone)
    });
pub(super) const RESTRICTED_CONE: Scenario =
    scenario("nat-restricted-cone", "the same with restricted-cone NATs", |story| tell(story, NatKind::RestrictedCone));
pub(super) const PORT_RESTRICTED_CONE: Scenario =
    scenario("nat-port-restricted-cone", "the same with port-restricted-cone NATs", |story| {
        tell(story, NatKind::PortRestrictedCone)
    });
pub(super) const SYMMETRIC: Scenario =
    scenario("nat-symmetric", "the same with symmetric NATs", |story| tell(story, NatKind::Symmetric));

const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

fn tell(story: &mut Story, kind: NatKind) -> Result<Stage> {
    let internet = story.switch("internet")?;
    let [public, other] = [story.host("public")?, story.host("other")?];
    let [a, b] = [story.host("a")?, story.host("b")?];
    story.plug(&public, &internet, &format!("{PUBLIC}/24"))?;
    story.plug(&other, &internet, &format!("{OTHER}/24"))?;
    story.nat(kind, (&a, "10.1.0.2/24", "10.1.0.1/24"), (&internet, "203.0.113.11/24"))?;
    story.nat(kind, (&b, "10.2.0.2/24", "10.2.0.1/24"), (&internet, "203.0.113.12/24"))?;
    for host in [&a, &b] {
        let seen = nat::probe(host.netns(), [(public.netns(), PUBLIC), (other.netns(), OTHER)])?;
        let is = seen.kind().map_or("none of the four", NatKind::name);
        story.say(format!("{} is behind a NAT that behaves like {is}: {seen:?}", host.name()));
        if seen.kind() != Some(kind) {
            return Err(Void(format!("the NAT of {} is {is}, not {}", host.name(), kind.name())).into());
        }
    }
    story.holds(&format!("both NATs behave like {}", kind.name()), true)?;

    let at_public = story.node(&public, |options| options)?;
    let invitation = at_public.ticket()?;
    let at_a = story.node(&a, |options| options.peer(&invitation))?;
    let at_b = story.node(&b, |options| options.peer(&invitation))?;
    story.within("both are connected to the public node", Duration::from_secs(10), || {
        connected(&at_public, &[&at_a, &at_b])
    })?;
    let published = publish_film(story, &a, &at_a)?;
    story.within("B lists what A published", Duration::from_secs(10), || lists(&at_b, &published.content))?;
    let direct = connected(&at_b, &[&at_a]).is_ok();
    story.measured("A and B are connected to each other", direct, "");
    story.check("the public node plays it, from behind A's NAT", play_ranges(&public, &at_public, &published))?;
    story.check("B plays it, behind its own NAT", play_ranges(&b, &at_b, &published))?;
    Ok(Box::new([at_public, at_a, at_b]))
}
