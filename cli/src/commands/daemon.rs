//! The processes that stay: `trunkline daemon` and `trunkline keeper`.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use tracing_subscriber::EnvFilter;
use trunkline_control::{daemon, keeper};

use super::Outcome;
use crate::args::DaemonArgs;

pub(super) fn run(run_dir: PathBuf, state_dir: PathBuf, args: DaemonArgs) -> Outcome {
    log();
    let pin = args.pin;
    let DaemonArgs { config, workers, spin_us, docker, .. } = args;
    let docker = docker.map(|socket| Some(socket).filter(|s| !s.is_empty()));
    Ok(daemon::run(daemon::DaemonConfig { run_dir, state_dir, config, workers, pin, docker, spin: spin_us })?)
}

pub(super) fn keeper(run_dir: &Path) -> Outcome {
    log();
    Ok(keeper::run(run_dir)?)
}

/// Logs to stderr; `TRUNKLINE_LOG` says how much (`warn`, `debug`, `trunkline_control=trace`, …).
fn log() {
    let filter = EnvFilter::try_from_env("TRUNKLINE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour);
    // The journal has its own clock.
    if journal { builder.without_time().init() } else { builder.init() }
}
