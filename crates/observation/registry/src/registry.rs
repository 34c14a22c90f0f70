//! What is known of a service, joined from what the owner wants and from who holds its lease.

use std::path::PathBuf;

use mirror_kit::{Decl, Holder, Keep, State};

/// What the owner, or the supervisor for repeated failures, wants of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Desired {
    /// It should run, or start on demand.
    Running,
    /// It should stay stopped.
    Stopped,
    /// It was stopped because it kept failing.
    Quarantined,
}

/// A desired state and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    /// What is wanted.
    pub(crate) desired: Desired,
    /// Why, in one line; may be empty.
    pub(crate) reason: String,
}

impl Wish {
    /// Returns what holds where nothing else is said.
    pub(crate) fn running(reason: impl Into<String>) -> Self {
        Self { desired: Desired::Running, reason: reason.into() }
    }

    /// Reads a file of `desired/`: the first word is the state, the rest the reason.
    ///
    /// What cannot be understood counts as running, as it does for the service itself when it starts.
    pub(crate) fn parse(text: &str) -> Self {
        let mut words = text.split_whitespace();
        let desired = match words.next() {
            Some("running") | None => Desired::Running,
            Some("stopped") => Desired::Stopped,
            Some("quarantined") => Desired::Quarantined,
            Some(_) => {
                return Self::running(
                    "its desired state is not running, stopped or quarantined; it counts as running",
                );
            }
        };
        Self { desired, reason: words.collect::<Vec<_>>().join(" ") }
    }
}

/// What a service does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Actual {
    /// No process holds its lease.
    Down,
    /// A process holds its lease.
    Up {
        /// What it does.
        state: State,
        /// Process id; 0 before the process has described itself.
        pid: u32,
        /// When it started, in milliseconds since 1970; 0 as above.
        started_ms: u64,
        /// Its build; empty as above.
        build: String,
    },
}

/// The part of a service's record that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// What is wanted.
    pub(crate) desired: Desired,
    /// What is so.
    pub(crate) actual: Actual,
    /// One sentence on it; empty when the service serves.
    pub(crate) detail: String,
}

/// A service of the catalogue.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// Its declaration.
    pub(crate) decl: &'static Decl,
    /// Its socket.
    pub(crate) socket: PathBuf,
    /// How it stands.
    pub(crate) standing: Standing,
}

/// Joins what is wanted of a service with who holds its lease.
pub(crate) fn join(keep: Keep, wish: Wish, holder: Holder) -> Standing {
    let desired = wish.desired;
    let (actual, detail) = match holder {
        Holder::Nobody => (Actual::Down, why_down(keep, wish)),
        Holder::Unknown => {
            let actual = Actual::Up { state: State::Starting, pid: 0, started_ms: 0, build: String::new() };
            (actual, "its process has not described itself yet".to_owned())
        }
        Holder::Process(info) => {
            let (state, detail) = match State::parse(&info.state) {
                Some(State::Serving) => (State::Serving, String::new()),
                Some(state) => (state, info.detail),
                // A newer build may know states that this one does not: nothing is promised in their name.
                None => (State::NotServing, format!("its process reports an unknown state {:?}", info.state)),
            };
            (Actual::Up { state, pid: info.pid, started_ms: info.started_ms, build: info.build }, detail)
        }
    };
    Standing { desired, actual, detail }
}

