//! "Did you mean": the declared key nearest to an unknown one.

use crate::source::keys;

/// Longest text that is compared; what is longer is no misspelling.
const MOST_CHARS: usize = 80;

/// Says that `path` isn't a setting, and which one may have been meant.
pub(crate) fn unknown_key(path: &str) -> String {
    match nearest(path) {
        Some(known) => format!("isn't a setting; did you mean {known}?"),
        None => "isn't a setting; `mhc config example` lists them all".into(),
    }
}

/// The key that differs least from `path`, or that has the same last word in another section.
fn nearest(path: &str) -> Option<String> {
    if path.chars().count() > MOST_CHARS {
        return None;
    }
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let keys: Vec<String> = keys().into_iter().map(|key| key.path).collect();
    let by_distance = keys.iter().map(|key| (distance(key, path), key)).min();
    let misspelt = by_distance.filter(|(edits, _)| *edits <= 1 + path.chars().count() / 6).map(|(_, key)| key);
    misspelt.or_else(|| keys.iter().find(|key| last(key) == last(path))).cloned()
}

/// Levenshtein distance: inserted, deleted and replaced characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
