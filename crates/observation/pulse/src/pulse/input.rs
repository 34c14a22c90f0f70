//! What the pulse learns, and what it wants done: the only way in and out of the domain.

use super::cause::Cause;

/// The two clocks at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// Milliseconds since an arbitrary point, counting sleep; never runs backwards.
    pub(crate) boot: u64,
    /// Milliseconds since 1970; may jump.
    pub(crate) wall: u64,
}

/// Something that was learnt.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// Time has passed.
    Tick,
    /// A row of the supervisor; the stream of rows is open.
    Agent(Box<Row>),
    /// The stream of rows has ended: rows are old.
    SupervisorAway,
    /// The health stream of an agent has changed or broken: ask it at once.
    Signal(usize),
    /// What a question came to.
    Probe {
        /// The agent.
        agent: usize,
        /// What it answered.
        answer: Answer,
    },
    /// What a check of the machine came to.
    Check(Check, Result<Facts, CheckFault>),
    /// What came of an action that was asked for.
    Outcome {
        /// Id of the action.
        id: String,
        /// What came of it.
        outcome: Outcome,
        /// One sentence.
        detail: String,
        /// Until when the service remedy only observes, in wall time.
        observing_until: Option<u64>,
    },
    /// An event was appended, or not.
    Appended {
        /// Whether it was.
        ok: bool,
    },
    /// A card was put or cleared, or not.
    Carded {
        /// Its subject.
        subject: String,
        /// Whether it was.
        ok: bool,
    },
    /// Whether effects are refused, and why.
    Halt(Option<String>),
    /// Maintenance lasts for so many milliseconds from now; 0 ends it.
    Maintenance(u64),
    /// Sweep now.
    Sweep,
}

/// Something that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Ask an agent for its state, and wait so many milliseconds.
    Probe {
        /// The agent.
        agent: usize,
        /// How long.
        patience: u64,
    },
    /// Check the machine.
    Check(Check),
    /// Ask the supervisor for all rows.
    List,
    /// Ask the service remedy for an action.
    Remedy(Ask),
    /// Ask the supervisor to kill and restart the service remedy.
    Restart(Ask),
    /// Append an event.
    Append {
        /// Idempotency id.
        id: String,
        /// Subject.
        subject: &'static str,
        /// JSON.
        payload: String,
    },
    /// Show a card.
    PutCard(Card),
    /// Clear a card.
    ClearCard(String),
}

/// An action that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Id; the same for the same action, whoever asks again.
    pub(crate) id: String,
    /// Remedy.
    pub(crate) remedy: String,
    /// Agent, or "fleet".
    pub(crate) target: String,
    /// Why, one line.
    pub(crate) cause: String,
}

/// A card for the owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Card {
    /// Subject, `pulse.<target>`.
    pub(crate) subject: String,
    /// Title.
    pub(crate) title: String,
    /// Text.
    pub(crate) body: String,
    /// 1 to 5.
    pub(crate) urgency: u8,
}

/// What is wanted of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Desired {
    /// To run.
    Running,
    /// To stay stopped.
    Stopped,
    /// To stay out.
    Quarantined,
}

/// What an agent's process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Process {
    /// The supervisor does not have it.
    NotLoaded,
    /// There is none.
    Idle,
    /// There is none, and it will be started.
    Throttled,
    /// It runs.
    Running,
    /// It was told to end.
    Draining,
}

/// What the supervisor says of an agent; times are wall times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) desired: Desired,
    pub(crate) reason: String,
    pub(crate) process: Process,
    pub(crate) pid: u32,
    pub(crate) started: Option<u64>,
    pub(crate) next_start: Option<u64>,
    pub(crate) last_exit: String,
    pub(crate) last_ended: Option<u64>,
    pub(crate) problem: String,
}

/// What an agent says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// Not yet ready.
    Starting,
    /// All is well.
    Serving,
    /// A part is missing.
    Degraded,
    /// It does not do its job.
    NotServing,
    /// It ends.
    Draining,
}

/// What a question to an agent came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// An answer.
    Said(Said, String),
    /// None in time; `late` when the wait itself took far longer than it should, so that it proves nothing.
    Silent {
        /// Whether this process did not get to run either.
        late: bool,
    },
    /// Nobody there.
    Away {
        /// Whether the socket exists.
        socket: bool,
        /// Whether a process holds the lease.
        lease: bool,
    },
    /// An answer that says nothing about it.
    Odd(String),
}

/// A check of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Check {
    /// Free space of the home's file system.
    Disk,
    /// The home and its folder of sockets.
    Home,
    /// Memory of the machine.
    Memory,
    /// Load of the machine.
    Cpu,
    /// Open files of this process.
    Files,
    /// Growth of log files.
    Logs,
    /// Age of the dead-man job's last run.
    DeadMan,
    /// Memory of each service.
    Usage,
}

impl Check {
    /// Every check.
    pub(crate) const ALL: [Self; 8] = [
        Self::Disk,
        Self::Home,
        Self::Memory,
        Self::Cpu,
        Self::Files,
        Self::Logs,
        Self::DeadMan,
        Self::Usage,
    ];

    /// Returns the name of its target.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Disk => "check.disk",
            Self::Home => "check.home",
            Self::Memory => "check.memory",
            Self::Cpu => "check.cpu",
            Self::Files => "check.files",
            Self::Logs => "check.logs",
            Self::DeadMan => "check.dead-man",
            Self::Usage => "check.usage",
        }
    }
}

/// Why a check says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CheckFault {
    /// This system cannot tell.
    NotSupported,
    /// It failed, panicked or hung.
    Failed(String),
}

/// What a check found.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "other systems cannot tell all of these"))]
pub(crate) enum Facts {
    /// Bytes.
    Disk {
        /// Free for this user.
        free: u64,
        /// In all.
        total: u64,
    },
    /// What is wrong, if anything.
    Home(Option<(Cause, String)>),
    /// Percent.
    Memory {
        /// Available, of all.
        available: f64,
        /// Time in which everything waited for memory, of the last ten seconds.
        stalled: f64,
    },
    /// Load of the last minute, for each processor.
    Cpu(f64),
    /// Files.
    Files {
        /// Open.
        open: u64,
        /// That may be.
        limit: u64,
    },
    /// Size of the logs of each agent in bytes.
    Logs(Vec<(usize, u64)>),
    /// Since the job last ended, in milliseconds; nothing when it never did.
    DeadMan(Option<u64>),
    /// Memory of each agent in bytes.
    Usage(Vec<(usize, u64)>),
}

/// What came of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// Done, and it helped.
    Healed,
    /// Done, and it did not help.
    NotHealed,
    /// There was nothing to do.
    NotNeeded,
    /// Not done: a limit, or observing.
    HeldBack,
    /// Tried, and it failed.
    Failed,
    /// Begun, and its end is not known.
    Unknown,
    /// Not ended.
    Running,
    /// Not done: effects are refused.
    Halted,
    /// Nobody there to ask; the same is asked again.
    Away,
    /// Refused for what it is; to ask again would not help.
    Refused,
}

impl Outcome {
    /// Returns the name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Healed => "healed",
            Self::NotHealed => "not healed",
            Self::NotNeeded => "not needed",
            Self::HeldBack => "held back",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Running => "running",
            Self::Halted => "halted",
            Self::Away => "remedy is away",
            Self::Refused => "refused",
        }
    }
}
