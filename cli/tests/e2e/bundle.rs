//! Bundles: channels that cross an air gap on a stick, sticks that are damaged in every way, and a kill in between.

use std::{
    fs,
    os::unix::fs::{FileExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use mhc_protocol::bundle::{DAY_MS, Index, commit_text};
use mhc_testnet::{Node, Output, Rng, eventually, media, node::text};
use serde_json::Value;
use tempfile::TempDir;

use super::{SOON, fixtures, join, random_file, start};

const MIB: usize = 1 << 20;

/// A film, and its bytes.
struct Work {
    content: String,
    blob: String,
    bytes: Vec<u8>,
}

/// Another film each time: the same one with so many bytes behind it in a box that players pass over.
fn film(node: &Node, name: &str, padding: usize) -> Result<Work> {
    let mut bytes = fs::read(media::video(fixtures())?)?;
    bytes.extend(u32::try_from(padding + 8)?.to_be_bytes());
    bytes.extend(b"free");
    bytes.extend(Rng::new(padding as u64).bytes(padding));
    let file = node.home().with_file_name(name);
    fs::write(&file, &bytes)?;
    let published = node.publish(&file, &["--title", name])?;
    ensure!(text(&published, "kind")? == "video", "{published}");
    Ok(Work { content: text(&published, "content")?, blob: text(&published, "blob")?, bytes })
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("UTF-8")
}

fn bundle(node: &Node, command: &str, stick: &Path) -> Result<Output> {
    node.run(&["bundle", command, utf8(stick)?, "--json"])
}

/// Its report, when it ends with 0.
fn good(node: &Node, command: &str, stick: &Path) -> Result<Value> {
    node.json(&["bundle", command, utf8(stick)?])
}

fn number(report: &Value, pointer: &str) -> Result<u64> {
    report.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("no number {pointer} in {report}"))
}

fn check_ranges(node: &Node, work: &Work) -> Result<()> {
    let http = node.http()?.anonymous();
    let path = format!("/api/v1/videos/{}/stream", work.content);
    let mut rng = Rng::from_env();
    for _ in 0..12 {
        let start = rng.below(work.bytes.len() as u64) as usize;
        let len = 1 + rng.below((work.bytes.len() - start).min(300_000) as u64) as usize;
        let reply = http.get_range(&path, &format!("bytes={start}-{}", start + len - 1))?;
        ensure!(reply.status == 206 && !reply.cut, "{start}+{len}: {} {}", reply.status, reply.text());
        ensure!(reply.header("content-type") == Some("video/mp4"), "{:?}", reply.headers);
        ensure!(reply.body == work.bytes[start..start + len], "{start}+{len}: other bytes");
    }
    let whole = http.get(&path)?;
    ensure!(whole.status == 200 && whole.body == work.bytes, "{} {}", whole.status, whole.body.len());
    Ok(())
}

#[test]
fn a_channel_crosses_an_air_gap_and_a_want_list_comes_back() -> Result<()> {
    let stick = tempfile::tempdir()?;
    let mut a = start("a")?;
    let ticket = a.ticket()?;
    // The second and third are longer than one entry of a bundle.
    let works = [film(&a, "one", 0)?, film(&a, "two", 5 * MIB)?, film(&a, "three", 20 * MIB)?];
    let author = a.ready()?.node.clone();
    let exported = a.json(&["bundle", "export", utf8(stick.path())?, "--channel", &author])?;
    ensure!(number(&exported, "/records")? == 3 && number(&exported, "/blobs")? == 3, "{exported}");
    ensure!(good(&a, "verify", stick.path())?["damaged"] == 0);
    ensure!(a.stop()?.success());

    // B is of A's network and never meets it.
    let mut b = join("b", &ticket)?;
    ensure!(b.list()?.is_empty());
    let imported = good(&b, "import", stick.path())?;
    ensure!(number(&imported, "/records/new")? == 3 && number(&imported, "/blobs/complete")? == 3, "{imported}");
    ensure!(number(&imported, "/damaged")? == 0, "{imported}");
    ensure!(b.list()?.len() == 3);
    for work in &works {
        check_ranges(&b, work).with_context(|| work.content.clone())?;
    }
    ensure!(number(&b.json(&["status"])?, "/peers")? == 0, "they were to be apart");
    let again = good(&b, "import", stick.path())?;
    ensure!(number(&again, "/blobs/new_bytes")? == 0 && number(&again, "/records/known")? == 3, "{again}");
    ensure!(b.stop()?.success());

    // The want-list on the stick tells A what B has.
    a.restart()?;
    let fourth = film(&a, "four", 100)?;
    let exported = a.json(&["bundle", "export", utf8(stick.path())?])?;
    ensure!(exported["by_wants"] == true && number(&exported, "/records")? == 1, "{exported}");
    let bytes = number(&exported, "/bytes")?;
    ensure!(bytes < fourth.bytes.len() as u64 + MIB as u64, "{exported}");
    ensure!(a.stop()?.success());
    b.restart()?;
    let imported = good(&b, "import", stick.path())?;
    ensure!(number(&imported, "/records/new")? == 1, "{imported}");
    check_ranges(&b, &fourth)
}

/// A stick with three blobs, and the network they belong to.
struct Stick {
    dir: TempDir,
    ticket: String,
    works: Vec<Work>,
    /// A node of another network.
    stranger: Node,
}

impl Stick {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut a = start("a")?;
        let mut works = vec![];
        for seed in 1..=3 {
            let (file, bytes) = random_file(&a, &format!("{seed}.bin"), &mut Rng::new(seed), 300_000)?;
            let published = a.publish(&file, &[])?;
            works.push(Work { content: text(&published, "content")?, blob: text(&published, "blob")?, bytes });
        }
        good(&a, "export", dir.path())?;
        let ticket = a.ticket()?;
        ensure!(a.stop()?.success());
        Ok(Self { dir, ticket, works, stranger: start("stranger")? })
    }

    fn copy(&self) -> Result<TempDir> {
        let copy = tempfile::tempdir()?;
        let from = self.dir.path().join("MHC");
        ensure!(Command::new("cp").arg("-a").arg(from).arg(copy.path()).status()?.success());
        Ok(copy)
    }
}

