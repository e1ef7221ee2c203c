mod cases;

use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::{
    NetworkId, RecordId, SecretKey, Timestamp,
    record::{Body, Draft, VerifiedRecord},
};

use self::cases::{with_admin, with_moderator};

const START: u64 = 1_795_000_000_000;
const HOUR_MS: u64 = 3_600_000;

fn hour(hours: u64) -> Timestamp {
    Timestamp::from_millis(START + hours * HOUR_MS)
}

fn key(name: char) -> SecretKey {
    SecretKey::from_seed(&[name as u8; 32])
}

fn author(name: char) -> AuthorId {
    key(name).author()
}

/// The network under test: `R` holds its root key.
fn network() -> NetworkId {
    key('R').network()
}

#[derive(Default, Clone, Copy)]
struct End {
    next: u64,
    prev: Option<RecordId>,
}

/// Logs of people with one-letter names, written by a clock that the test sets.
#[derive(Default)]
struct World {
    ends: HashMap<char, End>,
    deeds: Vec<Deed>,
    named: HashMap<&'static str, RecordId>,
    clock: u64,
}

impl World {
    fn write(&mut self, by: char, kind: RecordKind, bytes: Vec<u8>) -> VerifiedRecord {
        let end = self.ends.entry(by).or_default();
        let body = Body { salt: [0; 16], bytes };
        let (network, at, seq, prev) = (network(), hour(self.clock), end.next, end.prev);
        let record = Draft { network, epoch: 0, seq, prev, at, kind, body }.sign(&key(by)).unwrap();
        *end = End { next: seq + 1, prev: Some(record.id()) };
        self.deeds.extend(Deed::of(&record));
        record
    }

    /// `by` gives `to` a role under the grant named `under` (the root: ""), changed by `change`.
    fn grant(&mut self, name: &'static str, by: char, under: &str, to: char, role: Role, change: fn(&mut Grant)) {
        let under = (!under.is_empty()).then(|| self.id(under));
        let from = hour(self.clock);
        let mut grant = Grant { to: author(to), role, channel: None, from, until: None, depth: 0, under, note: None };
        change(&mut grant);
        let record = self.write(by, GRANT, grant.encode().unwrap());
        self.named.insert(name, record.id());
    }

    fn revoke(&mut self, by: char, grant: &str, keep: Option<Position>) {
        let revoke = Revoke { grant: self.id(grant), keep, reason: None };
        self.write(by, REVOKE, revoke.encode().unwrap());
    }

    fn policy(&mut self, by: char, revision: u64, membership: Membership) {
        let issuers = [author('I')].into();
        let policy = Policy { revision, membership, issuers, ..Policy::default() };
        self.write(by, POLICY, policy.encode().unwrap());
    }

    fn id(&self, name: &str) -> RecordId {
        self.named.get(name).copied().unwrap_or_else(|| RecordId::from_bytes([0xee; 32]))
    }

    fn authority(&self) -> Authority {
        let expected = Authority::new(network(), &self.deeds);
        // Whatever the order, and however often they come.
        let mut deeds: Vec<&Deed> = self.deeds.iter().chain(&self.deeds).collect();
        for turn in 0..deeds.len() {
            deeds.rotate_left(1);
            if turn % 3 == 0 {
                deeds.reverse();
            }
            assert_eq!(Authority::new(network(), deeds.iter().copied()), expected, "order {turn}");
        }
        expected
    }
}

const ANYWHERE: Action = Action::Moderate(None);
const OK: Result<(), Denied> = Ok(());
const ROLE: Result<(), Denied> = Err(Denied::Role);
const STRANGER: Result<(), Denied> = Err(Denied::NotMember);
const LAST: Position = (u64::MAX, u64::MAX);

fn same(_: &mut Grant) {}

