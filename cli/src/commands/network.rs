//! The network: its home, its policy, its grants.

use std::{fs, path::Path};

use mhc_node::home::{self, Home};
use mhc_protocol::{AuthorId, NetworkId, RecordId, ticket::Ticket};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::{
    args::{Grant, Interest, Policy, Within},
    client::Client,
    failure::{Exit, Failure},
    output::{Output, pairs, remark, table},
};

const SETTINGS: &str = "mhc.toml";
/// What of the policy a file may hold.
const POLICY_FIELDS: [&str; 7] = ["name", "membership", "fees", "gates", "quotas", "essential", "issuers"];

/// Makes a home with a network of its own.
pub(super) fn create(output: Output, dir: &Path) -> Result<(), Failure> {
    refuse_running(dir)?;
    let home = Home::open(dir, None)?;
    if !home.first_start() {
        let message =
            format!("this home belongs to network {} already; found another one with another --home", home.network());
        return Err(Failure::new(Exit::Conflict, message));
    }
    let made = json!({ "network": home.network(), "node": home.node_key().node(), "home": home.dir() });
    output.result(&made, |made| {
        let key = home.dir().join("keys/network.key");
        let backup = format!("keep a copy of {} in a safe place: whoever has it rules the network", key.display());
        format!("{}{backup}\nstart it with `mhc up`", pairs(made))
    })
}

/// Makes a home that belongs to the network of `ticket`.
pub(super) fn join(output: Output, dir: &Path, ticket: &Ticket) -> Result<(), Failure> {
    refuse_running(dir)?;
    let home = Home::open(dir, Some(ticket.network))?;
    if home.network() != ticket.network {
        let message = format!(
            "this home belongs to network {}, the ticket to {}; join with another --home",
            home.network(),
            ticket.network
        );
        return Err(Failure::new(Exit::Refused, message));
    }
    let settings = dir.join(SETTINGS);
    let hint = match settings.exists() {
        // Somebody's own file isn't edited behind their back.
        true => {
            remark(&format!("{} is there already: the ticket isn't noted in it", settings.display()));
            format!("start it with `mhc up --peer {ticket}`")
        }
        false => {
            let text = format!("[p2p]\npeers = [\"{ticket}\"]\n");
            fs::write(&settings, text)
                .map_err(|error| Failure::failed(format!("{} can't be written: {error}", settings.display())))?;
            "start it with `mhc up`".to_owned()
        }
    };
    let joined = json!({ "network": home.network(), "node": home.node_key().node(), "home": home.dir() });
    output.result(&joined, |joined| format!("{}{hint}", pairs(joined)))
}

fn refuse_running(dir: &Path) -> Result<(), Failure> {
    match home::running(dir)? {
        Some(running) => Err(Failure::new(Exit::Conflict, format!("a node runs on this home as pid {}", running.pid))),
        None => Ok(()),
    }
}

pub(super) async fn follow(
    output: Output,
    client: &Client,
    ticket: &Ticket,
    channels: &[AuthorId],
    essential: bool,
) -> Result<(), Failure> {
    let interest = match (channels.is_empty(), essential) {
        (false, _) => "channels",
        (true, true) => "essential",
        (true, false) => "whole",
    };
    let body = json!({ "ticket": ticket.to_string(), "interest": interest, "channels": channels });
    let answer = client.document(client.request(Method::POST, "/api/v1/networks").json(&body)).await?;
    output.result(&answer, |_| {
        let network = ticket.network;
        format!(
            "following {network}
its contents: `mhc ls --network {network}`; stop with `mhc network unfollow {network}`"
        )
    })
}

pub(super) async fn unfollow(output: Output, client: &Client, network: NetworkId) -> Result<(), Failure> {
    let request = client.request(Method::DELETE, &format!("/api/v1/networks/{network}"));
    client.document(request).await?;
    output.result(&json!({ "network": network }), |_| {
        "not followed any more; what is here of it stays, unseen, until `mhc gc`".into()
    })
}

pub(super) async fn list(output: Output, client: &Client) -> Result<(), Failure> {
    let columns = [
        ("NETWORK", "network"),
        ("NAME", "name"),
        ("HOME", "home"),
        ("INTEREST", "interest"),
        ("PEERS", "peers"),
        ("AUTHORS", "authors"),
    ];
    output.result(&client.get("/api/v1/networks").await?, |networks| table(networks, &columns, "none"))
}