/// The one bundle's folder.
fn folder(stick: &Path) -> Result<PathBuf> {
    let mut bundles = fs::read_dir(stick.join("MHC"))?.filter_map(|entry| Some(entry.ok()?.path()));
    bundles.find(|path| path.is_dir()).context("no bundle")
}

fn segment(stick: &Path) -> Result<PathBuf> {
    Ok(folder(stick)?.join("SEG00000.MHS"))
}

fn index(stick: &Path) -> Result<Index> {
    Ok(Index::open(&fs::read(folder(stick)?.join("INDEX.CBR"))?)?)
}

/// Changes `len` bytes of a file.
fn spoil(file: &Path, at: u64, len: usize) -> Result<()> {
    let mut bytes = vec![0; len];
    let open = fs::File::options().read(true).write(true).open(file)?;
    open.read_exact_at(&mut bytes, at)?;
    bytes.iter_mut().for_each(|byte| *byte ^= 0x10);
    Ok(open.write_all_at(&bytes, at)?)
}

/// Makes the mark fit whatever the index file says now.
fn commit(stick: &Path) -> Result<()> {
    let index = fs::read(folder(stick)?.join("INDEX.CBR"))?;
    Ok(fs::write(folder(stick)?.join("COMMIT"), commit_text(&index))?)
}

/// Signs an index that was changed, as a hostile courier can with a key of its own.
fn forge(stick: &Path, change: impl FnOnce(&mut Index)) -> Result<()> {
    let key = mhc_protocol::SecretKey::from_seed(&[66; 32]);
    let mut forged = index(stick)?;
    forged.node = key.node();
    change(&mut forged);
    fs::write(folder(stick)?.join("INDEX.CBR"), forged.seal(&key)?)?;
    commit(stick)
}

