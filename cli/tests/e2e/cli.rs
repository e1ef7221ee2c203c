//! The command line: documents, exit codes, and what the manual says.

use anyhow::{Context, Result, bail, ensure};
use mhc_testnet::{Node, Rng, eventually, media, node::text};
use serde_json::Value;

use super::{SOON, fixtures, join, knows, lists, mhc, options, random_file, start};

fn bytes_of(value: &Value, field: &str) -> Result<u64> {
    value.get(field).and_then(Value::as_u64).with_context(|| format!("no number '{field}' in {value}"))
}

/// A node that isn't started, for commands that need none.
fn idle(dir: &tempfile::TempDir) -> Node {
    Node::prepare(options("idle"), dir.path().join("home"))
}

#[test]
fn documents_have_the_promised_fields() -> Result<()> {
    let a = start("a")?;
    let ready = a.ready()?.clone();
    let status = a.json(&["status"])?;
    for field in ["node", "network", "version", "uptime_s", "http", "peers", "records", "blobs", "mode"] {
        ensure!(status.get(field).is_some(), "status: no {field} in {status}");
    }
    ensure!(text(&status, "node")? == ready.node && text(&status, "network")? == ready.network, "{status}");
    bytes_of(&status["blobs"], "count")?;
    bytes_of(&status["blobs"], "bytes")?;

    let (file, bytes) = random_file(&a, "some.bin", &mut Rng::new(3), 100_000)?;
    let published = a.publish(&file, &["--title", "Some", "--tag", "one", "--tag", "two", "--realm", "inferno"])?;
    for field in ["content", "blob", "bytes", "kind", "url"] {
        ensure!(published.get(field).is_some(), "publish: no {field} in {published}");
    }
    ensure!(bytes_of(&published, "bytes")? == bytes.len() as u64, "{published}");
    let content = text(&published, "content")?;

    let listed = a.list()?;
    let item = listed.first().context("ls is empty")?;
    for field in ["content", "title", "author", "bytes", "duration_ms", "local", "published_at"] {
        ensure!(item.get(field).is_some(), "ls: no {field} in {item}");
    }
    ensure!(item["local"] == serde_json::json!({ "bytes": bytes.len(), "complete": true }), "{item}");
    let shown = a.json(&["show", &content])?;
    ensure!(text(&shown, "title")? == "Some" && shown["tags"] == serde_json::json!(["one", "two"]), "{shown}");
    for command in [&["peers"][..], &["links"], &["gc"], &["doctor"], &["ticket"]] {
        a.json(command)?;
    }
    Ok(())
}

#[test]
fn kinds_are_told_from_content() -> Result<()> {
    let a = start("a")?;
    let note = a.home().with_file_name("note.mp4");
    std::fs::write(&note, "A text that calls itself a film.\n")?;
    let empty = a.home().with_file_name("empty.png");
    std::fs::write(&empty, "")?;
    let cases = [
        (media::video(fixtures())?, "video"),
        (media::wav(fixtures())?, "audio"),
        (media::mp3(fixtures())?, "audio"),
        (media::png(fixtures())?, "image"),
        (note, "file"),
        (empty, "file"),
    ];
    for (file, kind) in cases {
        let published = a.publish(&file, &[]).with_context(|| file.display().to_string())?;
        ensure!(text(&published, "kind")? == kind, "{}: {published}", file.display());
        let url = text(&published, "url")?;
        let path = url.find("/api/").or(url.find("/blobs/")).map(|at| &url[at..]).context(url.clone())?;
        let served = a.http()?.anonymous().get(path)?;
        ensure!(served.status == 200 && served.body == std::fs::read(&file)?, "{}: {}", file.display(), served.status);
    }
    Ok(())
}

