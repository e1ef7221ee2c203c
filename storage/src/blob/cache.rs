//! Validated windows in memory, so that what is read again and again needs neither the disk nor hashing.
//!
//! A window is admitted when it is wanted a second time, so that reading a film once from end to end leaves what is
//! really hot alone; it goes when the hand comes round and finds that it wasn't used (a clock with up to three lives).

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use mhc_protocol::BlobHash;

/// Windows remembered to have been wanted, for each one that fits.
const SEEN_PER_WINDOW: u64 = 2;
/// Rounds of the hand a window survives without being used.
const MOST_LIVES: u8 = 3;

/// A window: the blob, its files' generation, the number of the window.
pub(super) type Key = (BlobHash, u64, u64);

/// The windows. Only ever filled with bytes that were validated, in the memory that was.
#[derive(Debug)]
pub(super) struct Cache {
    limit_bytes: u64,
    most_seen: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    windows: HashMap<Key, Window>,
    /// The clock: its front is next to be looked at. Those that were forgotten are still in it.
    hand: VecDeque<Key>,
    bytes: u64,
    seen: HashSet<Key>,
    seen_order: VecDeque<Key>,
}

#[derive(Debug)]
struct Window {
    bytes: Bytes,
    lives: u8,
}

impl Cache {
    /// Of at most `limit_bytes`, in windows of `window_bytes`.
    pub(super) fn new(limit_bytes: u64, window_bytes: u64) -> Self {
        let most_seen = usize::try_from(limit_bytes / window_bytes * SEEN_PER_WINDOW).unwrap_or(usize::MAX);
        Self { limit_bytes, most_seen, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &Key) -> Option<Bytes> {
        let mut state = self.lock();
        let window = state.windows.get_mut(key)?;
        window.lives = (window.lives + 1).min(MOST_LIVES);
        Some(window.bytes.clone())
    }

    /// True when the window was wanted not long ago and should be put in; from now on it was.
    pub(super) fn admits(&self, key: &Key) -> bool {
        let mut state = self.lock();
        if state.seen.remove(key) {
            return true;
        }
        state.seen.insert(*key);
        state.seen_order.push_back(*key);
        while state.seen_order.len() > self.most_seen {
            let oldest = state.seen_order.pop_front();
            oldest.map(|oldest| state.seen.remove(&oldest));
        }
        false
    }

    pub(super) fn put(&self, key: Key, bytes: Bytes) {
        let mut state = self.lock();
        if bytes.len() as u64 > self.limit_bytes || state.windows.contains_key(&key) {
            return;
        }
        state.bytes += bytes.len() as u64;
        state.windows.insert(key, Window { bytes, lives: 0 });
        while state.bytes > self.limit_bytes {
            state.evict();
        }
        state.hand.push_back(key);
    }

    /// Drops every window of a blob.
    pub(super) fn forget(&self, hash: BlobHash) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.windows.retain(|key, _| key.0 != hash);
        state.hand.retain(|key| key.0 != hash);
        state.bytes = state.windows.values().map(|window| window.bytes.len() as u64).sum();
    }
}

impl State {
    /// Moves the hand by one.
    fn evict(&mut self) {
        let Some(key) = self.hand.pop_front() else { return };
        match self.windows.get_mut(&key) {
            Some(window) if window.lives > 0 => {
                window.lives -= 1;
                self.hand.push_back(key);
            }
            Some(window) => {
                self.bytes -= window.bytes.len() as u64;
                self.windows.remove(&key);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(window: u64) -> Key {
        (BlobHash::of(b"film"), 1, window)
    }

    /// What a read does. True when it needn't read.
    fn want(cache: &Cache, window: u64) -> bool {
        let hit = cache.get(&key(window)).is_some();
        if !hit && cache.admits(&key(window)) {
            cache.put(key(window), Bytes::from(vec![0; 10]));
        }
        hit
    }

    #[test]
    fn the_second_time_admits_and_a_scan_evicts_nothing_hot() {
        let cache = Cache::new(40, 10);
        assert_eq!([1, 1, 1, 2, 2, 2].map(|window| want(&cache, window)), [false, false, true, false, false, true]);
        // Windows at the borders of a scan's requests are wanted twice.
        for window in 100..200 {
            assert!(!want(&cache, window));
            if window % 4 == 0 {
                want(&cache, window);
            }
            if window % 8 == 0 {
                assert!(want(&cache, 1) && want(&cache, 2), "at {window}");
            }
        }
        assert!(cache.lock().bytes <= 40 && cache.lock().seen_order.len() <= 8);
        cache.forget(BlobHash::of(b"film"));
        assert!(!want(&cache, 1) && cache.lock().bytes == 0 && cache.lock().hand.is_empty());
    }

    #[test]
    fn nothing_is_kept_without_room() {
        let cache = Cache::new(0, 10);
        assert!((0..3).all(|_| !want(&cache, 1)));
    }
}
