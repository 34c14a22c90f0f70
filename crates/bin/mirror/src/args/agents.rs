//! Commands for the agents of this machine: install, start, stop, restart, logs, jobs.

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// Show what would be written, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NamesArgs {
    /// Agent: a service as in the catalogue, or "job.<name>"; may be repeated
    #[arg(value_name = "NAME", required_unless_present = "all")]
    pub(crate) names: Vec<String>,
    /// All services but the supervisor
    #[arg(long, conflicts_with = "names")]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    pub(crate) which: NamesArgs,
    /// Why, one line; shown by status and doctor
    #[arg(long)]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    pub(crate) which: NamesArgs,
    /// Kill the process at once, as one that hangs must be; else it may drain
    #[arg(long)]
    pub(crate) kill: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Agent: a service as in the catalogue, or "job.<name>"
    pub(crate) name: String,
    /// Go on with what is written; survives the rotation of the file
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// At most this many lines of the past
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 50)]
    pub(crate) lines: usize,
}
