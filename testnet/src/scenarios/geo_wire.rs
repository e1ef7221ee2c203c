//! The wire of a geostationary link by itself: it is what it says, and dark when it says so.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{preset::Preset, run::Scenario, story::Host};

const PORT: u16 = 7000;
const EVERY: Duration = Duration::from_millis(50);
/// Shorter silences are losses.
const DARK: Duration = Duration::from_secs(2);
/// Losses at the edges of a blackout, and what was on its way when it began, lengthen it.
const EDGES_S: f64 = 1.0;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "geo-wire",
    about: "a wire of 300 ms each way, 1 % loss and 4 Mbit/s, and its two blackouts of 15 s",
    limit: Duration::from_secs(90),
    tell: |story| {
        let [dish, station] = [story.host("dish")?, story.host("station")?];
        let preset = Preset::geo();
        let wire = story.wire((&dish, "10.77.2.1/30"), (&station, "10.77.2.2/30"), preset.clone())?;
        wire.black_out();
        story.say("the blackouts are to come");
        let end = preset.blackouts.last().map_or(Duration::ZERO, |dark| dark.end);
        let silences = silences(&dish, &station, end + Duration::from_secs(3))?;
        for (from, to) in &silences {
            story.say(format!("silence from {:.1} s to {:.1} s", from.as_secs_f64(), to.as_secs_f64()));
        }
        story.holds("as many silences as blackouts", silences.len() == preset.blackouts.len())?;
        for ((from, to), dark) in silences.iter().zip(&preset.blackouts) {
            let (is, wanted) = ((*to - *from).as_secs_f64(), (dark.end - dark.start).as_secs_f64());
            story.measured("a silence", is, "s");
            story.holds("it is as long as the blackout", is >= wanted && is <= wanted + EDGES_S)?;
        }
        Ok(Box::new(wire))
    },
};

/// Sends without pause for `time`, and says when nothing came at the other end.
fn silences(from: &Host, to: &Host, time: Duration) -> Result<Vec<(Duration, Duration)>> {
    let receiver = to.netns().enter(|| Ok(UdpSocket::bind(("10.77.2.2", PORT))?))?;
    receiver.set_read_timeout(Some(EVERY))?;
    let sender = from.netns().enter(|| Ok(UdpSocket::bind(("10.77.2.1", PORT))?))?;
    let (started, mut last, mut silences, mut count) = (Instant::now(), None, vec![], 0u32);
    while started.elapsed() < time {
        // Waiting for one paces the next.
        sender.send_to(b"tick", ("10.77.2.2", PORT))?;
        let next = Instant::now() + EVERY;
        while Instant::now() < next {
            if receiver.recv(&mut [0; 16]).is_ok() {
                let now = started.elapsed();
                silences.extend(last.replace(now).map(|last| (last, now)).filter(|(last, now)| *now - *last > DARK));
                count += 1;
            }
        }
    }
    ensure!(count > 0, "nothing came");
    Ok(silences)
}
