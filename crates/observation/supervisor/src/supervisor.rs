//! What changed between two views of the agents, and which requests make sense; pure.

use std::sync::Arc;

use crate::backend::{AgentRow, Rows};
use crate::error::Error;

/// Longest reason of a stop, in bytes.
pub(crate) const REASON_LIMIT: usize = 300;

/// Returns the agents that a reader who was told `told` has not seen as they are, in order of name.
pub(crate) fn changed(told: &Rows, now: &Rows) -> Vec<AgentRow> {
    if Arc::ptr_eq(told, now) {
        return Vec::new();
    }
    let is_told = |row: &AgentRow| told.iter().any(|t| t == row);
    now.iter().filter(|row| !is_told(row)).cloned().collect()
}

/// Checks the reason of a stop.
pub(crate) fn check_reason(reason: &str, quarantine: bool) -> Result<(), Error> {
    let reason = reason.trim();
    if quarantine && reason.is_empty() {
        return Err(Error::Reason("a quarantine needs one, so that the owner knows what to mend"));
    }
    if reason.len() > REASON_LIMIT {
        return Err(Error::Reason("it has at most 300 bytes"));
    }
    if reason.chars().any(char::is_control) {
        return Err(Error::Reason("it is one line without control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_errors::Classify as _;
    use proptest::prelude::*;

    fn rows(pids: &[u32]) -> Rows {
        let row = |(n, pid): (usize, &u32)| AgentRow { pid: *pid, ..AgentRow::new(&format!("a{n}"), false) };
        Arc::new(pids.iter().enumerate().map(row).collect())
    }

    #[test]
    fn only_what_is_not_told_yet_is_told() {
        let (old, new) = (rows(&[1, 2, 3]), rows(&[1, 5, 3, 4]));
        let names = |rows: Vec<AgentRow>| rows.into_iter().map(|r| r.name).collect::<Vec<_>>();
        assert_eq!(names(changed(&old, &new)), ["a1", "a3"]);
        assert_eq!(names(changed(&Rows::default(), &old)), ["a0", "a1", "a2"]);
        assert!(changed(&old, &old).is_empty() && changed(&old, &rows(&[1, 2, 3])).is_empty());
    }

    proptest! {
        /// A reader that skips any views and applies what it is told knows the newest state of each agent.
        #[test]
        fn a_reader_that_lags_ends_with_the_newest(
            views in proptest::collection::vec((proptest::collection::vec(0..4_u32, 5), any::<bool>()), 1..20),
        ) {
            let mut told = Rows::default();
            let mut known = std::collections::BTreeMap::new();
            let last = views.len() - 1;
            for (n, (pids, reads)) in views.iter().enumerate() {
                let now = rows(pids);
                if *reads || n == last {
                    known.extend(changed(&told, &now).into_iter().map(|r| (r.name.clone(), r.pid)));
                    told = now;
                }
            }
            prop_assert_eq!(known.into_values().collect::<Vec<_>>(), views[last].0.clone());
        }
    }

    #[test]
    fn a_reason_is_one_short_line() {
        #[track_caller]
        fn check(reason: &str, quarantine: bool, fine: bool) {
            let checked = check_reason(reason, quarantine);
            assert_eq!(checked.is_ok(), fine, "{reason:?}: {checked:?}");
            if let Err(e) = checked {
                assert_eq!(e.reason(), "SUPERVISOR_REASON_INVALID");
            }
        }
        check("", false, true);
        check("for a backup", true, true);
        check("  ", true, false);
        check(&"x".repeat(300), false, true);
        check(&"x".repeat(301), false, false);
        check("a\nb", false, false);
    }
}
