//! The closed list of causes, and for each the remedies that may be asked for, in their order.

use serde::{Deserialize, Serialize};

/// Why something fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cause {
    /// The process ended by a failure.
    Crashed,
    /// It crashed again and again.
    CrashLoop,
    /// The process ended as if it were done.
    Exited,
    /// The process runs and does not answer.
    Hung,
    /// The process is not ready within its time.
    SlowStart,
    /// The supervisor does not have it.
    NotLoaded,
    /// Its property list or unit was changed.
    PlistDrift,
    /// Its configuration is wrong.
    Config,
    /// It says that it cannot serve.
    NotServing,
    /// Its socket is gone while the process holds the lease.
    SocketMissing,
    /// Its socket is there while nobody listens on it.
    StaleSocket,
    /// The process runs and holds no lease.
    Unreachable,
    /// Another process has taken its place.
    TwoInstances,
    /// It uses far more memory than it declares.
    Memory,
    /// It writes logs without measure.
    LogFlood,
    /// It answers well and badly in turns.
    Flapping,
    /// It was taken out.
    Quarantined,
    /// A job failed.
    JobFailed,
    /// The supervisor does not answer.
    SupervisorAway,
    /// The disk is full, or nearly.
    DiskFull,
    /// The folder of sockets is gone.
    RunDirGone,
    /// The home cannot be used.
    HomeUnusable,
    /// The machine is short of memory.
    MemoryPressure,
    /// Pulse runs out of open files.
    FilesExhausted,
    /// The job that watches pulse has not run.
    DeadManSilent,
    /// Many failed at once, and nothing that they share explains it.
    Common,
}

