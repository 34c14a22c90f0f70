//! What the owner wants of each agent: files in `desired/`, which outlive every process.
//!
//! The first word of a file is the wish, the rest of the line the reason for it. A missing file means that the agent
//! should run.

use std::io;

use mirror_paths::{Home, write_atomic};

/// What the owner wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// It should run.
    Running,
    /// It should stay stopped.
    Stopped,
    /// It was stopped because it kept failing.
    Quarantined,
}

impl Wish {
    /// Returns the name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Quarantined => "quarantined",
        }
    }
}

/// Returns what is wanted of an agent, and why.
pub fn read(home: &Home, agent: &str) -> (Wish, String) {
    let text = std::fs::read_to_string(home.desired().join(agent)).unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let (word, reason) = line.split_once(' ').unwrap_or((line, ""));
    let wish = match word {
        "stopped" => Wish::Stopped,
        "quarantined" => Wish::Quarantined,
        _ => Wish::Running,
    };
    (wish, reason.trim().to_owned())
}

/// Writes what is wanted of an agent, durably; line breaks in the reason become spaces.
///
/// Whoever wants it to run again after it was stopped or quarantined begins a new count of its failed starts.
pub fn write(home: &Home, agent: &str, wish: Wish, reason: &str) -> io::Result<()> {
    if wish == Wish::Running && read(home, agent).0 != Wish::Running {
        crate::starts::forget(home, agent);
    }
    let reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = format!("{} {reason}", wish.name());
    write_atomic(&home.desired().join(agent), format!("{}\n", line.trim_end()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_outlives_its_writer_and_a_missing_one_means_running() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        let check = |text: &str, wish: Wish, reason: &str| {
            std::fs::write(home.desired().join("bus"), text).unwrap();
            assert_eq!(read(&home, "bus"), (wish, reason.to_owned()), "{text:?}");
        };
        assert_eq!(read(&home, "bus").0, Wish::Running);
        check("stopped by the owner\n", Wish::Stopped, "by the owner");
        check("quarantined", Wish::Quarantined, "");
        check("running", Wish::Running, "");
        check("", Wish::Running, "");
        write(&home, "bus", Wish::Quarantined, "failed\nfive times").unwrap();
        assert_eq!(read(&home, "bus"), (Wish::Quarantined, "failed five times".to_owned()));
        write(&home, "bus", Wish::Running, "").unwrap();
        assert_eq!(read(&home, "bus"), (Wish::Running, String::new()));
    }
}