struct Case {
    name: &'static str,
    damage: fn(&Path) -> Result<()>,
    /// Exit code of `import` and `verify`.
    code: i32,
    /// Works that are complete afterwards.
    works: usize,
    /// A word of the report.
    says: &'static str,
}

fn case(name: &'static str, damage: fn(&Path) -> Result<()>, code: i32, works: usize, says: &'static str) -> Case {
    Case { name, damage, code, works, says }
}

fn cases_of_entries() -> Vec<Case> {
    vec![
        case("nothing wrong", |_| Ok(()), 0, 3, ""),
        // Three records, then the three blobs, newest first.
        case(
            "a bit in a blob",
            |s| spoil(&segment(s)?, index(s)?.entries[4].offset + 5000, 1),
            7,
            2,
            "aren't the blob's",
        ),
        case(
            "a bit in an entry's head",
            |s| spoil(&segment(s)?, index(s)?.entries[4].offset + 1, 1),
            7,
            2,
            "not an entry",
        ),
        case(
            "a giant length in an entry's head",
            |s| spoil(&segment(s)?, index(s)?.entries[4].offset + 47, 1),
            7,
            2,
            "length",
        ),
        case("a giant size of a blob", |s| spoil(&segment(s)?, index(s)?.entries[4].offset + 54, 2), 7, 2, "16 TiB"),
        // Without the second record the third one waits, and what they name isn't known.
        case(
            "a forged record",
            |s| spoil(&segment(s)?, index(s)?.entries[1].offset + 200, 1),
            7,
            1,
            "record that isn't valid",
        ),
    ]
}

fn cases_of_index_and_mark() -> Vec<Case> {
    vec![
        case("a bit in the index", |s| spoil(&folder(s)?.join("INDEX.CBR"), 100, 1), 7, 0, "COMMIT"),
        case(
            "a bit in the index, and a mark to match",
            |s| spoil(&folder(s)?.join("INDEX.CBR"), 100, 1).and_then(|()| commit(s)),
            7,
            0,
            "INDEX.CBR",
        ),
        case(
            "an index of giant length",
            |s| Ok(fs::File::create(folder(s)?.join("INDEX.CBR"))?.set_len(1 << 40)?),
            7,
            0,
            "INDEX.CBR",
        ),
        case("no index", |s| Ok(fs::remove_file(folder(s)?.join("INDEX.CBR"))?), 7, 0, "INDEX.CBR"),
        case("no mark", |s| Ok(fs::remove_file(folder(s)?.join("COMMIT"))?), 7, 0, "COMMIT is missing"),
        case(
            "a mark of giant length",
            |s| Ok(fs::File::create(folder(s)?.join("COMMIT"))?.set_len(1 << 40)?),
            7,
            0,
            "COMMIT",
        ),
        case("an index that somebody else signed", |s| forge(s, |_| ()), 0, 3, ""),
        // Nobody asks for what the name says, so it isn't looked at.
        case("another name in the index", |s| forge(s, |index| index.entries[4].name = [7; 32]), 0, 2, ""),
        case("a day that hasn't come", |s| forge(s, |index| index.made.0 = 90_000 * DAY_MS), 0, 3, ""),
    ]
}