#[test]
fn who_may_do_what_is_the_same_in_every_order() {
    let cases = cases::cases();
    assert!(cases.len() >= 40);
    for (name, sign, who, action, at, position, expected) in cases {
        let mut world = World::default();
        sign(&mut world);
        let got = world.authority().may(author(who), action, When { at: hour(at), position });
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn a_change_names_those_it_concerns() {
    let mut world = World::default();
    with_moderator(&mut world);
    let before = world.authority();
    world.revoke('R', "M", None);
    assert_eq!(world.authority().differs_for(&before), Some([author('M')].into()));
    world.policy('R', 2, Membership::Open);
    assert_eq!(world.authority().differs_for(&before), None);
}

#[test]
fn the_grant_to_stand_on_is_the_widest() {
    let mut world = World::default();
    with_admin(&mut world);
    let (authority, when) = (world.authority(), When::now(hour(5)));
    assert_eq!(authority.stand_on(author('A'), Role::Moderator, when).map(|held| held.id), Some(world.id("A")));
    assert_eq!(authority.stand_on(author('X'), Role::Member, when), None);
}

#[test]
fn limits_follow_standing_and_policy() {
    let mut world = World::default();
    let when = When::now(hour(5));
    assert_eq!(world.authority().limits(author('X'), when), Limits::default_of(None));
    with_moderator(&mut world);
    let authority = world.authority();
    assert_eq!(authority.limits(author('X'), when), Limits::NONE, "curated");
    assert_eq!(authority.limits(author('M'), when), Limits::default_of(Some(Role::Moderator)));
    let few = Limits { day_records: 3, ..Limits::default_of(None) };
    let quotas = BTreeMap::from([("moderator".to_owned(), few.clone()), ("admin".to_owned(), Limits::NONE)]);
    let policy = Policy { revision: 2, quotas, ..Policy::default() };
    world.write('R', POLICY, policy.encode().unwrap());
    let authority = world.authority();
    assert_eq!(authority.limits(author('M'), when), few);
    assert_eq!(authority.limits(author('A'), when), Limits::NONE);
    assert_ne!(authority.limits(author('R'), when), Limits::NONE, "the root can't lock itself out");
}

#[test]
fn a_meter_admits_what_is_within_the_limits() {
    let limits = Limits { day_records: 3, kinds: KindLimits::new([("b.v1".to_owned(), 1)]), records: 6 };
    // Hours after the start, kind, whether it is admitted. The start is 07:06 UTC.
    let steps = [
        (0, "a.v1", true),
        (0, "b.v1", true),
        (0, "b.v1", false),
        (0, "a.v1", true),
        (0, "a.v1", false),
        (24, "b.v1", true),
        (0, "b.v1", false),
        (0, "a.v1", true),
        (48, "b.v1", true),
        (72, "a.v1", false),
    ];
    let mut meter = Meter::default();
    for (step, (at, kind, expected)) in steps.into_iter().enumerate() {
        assert_eq!(meter.admit(&RecordKind::new(kind), hour(at), &limits), expected, "step {step}");
    }
    let withdrawn = (0..8).filter(|_| meter.admit(&ERASE, hour(96), &Limits::NONE)).count();
    assert_eq!(withdrawn, 6, "one for each record");
    meter.close();
    assert!(!meter.admit(&RecordKind::new("a.v1"), hour(96), &Limits::default_of(None)));
}

#[test]
fn bodies_round_trip_and_those_out_of_bounds_are_refused() {
    let grant = Grant {
        to: author('X'),
        role: Role::Moderator,
        channel: Some(author('C')),
        from: hour(0),
        until: Some(hour(1)),
        depth: MAX_DEPTH,
        under: None,
        note: Some("Nächte".into()),
    };
    assert_eq!(Grant::decode(&grant.encode().unwrap()), Ok(grant.clone()));
    type Bad = (&'static str, fn(&mut Grant));
    let bad: [Bad; 5] = [
        ("depth", |grant| grant.depth = MAX_DEPTH + 1),
        ("channel", |grant| grant.role = Role::Admin),
        ("until", |grant| grant.until = Some(hour(0))),
        ("note", |grant| grant.note = Some("two\nlines".into())),
        ("note", |grant| grant.note = Some("x".repeat(201))),
    ];
    for (what, change) in bad {
        let mut grant = grant.clone();
        change(&mut grant);
        assert_eq!(grant.encode(), Err(BodyError::Invalid(what)));
        assert_eq!(Grant::decode(&crate::cbor::encode(&grant).unwrap()), Err(BodyError::Invalid(what)));
    }
    let revoke = Revoke { grant: RecordId::from_bytes([1; 32]), keep: Some((0, 1 << 49)), reason: None };
    assert_eq!(revoke.encode(), Err(BodyError::Invalid("keep")));
    assert_eq!(Policy::default().encode(), Err(BodyError::Invalid("revision")), "revisions begin at 1");
    let quotas = BTreeMap::from([("king".to_owned(), Limits::NONE)]);
    assert!(Policy { revision: 1, quotas, ..Policy::default() }.encode().is_err());
    let essential = (0..=u16::MAX).map(|n| RecordId::from_bytes(*blake3::hash(&n.to_be_bytes()).as_bytes()));
    assert!(Policy { revision: 1, essential: essential.collect(), ..Policy::default() }.encode().is_err());
    assert!(Erase { records: Default::default() }.encode().is_err());
    let full = Erase {
        records: (0..MAX_ERASED as u16)
            .map(|n| RecordId::from_bytes(*blake3::hash(&n.to_be_bytes()).as_bytes()))
            .collect(),
    };
    let bytes = full.encode().unwrap();
    assert_eq!(Erase::decode(&bytes), Ok(full));
    for len in 0..64 {
        assert!(Erase::decode(&bytes[..len]).is_err(), "cut at {len}");
    }
}
