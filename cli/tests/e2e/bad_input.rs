//! Bad homes, settings, files and machines: what `mhc` says and how it ends, and what it survives.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mhc_testnet::{Http, Node, Output, Rng, eventually, http::Part, node::text};
use tempfile::TempDir;

use super::{SOON, is_root, lists, mhc, options, random_file, skipped, start};

const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// `mhc up` on `home`, which must refuse to start.
fn up_fails(home: &Path, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(mhc());
    command.args(["up", "--json", "--no-mdns", "--home"]).arg(home).args(args);
    if !args.contains(&"--http") {
        command.args(["--http", "127.0.0.1:0"]);
    }
    if !args.contains(&"--p2p-port") {
        command.args(["--p2p-port", "0"]);
    }
    ends(command)
}

/// Runs a command that must end by itself.
fn ends(mut command: Command) -> Result<Output> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > ENDS_WITHIN {
            child.kill()?;
            bail!("it runs on: {:?}", child.wait_with_output()?);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output()?;
    Ok(Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A home that was used: it has published one file.
struct Used {
    dir: TempDir,
    content: String,
    bytes: Vec<u8>,
    blob: String,
}

impl Used {
    pub(crate) fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut node = Node::prepare(options("used"), dir.path().join("home"));
        node.restart()?;
        let (file, bytes) = random_file(&node, "f.bin", &mut Rng::new(10), 200_000)?;
        let published = node.publish(&file, &[])?;
        ensure!(node.stop()?.success());
        Ok(Self { content: text(&published, "content")?, blob: text(&published, "blob")?, bytes, dir })
    }

    /// A copy of it in a folder of its own.
    fn copy(&self) -> Result<(TempDir, PathBuf)> {
        let dir = tempfile::tempdir()?;
        let home = dir.path().join("home");
        let status = Command::new("cp").arg("-a").arg(self.dir.path().join("home")).arg(&home).status()?;
        ensure!(status.success());
        Ok((dir, home))
    }
}

type Change = fn(&Path) -> Result<()>;

fn mode(path: PathBuf, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

#[test]
fn homes_that_cannot_be_trusted_are_refused_and_the_mending_is_named() -> Result<()> {
    let used = Used::new()?;
    let cases: &[(&str, Change, i32, &str)] = &[
        ("node key readable by all", |h| mode(h.join("keys/node.key"), 0o644), 5, "chmod"),
        ("node key readable by its group", |h| mode(h.join("keys/node.key"), 0o640), 5, "chmod"),
        ("network key readable by all", |h| mode(h.join("keys/network.key"), 0o644), 5, "chmod"),
        ("keys writable by all", |h| mode(h.join("keys"), 0o777), 5, "chmod"),
        ("token readable by all", |h| mode(h.join("api.token"), 0o644), 5, "chmod"),
        ("node key of another user", |h| Ok(chown(h.join("keys/node.key"), Some(65534), None)?), 5, "chown"),
        ("node key is text", |h| Ok(fs::write(h.join("keys/node.key"), "not a key at all")?), 7, "node.key"),
        ("node key is empty", |h| Ok(fs::write(h.join("keys/node.key"), "")?), 7, "node.key"),
        ("node key has 1 MiB", |h| Ok(fs::write(h.join("keys/node.key"), vec![b'a'; 1 << 20])?), 7, "node.key"),
        ("node key is gone", |h| Ok(fs::remove_file(h.join("keys/node.key"))?), 7, "node.key"),
        (
            "node key is a folder",
            |h| {
                fs::remove_file(h.join("keys/node.key"))?;
                Ok(fs::create_dir(h.join("keys/node.key"))?)
            },
            7,
            "node.key",
        ),
        (
            "the home is a file",
            |h| {
                fs::remove_dir_all(h)?;
                Ok(fs::write(h, "x")?)
            },
            1,
            "home",
        ),
        ("settings: not TOML", |h| Ok(fs::write(h.join("mhc.toml"), "= nonsense")?), 2, "line 1"),
        ("settings: unknown key", |h| Ok(fs::write(h.join("mhc.toml"), "\n[gateway]\nhtpp = 1")?), 2, "line 3"),
        ("settings: not UTF-8", |h| Ok(fs::write(h.join("mhc.toml"), [0xff, 0xfe])?), 2, "mhc.toml"),
        ("records are garbage", |h| Ok(fs::write(h.join("records/records.redb"), vec![0xa5; 1 << 20])?), 7, "records"),
        (
            "records are cut",
            |h| Ok(fs::File::options().write(true).open(h.join("records/records.redb"))?.set_len(5000)?),
            7,
            "records",
        ),
    ];
    let mut wrong = vec![];
    for (name, change, code, says) in cases {
        if name.contains("another user") && !is_root() {
            skipped(name, "only root can give a file away");
            continue;
        }
        let (_dir, home) = used.copy()?;
        change(&home)?;
        match up_fails(&home, &[]) {
            Ok(output) if output.code == *code && output.stderr.contains(says) && output.stdout.is_empty() => {}
            Ok(output) => wrong.push(format!("{name}: wanted {code} and '{says}': {output:?}")),
            Err(error) => wrong.push(format!("{name}: {error:#}")),
        }
    }
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    Ok(())
}

#[test]
fn homes_that_lost_what_can_be_made_again_start() -> Result<()> {
    let used = Used::new()?;
    let cases: &[(&str, Change)] = &[
        ("token gone", |h| Ok(fs::remove_file(h.join("api.token"))?)),
        ("run file of a killed process", |h| {
            Ok(fs::write(h.join("run.json"), "{\"pid\":1,\"http\":\"127.0.0.1:1\"}")?)
        }),
        ("run file of junk", |h| Ok(fs::write(h.join("run.json"), "junk")?)),
        ("lock file of a killed process", |h| Ok(fs::write(h.join("lock"), "1")?)),
        ("half files beside the real ones", |h| Ok(fs::write(h.join("keys/.node.key.tmp"), "half")?)),
        ("no settings", |h| {
            let _ = fs::remove_file(h.join("mhc.toml"));
            Ok(())
        }),
        ("a link to a folder", |h| {
            let real = h.with_file_name("real");
            fs::rename(h, &real)?;
            Ok(symlink(&real, h)?)
        }),
    ];
    for (name, change) in cases {
        let (_dir, home) = used.copy()?;
        change(&home)?;
        let mut node = Node::prepare(options("mended"), home);
        node.restart().context(*name)?;
        lists(&node, &used.content, SOON).context(*name)?;
        let reply = node.http()?.get(&format!("/blobs/{}", used.blob))?;
        ensure!(reply.body == used.bytes, "{name}: {}", reply.status);
    }
    Ok(())
}

#[test]
fn settings_are_checked_by_line_and_key() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let node = Node::prepare(options("settings"), dir.path().join("home"));
    fs::create_dir_all(node.home())?;
    let cases = [
        ("[gateway]\nhttp = \"nowhere\"", "line 2", "gateway.http"),
        ("[gateway]\nhttp = 17", "line 2", "gateway.http"),
        ("[gatway]\nhttp = \"127.0.0.1:1\"", "line 1", "gatway"),
        ("[p2p]\nport = 70000", "line 2", "p2p.port"),
        ("[p2p]\n\nport = -1", "line 3", "p2p.port"),
        ("[p2p]\nmdns = \"yes\"", "line 2", "p2p.mdns"),
        ("[p2p]\npeers = [\"junk\"]", "line 2", "p2p.peers"),
        ("[p2p]\npeers = [\"mhc1junk\"]", "", "p2p.peers"),
        ("[storage]\nquota_bytes = -5", "line 2", "storage.quota_bytes"),
        ("[storage]\nmin_free_bytes = 1.5", "line 2", "storage.min_free_bytes"),
        ("roles = [\"king\"]", "line 1", "roles"),
        ("[node]\nname = \"\"", "line 2", "node.name"),
        ("[gateway]\nmax_upload_bytes = 0", "line 2", "gateway.max_upload_bytes"),
        ("[gateway]\nhttp = \"127.0.0.1:1\"\nhttp = \"127.0.0.1:2\"", "line 3", "http"),
        ("[gateway", "line 1", ""),
    ];
    let mut wrong = vec![];
    for (text, line, key) in cases {
        fs::write(node.home().join("mhc.toml"), text)?;
        let output = node.run(&["config", "check"])?;
        let said = format!("{}{}", output.stdout, output.stderr);
        if ![1, 2].contains(&output.code) || !said.contains(line) || !said.contains(key) {
            wrong.push(format!("{text:?}: wanted {line} and {key}: {output:?}"));
        }
    }
    for (name, value) in [("MHC_GATEWAY__HTTP", "nowhere"), ("MHC_P2P__PORT", "x"), ("MHC_STORAGE__QUOTA_BYTES", "-1")]
    {
        fs::write(node.home().join("mhc.toml"), "")?;
        let output = node.command().env(name, value).args(["config", "check"]).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        if output.status.success() || !said.contains(name) {
            wrong.push(format!("{name}={value}: {output:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn ports_in_use_are_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let home = dir.path().join("home");
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let addr = taken.local_addr()?.to_string();
    let output = up_fails(&home, &["--http", &addr])?;
    ensure!([1, 3].contains(&output.code) && output.stderr.contains(&addr), "{output:?}");

    let taken = TcpListener::bind("[::]:0").or_else(|_| TcpListener::bind("0.0.0.0:0"))?;
    let port = taken.local_addr()?.port().to_string();
    let output = up_fails(&home, &["--p2p-port", &port])?;
    ensure!([1, 3].contains(&output.code) && output.stderr.contains(&port), "{output:?}");
    Ok(())
}

#[test]
fn one_home_has_one_daemon() -> Result<()> {
    let mut a = start("a")?;
    let output = up_fails(a.home(), &[])?;
    let says = format!("already running as pid {}", a.pid()?);
    ensure!(output.code == 3 && output.stderr.contains(&says), "{output:?}");
    ensure!(a.is_alive() && a.http()?.get("/readyz")?.status == 200, "the first one is disturbed");
    Ok(())
}

#[test]
fn files_that_cannot_be_published_say_why() -> Result<()> {
    let a = start("a")?;
    let beside = |name: &str| a.home().with_file_name(name);
    let (secret, _) = random_file(&a, "secret.bin", &mut Rng::new(11), 100)?;
    mode(secret.clone(), 0o000)?;
    fs::create_dir(beside("folder"))?;
    symlink(beside("nothing"), beside("dangling"))?;
    for name in ["missing", "folder", "dangling"] {
        for args in [&[][..], &["--reference"]] {
            let path = beside(name).display().to_string();
            let output = a.run(&[&["publish", path.as_str()], args].concat())?;
            ensure!([1, 2, 4].contains(&output.code) && !output.stderr.is_empty(), "{name} {args:?}: {output:?}");
        }
    }
    let mut command = a.command();
    if is_root() {
        // Root may read everything, unless it is told that it may not.
        command = Command::new("setpriv");
        command.args(["--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]);
        command.arg(mhc()).env("MHC_HOME", a.home());
    }
    command.arg("publish").arg(&secret);
    let output = ends(command)?;
    ensure!(output.code == 1 && output.stderr.contains("ermission denied"), "unreadable: {output:?}");
    ensure!(a.list()?.is_empty(), "something was published");
    Ok(())
}

/// A small disk of its own, for as long as it lives.
pub(crate) struct SmallDisk(pub(crate) TempDir);

impl SmallDisk {
    pub(crate) fn new(mib: u64) -> Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        let size = format!("size={mib}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).status();
        Ok(mounted.is_ok_and(|status| status.success()).then_some(Self(dir)))
    }

    /// Fills it to the last byte and returns the file to delete for room.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.0.path().join("ballast");
        let mut file = fs::File::create(&path)?;
        let zeroes = vec![0; 64 << 10];
        while std::io::Write::write_all(&mut file, &zeroes).is_ok() {}
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a node that is being killed may still hold a file.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn upload(http: &Http, bytes: &[u8]) -> Result<mhc_testnet::Reply> {
    http.post_parts("/api/v1/videos/upload", &[Part::File("file", "f.bin", "application/octet-stream", bytes)])
}

#[test]
fn a_full_disk_makes_a_node_read_only_until_there_is_room() -> Result<()> {
    let Some(disk) = SmallDisk::new(64)? else {
        skipped("a_full_disk_makes_a_node_read_only_until_there_is_room", "a tmpfs can't be mounted here");
        return Ok(());
    };
    let small = options("small").env("MHC_STORAGE__MIN_FREE_BYTES", "2097152");
    let mut node = Node::prepare(small, disk.0.path().join("home"));
    node.restart()?;
    let mut rng = Rng::new(12);
    let good = rng.bytes(1 << 20);
    let blob = text(&upload(&node.http()?, &good)?.json()?, "blob")?;
    let path = format!("/blobs/{blob}");

    let elsewhere = tempfile::tempdir()?;
    let too_much = elsewhere.path().join("too-much.bin");
    fs::write(&too_much, rng.bytes(80 << 20))?;
    let output = node.run(&["publish", too_much.to_str().context("UTF-8")?])?;
    ensure!(output.code == 1 && output.stderr.contains("full"), "{output:?}");
    ensure!(node.http()?.get(&path)?.body == good, "reads don't work");

    let ballast = disk.fill()?;
    let reply = upload(&node.http()?, &rng.bytes(300_000))?;
    ensure!(reply.problem().as_deref() == Some("storage_full"), "on a full disk: {} {}", reply.status, reply.text());
    ensure!(node.http()?.get(&path)?.body == good, "reads don't work on a full disk");

    node.kill();
    node.restart().context("a start on a full disk")?;
    ensure!(node.http()?.get(&path)?.body == good, "reads don't work after a start on a full disk");
    ensure!(node.list()?.len() == 1, "{:?}", node.list()?);

    fs::remove_file(ballast)?;
    let again = rng.bytes(300_000);
    eventually("it takes uploads again", SOON, || {
        let reply = upload(&node.http()?, &again)?;
        ensure!(reply.status == 201, "{} {}", reply.status, reply.text());
        Ok(())
    })
}

#[test]
fn without_file_handles_a_node_sheds_load_and_recovers() -> Result<()> {
    let mut a = start("a")?;
    let (file, bytes) = random_file(&a, "f.bin", &mut Rng::new(13), 500_000)?;
    let blob = text(&a.publish(&file, &[])?, "blob")?;
    let limit = Command::new("prlimit").args(["--pid", &a.pid()?.to_string(), "--nofile=160:160"]).status();
    if !limit.is_ok_and(|status| status.success()) {
        skipped("without_file_handles_a_node_sheds_load_and_recovers", "prlimit doesn't work here");
        return Ok(());
    }
    let http = a.http()?;
    let flood: Vec<_> = (0..300).map_while(|_| http.connect(Duration::from_secs(5)).ok()).collect();
    ensure!(a.is_alive(), "it died of {} connections", flood.len());
    drop(flood);
    eventually("it serves again", SOON, || {
        let reply = http.get(&format!("/blobs/{blob}"))?;
        ensure!(reply.status == 200 && reply.body == bytes, "{}", reply.status);
        Ok(())
    })
}

#[test]
fn a_flipped_bit_on_disk_is_never_served() -> Result<()> {
    let used = Used::new()?;
    let (_dir, home) = used.copy()?;
    let flipped = flip_data(&home.join("blobs"), &used.bytes)?;
    ensure!(flipped, "the blob's bytes weren't found under the home");
    let mut node = Node::prepare(options("flipped"), home);
    node.restart()?;
    let reply = node.http()?.get(&format!("/blobs/{}", used.blob))?;
    ensure!(reply.status != 200 || reply.cut, "a damaged blob was served whole: {}", reply.status);
    ensure!(reply.status != 200 || used.bytes.starts_with(&reply.body), "a damaged byte was served");
    ensure!(node.is_alive());
    Ok(())
}

/// Flips a bit in the middle of the file that holds these bytes.
fn flip_data(dir: &Path, bytes: &[u8]) -> Result<bool> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            if flip_data(&path, bytes)? {
                return Ok(true);
            }
        } else if let Some(at) = fs::read(&path)?.windows(64).position(|window| window == &bytes[..64]) {
            let mut found = fs::read(&path)?;
            if found.len() >= at + bytes.len() {
                found[at + bytes.len() / 2] ^= 1;
                fs::write(&path, found)?;
                return Ok(true);
            }
        }
    }
    Ok(false)
}