pub(super) async fn interest(
    output: Output,
    client: &Client,
    within: Within,
    interest: &Interest,
) -> Result<(), Failure> {
    let network = match within.network {
        Some(network) => network.to_string(),
        None => text(&client.get("/api/v1/node").await?["network"]).to_owned(),
    };
    let body = match interest {
        Interest::Whole => json!({ "interest": "whole" }),
        Interest::Channels { authors } => json!({ "interest": "channels", "channels": authors }),
        Interest::Essential => json!({ "interest": "essential" }),
    };
    let request = client.request(Method::PUT, &format!("/api/v1/networks/{network}/interest")).json(&body);
    output.result(&client.document(request).await?, pairs)
}

pub(super) async fn show(output: Output, client: &Client, all: bool, within: Within) -> Result<(), Failure> {
    let mut network = client.get(&within.path("/api/v1/network")).await?;
    let grants = client.get(&within.path(&format!("/api/v1/network/grants?all={all}"))).await?;
    if output.json {
        network["grants"] = grants;
        return output.result(&network, pairs);
    }
    let columns = [
        ("GRANT", "grant"),
        ("ROLE", "role"),
        ("TO", "to"),
        ("STATE", "state"),
        ("CHANNEL", "channel"),
        ("UNTIL", "until"),
        ("NOTE", "note"),
    ];
    let empty = "nobody holds a role yet; give one with `mhc network grant AUTHOR ROLE`";
    output.result(&network, |network| format!("{}\n{}", pairs(network), table(&grants, &columns, empty)))
}

pub(super) async fn grant(output: Output, client: &Client, options: Grant) -> Result<(), Failure> {
    let Grant { to, role, channel, days, depth, note, within } = options;
    let until = days.map(in_days).transpose()?;
    let body = json!({
        "to": to, "role": role, "channel": channel, "until": until, "depth": depth, "note": note,
    });
    let request = client.request(Method::POST, &within.path("/api/v1/network/grants")).json(&body);
    let answer = client.document(request).await?;
    output.result(&answer, |answer| {
        format!("{to} is {} now; end it with `mhc network revoke {}`", role.as_str(), text(&answer["record"]))
    })
}

fn in_days(days: u32) -> Result<String, Failure> {
    let until = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_hours(i64::from(days) * 24));
    until.map(|until| until.to_string()).map_err(|error| Failure::new(Exit::Usage, format!("--days: {error}")))
}

pub(super) async fn revoke(
    output: Output,
    client: &Client,
    grant: RecordId,
    void: bool,
    reason: Option<String>,
    within: Within,
) -> Result<(), Failure> {
    let path = within.path(&format!("/api/v1/network/grants/{grant}"));
    let mut request = client.request(Method::DELETE, &path).query(&[("void", void.to_string())]);
    if let Some(reason) = reason {
        request = request.query(&[("reason", reason)]);
    }
    let answer = client.document(request).await?;
    output.result(&answer, |_| match void {
        true => format!("revoked {grant}; nothing that was signed under it counts any more"),
        false => format!("revoked {grant}; what was signed under it so far stays"),
    })
}

pub(super) async fn policy(output: Output, client: &Client, options: Policy) -> Result<(), Failure> {
    let Policy { name, membership, file, within } = options;
    let mut change = match file {
        Some(file) => policy_file(&file)?,
        None => Map::new(),
    };
    if let Some(name) = name {
        change.insert("name".into(), name.into());
    }
    if let Some(membership) = membership {
        change.insert("membership".into(), membership.as_str().into());
    }
    if change.is_empty() {
        return Err(Failure::new(Exit::Usage, "nothing to change; give --name, --membership or --file"));
    }
    let request = client.request(Method::PATCH, &within.path("/api/v1/network")).json(&Value::Object(change));
    output.result(&client.document(request).await?, pairs)
}

/// The policy's fields of what `mhc network show --json` printed, edited or not.
fn policy_file(path: &Path) -> Result<Map<String, Value>, Failure> {
    let bad = |why: String| Failure::new(Exit::Usage, format!("{}: {why}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    let Value::Object(mut fields) = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))? else {
        return Err(bad("a JSON object is expected".into()));
    };
    fields.retain(|name, value| POLICY_FIELDS.contains(&name.as_str()) && !value.is_null());
    Ok(fields)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
