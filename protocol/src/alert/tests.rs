use super::*;
use crate::{
    AuthorId, NetworkId, SecretKey, Timestamp,
    record::{Body, Draft as RecordDraft, MAX_CLOCK_AHEAD_MS, RecordKind},
};

const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);
const MIN_MS: u64 = 60_000;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn network() -> NetworkId {
    key(200).network()
}

fn draft() -> Draft {
    Draft {
        status: Status::Actual,
        kind: Kind::Alert,
        severity: Severity::Critical,
        urgency: Urgency::Immediate,
        order: Order::None,
        at: NOW,
        life_min: 60,
        refers: None,
        language: Some(*b"en"),
        text: "The dam has broken. Go up the hill.".into(),
    }
}

/// An alert of issuer 1, so many minutes after now.
fn alert(after_min: u64) -> Alert {
    sign(1, Draft { at: NOW.saturating_add_ms(after_min * MIN_MS), ..draft() })
}

fn sign(seed: u8, draft: Draft) -> Alert {
    draft.sign(&key(seed), network()).unwrap()
}

fn refer(kind: Kind, to: &Alert, after_min: u64) -> Alert {
    let at = to.said().at.saturating_add_ms(after_min * MIN_MS);
    sign(1, Draft { kind, refers: Some(to.number()), at, ..draft() })
}

/// Signs whatever bytes stand before the signature, as a hostile issuer would.
fn forge(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let good = alert(0);
    let mut bytes = good.bytes()[..good.bytes().len() - 64].to_vec();
    change(&mut bytes);
    let signed = [b"mhc 2026 alert v1\0".as_slice(), network().as_bytes(), &bytes].concat();
    bytes.extend_from_slice(&key(1).sign(&signed).0);
    bytes
}

#[test]
fn the_longest_alert_fits_and_reads_the_same() {
    let longest = "é".repeat(MAX_SHORT_BYTES / 2) + "!";
    for (text, language) in [(longest.as_str(), Some(*b"fr")), ("x", None)] {
        let alert = sign(1, Draft { text: text.into(), language, ..draft() });
        assert!(alert.bytes().len() <= MAX_ALERT_BYTES);
        assert_eq!(Alert::verify(alert.bytes(), network()), Ok(alert));
    }
    let words = [(Status::Test, Severity::Normal, Urgency::Future, Order::ShutdownOff)];
    for (status, severity, urgency, order) in words {
        let alert = sign(2, Draft { status, severity, urgency, order, ..draft() });
        assert_eq!(Alert::verify(alert.bytes(), network()).unwrap().said(), alert.said());
    }
    assert_eq!(alert(0).id().to_string().parse(), Ok(alert(0).id()));
    assert_eq!("x".parse::<AlertId>(), Err(AlertError::Id));
}

#[test]
fn a_long_text_is_shortened_to_a_line_that_fits() {
    let cases = [("two\n  lines", "two lines".to_owned()), ("", String::new())];
    for (text, line) in cases {
        assert_eq!(short_line(text), line);
    }
    for letter in ["x", "é", "沖", "🌋"] {
        let line = short_line(&letter.repeat(200));
        let room = MAX_SHORT_BYTES - "…".len();
        assert_eq!(line, letter.repeat(room / letter.len()) + "…");
    }
}

#[test]
fn every_flipped_bit_every_cut_and_every_other_network_is_refused() {
    let good = alert(0);
    for bit in 0..good.bytes().len() * 8 {
        let mut bad = good.bytes().to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Alert::verify(&bad, network()).is_err(), "bit {bit}");
    }
    for len in 0..good.bytes().len() {
        assert!(Alert::verify(&good.bytes()[..len], network()).is_err(), "cut at {len}");
    }
    assert!(Alert::verify(&[good.bytes(), &[0]].concat(), network()).is_err(), "trailing byte");
    assert_eq!(Alert::verify(good.bytes(), key(201).network()), Err(AlertError::Forged));
}

