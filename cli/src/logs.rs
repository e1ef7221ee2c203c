//! The log: on stderr, so that stdout stays what programs read.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::{args::LogForm, output};

/// Starts logging. `default` filters when `MHC_LOG` isn't set.
pub(crate) fn start(form: LogForm, default: &str) {
    let variable = std::env::var("MHC_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = EnvFilter::builder().parse_lossy(variable.as_deref().unwrap_or(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // The only failure is a logger that was set before, and there is none.
    let _ = match form {
        LogForm::Text => log.with_ansi(io::stderr().is_terminal() && output::colours()).try_init(),
        LogForm::Json => log.json().try_init(),
    };
}
