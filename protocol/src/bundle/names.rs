//! Names of files in a bundle: computed, short enough for the oldest FAT, and never taken from a bundle.

use std::{fmt, str::FromStr};

use super::BundleError;

/// Longest name of a media file without its extension, in characters and in bytes.
const MAX_STEM_CHARS: usize = 80;
const MAX_STEM_BYTES: usize = 180;
const MAX_EXTENSION_BYTES: usize = 8;
/// Names that DOS and Windows keep for devices, whatever the extension.
const DEVICES: [&str; 4] = ["CON", "PRN", "AUX", "NUL"];
/// The same with a digit behind them.
const NUMBERED_DEVICES: [&str; 2] = ["COM", "LPT"];

/// A bundle's folder: eight upper-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundleId(pub u32);

impl fmt::Display for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}", self.0)
    }
}

impl FromStr for BundleId {
    type Err = BundleError;

    /// In either case: some systems show short names in lower case.
    fn from_str(text: &str) -> Result<Self, BundleError> {
        let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = digits.then(|| u32::from_str_radix(text, 16).ok()).flatten();
        id.map(Self).ok_or(BundleError::Invalid("not a bundle's name"))
    }
}

/// The file of a segment.
pub fn segment_name(number: u32) -> String {
    format!("SEG{number:05}.MHS")
}

/// The end of a file name, if it is harmless: 1 to 8 of `a-z 0-9`.
pub fn extension_of(name: &str) -> Option<String> {
    let (stem, extension) = name.rsplit_once('.')?;
    let harmless = (1..=MAX_EXTENSION_BYTES).contains(&extension.len())
        && extension.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (harmless && !stem.is_empty()).then(|| extension.to_ascii_lowercase())
}

/// A file name that says `title` and can be written to any file system: no characters that FAT or a shell trips over,
/// no folders, no hidden file, no device, and none that `is_taken` in any case.
pub fn media_name(title: &str, extension: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let extension = extension_of(&format!("x.{extension}")).unwrap_or_else(|| "bin".into());
    let stem = safe_stem(title);
    let named = |count: u32| match count {
        1 => format!("{stem}.{extension}"),
        count => format!("{stem} ({count}).{extension}"),
    };
    (1..u32::MAX).map(named).find(|name| !is_taken(name)).unwrap_or_else(|| named(u32::MAX))
}

fn safe_stem(title: &str) -> String {
    let safe = |c: char| match c {
        c if c.is_control() || is_invisible(c) => ' ',
        '"' | '*' | '/' | ':' | '<' | '>' | '?' | '\\' | '|' | '`' | '$' => '_',
        c => c,
    };
    let words: String = title.chars().map(safe).take(MAX_STEM_CHARS).collect();
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut end = words.len().min(MAX_STEM_BYTES);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    let stem = words[..end].trim_start_matches(['.', '-', ' ', '~']).trim_end_matches(['.', ' ']);
    match stem {
        "" => "Untitled".into(),
        stem if is_device(stem) => format!("_{stem}"),
        stem => stem.into(),
    }
}

/// What turns the direction of text, joins it or takes no room: names that look alike must be alike.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn is_device(stem: &str) -> bool {
    let first = stem.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let bare = first.trim_end_matches(|c: char| c.is_numeric());
    let numbered = first.chars().count() == 4 && NUMBERED_DEVICES.contains(&bare);
    DEVICES.contains(&first.as_str()) || numbered
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn folders_of_bundles_are_eight_digits_and_nothing_else() {
        assert_eq!(BundleId(0x1a).to_string(), "0000001A");
        assert_eq!("0000001a".parse(), Ok(BundleId(0x1a)));
        for bad in ["", "1A", "0000001G", "+000001A", "../../etc", "0000001A/", "0000001A.", "000000001", "0x00001A"] {
            assert!(bad.parse::<BundleId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn segments_have_short_names() {
        assert_eq!((segment_name(0), segment_name(16_383)), ("SEG00000.MHS".into(), "SEG16383.MHS".into()));
    }

    #[test]
    fn titles_become_names_that_do_no_harm() {
        let long = "x".repeat(300);
        let cases = [
            ("A film", "mp4", "A film.mp4"),
            ("../../etc/passwd", "mp4", "_.._etc_passwd.mp4"),
            ("..", "mp4", "Untitled.mp4"),
            ("", "mp4", "Untitled.mp4"),
            (" \t\n ", "mp4", "Untitled.mp4"),
            (".hidden", "mp4", "hidden.mp4"),
            ("-rf", "mp4", "rf.mp4"),
            ("C:\\film", "mp4", "C__film.mp4"),
            ("what? \"it\" <is> a|b*", "mp4", "what_ _it_ _is_ a_b_.mp4"),
            ("ends with dots...", "mp4", "ends with dots.mp4"),
            ("nul", "mp4", "_nul.mp4"),
            ("Con.fused", "mp4", "_Con.fused.mp4"),
            ("COM1", "mp4", "_COM1.mp4"),
            ("Company", "mp4", "Company.mp4"),
            ("COM", "mp4", "COM.mp4"),
            ("\u{202e}4pm.exe\u{0}", "mp4", "4pm.exe.mp4"),
            ("Füße und 映画", "MP4", "Füße und 映画.mp4"),
            (&long, "mp4", &format!("{}.mp4", "x".repeat(80))),
            ("A film", "", "A film.bin"),
            ("A film", "m/p", "A film.bin"),
            ("A film", "..", "A film.bin"),
        ];
        for (title, extension, name) in cases {
            assert_eq!(media_name(title, extension, |_| false), name, "{title:?}");
        }
        assert!(media_name(&"映".repeat(300), "mp4", |_| false).len() <= MAX_STEM_BYTES + 4);
    }

    #[test]
    fn names_are_given_once() {
        let mut taken = HashSet::new();
        for expected in ["A.mp4", "A (2).mp4", "A (3).mp4"] {
            let name = media_name("A", "mp4", |name| taken.contains(name));
            assert_eq!(name, expected);
            taken.insert(name);
        }
    }

    #[test]
    fn only_plain_extensions_are_kept() {
        let cases = [
            ("film.mp4", Some("mp4")),
            ("film.tar.GZ", Some("gz")),
            ("film", None),
            (".mp4", None),
            ("film.", None),
            ("film.m p", None),
            ("film.é", None),
            ("film.toolongone", None),
        ];
        for (name, extension) in cases {
            assert_eq!(extension_of(name).as_deref(), extension, "{name}");
        }
    }
}