#[test]
fn hostile_alerts_are_refused_though_they_are_signed() {
    use AlertError::{Invalid, Length, Version};
    let text_at = 51;
    let cases: Vec<(&str, Vec<u8>, AlertError)> = vec![
        ("unchanged but empty", vec![], Length(0)),
        ("too long", forge(|bytes| bytes.resize(MAX_ALERT_BYTES, b'x')), Length(264)),
        ("version", forge(|bytes| bytes[0] = 2), Version(2)),
        ("status 3", forge(|bytes| bytes[1] |= 0xc0), Invalid("the status")),
        ("kind 3", forge(|bytes| bytes[1] |= 0x30), Invalid("the kind")),
        ("severity 3", forge(|bytes| bytes[1] |= 0x0c), Invalid("the severity")),
        ("urgency 3", forge(|bytes| bytes[1] |= 0x03), Invalid("the urgency")),
        ("an order that isn't one", forge(|bytes| bytes[2] = 0x80), Invalid("the order")),
        ("before the project", forge(|bytes| bytes[35..41].fill(0)), Invalid("the time")),
        ("no life", forge(|bytes| bytes[41..43].fill(0)), Invalid("the life")),
        ("a life of weeks", forge(|bytes| bytes[41..43].fill(0xff)), Invalid("the life")),
        ("a new one that refers", forge(|bytes| bytes[48] = 1), Invalid("the reference")),
        ("an update of nothing", forge(|bytes| bytes[1] |= 0x10), Invalid("the reference")),
        (
            "an update of the future",
            forge(|bytes| {
                bytes[1] |= 0x10;
                bytes[43..49].fill(0xff);
            }),
            Invalid("the reference"),
        ),
        ("a language of digits", forge(|bytes| bytes[49] = b'1'), Invalid("the language")),
        ("half a language", forge(|bytes| bytes[49] = 0), Invalid("the language")),
        ("no text", forge(|bytes| bytes.truncate(text_at)), Invalid("the text")),
        ("blank text", forge(|bytes| bytes[text_at..].fill(b' ')), Invalid("the text")),
        ("a terminal's controls", forge(|bytes| bytes[text_at] = 0x1b), Invalid("the text")),
        ("not UTF-8", forge(|bytes| bytes[text_at] = 0xff), Invalid("the text")),
    ];
    for (name, bytes, error) in cases {
        assert_eq!(Alert::verify(&bytes, network()), Err(error), "{name}");
    }
    let long = Draft { text: "x".repeat(MAX_SHORT_BYTES + 1), ..draft() };
    assert_eq!(long.sign(&key(1), network()), Err(Invalid("the text")), "nobody signs what others refuse");
}

#[test]
fn the_desk_decides() {
    let first = alert(0);
    let update = refer(Kind::Update, &first, 1);
    let cancel = refer(Kind::Cancel, &update, 1);
    let other = sign(2, draft());
    // What comes in, who may, when (minutes after now), and what becomes of it.
    let story = [
        ("from nobody", &first, false, 0, Err(Dropped::NotIssuer)),
        ("news", &first, true, 0, Ok(())),
        ("once more", &first, true, 0, Err(Dropped::Duplicate)),
        ("another issuer's at the same moment", &other, true, 0, Ok(())),
        ("takes its place", &update, true, 1, Ok(())),
        ("the old one comes again", &first, true, 1, Err(Dropped::Replayed)),
        ("called back", &cancel, true, 2, Ok(())),
        ("once more", &cancel, true, 2, Err(Dropped::Duplicate)),
        ("again", &update, true, 2, Err(Dropped::Replayed)),
        ("after its time", &first, true, 60, Err(Dropped::Expired)),
    ];
    let mut desk = AlertDesk::default();
    for (name, alert, may, minutes, expected) in story {
        let now = NOW.saturating_add_ms(minutes * MIN_MS);
        assert_eq!(desk.check(alert, may, now), expected, "{name}");
        if expected.is_ok() {
            desk.take(alert.clone());
        }
    }
    let shown: Vec<_> = desk.in_force(NOW.saturating_add_ms(2 * MIN_MS)).map(Alert::id).collect();
    assert_eq!(shown, [other.id()]);
    assert_eq!(desk.standing(&first, NOW), Standing::Ended);
    assert_eq!(desk.standing(&other, other.expires()), Standing::Expired);
}

#[test]
fn a_cancellation_that_comes_first_ends_what_comes_later() {
    let first = alert(0);
    let mut desk = AlertDesk::default();
    desk.take(refer(Kind::Cancel, &first, 1));
    assert_eq!(desk.check(&first, true, NOW), Err(Dropped::Replayed));
}

#[test]
fn an_issuer_is_limited_by_its_own_times_and_can_always_cancel() {
    let far = MAX_CLOCK_AHEAD_MS / MIN_MS;
    assert_eq!(AlertDesk::default().check(&alert(far + 1), true, NOW), Err(Dropped::Early));
    let mut desk = AlertDesk::default();
    let many: Vec<_> = (0..WINDOW_ALERTS as u64).map(alert).collect();
    // In whatever order they come, all at once.
    for alert in many.iter().rev() {
        assert_eq!(desk.check(alert, true, NOW), Ok(()));
        desk.take(alert.clone());
    }
    assert_eq!(desk.check(&alert(7), true, NOW), Err(Dropped::TooMany));
    assert_eq!(desk.check(&sign(2, draft()), true, NOW), Ok(()), "another issuer has its own limit");
    assert_eq!(desk.check(&refer(Kind::Cancel, &many[0], 7), true, NOW), Ok(()));
    assert_eq!(desk.check(&alert(16), true, NOW), Ok(()), "the window has moved on");
    for n in 0..MAX_KNOWN as u64 {
        desk.take(sign(1, Draft { life_min: MAX_LIFE_MIN, at: NOW.saturating_add_ms(n + 10_000_000), ..draft() }));
    }
    assert_eq!(desk.check(&alert(1_000), true, NOW), Err(Dropped::TooMany), "so many that haven't expired");
}

