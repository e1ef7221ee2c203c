//! Names of files in a bundle: computed, short enough for the oldest FAT, and never taken from a bundle.

use std::{fmt, str::FromStr};

use super::BundleError;

/// Longest name of a media file without its extension, in characters and in bytes.
const MAX_STEM_CHARS: usize = 80;
const MAX_STEM_BYTES: usize = 180;
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

/// A file name that says `title`, ends as the media type asks, and can be written to any file system: no characters
/// that FAT or a shell trips over, no folders, no hidden file, no device, and none that `is_taken` in any case. None
/// when it isn't media that a player opens: whoever published it chose its name, which mustn't make a program of it.
pub fn media_name(title: &str, content_type: &str, is_taken: impl Fn(&str) -> bool) -> Option<String> {
    let extension = extension(content_type)?;
    let stem = safe_stem(title);
    let named = |count: u32| match count {
        1 => format!("{stem}.{extension}"),
        count => format!("{stem} ({count}).{extension}"),
    };
    (1..u32::MAX).map(named).find(|name| !is_taken(name))
}

fn extension(content_type: &str) -> Option<&'static str> {
    Some(match content_type {
        "video/mp4" => "mp4",
        "video/quicktime" => "mov",
        "video/webm" => "webm",
        "video/x-matroska" | "video/matroska" => "mkv",
        "video/ogg" => "ogv",
        "video/mpeg" => "mpg",
        "video/x-msvideo" => "avi",
        "audio/mpeg" => "mp3",
        "audio/mp4" | "audio/m4a" | "audio/x-m4a" => "m4a",
        "audio/aac" => "aac",
        "audio/ogg" | "audio/opus" => "ogg",
        "audio/flac" | "audio/x-flac" => "flac",
        "audio/wav" | "audio/x-wav" | "audio/vnd.wave" => "wav",
        "audio/aiff" | "audio/x-aiff" => "aiff",
        "image/jpeg" => "jpg",
        "image/png" => "png",
        "image/gif" => "gif",
        "image/webp" => "webp",
        "image/avif" => "avif",
        _ => return None,
    })
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
        let cut = "x".repeat(80);
        let cases = [
            ("A film", "A film"),
            ("../../etc/passwd", "_.._etc_passwd"),
            ("..", "Untitled"),
            ("", "Untitled"),
            (" \t\n ", "Untitled"),
            (".hidden", "hidden"),
            ("-rf", "rf"),
            ("C:\\film", "C__film"),
            ("what? \"it\" <is> a|b*", "what_ _it_ _is_ a_b_"),
            ("ends with dots...", "ends with dots"),
            ("nul", "_nul"),
            ("Con.fused", "_Con.fused"),
            ("COM1", "_COM1"),
            ("Company", "Company"),
            ("COM", "COM"),
            ("\u{202e}4pm.exe\u{0}", "4pm.exe"),
            ("Füße und 映画", "Füße und 映画"),
            (long.as_str(), cut.as_str()),
        ];
        for (title, stem) in cases {
            let name = media_name(title, "video/mp4", |_| false);
            assert_eq!(name, Some(format!("{stem}.mp4")), "{title:?}");
        }
        let wide = media_name(&"映".repeat(300), "video/mp4", |_| false).unwrap();
        assert!(wide.len() <= MAX_STEM_BYTES + 4, "{wide}");
    }

    #[test]
    fn names_are_given_once() {
        let mut taken = HashSet::new();
        for expected in ["A.png", "A (2).png", "A (3).png"] {
            let name = media_name("A", "image/png", |name| taken.contains(name)).unwrap();
            assert_eq!(name, expected);
            taken.insert(name);
        }
    }

    #[test]
    fn only_media_get_a_name() {
        for other in ["application/x-msdownload", "text/html", "image/svg+xml", "video/x-unheard-of", "", "mp4"] {
            assert_eq!(media_name("A", other, |_| false), None, "{other}");
        }
    }
}
