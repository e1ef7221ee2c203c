//! What every scenario is given: options, programs, source files and a folder to work in.

use std::{
    fs,
    io::{BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use mhc_testnet::Rng;
use tempfile::TempDir;

use crate::{netns, runner::Rounds};

/// Longest wait for a program to be ready.
pub(crate) const READY: Duration = Duration::from_secs(60);
/// Longest wait for one measured step where a scenario doesn't say less.
pub(crate) const LONGEST: Duration = Duration::from_secs(300);
const SEED: u64 = 3;
const BLOCK_BYTES: usize = 1 << 20;
pub(crate) const MIB: u64 = 1 << 20;

/// What every scenario takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Rounds that count
    #[arg(long, default_value_t = 5)]
    pub(crate) runs: usize,
    /// Size of the source file in MiB [default: the scenario's own]
    #[arg(long, value_name = "N")]
    pub(crate) size_mib: Option<u64>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Also write the result into docs/performance.md
    #[arg(long)]
    pub(crate) write: bool,
    /// The program under test [default: the tree's release build]
    #[arg(long, value_name = "FILE")]
    pub(crate) mhc: Option<PathBuf>,
}

/// The context of one scenario.
pub(crate) struct Bench {
    options: Options,
    root: PathBuf,
    work: TempDir,
}

impl Bench {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let root = root()?;
        let data = data_dir(&root)?;
        let work =
            tempfile::Builder::new().prefix(&format!("{WORK_PREFIX}{}-", std::process::id())).tempdir_in(data)?;
        let bench = Self { options: options.clone(), root, work };
        ensure!(bench.mhc().exists(), "{} isn't there: run 'make build' first", bench.mhc().display());
        Ok(bench)
    }

    /// A folder of this run, on the disk of the tree; removed at the end.
    pub(crate) fn dir(&self) -> &Path {
        self.work.path()
    }

    /// A new folder in it.
    pub(crate) fn fresh_dir(&self, name: &str) -> Result<TempDir> {
        Ok(tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(self.dir())?)
    }

    pub(crate) fn mhc(&self) -> PathBuf {
        self.options.mhc.clone().unwrap_or_else(|| self.root.join("target/release/mhc"))
    }

    pub(crate) fn rounds(&self) -> Rounds {
        Rounds { counted: self.options.runs.max(1), warm_up: 1 }
    }

    pub(crate) fn size_mib(&self, default: u64) -> u64 {
        self.options.size_mib.unwrap_or(default)
    }

    /// A file of random bytes, kept between runs, in the page cache.
    pub(crate) fn source(&self, size_mib: u64) -> Result<PathBuf> {
        let path = data_dir(&self.root)?.join(format!("random-{size_mib}.bin"));
        if path.metadata().map_or(0, |data| data.len()) != size_mib * MIB {
            fill(&path, size_mib)?;
        }
        std::io::copy(&mut fs::File::open(&path)?, &mut std::io::sink())?;
        Ok(path)
    }
}

/// Removes what benches left behind that are gone, or this one too when it ends early.
pub(crate) fn sweep(mine_too: bool) -> Result<()> {
    netns::sweep(mine_too);
    for entry in fs::read_dir(data_dir(&root()?)?)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(WORK_PREFIX).and_then(|rest| rest.split('-').next()) else { continue };
        if is_left_behind(pid, mine_too) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Whether what carries this process id belongs to nobody any more.
pub(crate) fn is_left_behind(pid: &str, mine_too: bool) -> bool {
    let mine = pid == std::process::id().to_string();
    if mine { mine_too } else { !is_bench(pid) }
}

/// Whether a bench runs under this process id. A dead one that nobody waited for has no program any more.
fn is_bench(pid: &str) -> bool {
    let program = fs::read_link(Path::new("/proc").join(pid).join("exe")).unwrap_or_default();
    program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("mhc-bench"))
}

const WORK_PREFIX: &str = "work-";

pub(crate) fn root() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no root")?.to_owned())
}

fn data_dir(root: &Path) -> Result<PathBuf> {
    let dir = root.join("target/bench");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn fill(path: &Path, size_mib: u64) -> Result<()> {
    eprintln!("bench: writing {size_mib} MiB of random bytes");
    let mut rng = Rng::new(SEED);
    let mut file = BufWriter::new(fs::File::create(path)?);
    for _ in 0..size_mib {
        file.write_all(&rng.bytes(BLOCK_BYTES))?;
    }
    Ok(file.into_inner()?.sync_all()?)
}

/// A command in a namespace, or in the machine's own network.
pub(crate) fn command_in(netns: Option<&str>, program: impl AsRef<std::ffi::OsStr>) -> Command {
    match netns {
        None => Command::new(program),
        Some(netns) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", netns]).arg(program);
            command
        }
    }
}

/// A command of this very program, in a namespace where one is given.
pub(crate) fn myself(netns: Option<&str>, args: &[&str]) -> Result<Command> {
    let mut command = command_in(netns, std::env::current_exe()?);
    command.args(args);
    Ok(command)
}

/// Fails unless both files have the same bytes.
pub(crate) fn same_bytes(a: &Path, b: &Path) -> Result<()> {
    let open = |path: &Path| fs::File::open(path).with_context(|| path.display().to_string());
    let (file_a, file_b) = (open(a)?, open(b)?);
    ensure!(file_a.metadata()?.len() == file_b.metadata()?.len(), "{}: another length", b.display());
    let (mut a, mut reader) = (BufReader::new(file_a), BufReader::new(file_b));
    let (mut left, mut right) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    loop {
        let len = a.read(&mut left)?;
        if len == 0 {
            return Ok(());
        }
        reader.read_exact(right.get_mut(..len).context("too long")?)?;
        ensure!(left.get(..len) == right.get(..len), "{}: other bytes", b.display());
    }
}

/// Lets the disk finish what was written so far, so that the next contender isn't charged for it.
pub(crate) fn settle() {
    rustix::fs::sync();
}
