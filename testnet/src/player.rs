//! A player: reads a film over HTTP no faster than it plays, and when the connection breaks asks for the rest.

use std::{
    io::Read,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{Http, netns::Netns};

/// Pause before what broke is asked for again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const READ_BYTES: usize = 16 * 1024;

/// What to play.
#[derive(Debug, Clone)]
pub struct Film {
    /// Path of its stream at the gateway.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// How fast it plays.
    pub bytes_per_s: f64,
}

/// How far a player is.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Bytes played.
    pub bytes: u64,
    /// When the last of them came.
    pub at: Instant,
    /// Ranges asked for.
    pub requests: usize,
    /// Connections that broke, and why.
    pub broken: Vec<String>,
    /// The longest that it was behind the film since [`Player::look_anew`]: a player without a buffer stood so long.
    pub behind: Duration,
}

/// A film being played on a thread. It stops when this is dropped, at the next byte that comes or with the connection.
#[derive(Debug)]
pub struct Player {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    progress: Progress,
    played: Vec<u8>,
    hurry: bool,
    ended: bool,
    /// The film's clock: when it was so far.
    clock: Option<(Instant, u64)>,
    bytes_per_s: f64,
}

impl State {
    fn note_behind(&mut self) {
        if let Some((since, from)) = self.clock.filter(|_| !self.hurry) {
            let at = (self.progress.bytes - from) as f64 / self.bytes_per_s;
            let behind = since.elapsed().saturating_sub(Duration::from_secs_f64(at));
            self.progress.behind = self.progress.behind.max(behind);
        }
    }
}

impl Player {
    /// Plays from the start, through the gateway of `http` inside `netns`.
    pub fn start(netns: &Netns, http: &Http, film: &Film) -> Self {
        let progress = Progress { bytes: 0, at: Instant::now(), requests: 0, broken: vec![], behind: Duration::ZERO };
        let (played, bytes_per_s) = (vec![], film.bytes_per_s);
        let state = State { progress, played, hurry: false, ended: false, clock: None, bytes_per_s };
        let state = Arc::new(Mutex::new(state));
        let player = Self { state: Arc::clone(&state) };
        let (netns, http, film) = (netns.clone(), http.clone(), film.clone());
        thread::spawn(move || {
            let played = netns.enter(|| {
                while !done(&state, &film) {
                    if let Err(error) = play(&http, &film, &state) {
                        lock(&state).progress.broken.push(format!("{error:#}"));
                        thread::sleep(RETRY_AFTER);
                    }
                }
                Ok(())
            });
            if let Err(error) = played {
                lock(&state).progress.broken.push(format!("{error:#}"));
            }
        });
        player
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let mut state = lock(&self.state);
        state.note_behind();
        state.progress.clone()
    }

    /// Forgets how far it was behind the film: the film's clock starts anew where it is.
    pub fn look_anew(&self) {
        let mut state = lock(&self.state);
        state.clock = Some((Instant::now(), state.progress.bytes));
        state.progress.behind = Duration::ZERO;
    }

    /// From now on it reads as fast as it can.
    pub fn hurry(&self) {
        lock(&self.state).hurry = true;
    }

    /// What it played, once that is everything.
    pub fn played(&self, film: &Film) -> Result<Vec<u8>> {
        let state = lock(&self.state);
        let Progress { bytes, broken, .. } = &state.progress;
        ensure!(*bytes == film.bytes, "played {bytes} of {} bytes; broken: {broken:?}", film.bytes);
        Ok(state.played.clone())
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        lock(&self.state).ended = true;
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn done(state: &Mutex<State>, film: &Film) -> bool {
    let state = lock(state);
    state.ended || state.progress.bytes >= film.bytes
}

/// One request, from where the film is to its end.
fn play(http: &Http, film: &Film, state: &Mutex<State>) -> Result<()> {
    let from = {
        let mut state = lock(state);
        state.progress.requests += 1;
        state.progress.bytes
    };
    let mut answer = http.open("GET", &film.path, &[("range", &format!("bytes={from}-"))], &[])?;
    if answer.status != 206 {
        let refused = answer.finish();
        bail!("{}: {}", refused.status, refused.text());
    }
    let expected = format!("bytes {from}-{}/{}", film.bytes - 1, film.bytes);
    ensure!(answer.header("content-range") == Some(&expected), "{:?}, not {expected}", answer.header("content-range"));
    let mut buffer = [0; READ_BYTES];
    loop {
        match answer.body.read(&mut buffer).context("cut")? {
            0 if done(state, film) => return Ok(()),
            0 => bail!("it ended early"),
            bytes => {
                let hurry = take(state, buffer.get(..bytes).unwrap_or_default())?;
                if !hurry {
                    thread::sleep(ahead(state));
                }
            }
        }
    }
}

/// How long until the film is where the player is.
fn ahead(state: &Mutex<State>) -> Duration {
    let state = lock(state);
    let Some((since, from)) = state.clock else { return Duration::ZERO };
    let at = Duration::from_secs_f64((state.progress.bytes - from) as f64 / state.bytes_per_s);
    at.saturating_sub(since.elapsed())
}

/// Notes bytes as played. Says whether there is a hurry.
fn take(state: &Mutex<State>, bytes: &[u8]) -> Result<bool> {
    let mut state = lock(state);
    ensure!(!state.ended, "stopped");
    state.note_behind();
    let from = state.progress.bytes;
    state.clock.get_or_insert((Instant::now(), from));
    state.played.extend_from_slice(bytes);
    state.progress.bytes += bytes.len() as u64;
    state.progress.at = Instant::now();
    Ok(state.hurry)
}
