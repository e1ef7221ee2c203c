//! What is accepted, what is named as a mistake, and that nothing makes the reader panic.

use crate::*;

/// `(line, key, part of the message)` of each mistake in `text`.
fn mistakes(text: &str) -> Vec<(usize, String, String)> {
    let mistakes = parse(text).expect_err(text);
    mistakes.into_iter().map(|mistake| (mistake.line.unwrap_or(0), mistake.key, mistake.message)).collect()
}

fn environment(variables: &[(&str, &str)]) -> Sources {
    let environment = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Sources { environment, flags: Vec::new() }
}

/// The settings of a home with this file, under these sources.
fn loaded(text: &str, sources: &Sources) -> Result<Config, LoadError> {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let home = std::env::temp_dir().join(format!("mhc-config-{}-{number}", std::process::id()));
    std::fs::create_dir(&home).unwrap();
    std::fs::write(home.join(FILE_NAME), text).unwrap();
    let config = load(&home, sources);
    std::fs::remove_dir_all(&home).unwrap();
    config
}

#[test]
fn an_empty_file_gives_the_defaults() {
    for text in ["", "\n\n", "# nothing", "\u{feff}"] {
        assert_eq!(loaded(text, &Sources::default()).unwrap(), Config::default(), "{text:?}");
    }
    let config = Config::default();
    assert_eq!(config.gateway.http.to_string(), "127.0.0.1:8480");
    assert_eq!(config.gateway.max_upload_bytes, 10 * 1024 * 1024 * 1024);
    assert_eq!((config.p2p.port, config.p2p.effective_iroh_port()), (4480, 4481));
    assert!(config.p2p.mdns && config.p2p.peers.is_empty() && config.roles.is_empty());
    assert_eq!(config.storage.min_free_bytes, 64 * 1024 * 1024);
}

#[test]
fn a_missing_file_is_an_empty_one_and_an_unreadable_one_is_not() {
    assert_eq!(load(std::path::Path::new("/nowhere"), &Sources::default()).unwrap(), Config::default());
    let home = std::env::temp_dir().join(format!("mhc-config-dir-{}", std::process::id()));
    std::fs::create_dir_all(home.join(FILE_NAME)).unwrap();
    assert!(matches!(load(&home, &Sources::default()), Err(LoadError::Unreadable { .. })));
    std::fs::remove_dir_all(&home).unwrap();
}

#[test]
fn iroh_takes_the_next_port_unless_set() {
    for (port, iroh, expected) in
        [(4480, None, 4481), (0, None, 0), (65535, None, 0), (4480, Some(9), 9), (0, Some(9), 9)]
    {
        let p2p = P2p { port, iroh_port: iroh, ..P2p::default() };
        assert_eq!(p2p.effective_iroh_port(), expected, "{port} {iroh:?}");
    }
}

#[test]
fn what_a_file_says_is_taken_over() {
    let text = r#"
        roles = ["relay"]
        node.name = "Studio"
        gateway = { http = "[::1]:0", public_host = ["a.example", "b.example:8443"], rate_limit_per_min = 1 }
        [p2p]
        port = 0x1180
        iroh_port = 1
        mdns = false
        peers = ["mhc1abc"]
        [storage]
        quota_bytes = 1_000
        [links.yggdrasil]
        admin = "/run/ygg.sock"
        [links.satellite]
        budget_bytes = 0
    "#;
    let config = parse(text).unwrap();
    assert_eq!(config.roles, [Role::Relay]);
    assert_eq!(config.node.name.as_deref(), Some("Studio"));
    assert_eq!(config.gateway.http.to_string(), "[::1]:0");
    assert_eq!(config.gateway.public_host, ["a.example", "b.example:8443"]);
    assert_eq!((config.p2p.port, config.p2p.iroh_port, config.p2p.mdns), (4480, Some(1), false));
    assert_eq!(config.p2p.peers, ["mhc1abc"]);
    assert_eq!(config.storage.quota_bytes, Some(1000));
    assert_eq!(config.links.yggdrasil.admin.as_deref(), Some(std::path::Path::new("/run/ygg.sock")));
    assert_eq!(config.links.satellite.budget_bytes, Some(0));
}

