//! Commands of the fleet's own services: halt, keys, witness, schedule, notify, pulse, remedy.

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct HaltArgs {
    /// Why, in a few words
    pub(crate) reason: Vec<String>,
    #[command(subcommand)]
    pub(crate) verb: Option<HaltVerb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HaltVerb {
    /// Show whether the halt is engaged; needs no fleet
    ///
    /// Exits with 0 when effects are allowed, with 73 when they are refused.
    Status,
    /// Release the halt with the recovery passphrase
    ///
    /// The passphrase is asked for on the terminal, or read from standard input when that is none. It is never an
    /// argument. Effects are allowed again when the command has ended with 0.
    Release,
}

#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    pub(crate) verb: Option<KeysVerb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysVerb {
    /// Show the public halves of all keys, in use and retired
    List,
    /// Retire the key of a purpose and make a new one, with the recovery passphrase
    ///
    /// The passphrase is asked for on the terminal, or read from standard input when that is none.
    Rotate {
        /// Purpose, as in the list
        purpose: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CheckpointArgs {
    /// Have the head of the log signed first, when it has moved
    #[arg(long)]
    pub(crate) now: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WitnessArgs {
    /// Begin a verification of the whole log, unless one is under way
    #[arg(long)]
    pub(crate) run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    #[command(subcommand)]
    pub(crate) verb: Option<ScheduleVerb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleVerb {
    /// Show all jobs with their last and next occurrence
    List,
    /// Make a job, or replace one
    ///
    /// Whoever made a job runs it: a script watches for what is due, starts it and reports its end, with
    /// `mirror call schedule`.
    Add(ScheduleAdd),
    /// Delete a job
    Remove {
        /// Job
        job: String,
    },
    /// Show the recorded occurrences of a job, newest first
    History {
        /// Job
        job: String,
        /// At most this many
        #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 32,
              value_parser = clap::value_parser!(u32).range(1..=256))]
        lines: u32,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("when").required(true))]
pub(crate) struct ScheduleAdd {
    /// Name: lower-case words joined by hyphens
    #[arg(value_name = "JOB")]
    pub(crate) name: String,
    /// Due every so often, such as "5m", "2h" or "1d"
    #[arg(long, value_name = "DURATION", group = "when")]
    pub(crate) every: Option<String>,
    /// Due each day at this local time, such as "07:30"
    #[arg(long, value_name = "HH:MM", group = "when")]
    pub(crate) daily: Option<String>,
    /// Only on this day of the week
    #[arg(long, value_enum, value_name = "DAY", requires = "daily")]
    pub(crate) weekday: Option<Weekday>,
    /// Due once: "2026-03-04 10:00" (local), RFC 3339, or so long from now, such as "2h"
    #[arg(long, value_name = "TIME", group = "when")]
    pub(crate) at: Option<String>,
    /// What happens to occurrences that were missed: "once" runs the newest, "skip" none, "within=DURATION" the
    /// newest unless it is later than that
    #[arg(long, value_name = "RULE", default_value = "once")]
    pub(crate) catch_up: String,
    /// What it does, one sentence
    #[arg(long, value_name = "TEXT", default_value = "Set on the command line.")]
    pub(crate) summary: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Weekday {
    Sun,
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
}

#[derive(Debug, Args)]
pub(crate) struct NotifyArgs {
    #[command(subcommand)]
    pub(crate) verb: Option<NotifyVerb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NotifyVerb {
    /// Show the cards, newest first, with what each channel did
    List,
    /// Show a card, or replace the one of the same subject
    Put(NotifyPut),
    /// Clear the card of a subject
    Clear {
        /// Subject
        subject: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NotifyPut {
    /// What it is about, such as backup.home; one card for each subject
    pub(crate) subject: String,
    /// Title, one line
    #[arg(long, value_name = "TEXT")]
    pub(crate) title: String,
    /// Text
    #[arg(long, value_name = "TEXT")]
    pub(crate) body: Option<String>,
    /// How soon it must be seen; only urgent cards are sent in quiet hours
    #[arg(long, value_enum, value_name = "URGENCY", default_value_t = Urgency::Default)]
    pub(crate) urgency: Urgency,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Urgency {
    Min,
    Low,
    Default,
    High,
    Urgent,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct PulseArgs {
    /// Go on with what changes
    #[arg(short, long, conflicts_with_all = ["history", "sweep"])]
    pub(crate) follow: bool,
    /// Show the incidents that are over, newest first
    #[arg(long, conflicts_with = "sweep")]
    pub(crate) history: bool,
    /// Look at everything first
    #[arg(long)]
    pub(crate) sweep: bool,
    #[command(subcommand)]
    pub(crate) verb: Option<PulseVerb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PulseVerb {
    /// Begin, prolong or end maintenance, in which pulse observes and asks for no remedy
    Maintenance {
        /// How long from now, such as "30m", at most a day; "off" ends it
        #[arg(value_name = "DURATION|off")]
        duration: String,
        /// Why, in a few words
        reason: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct RemediesArgs {
    /// Show what was done, newest first
    #[arg(long)]
    pub(crate) log: bool,
    #[command(subcommand)]
    pub(crate) verb: Option<RemediesVerb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RemediesVerb {
    /// Carry out one remedy on one target
    ///
    /// The same id again acts no second time: it shows what came of it. Exits with 0 when it helped or was not needed,
    /// 73 when it was not done, did not help or is not known to have ended.
    Run {
        /// Id of this action, such as fix-1
        id: String,
        /// Remedy, as in the catalogue
        remedy: String,
        /// Service or job, or "fleet"
        target: String,
        /// Why, one line
        #[arg(long, value_name = "TEXT", default_value = "asked for on the command line")]
        cause: String,
    },
}
