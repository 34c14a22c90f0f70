//! The closed catalogue: which remedies exist, on what, and in which words they are described.
//!
//! It refuses targets that are no agents of this machine, and the service's own process.
//! Invariant: `docs/REMEDIES.md` says of each remedy what is said here; a test holds both together.

use std::time::Duration;

use mirror_kit::{Decl, JobDecl, Keep};
use serde::{Deserialize, Serialize};

/// Target of the remedies of the whole.
pub(crate) const FLEET: &str = "fleet";

/// This service, which never restarts itself.
const SELF: &str = "remedy";

/// Who would start again what was quarantined.
const SUPERVISOR: &str = "supervisor";

/// Shortest time between two starts of an agent; launchd's floor.
pub(crate) const FLOOR: Duration = Duration::from_secs(10);

/// How long a service takes to start unless its declaration says otherwise.
const STARTUP_SECS: u32 = Decl::DEFAULT.startup_secs;

/// A remedy of the catalogue, in order of id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Remedy {
    ClearStaleSocket,
    Quarantine,
    RecreateRunDir,
    Reload,
    Render,
    Restart,
    RestartKill,
    RotateLogs,
    Start,
}

/// How a remedy is described; each but the id is one sentence, and an empty `undo` means that there is nothing to undo.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words {
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) precondition: &'static str,
    pub(crate) verify: &'static str,
    pub(crate) undo: &'static str,
}

impl Remedy {
    /// Every remedy, in order of id.
    pub(crate) const ALL: [Self; 9] = [
        Self::ClearStaleSocket,
        Self::Quarantine,
        Self::RecreateRunDir,
        Self::Reload,
        Self::Render,
        Self::Restart,
        Self::RestartKill,
        Self::RotateLogs,
        Self::Start,
    ];