#[test]
fn each_mistake_is_named_with_line_and_key() {
    #[rustfmt::skip]
    let cases: &[(&str, usize, &str, &str)] = &[
        // Unknown keys, with what may have been meant.
        ("[gateway]\nhtpp = 1", 2, "gateway.htpp", "did you mean gateway.http?"),
        ("[gatway]\nhttp = 1", 1, "gatway", "isn't a setting"),
        ("http = \"127.0.0.1:1\"", 1, "http", "did you mean gateway.http?"),
        ("[storage]\n\n\nquota = 5", 4, "storage.quota", "isn't a setting"),
        ("[p2p]\nport_ = 5", 2, "p2p.port_", "did you mean p2p.port?"),
        ("colour = 5", 1, "colour", "`mhc config example` lists"),
        ("\"\" = 5", 1, "", "isn't a setting"),
        ("[links.yggdrasill]\nadmin = \"/x\"", 1, "links.yggdrasill", "isn't a setting"),
        // Wrong types.
        ("[p2p]\nport = \"4480\"", 2, "p2p.port", "expected a whole number from 0 to 65535, found \"4480\""),
        ("[p2p]\nmdns = 1", 2, "p2p.mdns", "expected true or false, found 1"),
        ("[p2p]\npeers = \"mhc1\"", 2, "p2p.peers", "expected a list"),
        ("[p2p]\npeers = [\n  \"mhc1a\",\n  5,\n]", 4, "p2p.peers", "expected a text in quotes, found 5"),
        ("[gateway]\nhttp = 8480", 2, "gateway.http", "expected an address and port"),
        ("[gateway]\nhttp = \"localhost\"", 2, "gateway.http", "found \"localhost\""),
        ("gateway = 5", 1, "gateway", "is a section: write [gateway]"),
        ("[[gateway]]\nhttp = 5", 1, "gateway", "is a section"),
        ("[gateway.http]\nx = 5", 1, "gateway.http", "expected an address and port"),
        ("[storage]\nquota_bytes = 1.5", 2, "storage.quota_bytes", "found 1.5"),
        ("[storage]\nquota_bytes = 2026-01-01", 2, "storage.quota_bytes", "found a date"),
        ("roles = [\"king\"]", 1, "roles", "expected \"relay\", found \"king\""),
        ("[links.yggdrasil]\nadmin = \"\"", 2, "links.yggdrasil.admin", "expected a path"),
        // Out of bounds.
        ("[p2p]\nport = 65536", 2, "p2p.port", "0 to 65535, found 65536"),
        ("[p2p]\nport = -1", 2, "p2p.port", "found -1"),
        ("[storage]\nquota_bytes = 99999999999999999999999999", 2, "storage.quota_bytes", "expected a whole number"),
        ("[storage]\nquota_bytes = 2000000000000000000", 2, "storage.quota_bytes", "out of bounds"),
        ("[storage]\nmin_free_bytes = 0", 2, "storage.min_free_bytes", "out of bounds: from 1048576"),
        ("[storage]\ncache_bytes = 2000000000000000000", 2, "storage.cache_bytes", "out of bounds"),
        ("[gateway]\nrate_limit_per_min = 0", 2, "gateway.rate_limit_per_min", "out of bounds: from 1"),
        ("[gateway]\nmax_upload_bytes = 0", 2, "gateway.max_upload_bytes", "out of bounds"),
        ("[gateway]\npublic_host = [\"http://x/\"]", 2, "gateway.public_host", "isn't a host name"),
        ("[node]\nname = \"\"", 2, "node.name", "1 to 64 characters"),
        ("[node]\nname = \"a\\u0000b\"", 2, "node.name", "control character"),
        ("[links.satellite.carousel]\ntrust = [\"ab\"]", 2, "links.satellite.carousel.trust", "64 hexadecimal"),
        ("[links.satellite.carousel]\nmemory_bytes = 5", 2, "links.satellite.carousel.memory_bytes", "out of bounds"),
        ("[p2p]\npeers = [\"blobab\"]", 2, "p2p.peers", "isn't a ticket"),
        // Not TOML.
        ("[gateway\nhttp = \"127.0.0.1:1\"", 1, "", ""),
        ("[gateway]\nhttp = ", 2, "http", ""),
        ("[gateway]\nhttp \"x\"", 2, "", ""),
        ("[p2p]\nport = 1\nport = 2", 3, "port", "duplicate key"),
        ("[p2p]\nport = 1\n[p2p]\nport = 2", 3, "", "duplicate key"),
        ("[p2p]\nport = 4480x", 2, "port", ""),
        ("[node]\nname = \"open", 2, "name", ""),
        ("[node]\nname = \"nul\0\"", 2, "name", ""),
        ("# nul \0", 1, "", ""),
        ("\0", 1, "", ""),
    ];
    for (text, line, key, part) in cases {
        let found = mistakes(text);
        let hit = found.iter().any(|(at, of, message)| at == line && of.contains(key) && message.contains(part));
        assert!(hit, "{text:?}: {found:?}");
    }
}

