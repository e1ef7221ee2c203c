//! What is measured, one module for each scenario.

mod loopback;

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
}

impl Scenario {
    /// All of them.
    pub(crate) fn all(options: &Options) -> Vec<Self> {
        [Self::A].into_iter().map(|scenario| scenario(options.clone())).collect()
    }

    pub(crate) fn options(&self) -> &Options {
        match self {
            Self::A(options) => options,
        }
    }

    /// The letter it goes by.
    pub(crate) fn letter(&self) -> &'static str {
        match self {
            Self::A(_) => "a",
        }
    }

    pub(crate) fn title(&self) -> &'static str {
        match self {
            Self::A(_) => "One provider, loopback",
        }
    }

    /// The peers it needs.
    pub(crate) fn tools(&self) -> &'static [&'static str] {
        match self {
            Self::A(_) => &["sendme", "rqbit", "nginx", "curl"],
        }
    }

    pub(crate) fn run(&self) -> Result<Vec<Table>> {
        let bench = Bench::new(self.options())?;
        match self {
            Self::A(_) => loopback::measure(&bench),
        }
    }
}
