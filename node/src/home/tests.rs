//! Homes new, used, half made, damaged, open to others and taken.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
};

use super::*;

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_home_is_the_first_that_is_named() {
    // Flag, environment, home.
    type Case = (Option<&'static str>, &'static [(&'static str, &'static str)], Option<&'static str>);
    let cases: &[Case] = &[
        (Some("/f"), &[("MHC_HOME", "/m"), ("HOME", "/h")], Some("/f")),
        (None, &[("MHC_HOME", "/m"), ("XDG_DATA_HOME", "/x"), ("HOME", "/h")], Some("/m")),
        (None, &[("XDG_DATA_HOME", "/x"), ("HOME", "/h")], Some("/x/mhc")),
        (None, &[("MHC_HOME", ""), ("XDG_DATA_HOME", ""), ("HOME", "/h")], Some("/h/.local/share/mhc")),
        (None, &[], None),
    ];
    for (flag, variables, expected) in cases {
        let variables: HashMap<&str, &str> = variables.iter().copied().collect();
        let found = resolve(flag.map(Path::new), |name| variables.get(name).map(OsString::from));
        assert_eq!(found.ok().as_deref(), expected.map(Path::new), "{variables:?}");
    }
}

#[test]
fn a_new_home_is_private_and_opens_again_as_the_same() {
    let above = temporary();
    let dir = above.path().join("a/b");
    let home = Home::open(&dir, None).unwrap();
    assert!(home.first_start() && home.network_key().is_some());
    let (node, network, token) = (home.node_key().node(), home.network(), home.token().to_owned());
    drop(home);
    assert_eq!((mode(&dir), mode(&dir.join(KEYS))), (0o700, 0o700));
    for name in [NODE_KEY, NETWORK_KEY, API_TOKEN, SETUP_CODE] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
        assert_eq!(fs::read_to_string(dir.join(name)).unwrap().len(), 65, "{name}");
    }
    let home = Home::open(&dir, Some(NetworkId::from_bytes([1; 32]))).unwrap();
    assert!(!home.first_start());
    assert_eq!((home.node_key().node(), home.network(), home.token()), (node, network, token.as_str()));
    assert_eq!(read_token(&dir).unwrap(), Some(token));
}

#[test]
fn a_home_that_joins_has_no_root_key() {
    let dir = temporary();
    let network = NetworkId::from_bytes([9; 32]);
    for join in [Some(network), None, Some(NetworkId::from_bytes([1; 32]))] {
        let home = Home::open(dir.path(), join).unwrap();
        assert_eq!(home.network(), network);
        assert!(home.network_key().is_none() && !dir.path().join(NETWORK_KEY).exists());
    }
}

/// What may be there when a first start is killed, and how the next start ends.
#[test]
fn a_half_made_home_starts() {
    let whole = temporary();
    drop(Home::open(whole.path(), None).unwrap());
    let order = [SETUP_CODE, NODE_KEY, NETWORK_KEY, API_TOKEN];
    for made in 0..=order.len() {
        for half_written in [false, true] {
            let dir = temporary();
            fs::create_dir(dir.path().join(KEYS)).unwrap();
            for name in &order[..made] {
                fs::copy(whole.path().join(name), dir.path().join(name)).unwrap();
            }
            if half_written && made < order.len() {
                fs::write(dir.path().join(order[made]).with_added_extension("new"), "ab").unwrap();
            }
            drop(Home::open(dir.path(), None).unwrap());
            let again = Home::open(dir.path(), None).unwrap();
            assert!(again.setup_code().unwrap().is_some(), "{made}");
        }
    }
}

#[test]
fn what_is_wrong_is_named_with_how_to_mend_it() {
    type Spoil = fn(&Path);
    let cases: &[(&str, Spoil, u8, &str)] = &[
        ("key for the group", |dir| set_mode(&dir.join(NODE_KEY), 0o640), 5, "chmod 600"),
        ("key for all", |dir| set_mode(&dir.join(NODE_KEY), 0o644), 5, "mode 0644"),
        ("key writable", |dir| set_mode(&dir.join(NETWORK_KEY), 0o620), 5, "network.key"),
        ("token for all", |dir| set_mode(&dir.join(API_TOKEN), 0o604), 5, "api.token"),
        ("folder writable", |dir| set_mode(&dir.join(KEYS), 0o777), 5, "chmod 700"),
        ("key short", |dir| fs::write(dir.join(NODE_KEY), "abcd").unwrap(), 7, "node.key is damaged"),
        ("key empty", |dir| fs::write(dir.join(NODE_KEY), "").unwrap(), 7, "backup"),
        ("key not hex", |dir| fs::write(dir.join(NODE_KEY), "x".repeat(64)).unwrap(), 7, "64 hex digits"),
        ("key binary", |dir| fs::write(dir.join(NETWORK_KEY), [0xff; 64]).unwrap(), 7, "network.key"),
        ("key huge", |dir| fs::write(dir.join(NODE_KEY), "a".repeat(1 << 20)).unwrap(), 7, "damaged"),
        ("token damaged", |dir| fs::write(dir.join(API_TOKEN), "?").unwrap(), 7, "remove it"),
        ("key is a folder", |dir| replace_by_folder(&dir.join(NODE_KEY)), 7, "damaged"),
        ("key lost", |dir| fs::remove_file(dir.join(NODE_KEY)).unwrap(), 7, "node.key is missing"),
        ("network lost", |dir| fs::remove_file(dir.join(NETWORK_KEY)).unwrap(), 7, "network.key is missing"),
        ("home is a file", replace_by_file, 1, "can't make the folder"),
    ];
    for (case, spoil, code, part) in cases {
        let above = temporary();
        let dir = above.path().join("home");
        drop(Home::open(&dir, None).unwrap());
        spoil(&dir);
        let error = Home::open(&dir, None).expect_err(case);
        assert_eq!(error.exit_code(), *code, "{case}: {error}");
        assert!(error.to_string().contains(part), "{case}: {error}");
    }
}