#[test]
fn all_mistakes_are_named_at_once_in_the_order_of_the_file() {
    let text = "colour = 1\n[p2p]\nport = 99999\nmdns = \"no\"\n[gateway]\nhttp = \"x\"\nlimit = = 3\n";
    let found = mistakes(text);
    let lines: Vec<usize> = found.iter().map(|(line, ..)| *line).collect();
    assert_eq!(lines, [1, 3, 4, 6, 7], "{found:?}");
    let found = mistakes("p2p = { port = 99999, mdns = 1, peers = 2 }");
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn mistakes_read_well() {
    let error = loaded("[p2p]\nport = 70000", &environment(&[("MHC_P2P__MDNS", "perhaps")])).unwrap_err();
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].ends_with("mhc.toml, line 2: p2p.port: expected a whole number from 0 to 65535, found 70000"),
        "{text}"
    );
    assert_eq!(lines[1], "MHC_P2P__MDNS: expected true or false, found \"perhaps\"");
}

#[test]
fn flags_go_before_the_environment_and_that_before_the_file() {
    let file = "[p2p]\nport = 1\niroh_port = 1\n[gateway]\nhttp = \"127.0.0.1:1\"\n";
    let mut sources = environment(&[
        ("MHC_P2P__PORT", "2"),
        ("MHC_GATEWAY__HTTP", "127.0.0.1:2"),
        ("MHC_GATEWAY__PUBLIC_HOST", "a.example, b.example"),
        ("MHC_LINKS__YGGDRASIL__ADMIN", "/run/y.sock"),
        ("MHC_STORAGE__QUOTA_BYTES", "1_000"),
        ("MHC_ROLES", "relay"),
        ("MHC_NODE__NAME", ""),
        ("MHC_HOME", "/passed/over"),
        ("MHC_LOG", "debug"),
        ("PATH", "/bin"),
    ]);
    sources.flags.push(("p2p.port", "3".into()));
    let config = loaded(file, &sources).unwrap();
    assert_eq!((config.p2p.port, config.p2p.iroh_port), (3, Some(1)));
    assert_eq!(config.gateway.http.port(), 2);
    assert_eq!(config.gateway.public_host, ["a.example", "b.example"]);
    assert_eq!(config.links.yggdrasil.admin.unwrap().to_str(), Some("/run/y.sock"));
    assert_eq!((config.storage.quota_bytes, config.roles, config.node.name), (Some(1000), vec![Role::Relay], None));
}

#[test]
fn wrong_variables_and_flags_are_named() {
    let cases: &[(&str, &str, &str)] = &[
        ("MHC_P2P__PORT", "x", "expected a whole number from 0 to 65535"),
        ("MHC_P2P__PORT", "-1", "expected a whole number"),
        ("MHC_P2P__PROT", "1", "did you mean p2p.port?"),
        ("MHC_P2P__PORT__X", "1", "isn't a setting"),
        ("MHC_GATEWAY__HTTP", "8480", "expected an address and port"),
        ("MHC_STORAGE__MIN_FREE_BYTES", "1", "out of bounds"),
        ("MHC_ROLES", "relay,king", "found \"king\""),
        ("MHC_NODE__NAME", "\u{7}", "control character"),
    ];
    for (variable, value, part) in cases {
        let Err(LoadError::Mistakes { mistakes, .. }) = loaded("", &environment(&[(variable, value)])) else {
            panic!("{variable}={value} was accepted")
        };
        assert!(mistakes[0].key == *variable && mistakes[0].message.contains(part), "{mistakes:?}");
        assert_eq!(mistakes[0].line, None);
    }
    let flags = vec![("p2p.port", "x".into()), ("p2p", "x".into()), ("no.such", "x".into())];
    let error = loaded("", &Sources { environment: Vec::new(), flags }).unwrap_err();
    assert!(matches!(error, LoadError::Mistakes { mistakes, .. } if mistakes.len() == 3));
}

