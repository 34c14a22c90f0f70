//! The halt state, as every service sees it.
//!
//! `halt/state` is a signed envelope with an epoch. Missing, unreadable, badly signed or older than one seen before
//! means halted: whoever removes the file stops the system instead of freeing it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mirror_clock::Clock;
use mirror_paths::Home;
use mirror_seal::{Envelope, PublicKey};
use serde::{Deserialize, Serialize};

/// Type of the envelope in `halt/state`.
pub const HALT_TYPE: &str = "application/vnd.mirrordna.halt.v1+json";

/// How long a reading of the file may be used.
const FRESH: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HaltState {
    pub(crate) epoch: u64,
    pub(crate) engaged: bool,
}

/// A cached view of the halt state.
#[derive(Debug)]
pub struct Halt {
    path: PathBuf,
    key: Option<PublicKey>,
    clock: Arc<dyn Clock>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    at: Option<Duration>,
    stamp: Option<(u64, i64, i64)>,
    halted: Option<String>,
    epoch: u64,
}

impl Halt {
    /// Returns the view of a home whose state must be signed by `key`.
    pub fn new(home: &Home, key: Option<PublicKey>, clock: Arc<dyn Clock>) -> Self {
        Self { path: home.halt().join("state"), key, clock, seen: Mutex::default() }
    }

    /// Returns why effects are refused now, or nothing when they are not.
    pub fn reason(&self) -> Option<String> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.boot();
        if seen.at.is_some_and(|at| now.saturating_sub(at) < FRESH) {
            return seen.halted.clone();
        }
        let stamp = fs::metadata(&self.path).ok().map(|m| (m.ino(), m.mtime(), m.mtime_nsec()));
        if stamp.is_none() || stamp != seen.stamp {
            let (halted, epoch) = self.read(seen.epoch);
            seen.halted = halted;
            seen.epoch = epoch;
            seen.stamp = stamp;
        }
        seen.at = Some(now);
        seen.halted.clone()
    }

    fn read(&self, known: u64) -> (Option<String>, u64) {
        let state = fs::read(&self.path)
            .map_err(|e| format!("halt/state cannot be read: {e}"))
            .and_then(|bytes| {
                let key = self.key.ok_or_else(|| "this home has no node key; run: mirror init".to_owned())?;
                Envelope::from_json(&bytes)
                    .and_then(|envelope| envelope.open(key, HALT_TYPE))
                    .map_err(|e| format!("halt/state is not trusted: {e}"))
            })
            .and_then(|payload| {
                serde_json::from_slice::<HaltState>(&payload)
                    .map_err(|e| format!("halt/state is malformed: {e}"))
            });
        match state {
            Err(why) => (Some(why), known),
            Ok(state) if state.epoch < known => {
                (Some(format!("halt/state is of epoch {}, and epoch {known} was seen", state.epoch)), known)
            }
            Ok(state) if state.engaged => (Some("the owner engaged the halt".to_owned()), state.epoch),
            Ok(state) => (None, state.epoch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_clock::ManualClock;
    use mirror_seal::NodeKey;

    struct Fixture {
        _temp: tempfile::TempDir,
        home: Home,
        key: NodeKey,
        clock: ManualClock,
        halt: Halt,
    }

    fn fixture() -> Fixture {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        let key = NodeKey::generate().unwrap();
        let clock = ManualClock::new(0);
        let halt = Halt::new(&home, Some(key.public()), Arc::new(clock.clone()));
        Fixture { _temp: temp, home, key, clock, halt }
    }

    impl Fixture {
        fn put(&self, key: &NodeKey, epoch: u64, engaged: bool) {
            let payload = serde_json::to_vec(&HaltState { epoch, engaged }).unwrap();
            let text = Envelope::sign(key, HALT_TYPE, &payload).to_json();
            mirror_paths::write_atomic(&self.home.halt().join("state"), text.as_bytes()).unwrap();
            self.clock.advance(FRESH);
        }

        #[track_caller]
        fn check(&self, part: Option<&str>) {
            let reason = self.halt.reason();
            match part {
                None => assert_eq!(reason, None),
                Some(part) => assert!(reason.as_deref().is_some_and(|r| r.contains(part)), "{reason:?}"),
            }
        }
    }

    #[test]
    fn only_a_signed_release_of_the_newest_epoch_frees() {
        let f = fixture();
        f.check(Some("cannot be read"));
        f.put(&f.key, 0, false);
        f.check(None);
        f.put(&f.key, 1, true);
        f.check(Some("engaged"));
        f.put(&f.key, 0, false);
        f.check(Some("epoch 1 was seen"));
        f.put(&f.key, 2, false);
        f.check(None);
        f.put(&NodeKey::generate().unwrap(), 3, false);
        f.check(Some("not trusted"));
        fs::remove_file(f.home.halt().join("state")).unwrap();
        f.clock.advance(FRESH);
        f.check(Some("cannot be read"));
    }
}
