//! Files to publish, made by ffmpeg.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};

/// Playing time of [`video`], in seconds.
pub const VIDEO_S: u64 = 60;
/// Playing time of [`three_mbit_video`], in seconds.
pub const THREE_MBIT_S: u64 = 210;

/// A minute of H.264 and AAC in an MP4 that can be played from its start, about 8 MiB. Made once and kept in `dir`;
/// the same bytes every time with the same ffmpeg.
pub fn video(dir: &Path) -> Result<PathBuf> {
    let length = VIDEO_S.to_string();
    make(
        dir,
        "film.mp4",
        &[
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=640x360:rate=30",
            "-f",
            "lavfi",
            "-i",
            "sine=frequency=440:sample_rate=48000",
            "-t",
            &length,
            "-c:v",
            "libx264",
            "-preset",
            "veryfast",
            "-b:v",
            "1000k",
            "-minrate",
            "1000k",
            "-maxrate",
            "1000k",
            "-bufsize",
            "500k",
            "-x264-params",
            "nal-hrd=cbr:threads=1",
            "-g",
            "60",
            "-pix_fmt",
            "yuv420p",
            "-c:a",
            "aac",
            "-b:a",
            "96k",
            "-movflags",
            "+faststart",
        ],
    )
}

/// Five minutes of the same kind, padded to about 150 MB, so that its middle is far from what a player reads at first.
pub fn long_video(dir: &Path) -> Result<PathBuf> {
    padded_video(
        dir,
        "long-film.mp4",
        ConstantRate { tone_hz: 330, length_s: 300, video_kbit_s: 4000, buffer_kbit: 2000 },
    )
}

/// Three and a half minutes of 3 Mbit/s, about 79 MB, that can be played from its start.
pub fn three_mbit_video(dir: &Path) -> Result<PathBuf> {
    let rate = ConstantRate { tone_hz: 550, length_s: THREE_MBIT_S, video_kbit_s: 2900, buffer_kbit: 1500 };
    padded_video(dir, "three-mbit-210.mp4", rate)
}

/// A film whose pictures are padded to a rate.
struct ConstantRate {
    tone_hz: u64,
    length_s: u64,
    video_kbit_s: u64,
    buffer_kbit: u64,
}

fn padded_video(dir: &Path, name: &str, film: ConstantRate) -> Result<PathBuf> {
    let sound = format!("sine=frequency={}:sample_rate=48000", film.tone_hz);
    let (length, rate, buffer) =
        (film.length_s.to_string(), format!("{}k", film.video_kbit_s), format!("{}k", film.buffer_kbit));
    make(
        dir,
        name,
        &[
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=320x180:rate=10",
            "-f",
            "lavfi",
            "-i",
            &sound,
            "-t",
            &length,
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-b:v",
            &rate,
            "-minrate",
            &rate,
            "-maxrate",
            &rate,
            "-bufsize",
            &buffer,
            "-x264-params",
            "nal-hrd=cbr:threads=1",
            "-g",
            "20",
            "-pix_fmt",
            "yuv420p",
            "-c:a",
            "aac",
            "-b:a",
            "96k",
            "-movflags",
            "+faststart",
        ],
    )
}

/// A second of sound as WAV.
pub fn wav(dir: &Path) -> Result<PathBuf> {
    make(dir, "tone.wav", &["-f", "lavfi", "-i", "sine=frequency=880:duration=1"])
}

/// A second of sound as MP3.
pub fn mp3(dir: &Path) -> Result<PathBuf> {
    make(dir, "tone.mp3", &["-f", "lavfi", "-i", "sine=frequency=880:duration=1"])
}

/// A picture as PNG.
pub fn png(dir: &Path) -> Result<PathBuf> {
    make(dir, "picture.png", &["-f", "lavfi", "-i", "testsrc2=size=64x48", "-frames:v", "1"])
}

/// Writes to another name first, so that neither an interrupted run nor one beside this one leaves half a file.
fn make(dir: &Path, name: &str, args: &[&str]) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _made_by_one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let path = dir.join(name);
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(dir)?;
    let half = dir.join(format!("{}.{name}", std::process::id()));
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-hide_banner", "-loglevel", "error", "-y"])
        .args(args)
        .args(["-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact", "-map_metadata", "-1"])
        .arg(&half)
        .stdin(Stdio::null())
        .status()
        .context("ffmpeg can't be started; scripts/setup-test.sh installs it")?;
    ensure!(status.success(), "ffmpeg failed on {name}: {status}");
    fs::rename(&half, &path)?;
    Ok(path)
}
