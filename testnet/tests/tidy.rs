//! Rules of this tree that the compiler and clippy don't know. Each test names every place that breaks its rule.

// A test that can't go on panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

const MAX_LINES: usize = 800;

/// What each crate may depend on of this project: dependencies point down.
const LAYERS: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("config", &[]),
    ("storage", &["protocol"]),
    ("media", &["protocol"]),
    ("satellite", &["protocol"]),
    ("relay", &["protocol", "storage", "api"]),
    ("api", &["protocol", "storage"]),
    ("platform", &["protocol", "storage", "api", "media"]),
    ("node", &["protocol", "config", "storage", "media", "satellite", "relay", "api", "platform"]),
    ("cli", &["node", "config", "protocol"]),
    ("testnet", &["protocol", "storage", "platform"]),
    ("bench", &["testnet", "platform", "storage", "protocol"]),
];

/// What a crate's code must not mention, and why.
const ABSENT: &[(&str, &str, &[&str])] = &[
    (
        "protocol",
        "it runs in simulation: no runtime, socket, file, clock or randomness of its own",
        &[
            "tokio",
            "std::fs",
            "std::thread",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "SystemTime",
            "Instant::now",
            "getrandom",
            "rand::",
            "thread_rng",
        ],
    ),
    (
        "platform",
        "its services know no peer, socket or path",
        &[
            "mhc_node",
            "libp2p",
            "iroh",
            "std::fs",
            "tokio::fs",
            "std::net",
            "tokio::net",
            "std::path",
            "PathBuf",
            "SystemTime",
        ],
    ),
    ("storage", "networking is the node's", &["mhc_node", "mhc_platform", "libp2p", "iroh", "std::net", "tokio::net"]),
    ("api", "it is the kit below the services, and knows no peer", &["mhc_node", "mhc_platform", "libp2p", "iroh"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Every file of the tree but what was built or installed.
fn files(dir: &Path) -> Vec<PathBuf> {
    let skip = [".git", "target", "node_modules", "corpus", "artifacts"];
    let mut found = vec![];
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            _ if skip.iter().any(|name| path.ends_with(name)) => {}
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

fn with_extension(dir: &Path, extension: &str) -> Vec<PathBuf> {
    files(dir).into_iter().filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

/// The files of a crate that are shipped: its sources without modules that exist only for tests.
fn shipped(crate_dir: &Path) -> Vec<PathBuf> {
    let sources = with_extension(&crate_dir.join("src"), "rs");
    let only_tests: Vec<PathBuf> = sources.iter().flat_map(|path| test_modules(path)).collect();
    sources.into_iter().filter(|path| !only_tests.iter().any(|test| path.starts_with(test))).collect()
}

/// Where the modules are that `path` declares behind a `cfg` with `test` in it: files and folders.
fn test_modules(path: &Path) -> Vec<PathBuf> {
    let text = read(path);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let folder = match path.file_stem().and_then(|stem| stem.to_str()) {
        Some("mod" | "lib" | "main") | None => path.parent().unwrap().to_owned(),
        Some(stem) => path.with_file_name(stem),
    };
    let is_test_cfg = |line: &str| line.starts_with("#[cfg(") && line.contains("test");
    lines
        .windows(2)
        .filter(|pair| is_test_cfg(pair[0]))
        .filter_map(|pair| pair[1].strip_suffix(';')?.split_once("mod "))
        .flat_map(|(_, name)| [folder.join(format!("{name}.rs")), folder.join(name)])
        .collect()
}

/// Lines of code with their numbers: no comments, no items behind a `cfg` with `test` in it.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = read(path);
    let mut kept = vec![];
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let indent = &line[..line.len() - line.trim_start().len()];
        if line.trim().starts_with("#[cfg(") && line.contains("test") && !line.contains("not(test") {
            let end = format!("{indent}}}");
            let mut item = lines.by_ref().skip_while(|(_, line)| line.trim().starts_with("#["));
            if item.next().is_some_and(|(_, first)| !first.ends_with(';') && !first.ends_with('}')) {
                item.find(|(_, line)| *line == end || *line == format!("{end};") || *line == format!("{end},"));
            }
        } else if !line.trim().starts_with("//") {
            kept.push((at + 1, line.split(" // ").next().unwrap_or_default().to_owned()));
        }
    }
    kept
}

fn crates() -> Vec<PathBuf> {
    LAYERS.iter().map(|(name, _)| root().join(name)).collect()
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[track_caller]
fn none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn what_crates_must_not_know_is_absent() {
    let mut broken = vec![];
    for (name, why, words) in ABSENT {
        for path in shipped(&root().join(name)) {
            for (at, line) in code(&path) {
                let hits = words.iter().filter(|word| line.contains(*word));
                broken.extend(hits.map(|word| format!("{}:{at}: {word} ({why})", shown(&path))));
            }
        }
    }
    none("absent by design", &broken);
}

#[test]
fn crates_depend_downwards_and_share_the_lints() {
    let mut broken = vec![];
    for (name, below) in LAYERS {
        let manifest = read(&root().join(name).join("Cargo.toml"));
        let shipped = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        let used = shipped.lines().filter_map(|line| line.strip_prefix("mhc-")?.split(['.', ' ', '=']).next());
        broken.extend(used.filter(|dep| !below.contains(dep)).map(|dep| format!("{name} depends on {dep}")));
        if !manifest.contains("[lints]\nworkspace = true") {
            broken.push(format!("{name}/Cargo.toml doesn't take the workspace's lints"));
        }
    }
    none("dependencies point down", &broken);
}

#[test]
fn no_task_outlives_its_handle() {
    let mut broken = vec![];
    for path in crates().iter().flat_map(|dir| shipped(dir)) {
        let lines = code(&path);
        for (before, (at, line)) in std::iter::once("").chain(lines.iter().map(|(_, line)| line.as_str())).zip(&lines) {
            let bare =
                ["tokio::spawn(", "task::spawn(", "Handle::current().spawn("].iter().any(|call| line.contains(call));
            let owned = [before, line].iter().any(|line| line.contains("AbortOnDrop"));
            if bare && !owned {
                broken.push(format!("{}:{at}: {}", shown(&path), line.trim()));
            }
        }
    }
    none("no bare spawn: a task belongs to a JoinSet, a TaskTracker or an AbortOnDropHandle", &broken);
}

#[test]
fn nothing_unwraps_outside_tests() {
    let mut broken = vec![];
    for path in crates().iter().flat_map(|dir| shipped(dir)) {
        let hits = code(&path).into_iter().filter(|(_, line)| line.contains(".unwrap()") || line.contains(".expect("));
        broken.extend(hits.map(|(at, line)| format!("{}:{at}: {}", shown(&path), line.trim())));
    }
    none("no unwrap or expect outside tests", &broken);
}

#[test]
fn files_are_short() {
    let all = crates().into_iter().chain([root().join("fuzz")]).flat_map(|dir| with_extension(&dir, "rs"));
    let long = all.map(|path| (read(&path).lines().count(), path)).filter(|(lines, _)| *lines > MAX_LINES);
    none(
        "at most 800 lines a file",
        &long.map(|(lines, path)| format!("{}: {lines}", shown(&path))).collect::<Vec<_>>(),
    );
}

/// Words in backticks and link targets that look like paths of this tree.
fn paths_in(markdown: &str) -> Vec<String> {
    let ticked = markdown.split("```").step_by(2).flat_map(|text| text.split('`').skip(1).step_by(2));
    let tops =
        ["api/", "bench/", "cli/", "config/", "docs/", "fuzz/", "media/", "node/", "platform/", "protocol/", "relay/"];
    let tops = [&tops[..], &["satellite/", "scripts/", "storage/", "testnet/", ".ci/"]].concat();
    let ticked =
        ticked.filter(|word| tops.iter().any(|top| word.starts_with(top)) && !word.contains([' ', '*', '{', '<']));
    // `file.rs::item` and `file.rs:12` name a place in a file.
    ticked.map(|word| word.split(':').next().unwrap_or_default().to_owned()).collect()
}

fn links_in(markdown: &str) -> Vec<String> {
    let targets = markdown.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let local =
        targets.filter(|target| !target.contains("://") && !target.starts_with(['#', '/']) && !target.contains(' '));
    local
        .map(|target| target.split('#').next().unwrap_or_default().to_owned())
        .filter(|path| !path.is_empty())
        .collect()
}

#[test]
fn documents_name_files_that_exist() {
    let mut broken = vec![];
    for path in with_extension(&root(), "md") {
        let text = read(&path);
        let named = paths_in(&text).into_iter().map(|name| root().join(name));
        let linked = links_in(&text).into_iter().map(|name| path.parent().unwrap().join(name));
        let missing = named.chain(linked).filter(|target| !target.exists());
        broken.extend(missing.map(|target| format!("{}: {}", shown(&path), shown(&target))));
    }
    none("documents name files that exist", &broken);
}

#[test]
fn the_architecture_page_is_there() {
    let page = read(&root().join("docs/ARCHITECTURE.md"));
    let silent: Vec<String> =
        LAYERS.iter().map(|(name, _)| format!("`{name}")).filter(|name| !page.contains(name.as_str())).collect();
    none("docs/ARCHITECTURE.md tells of every crate", &silent);
}

#[test]
fn no_machine_is_named() {
    // Put together here, so that this file doesn't name them either.
    let words =
        [["/wo", "rk/"].concat(), ["/ro", "ot/"].concat(), ["/ho", "me/u"].concat(), ["shared/", "design"].concat()];
    let mut broken = vec![];
    for path in files(&root()) {
        let text = read(&path);
        for (at, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                broken.push(format!("{}:{}: {}", shown(&path), at + 1, line.trim()));
            }
        }
    }
    none("no path of one machine is in the tree", &broken);
}

#[test]
fn every_workspace_dependency_is_used() {
    let workspace = read(&root().join("Cargo.toml"));
    let table = workspace.split("[workspace.dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let names = table.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
    let manifests: String = crates().iter().map(|dir| read(&dir.join("Cargo.toml"))).collect();
    let used = |name: &str| {
        manifests.lines().any(|line| {
            line.starts_with(&format!("{name}.workspace")) || line.starts_with(&format!("{name} = {{ workspace"))
        })
    };
    let unused: Vec<String> = names.map(|(name, _)| name.to_owned()).filter(|name| !used(name)).collect();
    none("every workspace dependency is used by some crate", &unused);
}