#[test]
fn get_resumes_takes_ranges_and_names_its_sources() -> Result<()> {
    let a = start("a")?;
    let b = join("b", &a.ticket()?)?;
    knows(&b, &a)?;
    let (file, bytes) = random_file(&a, "some.bin", &mut Rng::new(4), 3_000_000)?;
    let published = a.publish(&file, &[])?;
    let (content, blob) = (text(&published, "content")?, text(&published, "blob")?);
    lists(&b, &content, SOON)?;

    let out = b.home().with_file_name("out.bin");
    let to = out.to_str().context("UTF-8")?;
    b.json(&["get", &blob, "-o", to, "--range", "1000-1999"])?;
    ensure!(std::fs::read(&out)? == bytes[1000..2000], "another range");
    std::fs::remove_file(&out)?;

    let got = b.json(&["get", &content, "-o", to])?;
    ensure!(std::fs::read(&out)? == bytes, "other bytes");
    ensure!(text(&got, "blob")? == blob && bytes_of(&got, "bytes")? == bytes.len() as u64, "{got}");
    let sources = got["sources"].as_array().with_context(|| got.to_string())?;
    ensure!(sources.len() == 1 && text(&sources[0], "node")? == a.ready()?.node, "{got}");
    Ok(())
}

#[test]
fn pinning_fetches_and_unpinning_lets_go() -> Result<()> {
    let a = start("a")?;
    let b = join("b", &a.ticket()?)?;
    knows(&b, &a)?;
    let (file, _) = random_file(&a, "some.bin", &mut Rng::new(5), 500_000)?;
    let published = a.publish(&file, &[])?;
    let content = text(&published, "content")?;
    lists(&b, &content, SOON)?;
    b.json(&["pin", &content])?;
    eventually("the pinned content is complete", SOON, || match b.json(&["show", &content])? {
        shown if shown["local"]["complete"] == true => Ok(()),
        shown => bail!("{shown}"),
    })?;
    b.json(&["unpin", &content])?;
    b.json(&["gc"])?;
    Ok(())
}

#[test]
fn a_published_reference_stays_where_it_is_and_is_not_served_once_it_changed() -> Result<()> {
    let a = start("a")?;
    let (file, bytes) = random_file(&a, "mine.bin", &mut Rng::new(6), 300_000)?;
    let published = a.publish(&file, &["--reference"])?;
    let path = format!("/blobs/{}", text(&published, "blob")?);
    let http = a.http()?.anonymous();
    ensure!(http.get(&path)?.body == bytes, "other bytes");

    let mut changed = bytes.clone();
    changed[150_000] ^= 1;
    std::fs::write(&file, &changed)?;
    let reply = http.get(&path)?;
    ensure!(reply.status != 200 || reply.cut, "altered bytes were served: {}", reply.status);
    ensure!(bytes.starts_with(&reply.body) || reply.status != 200, "altered bytes were served");
    std::fs::remove_file(&file)?;
    let reply = http.get(&path)?;
    ensure!(reply.status != 200 || reply.cut, "a vanished file was served: {}", reply.status);
    Ok(())
}

#[test]
fn commands_end_with_the_promised_exit_codes() -> Result<()> {
    let a = start("a")?;
    let nothing = "0".repeat(64);
    let out = a.home().with_file_name("out.bin").display().to_string();
    let cases: &[(&[&str], i32)] = &[
        (&["status"], 0),
        (&["nonsense"], 2),
        (&["publish"], 2),
        (&["get", "not-an-id"], 2),
        (&["show", &nothing], 4),
        (&["pin", "xyz"], 2),
        (&["publish", "/nonexistent/file"], 4),
        (&["publish", "/tmp"], 1),
        (&["peer", "add", "mhc1garbage"], 2),
        (&["get", &nothing, "-o", &out], 6),
        (&["up", "--no-mdns", "--http", "127.0.0.1:0", "--p2p-port", "0"], 3),
        (&["up", "--http", "not-an-address"], 2),
        (&["up", "--peer", "not-a-ticket"], 2),
    ];
    let mut wrong = vec![];
    for (args, code) in cases {
        let output = a.run(&[args, &["--json"][..]].concat())?;
        let said = if *code == 0 { output.json().is_ok() } else { !output.stderr.trim().is_empty() };
        if output.code != *code || !said {
            wrong.push(format!("mhc {}: expected {code}: {output:?}", args.join(" ")));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));

    let dir = tempfile::tempdir()?;
    let output = idle(&dir).run(&["status", "--json"])?;
    ensure!(output.code == 6, "without a daemon: {output:?}");
    Ok(())
}