fn replace_by_folder(path: &Path) {
    fs::remove_file(path).unwrap();
    fs::create_dir(path).unwrap();
}

fn replace_by_file(dir: &Path) {
    fs::remove_dir_all(dir).unwrap();
    fs::write(dir, "").unwrap();
}

/// Only root can give a file away; elsewhere there is nothing to see.
#[test]
fn a_key_of_somebody_else_is_refused() {
    for name in [NODE_KEY, NETWORK_KEY, API_TOKEN, KEYS] {
        let dir = temporary();
        drop(Home::open(dir.path(), None).unwrap());
        if chown(dir.path().join(name), Some(12345), None).is_err() {
            return;
        }
        let error = Home::open(dir.path(), None).unwrap_err();
        assert!(matches!(error, HomeError::Foreign { owner: 12345, .. }), "{name}: {error}");
        assert!(error.exit_code() == 5 && error.to_string().contains("run `chown "), "{error}");
    }
}

#[test]
fn a_network_id_that_is_none_is_refused() {
    let dir = temporary();
    drop(Home::open(dir.path(), Some(NetworkId::from_bytes([9; 32]))).unwrap());
    fs::write(dir.path().join(NETWORK_ID), "zz").unwrap();
    assert_eq!(Home::open(dir.path(), None).unwrap_err().exit_code(), 7);
}

#[test]
fn the_second_on_one_home_is_told_who_is_first() {
    let dir = temporary();
    let home = Home::open(dir.path(), None).unwrap();
    let error = Home::open(dir.path(), None).unwrap_err();
    assert_eq!(error.to_string(), format!("already running as pid {}", std::process::id()));
    assert_eq!(error.exit_code(), 3);
    drop(home);
    assert!(Home::open(dir.path(), None).is_ok());
}

#[test]
fn what_a_killed_process_left_behind_is_not_believed() {
    let dir = temporary();
    let home = Home::open(dir.path(), None).unwrap();
    home.announce("127.0.0.1:1".parse().unwrap()).unwrap();
    drop(home);
    fs::write(dir.path().join("lock"), std::process::id().to_string()).unwrap();
    assert!(dir.path().join(RUN_FILE).exists());
    assert_eq!(running(dir.path()).unwrap(), None);
    let home = Home::open(dir.path(), None).unwrap();
    assert_eq!(running(dir.path()).unwrap(), None);
    home.announce("127.0.0.1:2".parse().unwrap()).unwrap();
    let found = running(dir.path()).unwrap().unwrap();
    assert_eq!(found, Running { pid: std::process::id(), http: "127.0.0.1:2".parse().unwrap() });
    home.retract().unwrap();
    assert!(!dir.path().join(RUN_FILE).exists());
    assert_eq!(running(&dir.path().join("none")).unwrap(), None);
    assert_eq!(read_token(&dir.path().join("none")).unwrap(), None);
}

#[test]
fn a_node_is_found_without_room_for_its_run_file() {
    let dir = temporary();
    let home = Home::open(dir.path(), None).unwrap();
    // As good as a full disk: the file can't be made.
    fs::create_dir(dir.path().join("run.json.new")).unwrap();
    for http in ["127.0.0.1:1", "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535"] {
        home.announce(http.parse().unwrap()).unwrap();
        let expected = Running { pid: std::process::id(), http: http.parse().unwrap() };
        assert_eq!(running(dir.path()).unwrap(), Some(expected));
    }
    home.retract().unwrap();
    drop(home);
    assert_eq!(running(dir.path()).unwrap(), None);
}

#[test]
fn the_setup_code_is_good_once() {
    let dir = temporary();
    let home = Home::open(dir.path(), None).unwrap();
    let code = home.setup_code().unwrap().unwrap();
    let mut wrong = code.clone();
    wrong.replace_range(..1, if code.starts_with('0') { "1" } else { "0" });
    for (shown, good) in [("", false), (wrong.as_str(), false), (code.as_str(), true), (code.as_str(), false)] {
        assert_eq!(home.spend_setup_code(shown).unwrap(), good, "{shown}");
    }
    drop(home);
    assert_eq!(Home::open(dir.path(), None).unwrap().setup_code().unwrap(), None);
}