#[test]
fn the_example_lists_every_key_and_is_accepted() {
    let text = example();
    assert_eq!(parse(&text), Ok(Config::default()));
    for key in keys() {
        let name = key.path.rsplit('.').next().unwrap();
        assert!(text.contains(&format!("\n#{name} = ")), "{name}");
        assert!(text.contains(&format!("Environment: {}\n", environment_name(&key.path))), "{name}");
        assert!(!key.doc.is_empty() && key.doc.ends_with('.'), "{name}");
        assert!(key.default.is_some() || key.example.is_some(), "{name} shows no value");
    }
    let set: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let config = parse(&set).unwrap();
    assert_eq!(config.node.name.as_deref(), Some("studio"));
    assert_eq!(Config { node: Node::default(), ..config }.gateway.http, Gateway::default().http);
}

#[test]
fn environment_names_are_as_the_contract_writes_them() {
    assert_eq!(environment_name("links.yggdrasil.admin"), "MHC_LINKS__YGGDRASIL__ADMIN");
    assert_eq!(environment_name("storage.quota_bytes"), "MHC_STORAGE__QUOTA_BYTES");
    let paths: Vec<String> = keys().into_iter().map(|key| key.path).collect();
    for path in [
        "links.yggdrasil.admin",
        "links.satellite.budget_bytes",
        "roles",
        "gateway.public_host",
        "gateway.rate_limit_per_min",
        "storage.quota_bytes",
    ] {
        assert!(paths.iter().any(|known| known == path), "{path}");
    }
}

#[test]
fn hostile_files_are_refused_without_a_panic() {
    let most = MAX_FILE_BYTES;
    let cases = [
        "[".repeat(most),
        "{".repeat(most),
        format!("a = {}", "[".repeat(most - 4)),
        format!("a = {}", "{a=".repeat(most / 3 - 4)),
        format!("{}a = 1", "a.".repeat(most / 2 - 4)),
        format!("[{}a]", "a.".repeat(most / 2 - 4)),
        // Twice, so that the parser itself drops the second.
        format!("a = {{{0}a = 1}}\na = {{{0}a = 1}}", "b.".repeat(most / 4 - 20)),
        format!("[[{}a]]", "a.".repeat(most / 2 - 4)),
        "a".repeat(most),
        "a = 1\n".repeat(most / 6),
        (0..most / 10).map(|n| format!("k{n}=\n")).collect(),
        "\0".repeat(most),
        "\r".repeat(most),
        "\"".repeat(most),
        "'".repeat(most),
        "=".repeat(most),
        ".".repeat(most),
        format!("[node]\nname = \"{}\"", "é".repeat(most / 2 - 20)),
        format!("[storage]\nquota_bytes = {}", "9".repeat(most - 40)),
        format!("[gateway]\nhttp = \"{}\"", "1".repeat(most - 40)),
        "a".repeat(most + 1),
        "[p2p]\nport = 4480\n".repeat(10 * most),
    ];
    for text in cases {
        let start: String = text.chars().take(30).collect();
        let mistakes = parse(&text).expect_err(&start);
        assert!(!mistakes.is_empty() && mistakes.len() <= 100, "{start:?}");
        let printed: usize = mistakes.iter().map(|mistake| mistake.to_string().len()).sum();
        assert!(printed < most, "{start:?}: {printed}");
    }
}

#[test]
fn every_prefix_of_the_example_is_answered() {
    let text = example().replace("\n#", "\n");
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)).step_by(7) {
        let _ = parse(&text[..end]);
    }
}
