//! Publish on one node, watch on another, and lose the first in the middle.

use std::{io::Read, time::Duration};

use anyhow::{Context, Result, ensure};
use mhc_testnet::{Http, Rng, eventually, media, node::text};

use super::{SOON, fixtures, join, knows, lists, random_file, start};

const SEEN_WITHIN: Duration = Duration::from_secs(5);
const RANGES: usize = 50;
const MIB: usize = 1 << 20;

#[test]
fn a_film_published_on_one_node_is_seen_and_read_on_the_others() -> Result<()> {
    let a = start("a")?;
    let b = join("b", &a.ticket()?)?;
    let c = join("c", &a.ticket()?)?;
    knows(&b, &a)?;
    knows(&c, &a)?;

    let film = media::video(fixtures())?;
    let source = std::fs::read(&film)?;
    let published = a.publish(&film, &["--title", "A film"])?;
    let content = text(&published, "content")?;
    lists(&b, &content, SEEN_WITHIN)?;
    lists(&c, &content, SEEN_WITHIN)?;

    let stream = format!("/api/v1/videos/{content}/stream");
    let http = b.http()?.anonymous();
    let mut rng = Rng::from_env();
    // Half of the ranges before the film is on B, half after.
    random_ranges(&http, &stream, &source, &mut rng, RANGES / 2)?;
    let whole = http.get(&stream)?;
    ensure!(whole.status == 200 && !whole.cut && whole.body == source, "whole: {} {}", whole.status, whole.body.len());
    ensure!(whole.header("content-type") == Some("video/mp4"), "{:?}", whole.headers);
    random_ranges(&http, &stream, &source, &mut rng, RANGES / 2)
}

fn random_ranges(http: &Http, path: &str, source: &[u8], rng: &mut Rng, count: usize) -> Result<()> {
    for _ in 0..count {
        let start = rng.below(source.len() as u64) as usize;
        let len = 1 + rng.below((source.len() - start).min(300_000) as u64) as usize;
        let (last, end) = (start + len - 1, start + len);
        let reply = http.get_range(path, &format!("bytes={start}-{last}"))?;
        let content_range = format!("bytes {start}-{last}/{}", source.len());
        ensure!(reply.status == 206 && !reply.cut, "{start}-{last}: {} {}", reply.status, reply.text());
        ensure!(reply.header("content-range") == Some(content_range.as_str()), "{:?}", reply.headers);
        ensure!(reply.body == source[start..end], "{start}-{last}: other bytes");
    }
    Ok(())
}

#[test]
fn a_reader_goes_on_from_another_node_and_is_cut_where_nobody_has_the_rest() -> Result<()> {
    let mut a = start("a")?;
    let b = join("b", &a.ticket()?)?;
    let c = join("c", &a.ticket()?)?;
    knows(&c, &b).context("C only has A's ticket and must learn of B from it")?;

    let (file, source) = random_file(&a, "big.bin", &mut Rng::new(1), 160 * MIB)?;
    let published = a.publish(&file, &[])?;
    let (content, blob) = (text(&published, "content")?, text(&published, "blob")?);
    lists(&b, &content, SEEN_WITHIN)?;
    lists(&c, &content, SEEN_WITHIN)?;

    // B holds the beginning, C begins to read while A is there, then A is gone.
    let path = format!("/blobs/{blob}");
    let on_b = 64 * MIB;
    let begun = b.http()?.anonymous().get_range(&path, &format!("bytes=0-{}", on_b - 1))?;
    ensure!(begun.status == 206 && begun.body == source[..on_b], "B: {} {}", begun.status, begun.body.len());

    let mut opened = c.http()?.anonymous().open("GET", &path, &[], &[])?;
    ensure!(opened.status == 200, "C: {}", opened.status);
    let mut got = vec![0; 4 * MIB];
    opened.body.read_exact(&mut got)?;
    a.kill();
    let rest = opened.finish();
    got.extend(rest.body);

    ensure!(got.len() >= on_b, "C stopped after {} bytes although B has {on_b}", got.len());
    ensure!(got.len() < source.len(), "C has bytes that nobody had: the test is too small to tell anything");
    ensure!(got == source[..got.len()], "C was given other bytes");
    ensure!(rest.cut, "the answer ended as if it were complete");

    // Asking for what nobody has says so before a body starts. (The last bytes are there: they prove the size.)
    let nowhere = source.len() - 2 * MIB;
    let again = c.http()?.anonymous().get_range(&path, &format!("bytes={nowhere}-{}", nowhere + 999))?;
    ensure!(again.status == 504 && again.problem().as_deref() == Some("no_source"), "{}", again.status);
    Ok(())
}

#[test]
fn a_node_that_was_killed_and_comes_back_on_other_ports_is_found_again() -> Result<()> {
    let mut a = start("a")?;
    let b = join("b", &a.ticket()?)?;
    knows(&b, &a)?;
    let mut rng = Rng::new(17);
    for round in 0..3 {
        let (file, bytes) = random_file(&a, &format!("{round}.bin"), &mut rng, 2 * MIB)?;
        let blob = text(&a.publish(&file, &[])?, "blob")?;
        a.kill();
        a.restart()?;
        // While B still holds connections to the process that is gone.
        let reply = eventually("it is fetched", SOON, || {
            let reply = b.http()?.anonymous().get(&format!("/blobs/{blob}"))?;
            ensure!(reply.status == 200 && !reply.cut, "{}", reply.status);
            Ok(reply)
        })?;
        ensure!(reply.body == bytes, "other bytes");
    }
    Ok(())
}
