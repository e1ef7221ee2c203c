//! The home: the folder that is a node's whole state, its keys, its lock and how its operator gets in.
//!
//! What is secret is 0600 in folders of 0700 and is refused, never repaired, when others could have read or
//! written it. Every file is written under a temporary name, synced and renamed, so that a kill at any moment,
//! also during the first start, leaves a home that starts.

mod error;
mod file;
mod lock;

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use mhc_protocol::{NetworkId, SecretKey};
use serde::{Deserialize, Serialize};

pub use error::HomeError;

const KEYS: &str = "keys";
const NODE_KEY: &str = "keys/node.key";
const NETWORK_KEY: &str = "keys/network.key";
const NETWORK_ID: &str = "network.id";
const API_TOKEN: &str = "api.token";
const SETUP_CODE: &str = "setup.code";
const RUN_FILE: &str = "run.json";

/// A home this process holds the lock of. Dropping it gives the lock back.
#[derive(Debug)]
pub struct Home {
    dir: PathBuf,
    lock: lock::Lock,
    node_key: SecretKey,
    network: Network,
    token: String,
    first_start: bool,
}

/// The network this home belongs to.
#[derive(Debug)]
enum Network {
    /// It was founded here: the root key is here.
    Founded(SecretKey),
    /// It was founded elsewhere.
    Joined(NetworkId),
}

/// A node that serves, as it tells other programs of its operator in `run.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// Where its gateway listens.
    pub http: SocketAddr,
}

/// Which folder is the home: `flag`, `$MHC_HOME`, `$XDG_DATA_HOME/mhc` or `~/.local/share/mhc`, in this order.
/// `variable` looks a variable of the environment up; empty ones count as unset.
pub fn resolve(flag: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, HomeError> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    flag.map(Path::to_owned)
        .or_else(|| variable("MHC_HOME"))
        .or_else(|| variable("XDG_DATA_HOME").map(|data| data.join("mhc")))
        .or_else(|| variable("HOME").map(|home| home.join(".local/share/mhc")))
        .ok_or(HomeError::Nowhere)
}

/// The node that serves on the home `dir`, `None` when there is none. Asks the lock, so that what a killed
/// process left behind isn't believed.
pub fn running(dir: &Path) -> Result<Option<Running>, HomeError> {
    let Some(holder) = lock::held_by(dir)? else { return Ok(None) };
    let announced = file::read_if_there(&dir.join(RUN_FILE))?;
    let announced = announced.and_then(|text| serde_json::from_str(&text).ok());
    let noted = || holder.and_then(|(pid, http)| Some(Running { pid, http: http? }));
    Ok(announced.or_else(noted))
}

/// The operator's token of the home `dir`, `None` when it has none yet.
pub fn read_token(dir: &Path) -> Result<Option<String>, HomeError> {
    let path = dir.join(API_TOKEN);
    let token = file::read_secret(&path)?;
    token.map(|bytes| Ok(file::hex(&bytes))).transpose()
}

/// What is wrong with the secrets of the home `dir`, without taking its lock or making what is missing.
pub fn inspect(dir: &Path) -> Vec<HomeError> {
    let folder = Some(dir.join(KEYS)).filter(|keys| keys.exists()).map(|keys| file::check_private_dir(&keys));
    let secrets =
        [NODE_KEY, NETWORK_KEY, API_TOKEN, SETUP_CODE].map(|name| file::read_secret(&dir.join(name)).map(drop));
    let lost = if dir.join(NODE_KEY).exists() { Ok(()) } else { refuse_if_used(dir) };
    folder.into_iter().chain(secrets).chain([lost]).filter_map(Result::err).collect()
}