#[test]
fn a_node_stops_cleanly_and_starts_again_as_the_same_node() -> Result<()> {
    let mut a = start("a")?;
    let first = a.ready()?.clone();
    let content = text(&a.publish(&media::png(fixtures())?, &[])?, "content")?;
    ensure!(a.stop()?.code() == Some(0), "exit code of a stop");
    a.restart()?;
    let second = a.ready()?.clone();
    ensure!((&first.node, &first.network) == (&second.node, &second.network), "{first:?} {second:?}");
    lists(&a, &content, SOON)
}

#[test]
fn help_is_complete() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let node = idle(&dir);
    let manual = node.run(&["man"])?;
    ensure!(manual.code == 0 && manual.stdout.contains(".TH"), "{}", manual.stderr);
    for shell in ["bash", "zsh", "fish"] {
        let output = node.run(&["completions", shell])?;
        ensure!(output.code == 0 && output.stdout.contains("mhc"), "{shell}: {output:?}");
    }
    let help = node.run(&["--help"])?.stdout;
    let commands = [
        "up",
        "status",
        "ticket",
        "peer",
        "peers",
        "links",
        "bundle",
        "publish",
        "ls",
        "show",
        "get",
        "pin",
        "unpin",
        "gc",
        "doctor",
        "config",
        "completions",
        "man",
    ];
    for command in commands {
        ensure!(
            help.lines().any(|line| line.split_whitespace().next() == Some(command)),
            "--help: no {command}:\n{help}"
        );
        ensure!(node.run(&[command, "--help"])?.code == 0, "{command} --help");
    }
    ensure!(!node.home().exists(), "help made a home");
    Ok(())
}

#[test]
fn the_example_settings_are_accepted_and_mean_the_defaults() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let node = idle(&dir);
    let example = node.run(&["config", "example"])?;
    ensure!(example.code == 0 && example.stdout.contains("# "), "{example:?}");
    std::fs::create_dir_all(node.home())?;
    std::fs::write(node.home().join("mhc.toml"), &example.stdout)?;
    let check = node.run(&["config", "check"])?;
    ensure!(check.code == 0, "{check:?}");
    Ok(())
}

#[test]
fn doctor_passes_a_healthy_node_and_rebuilds_the_index() -> Result<()> {
    let mut a = start("a")?;
    let content = text(&a.publish(&media::png(fixtures())?, &[])?, "content")?;
    let running = a.run(&["doctor", "--json"])?;
    ensure!(running.code == 0, "{running:?}");
    running.json()?;
    let rebuilt = a.run(&["doctor", "--rebuild", "--json"])?;
    ensure!(rebuilt.code == 0, "{rebuilt:?}");
    lists(&a, &content, SOON)?;
    ensure!(a.stop()?.success());
    let stopped = a.run(&["doctor", "--json"])?;
    ensure!(stopped.code == 0, "while it doesn't run: {stopped:?}");
    Ok(())
}

#[test]
fn a_signal_ends_a_node_within_ten_seconds_even_with_an_answer_under_way() -> Result<()> {
    let mut a = start("a")?;
    let (file, _) = random_file(&a, "big.bin", &mut Rng::new(7), 64 << 20)?;
    let blob = text(&a.publish(&file, &[])?, "blob")?;
    let opened = a.http()?.anonymous().open("GET", &format!("/blobs/{blob}"), &[], &[])?;
    ensure!(opened.status == 200);
    let status = a.stop()?;
    ensure!(status.code() == Some(0), "{} ended with {status}", mhc().display());
    Ok(())
}
