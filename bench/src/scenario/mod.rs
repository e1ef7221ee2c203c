//! What is measured, one module for each scenario.

mod far;
mod idle;
mod loopback;
mod players;
mod providers;
mod publish;
mod reconcile;
mod records;
mod serving;

use anyhow::Result;
use clap::Subcommand;

use crate::{
    bench::{Bench, Options},
    table::Table,
};

/// The scenarios, in the order they run.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Scenario {
    /// One provider on loopback, beside sendme, rqbit, nginx with curl, and a bare iroh stream
    A(Options),
    /// Four providers behind capped links, beside rqbit, aria2 and curl
    B(Options),
    /// Seeks and one flow over long paths, beside nginx
    C(Options),
    /// Publishing, beside b3sum and cp
    D(Options),
    /// Serving ranges that are in the page cache, beside nginx
    E(Options),
    /// 200 players on one gateway, beside nginx
    F(Options),
    /// A node with 100 idle peers
    G(Options),
    /// What it costs two nodes to have the same records, beside negentropy
    H(Options),
    /// The record store: taking in and rebuilding, beside checking signatures alone
    I(Options),
}

impl Scenario {
    /// All of them.
    pub(crate) fn all(options: &Options) -> Vec<Self> {
        [Self::A, Self::B, Self::C, Self::D, Self::E, Self::F, Self::G, Self::H, Self::I]
            .into_iter()
            .map(|scenario| scenario(options.clone()))
            .collect()
    }

    pub(crate) fn options(&self) -> &Options {
        match self {
            Self::A(options)
            | Self::B(options)
            | Self::C(options)
            | Self::D(options)
            | Self::E(options)
            | Self::F(options)
            | Self::G(options)
            | Self::H(options)
            | Self::I(options) => options,
        }
    }

    /// The letter it goes by.
    pub(crate) fn letter(&self) -> &'static str {
        match self {
            Self::A(_) => "a",
            Self::B(_) => "b",
            Self::C(_) => "c",
            Self::D(_) => "d",
            Self::E(_) => "e",
            Self::F(_) => "f",
            Self::G(_) => "g",
            Self::H(_) => "h",
            Self::I(_) => "i",
        }
    }

    pub(crate) fn title(&self) -> &'static str {
        match self {
            Self::A(_) => "One provider, loopback",
            Self::B(_) => "Four providers",
            Self::C(_) => "Far away",
            Self::D(_) => "Publishing",
            Self::E(_) => "Serving ranges",
            Self::F(_) => "200 players",
            Self::G(_) => "100 idle peers",
            Self::H(_) => "Reconciling logs",
            Self::I(_) => "The record store",
        }
    }

    /// The peers it needs.
    pub(crate) fn tools(&self) -> &'static [&'static str] {
        match self {
            Self::A(_) => &["sendme", "rqbit", "nginx", "curl"],
            Self::B(_) => &["rqbit", "aria2c", "curl", "nginx"],
            Self::C(_) => &["nginx"],
            Self::D(_) => &["b3sum", "cp"],
            Self::E(_) => &["nginx", "wrk"],
            Self::F(_) => &["nginx"],
            Self::G(_) | Self::H(_) | Self::I(_) => &[],
        }
    }

    pub(crate) fn run(&self) -> Result<Vec<Table>> {
        if let Self::H(options) = self {
            // Needs neither a program nor a folder.
            return reconcile::measure(options);
        }
        let bench = Bench::new(self.options())?;
        match self {
            Self::A(_) => loopback::measure(&bench),
            Self::B(_) => providers::measure(&bench),
            Self::C(_) => far::measure(&bench),
            Self::D(_) => publish::measure(&bench),
            Self::E(_) => serving::measure(&bench),
            Self::F(_) => players::measure(&bench),
            Self::G(_) => idle::measure(&bench),
            Self::H(options) => reconcile::measure(options),
            Self::I(_) => records::measure(&bench),
        }
    }
}