#[test]
fn what_has_expired_is_forgotten_and_numbers_only_grow() {
    let (first, later) = (alert(0), alert(30));
    let mut desk = AlertDesk::default();
    [&first, &later].into_iter().for_each(|alert| desk.take(alert.clone()));
    assert_eq!(desk.next_number(key(1).author(), NOW), Timestamp::from_millis(later.number() + 1));
    assert_eq!(desk.next_number(key(2).author(), NOW), NOW);
    assert_eq!(desk.forget(first.expires()), [first]);
    assert_eq!(desk.known().map(Alert::id).collect::<Vec<_>>(), [later.id()]);
}

#[test]
fn the_latest_real_order_of_who_may_counts() {
    let order = |seed, after_min: u64, order, status| {
        sign(seed, Draft { order, status, at: NOW.saturating_add_ms(after_min * MIN_MS), ..draft() })
    };
    let mut desk = AlertDesk::default();
    let on = order(1, 0, Order::ShutdownOn, Status::Actual);
    let off = order(2, 1, Order::ShutdownOff, Status::Actual);
    let drill = order(1, 2, Order::ShutdownOn, Status::Exercise);
    [&on, &off, &drill].into_iter().for_each(|alert| desk.take(alert.clone()));
    let holds = |may: fn(AuthorId) -> bool, now| desk.order(now, may).map(Alert::id);
    assert_eq!(holds(|_| true, NOW), Some(off.id()));
    assert_eq!(holds(|who| who == key(1).author(), NOW), Some(on.id()), "the other one lost its grant");
    assert_eq!(holds(|_| true, off.expires()), None, "an order ends with its alert");
}

fn record_of(seed: u8, kind: RecordKind, bytes: Vec<u8>) -> crate::record::VerifiedRecord {
    let body = Body { salt: [9; 16], bytes };
    RecordDraft { network: network(), epoch: 0, seq: 0, prev: None, at: NOW, kind, body }.sign(&key(seed)).unwrap()
}

fn details() -> Details {
    let texts = [("en", "The dam has broken.\nGo up the hill."), ("pt-br", "A barragem rompeu.")];
    Details {
        areas: ["Valley".to_owned(), "urn:oid:2.49.0.0.276.0.DE.09162".to_owned()].into(),
        texts: texts.map(|(tag, text)| (tag.to_owned(), text.to_owned())).into(),
        content: None,
    }
}

#[test]
fn the_long_form_reads_the_same_and_is_its_issuers_own() {
    let alert = AlertRecord { alert: alert(0), details: details() };
    let body = alert.encode().unwrap();
    let record = record_of(1, ALERT, body.clone());
    assert_eq!(AlertRecord::of(&record), Ok(alert));
    assert_eq!(AlertRecord::of(&record.erased()), Err(DetailsError::Absent));
    assert_eq!(AlertRecord::of(&record_of(2, ALERT, body.clone())), Err(DetailsError::Author), "in another's log");
    assert_eq!(AlertRecord::of(&record_of(1, RecordKind::new("test.v1"), body)), Err(DetailsError::Absent));
    assert!(matches!(AlertRecord::of(&record_of(1, ALERT, vec![0xa0])), Err(DetailsError::Cbor(_))));
}

#[test]
fn details_have_bounds() {
    let with_text = |tag: &str, text: String| Details { texts: [(tag.to_owned(), text)].into(), ..details() };
    let with_areas = |areas: Vec<String>| Details { areas: areas.into_iter().collect(), ..details() };
    let many = |count: usize| (0..count).map(|n| format!("area {n}")).collect::<Vec<_>>();
    let cases = [
        ("nothing more", Details::default(), true),
        ("as it should be", details(), true),
        ("a long text", with_text("en", "é".repeat(MAX_TEXT_CHARS)), true),
        ("too long a text", with_text("en", "é".repeat(MAX_TEXT_CHARS + 1)), false),
        ("no text", with_text("en", " ".into()), false),
        ("controls", with_text("en", "\u{1b}[2J".into()), false),
        ("no tag", with_text("", "x".into()), false),
        ("an upper-case tag", with_text("EN", "x".into()), false),
        ("a path for a tag", with_text("../en", "x".into()), false),
        ("a tag that ends in a dash", with_text("en-", "x".into()), false),
        ("all areas", with_areas(many(MAX_AREAS)), true),
        ("too many areas", with_areas(many(MAX_AREAS + 1)), false),
        ("a blank area", with_areas(vec![" ".into()]), false),
    ];
    for (name, details, good) in cases {
        assert_eq!(details.check().is_ok(), good, "{name}");
    }
}
