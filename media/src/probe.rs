use std::{io, path::Path, process::Stdio, time::Duration};

use tokio::process::Command;

/// Longest that a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// Containers that are probed. Playlists and concatenations aren't: they name other files.
const FORMATS: &str = "aac,avi,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,wav";

/// Why a file could not be probed. None of it keeps a file from being published.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// `ffprobe` isn't installed.
    #[error("ffprobe isn't installed (it comes with ffmpeg)")]
    Missing,
    /// It could not be run.
    #[error("ffprobe: {0}")]
    Run(#[from] io::Error),
    /// It took too long.
    #[error("ffprobe took longer than {} s", PROBE_TIMEOUT.as_secs())]
    Timeout,
    /// It refused the file.
    #[error("ffprobe refused the file: {0}")]
    Refused(String),
}

#[derive(serde::Deserialize)]
struct Answer {
    format: Format,
}

#[derive(serde::Deserialize)]
struct Format {
    duration: Option<String>,
}

/// Playing time of the media file at `path` in milliseconds, as `ffprobe` tells it; `None` where it has none.
///
/// The parser runs as a child process without environment or input that reads no other file and no network.
pub async fn duration_ms(path: &Path) -> Result<Option<u64>, ProbeError> {
    let mut url = std::ffi::OsString::from("file:");
    url.push(path);
    let child = Command::new("ffprobe")
        .args(["-v", "error", "-protocol_whitelist", "file", "-format_whitelist", FORMATS])
        .args(["-show_entries", "format=duration", "-print_format", "json", "-i"])
        .arg(url)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(PROBE_TIMEOUT, child).await {
        Err(_) => return Err(ProbeError::Timeout),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Err(ProbeError::Missing),
        Ok(output) => output?,
    };
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
        return Err(ProbeError::Refused(message));
    }
    let answer: Answer =
        serde_json::from_slice(&output.stdout).map_err(|error| ProbeError::Refused(error.to_string()))?;
    Ok(answer.format.duration.and_then(|text| seconds_to_ms(&text)))
}

fn seconds_to_ms(text: &str) -> Option<u64> {
    let seconds: f64 = text.parse().ok()?;
    // Float to integer casts saturate; a century is more than any file plays.
    (seconds.is_finite() && (0.0..3.2e9).contains(&seconds)).then(|| (seconds * 1000.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sane_durations_count() {
        let cases = [
            ("60.000000", Some(60_000)),
            ("0.0004", Some(0)),
            ("-1", None),
            ("nan", None),
            ("1e300", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(seconds_to_ms(text), expected, "{text}");
        }
    }
}