impl Cause {
    /// Every cause.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 26] = [
        Self::Crashed,
        Self::CrashLoop,
        Self::Exited,
        Self::Hung,
        Self::SlowStart,
        Self::NotLoaded,
        Self::PlistDrift,
        Self::Config,
        Self::NotServing,
        Self::SocketMissing,
        Self::StaleSocket,
        Self::Unreachable,
        Self::TwoInstances,
        Self::Memory,
        Self::LogFlood,
        Self::Flapping,
        Self::Quarantined,
        Self::JobFailed,
        Self::SupervisorAway,
        Self::DiskFull,
        Self::RunDirGone,
        Self::HomeUnusable,
        Self::MemoryPressure,
        Self::FilesExhausted,
        Self::DeadManSilent,
        Self::Common,
    ];

    /// Returns the id, the sentence, and the remedies: the first is asked for first, the next when it did not help.
    fn row(self) -> (&'static str, &'static str, &'static [&'static str]) {
        match self {
            Self::Crashed => ("crashed", "Its process ended by a failure.", &["restart", "start"]),
            Self::CrashLoop => ("crash-loop", "It crashed five times within ten minutes.", &["quarantine"]),
            Self::Exited => {
                ("exited", "Its process ended as if it were done.", &["start", "clear-stale-socket"])
            }
            Self::Hung => ("hung", "Its process runs and does not answer.", &["restart-kill"]),
            Self::SlowStart => {
                ("slow-start", "It is not ready within its declared time.", &["restart", "restart-kill"])
            }
            Self::NotLoaded => ("not-loaded", "The supervisor does not have it.", &["reload"]),
            Self::PlistDrift => ("plist-drift", "Its property list or unit was changed.", &["render"]),
            Self::Config => ("config", "Its configuration is wrong, and a restart would not help.", &[]),
            Self::NotServing => {
                ("not-serving", "It says that it cannot serve until a person has acted.", &[])
            }
            Self::SocketMissing => ("socket-missing", "Its socket is gone while it runs.", &["restart"]),
            Self::StaleSocket => (
                "stale-socket",
                "Its socket is there, it runs, and nobody listens.",
                &["restart", "restart-kill"],
            ),
            Self::Unreachable => {
                ("unreachable", "Its process runs and never took its place.", &["restart-kill"])
            }
            Self::TwoInstances => {
                ("two-instances", "Another process, which the fleet did not start, serves in its place.", &[])
            }
            Self::Memory => ("memory", "It uses more than four times the memory it declares.", &["restart"]),
            Self::LogFlood => ("log-flood", "It writes more than 50 MB of logs a minute.", &["rotate-logs"]),
            Self::Flapping => ("flapping", "It answers well and badly in turns.", &[]),
            Self::Quarantined => ("quarantined", "It was taken out because it kept failing.", &[]),
            Self::JobFailed => ("job-failed", "Its last run failed.", &[]),
            Self::SupervisorAway => ("supervisor-away", "The supervisor does not answer.", &[]),
            Self::DiskFull => ("disk-full", "The disk is full, or nearly.", &["rotate-logs"]),
            Self::RunDirGone => {
                ("run-dir-gone", "The folder of sockets is gone or open to others.", &["recreate-run-dir"])
            }
            Self::HomeUnusable => {
                ("home-unusable", "The home is gone, open to others or cannot be written.", &[])
            }
            Self::MemoryPressure => ("memory-pressure", "The machine is short of memory.", &[]),
            Self::FilesExhausted => {
                ("files-exhausted", "Nearly all files that pulse may open are open.", &[])
            }
            Self::DeadManSilent => {
                ("dead-man-silent", "The job that watches pulse has not run.", &["reload"])
            }
            Self::Common => ("common", "Many failed at once, and nothing that they share explains it.", &[]),
        }
    }

    /// Returns the id.
    pub(crate) fn id(self) -> &'static str {
        self.row().0
    }

    /// Returns what it means, one sentence.
    pub(crate) fn sentence(self) -> &'static str {
        self.row().1
    }

    /// Returns the remedy for the attempt after so many that did not help, in turns; nothing where a person must act.
    pub(crate) fn remedy(self, failed: usize) -> Option<&'static str> {
        let ladder = self.row().2;
        ladder.get(failed.checked_rem(ladder.len())?).copied()
    }

    /// Returns whether a restart is what helps.
    pub(crate) fn wants_restart(self) -> bool {
        self.row().2.iter().any(|r| matches!(*r, "restart" | "restart-kill" | "start"))
    }

    /// Returns all its remedies.
    #[cfg(test)]
    pub(crate) fn remedies(self) -> &'static [&'static str] {
        self.row().2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the service remedy takes from pulse.
    const REMEDIES: [&str; 9] = [
        "start",
        "restart",
        "restart-kill",
        "reload",
        "render",
        "quarantine",
        "rotate-logs",
        "recreate-run-dir",
        "clear-stale-socket",
    ];

    #[test]
    fn every_cause_is_told_in_the_handbook_with_its_remedies() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/PULSE.md");
        let text = std::fs::read_to_string(path).unwrap();
        for cause in Cause::ALL {
            let row = text.lines().find(|l| l.starts_with(&format!("| `{}` |", cause.id())));
            let row = row.unwrap_or_else(|| panic!("docs/PULSE.md has no row for {}", cause.id()));
            assert!(row.contains(cause.sentence()), "{row} lacks {:?}", cause.sentence());
            let expected: Vec<String> = cause.remedies().iter().map(|r| format!("`{r}`")).collect();
            let expected = if expected.is_empty() { "none".to_owned() } else { expected.join(", then ") };
            assert!(row.ends_with(&format!("| {expected} |")), "{row} lacks {expected}");
        }
        for remedy in REMEDIES {
            assert!(Cause::ALL.iter().any(|c| c.remedies().contains(&remedy)), "nobody asks for {remedy}");
        }
    }

    #[test]
    fn a_cause_asks_only_for_what_the_catalogue_of_remedies_has() {
        for cause in Cause::ALL {
            assert!(cause.remedies().iter().all(|r| REMEDIES.contains(r)), "{cause:?}");
            assert_eq!(serde_json::to_string(&cause).unwrap(), format!("{:?}", cause.id()));
        }
    }

    #[test]
    fn remedies_that_did_not_help_give_way_to_each_other_in_turns() {
        assert_eq!(Cause::Exited.remedy(0), Some("start"));
        assert_eq!(Cause::Exited.remedy(1), Some("clear-stale-socket"));
        assert_eq!(Cause::Exited.remedy(2), Some("start"));
        assert_eq!(Cause::Config.remedy(0), None);
    }
}
