//! The command line: commands, arguments and their help.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

mod agents;
mod bus;
mod fleet;
mod home;

pub(crate) use agents::{InstallArgs, LogsArgs, NamesArgs, RestartArgs, StopArgs};
pub(crate) use bus::{
    BusVerb, CompressArgs, ConsumeArgs, ConsumersVerb, ExportArgs, IndexVerb, LogImportArgs, ProveArgs,
    RedactArgs, RepairArgs, SealArgs, VerifyArgs,
};
pub(crate) use fleet::{
    CheckpointArgs, HaltArgs, HaltVerb, KeysArgs, KeysVerb, NotifyArgs, NotifyPut, NotifyVerb, PulseArgs,
    PulseVerb, RemediesArgs, RemediesVerb, ScheduleAdd, ScheduleArgs, ScheduleVerb, Urgency, Weekday,
    WitnessArgs,
};
pub(crate) use home::{InitArgs, RecoverArgs};

use crate::app::BUILD;
use crate::failure::EXIT_CODES;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Returns the command line as clap knows it.
pub fn command() -> clap::Command {
    Cli::command().after_help(after_help())
}

fn after_help() -> String {
    let codes: Vec<String> = EXIT_CODES.iter().map(|(code, what)| format!("  {code:>2}  {what}")).collect();
    format!(
        "Environment:\n  MIRROR_HOME  home folder, an absolute path [default: ~/.mirror]\n  \
         MIRROR_LOG   level of the services' logs, such as debug [default: info]\n  \
         NO_COLOR     no colours\n\nExit codes:\n{}\n\nData goes to standard output, talk to standard error.",
        codes.join("\n")
    )
}

