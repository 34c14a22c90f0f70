//! The table `notify` of the configuration.

use std::time::Duration;

use mirror_kit::StartError;
use serde::{Deserialize, Serialize};

use crate::ntfy::Place;
use crate::quiet::Quiet;

/// What the owner may set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// Most cards that are shown at once, 1 to 1,000; 200 unless set. Each takes at most 2 KiB of memory.
    pub(crate) cards: usize,
    /// How long a put waits for a bus that is away, in milliseconds, 0 to 25,000; 10,000 unless set.
    pub(crate) hold_ms: u64,
    /// Quiet hours in local time, such as "22:00-07:00"; none unless set. Only urgent cards are sent in them.
    pub(crate) quiet: String,
    /// Whether cards are shown on the desktop; not unless set.
    pub(crate) desktop: bool,
    /// The ntfy server; none unless set.
    pub(crate) ntfy: NtfyTable,
}

/// The table `notify.ntfy`. The token is no part of it: it lies in `keys/ntfy.token`.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NtfyTable {
    /// Address of the server, `https://host`; `http://` only to this machine. Empty: no ntfy.
    pub(crate) url: String,
    /// Topic, 1 to 64 of `[A-Za-z0-9_-]`. Whoever knows it may read the cards of a server without accounts.
    pub(crate) topic: String,
}

impl std::fmt::Debug for NtfyTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The topic is a password where the server has no accounts.
        f.debug_struct("NtfyTable").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { cards: 200, hold_ms: 10_000, quiet: String::new(), desktop: false, ntfy: NtfyTable::default() }
    }
}

/// The configuration, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) cards: usize,
    pub(crate) hold: Duration,
    pub(crate) quiet: Option<Quiet>,
    pub(crate) desktop: bool,
    pub(crate) ntfy: Option<Place>,
}

impl Config {
    /// Returns the configuration when every value is within its bounds; the error names the key and the remedy.
    pub(crate) fn checked(self) -> Result<Settings, StartError> {
        let refuse = |why: &str| {
            StartError::NotServing(format!("notify.{why}; mend mirror.toml and restart the service"))
        };
        if !(1..=1000).contains(&self.cards) {
            return Err(refuse("cards must be 1 to 1000"));
        }
        // The contract gives a put 30 seconds, and the answer must still come back in them.
        if self.hold_ms > 25_000 {
            return Err(refuse("hold_ms must be 0 to 25000"));
        }
        let quiet = match self.quiet.as_str() {
            "" => None,
            text => Some(Quiet::parse(text).ok_or_else(|| {
                refuse("quiet must be two different times of the day, such as \"22:00-07:00\"")
            })?),
        };
        let ntfy = match (self.ntfy.url.as_str(), self.ntfy.topic.as_str()) {
            ("", "") => None,
            ("", _) => return Err(refuse("ntfy.url is missing")),
            (_, "") => return Err(refuse("ntfy.topic is missing")),
            (url, topic) => Some(Place::parse(url, topic).map_err(refuse)?),
        };
        let hold = Duration::from_millis(self.hold_ms);
        Ok(Settings { cards: self.cards, hold, quiet, desktop: self.desktop, ntfy })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(config: Config, key: &str) {
        let why = config.checked().unwrap_err().to_string();
        assert!(why.contains(key) && why.contains("mend mirror.toml"), "{why}");
    }

    fn ntfy(url: &str, topic: &str) -> Config {
        let table = NtfyTable { url: url.to_owned(), topic: topic.to_owned() };
        Config { ntfy: table, ..Config::default() }
    }

    #[test]
    fn a_value_out_of_bounds_is_refused_by_name() {
        assert!(Config::default().checked().is_ok());
        check(Config { cards: 0, ..Config::default() }, "notify.cards");
        check(Config { cards: 1001, ..Config::default() }, "notify.cards");
        check(Config { hold_ms: 25_001, ..Config::default() }, "notify.hold_ms");
        check(Config { quiet: "all night".into(), ..Config::default() }, "notify.quiet");
    }

    #[test]
    fn a_server_has_an_address_and_a_topic_and_secrets_stay_out_of_clear_text() {
        for url in [
            "https://ntfy.sh",
            "https://ntfy.sh/",
            "http://127.0.0.1:8080",
            "http://localhost",
            "http://[::1]",
        ] {
            assert!(ntfy(url, "my_Topic-1").checked().unwrap().ntfy.is_some(), "{url}");
        }
        check(ntfy("", "t"), "notify.ntfy.url");
        check(ntfy("https://ntfy.sh", ""), "notify.ntfy.topic");
        let secret = "s3cret";
        for url in [
            "ntfy.sh",
            "http://ntfy.sh",
            "ftp://ntfy.sh",
            "https://ntfy.sh/sub",
            "https://u:s3cret@ntfy.sh",
            "https://ntfy.sh?auth=s3cret",
        ] {
            check(ntfy(url, "t"), "notify.ntfy.url");
            assert!(!ntfy(url, "t").checked().unwrap_err().to_string().contains(secret));
        }
        for topic in ["a b", "a/b", "../x", &"x".repeat(65)] {
            check(ntfy("https://ntfy.sh", topic), "notify.ntfy.topic");
        }
        assert!(!format!("{:?}", ntfy("https://ntfy.sh", secret)).contains(secret));
    }
}
