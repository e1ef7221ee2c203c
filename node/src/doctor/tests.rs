//! Each check, with what makes it warn or fail.

use std::net::{TcpListener, UdpSocket};

use super::*;

#[test]
fn limits_decide_between_ok_warn_and_fail() {
    let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
    let now = EARLIEST.as_secs() + 1_000_000;
    let cases: &[(Check, State)] = &[
        (space_of(0, 100 << 20), State::Fail),
        (space_of((100 << 20) - 1, 100 << 20), State::Fail),
        (space_of(100 << 20, 100 << 20), State::Warn),
        (space_of(400 << 20, 100 << 20), State::Ok),
        (space_of(u64::MAX - 1, u64::MAX), State::Fail),
        (clock(at(0), None), State::Fail),
        (clock(at(EARLIEST.as_secs() - 1), None), State::Fail),
        (clock(at(now), None), State::Ok),
        (clock(at(now), Some(at(now - 5))), State::Ok),
        (clock(at(now), Some(at(now + 299))), State::Ok),
        (clock(at(now), Some(at(now + 301))), State::Warn),
        (udp_buffer(None), State::Ok),
        (udp_buffer(Some(212_992)), State::Warn),
        (udp_buffer(Some(UDP_BUFFER_BYTES)), State::Ok),
        (file_handles(Some(100)), State::Fail),
        (file_handles(Some(1024)), State::Warn),
        (file_handles(Some(1 << 20)), State::Ok),
        (file_handles(None), State::Ok),
    ];
    for (check, state) in cases {
        assert_eq!(check.state, *state, "{check:?}");
        assert_eq!(check.mend.is_some(), *state != State::Ok, "{check:?}");
    }
}

#[test]
fn the_home_is_looked_at_where_it_is_or_would_be() {
    let dir = tempfile::tempdir().unwrap();
    for home in [dir.path().to_owned(), dir.path().join("not/yet")] {
        assert_eq!(writable(&home).state, State::Ok);
        assert_eq!(keys(&home), [Check::ok("keys", "no keys yet: `mhc up` makes them")]);
        assert_ne!(space(&home, 0).detail, "");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn keys_open_to_others_are_told_with_the_command_that_closes_them() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    drop(home::Home::open(dir.path(), None).unwrap());
    assert_eq!(keys(dir.path())[0].state, State::Ok);
    for name in ["keys/node.key", "api.token"] {
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    let checks = keys(dir.path());
    assert_eq!(checks.len(), 2, "{checks:?}");
    assert!(checks.iter().all(|check| check.state == State::Fail), "{checks:?}");
    assert!(checks[0].mend.as_ref().unwrap().contains("chmod 600"), "{checks:?}");
}

#[test]
fn a_taken_port_is_named() {
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("[::]:0").unwrap();
    let mut config = Config::default();
    config.gateway.http = http.local_addr().unwrap();
    (config.p2p.port, config.p2p.iroh_port) = (0, Some(udp.local_addr().unwrap().port()));
    let states = |running| ports::check(&config, running).iter().map(|check| check.state).collect::<Vec<_>>();
    assert_eq!(states(false), [State::Fail, State::Ok, State::Ok, State::Fail]);
    assert_eq!(states(true), [State::Ok; 4]);
}

#[test]
fn all_checks_come_as_documented() {
    let dir = tempfile::tempdir().unwrap();
    let checks = check(dir.path(), &Config::default(), SystemTime::now(), true);
    for name in ["home", "disk", "keys", "clock", "ports", "programs", "udp_buffer", "file_handles"] {
        assert!(checks.iter().any(|check| check.check == name), "{name}");
    }
    let json = serde_json::to_value(Check::warn("disk", "little", "free some")).unwrap();
    assert_eq!(json, serde_json::json!({"check": "disk", "state": "warn", "detail": "little", "mend": "free some"}));
}
