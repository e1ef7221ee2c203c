/// How many bytes from the start of a file [`sniff`] wants to see.
pub const SNIFF_BYTES: usize = 8 * 1024;

/// What a file is, told from its first bytes. Names and claims of the sender don't count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    /// Moving pictures, with their media type.
    Video(&'static str),
    /// Sound.
    Audio(&'static str),
    /// A still picture that every browser shows.
    Image(&'static str),
    /// Anything else.
    File(&'static str),
}

/// Pictures that browsers show without running anything in them.
const SHOWN_IMAGES: [&str; 5] = ["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"];

/// Tells what a file is from its first bytes, [`SNIFF_BYTES`] of them where there are as many.
pub fn sniff(head: &[u8]) -> MediaType {
    let Some(found) = infer::get(head) else {
        return MediaType::File(if looks_like_text(head) { "text/plain" } else { "application/octet-stream" });
    };
    let media_type = common_name(found.mime_type());
    match found.matcher_type() {
        infer::MatcherType::Video => MediaType::Video(media_type),
        infer::MatcherType::Audio => MediaType::Audio(media_type),
        infer::MatcherType::Image if SHOWN_IMAGES.contains(&media_type) => MediaType::Image(media_type),
        _ => MediaType::File(media_type),
    }
}

/// The names browsers know.
fn common_name(media_type: &'static str) -> &'static str {
    match media_type {
        "audio/x-wav" => "audio/wav",
        "audio/x-flac" => "audio/flac",
        "audio/m4a" => "audio/mp4",
        "video/x-m4v" => "video/mp4",
        other => other,
    }
}

fn looks_like_text(head: &[u8]) -> bool {
    // A multi-byte character may be cut at the end of the sample.
    let valid = match std::str::from_utf8(head) {
        Ok(_) => head.len(),
        Err(error) => error.valid_up_to(),
    };
    !head.is_empty() && head.len() - valid < 4 && !head[..valid].iter().any(|b| *b < 9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides() {
        let mp4 = [&[0, 0, 0, 0x20][..], b"ftypisom", &[0, 0, 2, 0], b"isomiso2avc1mp41"].concat();
        let wav = [b"RIFF", &[36, 0, 0, 0][..], b"WAVEfmt "].concat();
        let png = [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a].to_vec();
        let cases: Vec<(&str, Vec<u8>, MediaType)> = vec![
            ("mp4", mp4, MediaType::Video("video/mp4")),
            ("wav", wav, MediaType::Audio("audio/wav")),
            ("mp3", b"ID3\x03\0\0\0\0\0\0".to_vec(), MediaType::Audio("audio/mpeg")),
            ("png", png, MediaType::Image("image/png")),
            ("photoshop", b"8BPS\0\x01\0\0".to_vec(), MediaType::File("image/vnd.adobe.photoshop")),
            ("html", b"<!DOCTYPE html><script>alert(1)</script>".to_vec(), MediaType::File("text/html")),
            ("pdf", b"%PDF-1.7".to_vec(), MediaType::File("application/pdf")),
            ("text", "h\u{e9}llo".as_bytes().to_vec(), MediaType::File("text/plain")),
            ("cut text", "h\u{e9}".as_bytes()[..2].to_vec(), MediaType::File("text/plain")),
            ("binary", vec![0, 1, 2, 3], MediaType::File("application/octet-stream")),
            ("empty", vec![], MediaType::File("application/octet-stream")),
        ];
        for (name, bytes, expected) in cases {
            assert_eq!(sniff(&bytes), expected, "{name}");
        }
    }
}
