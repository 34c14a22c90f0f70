//! What a test agent is told to do: one line in `<home>/drill/<agent>`.

use std::fs;
use std::io;
use std::path::PathBuf;

use mirror_paths::{Home, private_dir};

/// A way to misbehave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Ends at once with this code; done once.
    Exit(i32),
    /// Ends with this code at each start.
    ExitAtStart(i32),
    /// Ends with this code after so many milliseconds, at each start.
    ExitAfter(i32, u64),
    /// Ends by SIGABRT; done once.
    Abort,
    /// Never answers again, nor ends on SIGTERM; done once.
    Hang,
    /// Takes so many milliseconds to start.
    SlowStart(u64),
    /// Says that it does not serve.
    NotServing,
    /// Cannot start until the order is gone, and says so: a wrong configuration.
    BadConfig,
    /// Takes so many MiB of memory; done once.
    Memory(u64),
    /// Writes so many MiB a second to its error output.
    Flood(u64),
    /// Opens files until there are no more; done once.
    Files,
}

impl Order {
    fn text(&self) -> String {
        match self {
            Self::Exit(code) => format!("exit {code}"),
            Self::ExitAtStart(code) => format!("exit-at-start {code}"),
            Self::ExitAfter(code, ms) => format!("exit-after {code} {ms}"),
            Self::Abort => "abort".to_owned(),
            Self::Hang => "hang".to_owned(),
            Self::SlowStart(ms) => format!("slow-start {ms}"),
            Self::NotServing => "not-serving".to_owned(),
            Self::BadConfig => "bad-config".to_owned(),
            Self::Memory(mib) => format!("memory {mib}"),
            Self::Flood(mib) => format!("flood {mib}"),
            Self::Files => "files".to_owned(),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let word = words.next()?;
        let mut number = || words.next().and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
        let code = |n: u64| i32::try_from(n).unwrap_or(1);
        Some(match word {
            "exit" => Self::Exit(code(number())),
            "exit-at-start" => Self::ExitAtStart(code(number())),
            "exit-after" => Self::ExitAfter(code(number()), number()),
            "abort" => Self::Abort,
            "hang" => Self::Hang,
            "slow-start" => Self::SlowStart(number()),
            "not-serving" => Self::NotServing,
            "bad-config" => Self::BadConfig,
            "memory" => Self::Memory(number()),
            "flood" => Self::Flood(number()),
            "files" => Self::Files,
            _ => return None,
        })
    }

    /// Returns whether a successor must not do it again.
    pub(crate) fn is_once(&self) -> bool {
        matches!(self, Self::Exit(_) | Self::Abort | Self::Hang | Self::Memory(_) | Self::Files)
    }
}

fn path(home: &Home, agent: &str) -> PathBuf {
    home.root().join("drill").join(agent)
}

/// Gives an agent an order; it sees it within a fifth of a second, or when it starts.
pub fn give(home: &Home, agent: &str, order: &Order) -> io::Result<()> {
    private_dir(&home.root().join("drill")).map_err(io::Error::other)?;
    let temp = home.root().join("drill").join(format!(".{agent}"));
    fs::write(&temp, order.text() + "\n")?;
    fs::rename(temp, path(home, agent))
}

/// Takes an agent's order back.
pub fn clear(home: &Home, agent: &str) {
    // Where there is none, there is nothing to take back.
    let _ = fs::remove_file(path(home, agent));
}

/// Returns an agent's order.
pub(crate) fn read(home: &Home, agent: &str) -> Option<Order> {
    Order::parse(&fs::read_to_string(path(home, agent)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_it_was_given() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        for order in
            [Order::Exit(0), Order::ExitAfter(3, 700), Order::SlowStart(40_000), Order::Files, Order::Hang]
        {
            give(&home, "drill-a", &order).unwrap();
            assert_eq!(read(&home, "drill-a"), Some(order));
        }
        clear(&home, "drill-a");
        assert_eq!(read(&home, "drill-a"), None);
    }
}
