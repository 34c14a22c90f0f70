//! What the owner wants of each service: files in `desired/`, which outlive every process.

use mirror_paths::Home;

/// What the owner wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// It should run.
    Running,
    /// It should stay stopped.
    Stopped,
    /// It was stopped because it kept failing.
    Quarantined,
}

impl Wish {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Quarantined => "quarantined",
        }
    }
}

/// Returns what is wanted of a service; a missing file means that it should run.
pub(crate) fn wish(home: &Home, service: &str) -> Wish {
    let text = std::fs::read_to_string(home.desired().join(service)).unwrap_or_default();
    match text.split_whitespace().next() {
        Some("stopped") => Wish::Stopped,
        Some("quarantined") => Wish::Quarantined,
        _ => Wish::Running,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_means_that_a_service_should_run() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        let check = |text: &str, expected: Wish| {
            std::fs::write(home.desired().join("bus"), text).unwrap();
            assert_eq!(wish(&home, "bus"), expected, "{text:?}");
        };
        assert_eq!(wish(&home, "bus"), Wish::Running);
        check("stopped by the owner\n", Wish::Stopped);
        check("quarantined", Wish::Quarantined);
        check("running", Wish::Running);
        check("", Wish::Running);
    }
}