/// Personal AI infrastructure: small services around one durable log.
#[derive(Debug, Parser)]
#[command(name = "mirror", version = BUILD, styles = STYLES, propagate_version = true, max_term_width = 110)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Common {
    /// Home folder; wins over MIRROR_HOME
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Print JSON: one object, or one a line where there are many
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// When to colour
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Color::Auto)]
    pub(crate) color: Color,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Color {
    pub(crate) fn choice(self) -> anstream::ColorChoice {
        match self {
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Always => anstream::ColorChoice::Always,
            Self::Never => anstream::ColorChoice::Never,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the home: folders, the device key, the name of the log, and once the recovery kit
    ///
    /// The kit is a passphrase and a block of text: it releases the halt, rotates keys, and brings this identity to a new
    /// machine. It is shown once and stored nowhere. What exists is kept, so it is safe to repeat. `up` makes a home too,
    /// without a kit.
    Init(InitArgs),
    /// Bring the identity of a recovery kit to this machine
    ///
    /// Asks for the passphrase, or reads it from standard input. A home with a device key of its own is left alone. A log
    /// that was restored from a backup goes on; without one, a log under a new epoch begins.
    Recover(RecoverArgs),
    /// Run the fleet in the foreground until Ctrl-C
    ///
    /// Makes the home when it is new, lays the links in its bin folder, starts every service and starts each again
    /// when it fails, at most once in 10 seconds. Ctrl-C drains: upper tiers first, 15 seconds each; a second Ctrl-C
    /// ends what is left at once.
    Up,
    /// Have launchd or systemd keep the fleet: binaries, links, definitions; also the way to update
    ///
    /// Copies this binary into the home, writes one definition for each agent and starts them one after the other, each
    /// verified by its own health with the build of this binary. What runs goes on until it is its turn. When one does not
    /// come up, the definitions and binaries from before are put back. It is safe to repeat.
    Install(InstallArgs),
    /// Take the fleet away from launchd or systemd; keeps all data
    Uninstall,
    /// Start agents, and clear their quarantine
    ///
    /// Done when each answers with the installed build, or a job has run to its end.
    Start(NamesArgs),
    /// Stop agents until they are started again, whatever restarts or reboots meanwhile
    Stop(StopArgs),
    /// Restart agents
    ///
    /// Done when each answers from another process with the installed build.
    Restart(RestartArgs),
    /// Show what an agent logged, and what it printed outside of its log
    Logs(LogsArgs),
    /// Find everything that is wrong, with the file, the line and the command that mends it; changes nothing
    ///
    /// Exits with 69 when something must be mended.
    Doctor,
    /// Show what runs
    ///
    /// Exits with 0 only when every service that should run serves, with 69 otherwise. A degraded service serves.
    Status,
    /// Show the catalogue: every service, its tier and what it calls; needs no fleet
    Services,
    /// Show events: the last 20, or those that a filter selects
    Log(LogArgs),
    /// Append one event
    ///
    /// Subjects of people and scripts begin with "local". The receipt is printed after the event is on disk.
    Append(AppendArgs),
    /// Show one event whole, with its header as it is hashed
    Get(GetArgs),
    /// Show what happened, by day and by writer
    Changelog(ChangelogArgs),
    /// Import transcripts of coding agents: Claude Code, Codex, Gemini
    ///
    /// The source is only read, and each row is taken once, however often it is imported. Rows that cannot be read are
    /// kept in the quarantine folder and counted in the report; they do not change the exit code.
    Import(ImportArgs),
    /// Store and fetch blobs
    Blobs {
        #[command(subcommand)]
        verb: BlobsVerb,
    },
    /// Call any method of any service with JSON
    ///
    /// Without a method, lists the methods with the rules that the contract declares for them. Every service also
    /// answers GetState, GetMetrics and health Check. Bytes fields are base64, as in the JSON mapping of protobuf.
    Call(CallArgs),
    /// Look after the log
    Bus {
        #[command(subcommand)]
        verb: BusVerb,
    },
    /// Show what is wrong with the fleet, why, and what is done about it
    ///
    /// Exits with 0 when all is well, is only suspected or has just recovered, and during maintenance; with 69
    /// otherwise.
    Pulse(PulseArgs),
    /// Engage the halt: every service refuses every call that has an effect
    ///
    /// Works without a fleet too, then by the file that every service reads. Reading, and recording what happens, goes
    /// on. Releasing it takes the recovery passphrase.
    Halt(HaltArgs),
    /// Show the public halves of the keys, or rotate one
    Keys(KeysArgs),
    /// Print the newest signed checkpoint of the log
    Checkpoint(CheckpointArgs),
    /// Show how far the log is verified, and what was found
    ///
    /// Exits with 74 when damage was found.
    Witness(WitnessArgs),
    /// Show the jobs of the schedule, make one, remove one
    Schedule(ScheduleArgs),
    /// Show the owner's cards, put one, clear one
    Notify(NotifyArgs),
    /// Show the catalogue of remedies, what was done, or carry one out
    Remedies(RemediesArgs),
    /// Print a service's counters in the Prometheus text format
    Metrics {
        /// Service, as in the catalogue
        service: String,
    },
    /// Print a completion script for a shell
    Completions {
        /// Shell
        shell: Shell,
    },
    /// Print the manual page, or write one page for each command
    Man {
        /// Folder for the pages, made when it is missing; without it the main page is printed
        dir: Option<PathBuf>,
    },
    /// Run one service as this process
    #[command(hide = true)]
    Serve(ServeWhat),
    /// Run one job as this process
    #[command(hide = true)]
    Job(JobWhat),
}

#[derive(Debug, Args)]
pub(crate) struct ServeWhat {
    /// Service, as in the catalogue
    pub(crate) service: String,
}

#[derive(Debug, Args)]
pub(crate) struct JobWhat {
    /// Job, as in the catalogue
    pub(crate) job: String,
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// Only subjects that match: "a.*.c" matches one token, "a.>" the rest; may be repeated
    #[arg(long, value_name = "FILTER")]
    pub(crate) subject: Vec<String>,
    /// Only events of this actor, "local" or "svc:<service>"; may be repeated
    #[arg(long)]
    pub(crate) actor: Vec<String>,
    /// Only events with this label; may be repeated
    #[arg(long)]
    pub(crate) label: Vec<String>,
    /// Only events since then: "2026-03-04", "2026-03-04 10:00" (local), RFC 3339, or an age such as "2h" or "3d"
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only events before then, in the same forms
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    pub(crate) until: Option<String>,
    /// Begin at this position
    #[arg(long, value_name = "SEQ")]
    pub(crate) from: Option<u64>,
    /// At most this many [default: 20, or all with --from, --since or --until]
    #[arg(short = 'n', long = "lines", value_name = "N")]
    pub(crate) lines: Option<u64>,
    /// Go on with new events; survives a restart of the bus
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Newest first
    #[arg(long, conflicts_with = "follow")]
    pub(crate) reverse: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AppendArgs {
    /// Subject, such as local.note
    pub(crate) subject: String,
    /// Payload; "-" or nothing reads standard input
    pub(crate) payload: Option<String>,
    /// How the payload is to be read [default: json when it is a JSON object or array, else text]
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub(crate) kind: Option<PayloadKind>,
    /// Idempotency id: the same id with the same content is stored once
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Label; may be repeated
    #[arg(long)]
    pub(crate) label: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PayloadKind {
    Json,
    Text,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Position, or id
    #[arg(value_name = "SEQ|ID")]
    pub(crate) which: String,
    /// Take the argument for an id even when it is a number
    #[arg(long)]
    pub(crate) id: bool,
    /// Print nothing but the payload, byte for byte
    #[arg(long)]
    pub(crate) payload: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ChangelogArgs {
    /// Only this day, "YYYY-MM-DD" in UTC, "today" or "yesterday"
    #[arg(long, conflicts_with_all = ["days", "follow"])]
    pub(crate) day: Option<String>,
    /// At most this many days, newest first
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) days: u32,
    /// Only this writer, such as claude-code or svc:bus
    #[arg(long)]
    pub(crate) writer: Option<String>,
    /// Go on with what happens
    #[arg(short, long, conflicts_with = "days")]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// File or folder
    pub(crate) path: PathBuf,
    /// Format [default: recognised for each file]
    #[arg(long, value_enum)]
    pub(crate) format: Option<ImportFormat>,
    /// Report what would be done, and append nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportFormat {
    Claude,
    Codex,
    Gemini,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BlobsVerb {
    /// Store a file and print its digest
    Put {
        /// File; "-" reads standard input
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
    },
    /// Fetch a blob
    Get {
        /// BLAKE3 digest, 64 hex digits
        digest: String,
        /// File to write; it appears only when the whole blob has arrived and fits its digest
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    /// Service, as in the catalogue ("bus") or by its full gRPC name
    pub(crate) service: String,
    /// Method, such as GetStatus; without it the methods are listed
    pub(crate) method: Option<String>,
    /// Request as JSON; "-" reads standard input. A client stream takes an array, or one object after another
    /// [default: {}]
    #[arg(value_name = "JSON|-")]
    pub(crate) request: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }
}
