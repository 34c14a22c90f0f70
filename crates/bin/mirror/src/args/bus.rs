//! Commands for the log: `mirror bus ...`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum BusVerb {
    /// Check every byte of the log with a second, independent reader; needs no fleet
    ///
    /// Checks the signatures of redactions and compares each checkpoint in the folder, so that a log that was rewritten
    /// or rolled back shows. Exits with 0 when every acknowledged event is there and whole, 74 on damage, 66 when the
    /// folder is missing. A torn tail that holds nothing acknowledged is a note. What each finding means is in
    /// docs/VERIFY.md.
    Verify(VerifyArgs),
    /// Prove that the log holds an event, or that it only grew; or check such a proof without a fleet
    ///
    /// Prints a document that can be kept in a file, and that proves it to whoever has the public key of this device. For an
    /// event it is a C2SP tlog-proof, for growth it is JSON. A proof leads to a signed checkpoint: `mirror checkpoint --now`
    /// makes one of the newest events.
    Prove(ProveArgs),
    /// Copy the log, byte for byte, with all that is needed to verify it elsewhere; the fleet may run
    ///
    /// The copy holds no secret but what the events say. It appears under its name when it is verified.
    Export(ExportArgs),
    /// Take in a copy of a log: of this device into an empty home, or of another device beside the own
    ///
    /// A copy of another device's log is kept under its own name; the bus leaves it alone, and verify covers it. A copy
    /// that contradicts what is here is refused as a fork. It is safe to repeat.
    Import(LogImportArgs),
    /// Repair damaged ranges of the log from a copy, byte for byte
    ///
    /// Every event is checked against the chain around it, and what was damaged is kept in quarantine. Exits with 0 when
    /// nothing is damaged any more, and with 74 when a range stays damaged.
    Repair(RepairArgs),
    /// Compress sealed segments; they stay readable with zstdcat and zstdgrep
    ///
    /// The bus does the same by itself with segments that are a week old.
    Compress(CompressArgs),
    /// Erase the payloads of events for good, and say which copies are gone and which are not
    ///
    /// Asks for the recovery passphrase, or reads it from standard input. The event's header stays, with its subject, id
    /// and time, so every proof still holds. Prints no payload. Exits with 69 when a service that may hold a copy could not
    /// be asked; the same command asks it again.
    Redact(RedactArgs),
    /// End the log for ever: a last event is stored, and every later append is refused
    ///
    /// A sealed log can be read, proven and repaired, and nothing in it can be erased any more.
    Seal(SealArgs),
    /// Show the durable consumers of the log: who reads, how far, and what must be tried again
    ///
    /// With a verb, makes or removes one of local callers.
    Consumers {
        #[command(subcommand)]
        verb: Option<ConsumersVerb>,
    },
    /// Take the next events of a consumer of local callers, and show them
    ///
    /// With --ack they are acknowledged once they are printed, and do not come again. Without it each counts as one failed
    /// attempt when its time is up, and comes again.
    Consume(ConsumeArgs),
    /// Look after the index, which is derived from the log
    Index {
        #[command(subcommand)]
        verb: IndexVerb,
    },
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Bus folder, an export, or one log/<origin> folder [default: the home's]
    pub(crate) dir: Option<PathBuf>,
    /// Compare this signed checkpoint too, such as one that a phone or a peer kept; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ProveArgs {
    /// Position of the event
    #[arg(required_unless_present_any = ["from", "check"], conflicts_with_all = ["from", "check"])]
    pub(crate) seq: Option<u64>,
    /// Prove it in the log of this many events, of which there must be a checkpoint [default: the newest checkpoint]
    #[arg(long, value_name = "N", requires = "seq")]
    pub(crate) size: Option<u64>,
    /// Prove that the log only grew since it had this many events, of which there must be a checkpoint
    #[arg(long, value_name = "SIZE", conflicts_with = "check")]
    pub(crate) from: Option<u64>,
    /// The greater size [default: the newest checkpoint]
    #[arg(long, value_name = "SIZE", requires = "from")]
    pub(crate) to: Option<u64>,
    /// Check a proof that was printed before; exits with 65 when it proves nothing
    #[arg(long, value_name = "FILE")]
    pub(crate) check: Option<PathBuf>,
    /// Public key of the device that signed it, 64 hex digits [default: that of the home]
    #[arg(long, value_name = "HEX", requires = "check")]
    pub(crate) key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Folder to make; it must not exist, or be empty
    pub(crate) dir: PathBuf,
    /// Log of another device, "<key fingerprint>.<epoch>" [default: that of this device]
    #[arg(long)]
    pub(crate) origin: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LogImportArgs {
    /// Folder of the copy: an export, or another bus folder
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    /// Folder of the copy: a bus folder, an export, or one log/<origin> folder
    #[arg(long, value_name = "DIR")]
    pub(crate) from: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CompressArgs {
    /// Only segments whose last event is at least so many days old; 0 for all sealed ones
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    pub(crate) older_than: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum IndexVerb {
    /// Throw the index away and build it anew from the log
    ///
    /// The bus starts again and is away for as long as that takes. Without a running bus the index is removed, and the
    /// next start builds it.
    Rebuild,
}

#[derive(Debug, Args)]
pub(crate) struct RedactArgs {
    /// Positions of the events, at most 256
    #[arg(required = true, value_name = "SEQ")]
    pub(crate) seqs: Vec<u64>,
    /// Why, one line; it is stored for ever, so it must not repeat what is erased
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
    /// Do not ask whether these are the ones
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SealArgs {
    /// Name of the log, as `mirror call bus GetStatus` shows it, so that no slip seals it
    pub(crate) origin: String,
    /// Why, one line
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConsumersVerb {
    /// Make a consumer; the same once more changes nothing
    Create {
        /// Name, of a-z, 0-9 and -, with dots between words
        name: String,
        /// Only subjects that match: "a.*.c" matches one token, "a.>" the rest; may be repeated
        #[arg(long, value_name = "FILTER")]
        subject: Vec<String>,
        /// First position [default: the next event]
        #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
        from: Option<u64>,
    },
    /// Remove a consumer with its place; the log is untouched
    Delete {
        /// Name
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ConsumeArgs {
    /// Consumer
    pub(crate) name: String,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max: u32,
    /// Acknowledge them
    #[arg(long)]
    pub(crate) ack: bool,
}
