//! The commands. `up` is a node; those in [`settings`] and part of [`doctor`] work on files; the rest are clients
//! of a running node.

mod bundle;
mod carousel;
mod content;
mod doctor;
mod emergency;
mod events;
mod get;
mod links;
mod network;
mod node;
mod satellite;
mod settings;

use std::path::PathBuf;

use mhc_node::home;

use crate::{
    args::{Args, Command, Common, Config, Network, Peer},
    client::Client,
    failure::Failure,
    logs,
    output::Output,
    up,
};

pub(crate) use settings::load as load_settings;

/// Does what the command line says.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Args { common, command } = args;
    let default_filter = if matches!(command, Command::Up(_)) { up::LOG_FILTER } else { "warn" };
    logs::start(common.log, default_filter);
    let output = Output { json: common.json };
    match command {
        Command::Completions { shell } => settings::completions(output, shell),
        Command::Man { dir } => settings::manual(output, dir.as_deref()),
        Command::Config(Config::Example) => settings::example(output),
        Command::Config(Config::Check) => settings::check(output, &home_dir(&common)?),
        Command::Up(options) => up::run(output, &home_dir(&common)?, options).await,
        Command::Network(Network::Create) => network::create(output, &home_dir(&common)?),
        Command::Network(Network::Join { ticket }) => network::join(output, &home_dir(&common)?, &ticket),
        Command::Doctor { rebuild } => doctor::run(output, &home_dir(&common)?, rebuild).await,
        command => with_node(output, &Client::find(&home_dir(&common)?)?, command).await,
    }
}

fn home_dir(common: &Common) -> Result<PathBuf, Failure> {
    Ok(home::resolve(common.home.as_deref(), |name| std::env::var_os(name))?)
}

async fn with_node(output: Output, client: &Client, command: Command) -> Result<(), Failure> {
    match command {
        Command::Status => node::status(output, client).await,
        Command::Ticket { blob, within } => node::ticket(output, client, blob, within).await,
        Command::Peer(Peer::Add { ticket }) => node::add_peer(output, client, &ticket).await,
        Command::Peers => node::peers(output, client).await,
        Command::Links => links::links(output, client).await,
        Command::Network(command) => with_network(output, client, command).await,
        Command::Pin { content } => node::pin(output, client, content).await,
        Command::Unpin { content } => node::unpin(output, client, content).await,
        Command::Gc => node::gc(output, client).await,
        Command::Bundle(command) => bundle::run(output, client, command).await,
        Command::Carousel(command) => carousel::run(output, client, command).await,
        Command::Satellite(command) => satellite::run(output, client, command).await,
        Command::Emergency(command) => emergency::run(output, client, command).await,
        Command::ShutdownMode(command) => emergency::mode(output, client, command).await,
        Command::Publish(options) => content::publish(output, client, options).await,
        Command::Withdraw { content } => content::withdraw(output, client, content).await,
        Command::Ls { all, within } => content::list(output, client, all, within).await,
        Command::Show { content } => content::show(output, client, content).await,
        Command::Get(options) => get::run(output, client, options).await,
        Command::Up(_)
        | Command::Doctor { .. }
        | Command::Config(_)
        | Command::Completions { .. }
        | Command::Man { .. } => Ok(()),
    }
}

async fn with_network(output: Output, client: &Client, command: Network) -> Result<(), Failure> {
    match command {
        Network::Follow { ticket, channels, essential } => {
            network::follow(output, client, &ticket, &channels, essential).await
        }
        Network::Unfollow { network } => network::unfollow(output, client, network).await,
        Network::List => network::list(output, client).await,
        Network::Interest { within, interest } => network::interest(output, client, within, &interest).await,
        Network::Show { all, within } => network::show(output, client, all, within).await,
        Network::Grant(options) => network::grant(output, client, options).await,
        Network::Revoke { grant, void, reason, within } => {
            network::revoke(output, client, grant, void, reason, within).await
        }
        Network::Policy(options) => network::policy(output, client, options).await,
        Network::Create | Network::Join { .. } => Ok(()),
    }
}