impl Home {
    /// Opens the home `dir` for this process, making it, the node's key, a network and the operator's token
    /// where they are missing. A home that has no network yet takes `join` when given, and else founds one of
    /// its own; one that has a network keeps it.
    pub fn open(dir: &Path, join: Option<NetworkId>) -> Result<Self, HomeError> {
        file::make_dir(dir)?;
        let lock = lock::take(dir)?;
        file::make_dir(&dir.join(KEYS))?;
        file::check_private_dir(&dir.join(KEYS))?;
        let first_start = !dir.join(NODE_KEY).exists();
        if first_start {
            refuse_if_used(dir)?;
            file::secret_or_new(&dir.join(SETUP_CODE))?;
        }
        let node_key = SecretKey::from_seed(&file::secret_or_new(&dir.join(NODE_KEY))?);
        let network = Network::open(dir, join)?;
        let token = file::hex(&file::secret_or_new(&dir.join(API_TOKEN))?);
        file::remove(&dir.join(RUN_FILE))?;
        Ok(Self { dir: dir.to_owned(), lock, node_key, network, token, first_start })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The key that is this node.
    pub fn node_key(&self) -> &SecretKey {
        &self.node_key
    }

    /// The network this node belongs to.
    pub fn network(&self) -> NetworkId {
        match &self.network {
            Network::Founded(key) => key.network(),
            Network::Joined(network) => *network,
        }
    }

    /// The network's root key, on the node that founded it.
    pub fn network_key(&self) -> Option<&SecretKey> {
        match &self.network {
            Network::Founded(key) => Some(key),
            Network::Joined(_) => None,
        }
    }

    /// The token that programs of this machine's operator show to the API, 64 hex digits.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Whether this start made the node's key.
    pub fn first_start(&self) -> bool {
        self.first_start
    }

    /// Tells other programs of the operator that the node serves at `http`. On a full disk the note in the lock
    /// file, which needs no room, is enough for [`running`].
    pub fn announce(&self, http: SocketAddr) -> Result<(), HomeError> {
        let noted = self.lock.note(http);
        let running = Running { pid: std::process::id(), http };
        let text = serde_json::to_string(&running).unwrap_or_default();
        file::write(&self.dir.join(RUN_FILE), text.as_bytes()).or_else(|error| noted.map_err(|_| error))
    }

    /// Takes the announcement back: part of a clean stop.
    pub fn retract(&self) -> Result<(), HomeError> {
        file::remove(&self.dir.join(RUN_FILE))
    }

    /// The code of the one-time set-up link, as long as nobody has used it.
    pub fn setup_code(&self) -> Result<Option<String>, HomeError> {
        Ok(file::read_secret(&self.dir.join(SETUP_CODE))?.map(|bytes| file::hex(&bytes)))
    }

    /// Whether `code` is the code of the set-up link; it can't be used again. Takes as long for a wrong code
    /// whatever part of it is right.
    pub fn spend_setup_code(&self, code: &str) -> Result<bool, HomeError> {
        let Some(right) = self.setup_code()? else { return Ok(false) };
        // Hashes are compared, so that time says nothing about the code.
        let matches = blake3::hash(code.as_bytes()) == blake3::hash(right.as_bytes());
        if matches {
            file::remove(&self.dir.join(SETUP_CODE))?;
        }
        Ok(matches)
    }
}

impl Network {
    fn open(dir: &Path, join: Option<NetworkId>) -> Result<Self, HomeError> {
        if let Some(seed) = file::read_secret(&dir.join(NETWORK_KEY))? {
            return Ok(Self::Founded(SecretKey::from_seed(&seed)));
        }
        let id_file = dir.join(NETWORK_ID);
        if let Some(text) = file::read_if_there(&id_file)? {
            let network = text.trim().parse().map_err(|_| HomeError::Corrupt {
                path: id_file,
                mend: "write the network's id into it, 64 hex digits as in the network's tickets".into(),
            })?;
            return Ok(Self::Joined(network));
        }
        if dir.join(API_TOKEN).exists() {
            return Err(HomeError::Missing { path: dir.join(NETWORK_KEY) });
        }
        let Some(network) = join else {
            return Ok(Self::Founded(SecretKey::from_seed(&file::secret_or_new(&dir.join(NETWORK_KEY))?)));
        };
        file::write(&id_file, format!("{network}\n").as_bytes())?;
        Ok(Self::Joined(network))
    }
}

/// A home without the node's key is new, unless it has what is made after the key: then the key was lost, and
/// a new one would silently make another node of it.
fn refuse_if_used(dir: &Path) -> Result<(), HomeError> {
    let used = [NETWORK_KEY, NETWORK_ID, API_TOKEN].iter().any(|name| dir.join(name).exists());
    if used { Err(HomeError::Missing { path: dir.join(NODE_KEY) }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