fn cases_of_names() -> Vec<Case> {
    vec![
        case(
            "a segment under another name",
            |s| Ok(fs::rename(segment(s)?, folder(s)?.join("SEG00001.MHS"))?),
            7,
            0,
            "is missing",
        ),
        case("no segment", |s| Ok(fs::remove_file(segment(s)?)?), 7, 0, "is missing"),
        case(
            "a segment that is cut",
            |s| Ok(fs::File::options().write(true).open(segment(s)?)?.set_len(index(s)?.entries[5].offset + 1000)?),
            7,
            2,
            "ends before",
        ),
        case(
            "a segment that leads elsewhere",
            |s| {
                let elsewhere = s.join("elsewhere");
                fs::rename(segment(s)?, &elsewhere)?;
                Ok(symlink(elsewhere, segment(s)?)?)
            },
            7,
            0,
            "can't be opened",
        ),
        case(
            "odd names beside it",
            |s| {
                let folder = folder(s)?;
                for name in ["..\\..\\x", "SEG99999.MHS", "-rf", "\u{202e}txt.exe"] {
                    fs::write(folder.join(name), "x")?;
                    fs::create_dir(s.join("MHC").join(name))?;
                }
                fs::write(s.join("MHC/WANTS.CBR"), "not a want-list")?;
                Ok(symlink("/etc", s.join("MHC/etc"))?)
            },
            0,
            3,
            "",
        ),
        case(
            "a bundle's folder that leads elsewhere",
            |s| Ok(symlink("/etc", s.join("MHC/0000000A"))?),
            7,
            3,
            "COMMIT is missing",
        ),
    ]
}