    /// Returns the remedy with an id.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|remedy| remedy.id() == id)
    }

    /// Returns the id.
    pub(crate) fn id(self) -> &'static str {
        self.words().id
    }

    /// Returns the description.
    pub(crate) fn words(self) -> Words {
        match self {
            Self::ClearStaleSocket => Words {
                id: "clear-stale-socket",
                summary: "Removes the socket that a dead service left behind, and starts the service.",
                precondition: "The service should run, no process of it lives or holds its lease, and its socket is there and refuses.",
                verify: "The service has a process that says that it serves.",
                undo: "",
            },
            Self::Quarantine => Words {
                id: "quarantine",
                summary: "Stops a service that keeps failing, and keeps it down with the reason.",
                precondition: "The service should run and keeps failing: by its failed starts, by the supervisor's throttle, or by two remedies that did not help.",
                verify: "The service is quarantined and has no process.",
                undo: "Run `mirror start <service>` when the cause is mended.",
            },
            Self::RecreateRunDir => Words {
                id: "recreate-run-dir",
                summary: "Makes missing folders of the home again, private, and restarts the services whose socket is gone.",
                precondition: "A folder of the home that holds nothing but derived or passing things is missing, or a running service has no socket.",
                verify: "The folders are there, and each service that was restarted serves and has its socket.",
                undo: "",
            },
            Self::Reload => Words {
                id: "reload",
                summary: "Has the supervisor load an agent that it does not have.",
                precondition: "The supervisor does not have the agent loaded.",
                verify: "The agent is loaded as rendered, and serves where it should run.",
                undo: "",
            },
            Self::Render => Words {
                id: "render",
                summary: "Writes an agent's property list or unit again from the catalogue.",
                precondition: "The supervisor says that the property list or unit is not as rendered.",
                verify: "The agent is loaded as rendered, and serves where it should run.",
                undo: "Own changes belong into `mirror.toml`; what was edited by hand is not kept.",
            },
            Self::Restart => Words {
                id: "restart",
                summary: "Ends a service's process, which may drain, and starts it again.",
                precondition: "The service has a process past its start time that does not serve, does not answer, has lost its socket, or holds far more memory than declared.",
                verify: "The service has a new process that says that it serves, and the cause is gone.",
                undo: "",
            },
            Self::RestartKill => Words {
                id: "restart-kill",
                summary: "Kills a service's process that hangs, and starts it again.",
                precondition: "The service has a process past its start time that twice did not answer within two seconds.",
                verify: "The service has a new process that says that it serves, and the cause is gone.",
                undo: "",
            },
            Self::RotateLogs => Words {
                id: "rotate-logs",
                summary: "Sets log files above 10 MiB aside, three generations of each.",
                precondition: "A log file that no process rotates itself is above 10 MiB, or there are more than three generations of one.",
                verify: "No such file is left.",
                undo: "The generations lie beside the log as `.1` to `.3`.",
            },
            Self::Start => Words {
                id: "start",
                summary: "Starts a service that should run and has no process.",
                precondition: "The service is loaded and should run, has no process, and no start of it is due.",
                verify: "The service has a process that says that it serves.",
                undo: "Run `mirror stop <service>`.",
            },
        }
    }

    /// Returns the longest time from the action to the check; the target's start-up time counts in.
    pub(crate) fn limit(self, target: Option<&Decl>) -> Duration {
        match self {
            Self::Quarantine | Self::RotateLogs => Duration::from_secs(5),
            _ => Duration::from_secs(target.map_or(STARTUP_SECS, |d| d.startup_secs).into()) + FLOOR,
        }
    }

    /// Returns why a target is none of this remedy's, or nothing when it is one.
    pub(crate) fn refuses(
        self,
        target: &str,
        services: &[&'static Decl],
        jobs: &[&'static JobDecl],
    ) -> Option<&'static str> {
        let service = services.iter().find(|d| d.name == target);
        let is_agent = service.is_some() || jobs.iter().any(|j| j.agent() == target);
        match self {
            Self::RecreateRunDir => (target != FLEET).then_some("must be \"fleet\" for this remedy"),
            Self::RotateLogs if target == FLEET => None,
            _ if !is_agent => Some("must be an agent of the catalogue; see mirror services"),
            Self::RotateLogs => None,
            _ if target == SELF => Some("must not be this service itself; ask the supervisor to restart it"),
            Self::Reload | Self::Render => None,
            _ if service.is_none_or(|d| d.keep != Keep::Always) => {
                Some("must be a service that is kept running; a job or one on demand is idle by right")
            }
            Self::Quarantine if target == SUPERVISOR => {
                Some("must not be the supervisor, since nothing would start it again")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_kit::When;

    const fn decl(name: &'static str, keep: Keep) -> Decl {
        Decl { name, keep, ..Decl::DEFAULT }
    }
    const BUS: Decl = decl("bus", Keep::Always);
    const OWN: Decl = decl("remedy", Keep::Always);
    const SUPER: Decl = decl("supervisor", Keep::Always);
    const LAZY: Decl = decl("lazy", Keep::OnDemand);
    const JOB: JobDecl =
        JobDecl { name: "verify-log", summary: "Verifies.", when: When::Every { secs: 300 }, limit_secs: 60 };

    #[track_caller]
    fn check(remedy: Remedy, allowed: &[&str]) {
        for target in
            ["bus", "fleet", "job.verify-log", "lazy", "nobody", "remedy", "supervisor", "../bus", ""]
        {
            let refused = remedy.refuses(target, &[&BUS, &OWN, &SUPER, &LAZY], &[&JOB]);
            assert_eq!(refused.is_none(), allowed.contains(&target), "{remedy:?} {target:?}: {refused:?}");
        }
    }

    #[test]
    fn each_remedy_has_its_targets_and_none_acts_on_its_own_process() {
        for remedy in [Remedy::Start, Remedy::Restart, Remedy::RestartKill, Remedy::ClearStaleSocket] {
            check(remedy, &["bus", "supervisor"]);
        }
        check(Remedy::Quarantine, &["bus"]);
        check(Remedy::Reload, &["bus", "job.verify-log", "lazy", "supervisor"]);
        check(Remedy::Render, &["bus", "job.verify-log", "lazy", "supervisor"]);
        check(Remedy::RotateLogs, &["bus", "fleet", "job.verify-log", "lazy", "remedy", "supervisor"]);
        check(Remedy::RecreateRunDir, &["fleet"]);
    }

    #[test]
    fn ids_are_in_order_and_read_back() {
        let ids: Vec<&str> = Remedy::ALL.iter().map(|r| r.id()).collect();
        assert!(ids.is_sorted(), "{ids:?}");
        for remedy in Remedy::ALL {
            assert_eq!(Remedy::parse(remedy.id()), Some(remedy));
            assert_eq!(serde_json::to_string(&remedy).unwrap(), format!("{:?}", remedy.id()));
        }
        assert_eq!(Remedy::parse("Restart"), None);
    }

    #[test]
    fn the_page_says_of_each_remedy_what_the_catalogue_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/REMEDIES.md");
        let page = std::fs::read_to_string(path).unwrap();
        let mut sections = page.split("\n## ").skip(1);
        for remedy in Remedy::ALL {
            let words = remedy.words();
            let section = sections.next().unwrap_or_default();
            assert!(section.starts_with(&format!("{}\n", words.id)), "{} is not next: {section}", words.id);
            for sentence in [words.summary, words.precondition, words.verify, words.undo] {
                assert!(section.contains(sentence), "{}: {sentence:?} is not in docs/REMEDIES.md", words.id);
                assert!(sentence.is_empty() || sentence.ends_with('.'), "{sentence:?}");
            }
        }
    }

    #[test]
    fn the_limit_follows_the_declared_start_up_time() {
        let slow = Decl { startup_secs: 90, ..BUS };
        assert_eq!(Remedy::Restart.limit(Some(&slow)), Duration::from_secs(100));
        assert_eq!(Remedy::Restart.limit(None), Duration::from_secs(70));
    }
}
