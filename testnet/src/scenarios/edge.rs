//! A relay's public front: a browser on another machine plays over HTTP/3, and a thousand clients hold out for a minute.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64;
use rcgen::{CertifiedKey, PublicKeyData, generate_simple_self_signed};
use serde_json::Value;

use super::publish_film;
use crate::{
    run::Scenario,
    story::{Host, Story},
};

const NAME: &str = "tube.example.org";
const RELAY: &str = "10.77.6.1";
const CLIENTS: u32 = 1000;
/// A minute of load, by the word.
const LOAD: Duration = Duration::from_secs(60);
/// Read by each request of the load.
const RANGE_BYTES: u64 = 16 << 10;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "edge",
    about: "a browser plays from a relay's public front over HTTP/3, and 1000 clients load it over HTTP/2",
    limit: Duration::from_secs(240),
    tell: |story| {
        let [relay, visitor] = [story.host("relay")?, story.host("visitor")?];
        story.cable((&relay, &format!("{RELAY}/24")), (&visitor, "10.77.6.2/24"))?;
        let identity = certify(&story.dir())?;
        let [certificate, key] = ["cert.pem", "key.pem"].map(|name| story.dir().join(name).display().to_string());
        let mut at_relay = story.node(&relay, |options| {
            options
                .env("MHC_ROLES", "relay")
                .env("MHC_GATEWAY__HTTPS", &format!("{RELAY}:443"))
                .env("MHC_GATEWAY__PUBLIC_HOST", NAME)
                .env("MHC_GATEWAY__TLS_CERTIFICATE", &certificate)
                .env("MHC_GATEWAY__TLS_KEY", &key)
        })?;
        let published = publish_film(story, &relay, &at_relay)?;

        let watched = watch(story, &visitor, &published.content, &identity);
        let watched = story.check("a browser lists the film and plays it", watched)?;
        let protocols = text_list(&watched["protocols"]);
        story.measured("protocols of page, list and film, as the browser reports them", protocols.join(" "), "");
        story.holds("all of them came over HTTP/3", protocols == ["h3"])?;

        let path = format!("https://{NAME}{}", published.film.path);
        let load = load(&visitor, &path)?;
        story.measured("requests of the load", load.requests, "");
        story
            .holds("a minute of 1000 HTTP/2 clients went without an error", load.errors() == 0 && load.requests > 0)?;
        story.holds("the node lives", at_relay.is_alive())?;
        story.check("and a client still gets its page", page(&visitor))?;
        Ok(Box::new(at_relay))
    },
};

/// Writes a certificate for [`NAME`] that it signed itself, and its key. Returns the hash of its public key, by which a
/// browser can be told to believe it.
fn certify(dir: &Path) -> Result<String> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.to_owned()])?;
    std::fs::write(dir.join("cert.pem"), cert.pem())?;
    std::fs::write(dir.join("key.pem"), signing_key.serialize_pem())?;
    let hash = ring::digest::digest(&ring::digest::SHA256, &signing_key.subject_public_key_info());
    Ok(BASE64.encode(hash.as_ref()))
}

/// Has a browser open the front's page and play. Browsers take HTTP/3 at once only from certificates of the authorities
/// they come with; from this one when they are told to.
fn watch(story: &Story, visitor: &Host, content: &str, identity: &str) -> Result<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser/watch.js");
    let arguments = [
        format!("--host-resolver-rules=MAP {NAME} {RELAY}"),
        format!("--ignore-certificate-errors-spki-list={identity}"),
        format!("--origin-to-force-quic-on={NAME}:443"),
    ];
    let mut command = visitor.netns().command("node");
    command.arg(script).args([&format!("https://{NAME}"), content, "public"]);
    command.arg(story.dir().join("edge.png")).env("CHROMIUM_ARGS", arguments.join("\n"));
    let output = command.output()?;
    let found: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    ensure!(found["advances"] == true && found["error"].is_null(), "{found:#}");
    ensure!(found["console"] == serde_json::json!([]), "the page complained: {found:#}");
    ensure!(found["outside"] == serde_json::json!([]), "the page asked other hosts: {found:#}");
    Ok(found)
}

fn text_list(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What the load generator counted.
struct Load {
    requests: u64,
    /// Failed, errored, timed out, and answers that weren't a success.
    failures: [u64; 4],
}

impl Load {
    fn errors(&self) -> u64 {
        self.failures.iter().sum()
    }
}

/// Ranges of the film, asked for by [`CLIENTS`] connections of HTTP/2 at once, for [`LOAD`].
fn load(visitor: &Host, url: &str) -> Result<Load> {
    let clients = CLIENTS.to_string();
    let arguments = [
        format!("--connect-to={RELAY}:443"),
        format!("--header=range: bytes=0-{}", RANGE_BYTES - 1),
        format!("--clients={clients}"),
        format!("--duration={}", LOAD.as_secs()),
        url.into(),
    ];
    // Each client takes a file handle, and the usual limit is about as many.
    let mut command = visitor.netns().command("sh");
    command.args(["-c", "ulimit -n 4096 && exec h2load \"$@\"", "h2load"]).args(arguments);
    let output = command.output().context("h2load; scripts/setup-test.sh installs it")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{output:?}");
    ensure!(said.contains("Application protocol: h2"), "{said}");
    parse(&said).with_context(|| format!("h2load said\n{said}"))
}

/// Reads `requests: 9 total, 9 started, 9 done, 9 succeeded, 0 failed, 0 errored, 0 timeout` and
/// `status codes: 9 2xx, 0 3xx, 0 4xx, 0 5xx`.
fn parse(said: &str) -> Option<Load> {
    let line = |name: &str| said.lines().find_map(|line| line.trim().strip_prefix(name));
    let count = |line: &str, what: &str| {
        line.split(',').find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok())
    };
    let (requests, codes) = (line("requests:")?, line("status codes:")?);
    let refused = count(codes, "3xx")? + count(codes, "4xx")? + count(codes, "5xx")?;
    Some(Load {
        requests: count(requests, "succeeded")?,
        failures: [count(requests, "failed")?, count(requests, "errored")?, count(requests, "timeout")?, refused],
    })
}

/// Loads the page as any other program would.
fn page(visitor: &Host) -> Result<()> {
    let mut command: Command = visitor.netns().command("curl");
    command.args(["--silent", "--show-error", "--fail", "--insecure", "--http2", "--max-time", "10"]);
    command.args(["--resolve", &format!("{NAME}:443:{RELAY}"), &format!("https://{NAME}/")]);
    let output = command.output()?;
    ensure!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2loads_words_are_read() {
        let said = "finished in 60.00s\nrequests: 812 total, 900 started, 812 done, 800 succeeded, 9 failed, 2 errored, \
                    1 timeout\nstatus codes: 800 2xx, 0 3xx, 11 4xx, 1 5xx\n";
        let load = parse(said).unwrap();
        assert_eq!((load.requests, load.failures, load.errors()), (800, [9, 2, 1, 12], 24));
        assert!(parse("requests: many").is_none());
    }
}