#[test]
fn a_damaged_stick_is_refused_or_taken_up_to_the_damage() -> Result<()> {
    let stick = Stick::new()?;
    let mut wrong = vec![];
    for case in cases_of_entries().into_iter().chain(cases_of_index_and_mark()).chain(cases_of_names()) {
        if let Err(error) = try_case(&stick, &case) {
            wrong.push(format!("{}: {error:#}", case.name));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn try_case(stick: &Stick, case: &Case) -> Result<()> {
    let copy = stick.copy()?;
    (case.damage)(copy.path()).context("damaging it")?;
    // A node's own verdict, and that of one whom the network doesn't concern.
    let mut b = join("b", &stick.ticket)?;
    let imported = bundle(&b, "import", copy.path())?;
    ensure!(imported.code == case.code, "import: {imported:?}");
    let report = imported.json()?;
    ensure!(report.to_string().contains(case.says), "import doesn't say '{}': {report}", case.says);
    ensure!((number(&report, "/damaged")? > 0) == (case.code == 7), "{report}");
    ensure!((case.code == 7) == imported.stderr.contains("problem(s)"), "{}", imported.stderr);
    let mut complete = 0;
    for work in &stick.works {
        let info = b.http()?.get(&format!("/api/v1/node/blobs/{}", work.blob))?.json()?;
        if info["complete"] == true {
            let reply = b.http()?.anonymous().get(&format!("/blobs/{}", work.blob))?;
            ensure!(reply.status == 200 && reply.body == work.bytes, "{}: {} or other bytes", work.blob, reply.status);
            complete += 1;
        }
    }
    ensure!(complete == case.works, "{complete} works are complete: {report}");
    ensure!(b.is_alive() && b.json(&["doctor"]).is_ok(), "the node isn't well");
    let verified = bundle(&stick.stranger, "verify", copy.path())?;
    let code = if case.name == "another name in the index" { 7 } else { case.code };
    ensure!(verified.code == code, "verify: {verified:?}");
    ensure!(!copy.path().join("x").exists() && !copy.path().with_file_name("x").exists(), "it wrote outside");
    Ok(())
}

#[test]
fn what_is_no_bundle_of_this_network_is_told_apart() -> Result<()> {
    let stick = Stick::new()?;
    let refused = bundle(&stick.stranger, "import", stick.dir.path())?;
    ensure!(refused.code == 5 && refused.stderr.contains("another network"), "{refused:?}");
    ensure!(stick.stranger.list()?.is_empty());
    let empty = tempfile::tempdir()?;
    fs::create_dir(empty.path().join("MHC"))?;
    for (path, command) in [
        (empty.path().to_owned(), "import"),
        (empty.path().to_owned(), "verify"),
        (empty.path().join("MHC"), "import"),
        (empty.path().join("none"), "import"),
        (empty.path().join("none"), "export"),
        ("/dev/null".into(), "import"),
    ] {
        let answer = bundle(&stick.stranger, command, &path)?;
        ensure!(answer.code == 4 && answer.stdout.is_empty(), "{command} {}: {answer:?}", path.display());
    }
    // Nobody but the operator may name a path on this machine.
    let http = stick.stranger.http()?.anonymous();
    let json = [("content-type", "application/json")];
    for name in ["export", "import", "verify", "wants"] {
        let reply = http.request("POST", &format!("/api/v1/node/bundles/{name}"), &json, br#"{"path":"/tmp"}"#)?;
        ensure!(reply.status == 401, "{name}: {}", reply.status);
    }
    let http = stick.stranger.http()?;
    let relative = http.request("POST", "/api/v1/node/bundles/import", &json, br#"{"path":"x/../y"}"#)?;
    ensure!(relative.status == 400 && relative.problem().as_deref() == Some("bad_request"), "{}", relative.text());
    Ok(())
}

#[test]
fn an_import_that_was_killed_goes_on_where_it_was() -> Result<()> {
    let stick = tempfile::tempdir()?;
    let mut a = start("a")?;
    let (file, bytes) = random_file(&a, "big.bin", &mut Rng::new(6), 192 * MIB)?;
    let blob = text(&a.publish(&file, &[])?, "blob")?;
    good(&a, "export", stick.path())?;
    let ticket = a.ticket()?;
    ensure!(a.stop()?.success());

    let mut b = join("b", &ticket)?;
    let http = b.http()?;
    let local = |http: &mhc_testnet::Http| -> Result<u64> {
        let info = http.get(&format!("/api/v1/node/blobs/{blob}"))?.json()?;
        info.get("local_bytes").and_then(Value::as_u64).with_context(|| info.to_string())
    };
    let import = ["bundle", "import", utf8(stick.path())?, "--json"];
    let mut command = b.command();
    let mut client = command.args(import).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    eventually("the import has begun", SOON, || {
        let local = local(&http)?;
        // Half of it, so that a disk that is still busy with the export has made a checkpoint durable.
        ensure!(local >= 96 * MIB as u64, "{local} bytes");
        Ok(())
    })?;
    b.kill();
    ensure!(client.wait()?.code() != Some(0), "it ended well although its node was killed");
    b.restart()?;
    let kept = local(&b.http()?)?;
    ensure!(kept >= 16 * MIB as u64, "only {kept} bytes were kept");
    ensure!(kept < bytes.len() as u64, "the kill came too late to tell anything");
    let imported = good(&b, "import", stick.path())?;
    let (new, known) = (number(&imported, "/blobs/new_bytes")?, number(&imported, "/blobs/known_bytes")?);
    ensure!(known >= 8 * MIB as u64 && new < bytes.len() as u64, "it began again: {imported}");
    let reply = b.http()?.anonymous().get(&format!("/blobs/{blob}"))?;
    ensure!(reply.status == 200 && reply.body == bytes, "{} {}", reply.status, reply.body.len());
    Ok(())
}

#[test]
fn a_full_stick_is_told_and_leaves_no_half_bundle() -> Result<()> {
    if !super::is_root() {
        super::skipped("a full stick", "mounting needs root");
        return Ok(());
    }
    let a = start("a")?;
    let (file, _) = random_file(&a, "big.bin", &mut Rng::new(7), 12 * MIB)?;
    a.publish(&file, &[])?;
    let stick = tempfile::tempdir()?;
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(stick.path()).output()?;
    if !mount.status.success() {
        super::skipped("a full stick", "mount isn't allowed here");
        return Ok(());
    }
    let full = bundle(&a, "export", stick.path());
    let left = fs::read_dir(stick.path().join("MHC")).map(Iterator::count);
    let bounded = a.run(&["bundle", "export", utf8(stick.path())?, "--max-bytes", "1000000", "--json"]);
    Command::new("umount").arg(stick.path()).status()?;
    let full = full?;
    ensure!(full.code == 1 && full.stderr.contains("no room"), "{full:?}");
    ensure!(left? == 0, "it left something behind");
    ensure!(bounded?.code == 0);
    Ok(())
}