fn why_down(keep: Keep, wish: Wish) -> String {
    if !wish.reason.is_empty() {
        return wish.reason;
    }
    let why = match (wish.desired, keep) {
        (Desired::Stopped, _) => "it is to stay stopped",
        (Desired::Quarantined, _) => "it kept failing and was stopped",
        (Desired::Running, Keep::Always) => "no process holds its lease",
        (Desired::Running, Keep::OnDemand) => "it starts when somebody connects",
        (Desired::Running, Keep::Calendar) => "it runs at its times of the day",
    };
    why.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_kit::LeaseInfo;
    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

    fn info(state: &str, detail: &str) -> LeaseInfo {
        LeaseInfo {
            pid: 7,
            started_ms: 1_500,
            build: "b1".into(),
            state: state.into(),
            detail: detail.into(),
        }
    }

    fn up(state: State) -> Actual {
        Actual::Up { state, pid: 7, started_ms: 1_500, build: "b1".into() }
    }

    #[test]
    fn the_first_word_is_the_state_and_the_rest_the_reason() {
        #[track_caller]
        fn check(text: &str, desired: Desired, reason: &str) {
            assert_eq!(Wish::parse(text), Wish { desired, reason: reason.into() }, "{text:?}");
        }
        check("", Desired::Running, "");
        check("\n", Desired::Running, "");
        check("running", Desired::Running, "");
        check("stopped", Desired::Stopped, "");
        check("stopped by the owner\n", Desired::Stopped, "by the owner");
        check(
            "  quarantined\tfailed 5 times\nin a minute\n",
            Desired::Quarantined,
            "failed 5 times in a minute",
        );
    }

    #[test]
    fn a_word_that_nobody_knows_counts_as_running_and_says_so() {
        for text in ["Stopped", "stoppedx", "halt now", "\u{feff}stopped"] {
            let wish = Wish::parse(text);
            assert_eq!(wish.desired, Desired::Running, "{text:?}");
            assert!(wish.reason.contains("counts as running"), "{}", wish.reason);
        }
    }

    #[test]
    fn a_service_that_is_down_says_why() {
        #[track_caller]
        fn check(keep: Keep, text: &str, desired: Desired, detail: &str) {
            let expected = Standing { desired, actual: Actual::Down, detail: detail.into() };
            assert_eq!(join(keep, Wish::parse(text), Holder::Nobody), expected);
        }
        check(Keep::Always, "", Desired::Running, "no process holds its lease");
        check(Keep::OnDemand, "", Desired::Running, "it starts when somebody connects");
        check(Keep::Calendar, "running", Desired::Running, "it runs at its times of the day");
        check(Keep::Always, "stopped", Desired::Stopped, "it is to stay stopped");
        check(Keep::Always, "stopped for a backup", Desired::Stopped, "for a backup");
        check(Keep::OnDemand, "quarantined", Desired::Quarantined, "it kept failing and was stopped");
    }

    #[test]
    fn a_process_is_what_it_says_it_is() {
        #[track_caller]
        fn check(name: &str, state: State, detail: &str) {
            let said = if state == State::Serving { "not shown" } else { detail };
            let standing = join(Keep::Always, Wish::parse("stopped"), Holder::Process(info(name, said)));
            assert_eq!(
                standing,
                Standing { desired: Desired::Stopped, actual: up(state), detail: detail.into() }
            );
        }
        check("starting", State::Starting, "replaying");
        check("serving", State::Serving, "");
        check("degraded", State::Degraded, "half of it");
        check("not serving", State::NotServing, "the key is gone");
        check("draining", State::Draining, "finishing calls");
    }

    #[test]
    fn a_state_that_nobody_knows_is_not_serving() {
        let standing = join(Keep::Always, Wish::running(""), Holder::Process(info("dreaming", "x")));
        assert_eq!(standing.actual, up(State::NotServing));
        assert!(standing.detail.contains("dreaming"), "{}", standing.detail);
    }

    #[test]
    fn a_process_that_has_not_described_itself_is_starting() {
        let standing = join(Keep::Always, Wish::running(""), Holder::Unknown);
        let expected = Actual::Up { state: State::Starting, pid: 0, started_ms: 0, build: String::new() };
        assert_eq!(standing.actual, expected);
        assert!(!standing.detail.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_read_as_the_kit_reads_it(text in "(running|stopped|quarantined|[a-z ]{0,9})[ \n\t]?.{0,40}") {
            let wish = Wish::parse(&text);
            let down = matches!(text.split_whitespace().next(), Some("stopped" | "quarantined"));
            prop_assert_eq!(wish.desired != Desired::Running, down);
            prop_assert!(!wish.reason.contains('\n'));
        }
    }
}
