//! The halt state, as every service sees it.
//!
//! `halt/state` is an envelope with an epoch. Engaging needs no proof, so anything in it but a trusted release means
//! halted: a file that is missing, unreadable, badly signed, or older than `halt/seen`, the highest epoch that was
//! seen. Whoever removes or replaces the files stops the system instead of freeing it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mirror_clock::Clock;
use mirror_paths::Home;
use mirror_seal::{Envelope, PublicKey};
use serde::{Deserialize, Serialize};

/// Type of the envelope in `halt/state`.
pub const HALT_TYPE: &str = "application/vnd.mirrordna.halt.v1+json";

/// Type of the envelope in `halt/keys`, which the device key signs.
pub const HALT_KEYS_TYPE: &str = "application/vnd.mirrordna.halt-keys.v1+json";

/// How long a reading of the files may be used.
const FRESH: Duration = Duration::from_millis(100);

/// What `halt/state` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaltStatement {
    /// Grows with each engagement and each release.
    pub epoch: u64,
    /// Whether effects are refused.
    pub engaged: bool,
    /// Why, one line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Since when, in milliseconds since 1970; 0 where that is not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What `halt/keys` says: whose signatures are believed besides that of the device key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseKeys {
    /// The keys.
    pub keys: Vec<ReleaseKey>,
}

/// A key that may sign the halt state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseKey {
    /// `recovery` or `device` may release; `keeper` may only engage.
    pub kind: String,
    /// Public half, 64 hex digits.
    pub public_key: String,
}

impl ReleaseKeys {
    /// Reads the keys of an envelope such as that in `halt/keys`; none when the device key did not sign it.
    pub fn open(envelope: &Envelope, device: PublicKey) -> Option<Self> {
        serde_json::from_slice(&envelope.open(device, HALT_KEYS_TYPE).ok()?).ok()
    }

    /// Returns whether a key has signed the statement that may make it. The device key frees a home once, when it is
    /// made; after that only a key that the machine does not hold does.
    pub fn trust(&self, device: PublicKey, envelope: &Envelope, claim: &HaltStatement) -> bool {
        let by = |key| envelope.open(key, HALT_TYPE).is_ok();
        if (claim.engaged || claim.epoch == 0) && by(device) {
            return true;
        }
        self.keys.iter().any(|k| {
            let may = claim.engaged || k.may_release();
            may && PublicKey::from_hex(&k.public_key).is_ok_and(by)
        })
    }

    /// Returns what an envelope of a type holds, if a key that may release has signed it: the owner's word.
    pub fn owner_word(&self, envelope: &Envelope, payload_type: &str) -> Option<Vec<u8>> {
        let mut keys = self.keys.iter().filter(|k| k.may_release());
        keys.find_map(|k| envelope.open(PublicKey::from_hex(&k.public_key).ok()?, payload_type).ok())
    }
}

impl ReleaseKey {
    /// Returns whether the key may release the halt.
    pub fn may_release(&self) -> bool {
        matches!(self.kind.as_str(), "recovery" | "device")
    }
}

/// The halt state as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaltView {
    /// Why effects are refused; nothing when they are not.
    pub halted: Option<String>,
    /// The statement, where there is one that can be read, trusted or not.
    pub statement: Option<HaltStatement>,
    /// Whether the statement is signed by a key that may say this.
    pub trusted: bool,
    /// Highest epoch that was seen.
    pub seen: u64,
    /// What `halt/seen` says, where it can be read.
    pub floor: Option<u64>,
    /// What `halt/state` holds, where it is an envelope.
    pub envelope: Option<Envelope>,
}

/// A cached view of the halt state.
#[derive(Debug)]
pub struct Halt {
    dir: PathBuf,
    key: Option<PublicKey>,
    clock: Arc<dyn Clock>,
    cached: Mutex<Cached>,
}

type Stamp = [Option<(u64, i64, i64)>; 3];

#[derive(Debug, Default)]
struct Cached {
    at: Option<Duration>,
    stamp: Option<Stamp>,
    view: Option<HaltView>,
    /// Highest trusted epoch that this process has seen.
    epoch: u64,
}

impl Halt {
    /// Returns the view of a home whose device key is `key`.
    pub fn new(home: &Home, key: Option<PublicKey>, clock: Arc<dyn Clock>) -> Self {
        Self { dir: home.halt(), key, clock, cached: Mutex::default() }
    }

    /// Returns why effects are refused now, or nothing when they are not; at most 100 ms old.
    pub fn reason(&self) -> Option<String> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.boot();
        if cached.at.is_none_or(|at| now.saturating_sub(at) >= FRESH) {
            self.refresh(&mut cached);
            cached.at = Some(now);
        }
        cached.view.as_ref().and_then(|view| view.halted.clone())
    }

    /// Returns the state as it is now.
    pub fn view(&self) -> HaltView {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.stamp = None;
        self.refresh(&mut cached)
    }

    fn refresh(&self, cached: &mut Cached) -> HaltView {
        let stamp = ["state", "seen", "keys"].map(|name| stamp(&self.dir.join(name)));
        match &cached.view {
            // A file that is missing is looked for each time.
            Some(view) if cached.stamp == Some(stamp) && stamp[0].is_some() => view.clone(),
            _ => {
                let view = self.read(cached.epoch);
                cached.epoch = cached.epoch.max(view.seen);
                if let Some(statement) = view.statement.as_ref().filter(|_| view.trusted) {
                    cached.epoch = cached.epoch.max(statement.epoch);
                }
                cached.stamp = Some(stamp);
                cached.view = Some(view.clone());
                view
            }
        }
    }

    fn read(&self, known: u64) -> HaltView {
        let floor = fs::read_to_string(self.dir.join("seen"))
            .map_err(|e| format!("halt/seen cannot be read: {e}"))
            .and_then(|text| text.trim().parse::<u64>().map_err(|e| format!("halt/seen is malformed: {e}")));
        let seen = known.max(floor.as_ref().copied().unwrap_or(0));
        let refused = |why: String| HaltView {
            halted: Some(why),
            statement: None,
            trusted: false,
            seen,
            floor: floor.as_ref().ok().copied(),
            envelope: None,
        };
        let Some(key) = self.key else {
            return refused("this home has no device key; run: mirror init".to_owned());
        };
        let envelope = match fs::read(self.dir.join("state")) {
            Err(e) => return refused(format!("halt/state cannot be read: {e}")),
            Ok(bytes) => match Envelope::from_json(&bytes) {
                Err(e) => return refused(format!("halt/state is not trusted: {e}")),
                Ok(envelope) => envelope,
            },
        };
        let claim = envelope.peek().and_then(|bytes| serde_json::from_slice::<HaltStatement>(&bytes).ok());
        let trusted = claim.as_ref().is_some_and(|claim| self.keys().trust(key, &envelope, claim));
        let halted = match (&claim, &floor) {
            (None, _) => Some("halt/state is malformed".to_owned()),
            (Some(claim), _) if claim.engaged && claim.reason.is_empty() => {
                Some("the halt is engaged".to_owned())
            }
            (Some(claim), _) if claim.engaged => Some(format!("the halt is engaged: {}", claim.reason)),
            _ if !trusted => {
                Some("halt/state is not trusted: no key that may release has signed it".to_owned())
            }
            (_, Err(why)) => Some(why.clone()),
            (Some(claim), Ok(_)) if claim.epoch < seen => {
                Some(format!("halt/state is of epoch {}, and epoch {seen} was seen", claim.epoch))
            }
            _ => None,
        };
        HaltView { halted, statement: claim, trusted, seen, floor: floor.ok(), envelope: Some(envelope) }
    }

    /// Returns the keys of `halt/keys`; none when the file is missing or the device key did not sign it.
    pub fn keys(&self) -> ReleaseKeys {
        self.keys_envelope().zip(self.key).and_then(|(e, key)| ReleaseKeys::open(&e, key)).unwrap_or_default()
    }

    /// Returns what `halt/keys` holds, where it is an envelope.
    pub fn keys_envelope(&self) -> Option<Envelope> {
        Envelope::from_json(&fs::read(self.dir.join("keys")).ok()?).ok()
    }

    /// Returns whether a key exists that can release the halt.
    pub fn is_releasable(&self) -> bool {
        self.keys().keys.iter().any(ReleaseKey::may_release)
    }
}

fn stamp(path: &Path) -> Option<(u64, i64, i64)> {
    fs::metadata(path).ok().map(|m| (m.ino(), m.mtime(), m.mtime_nsec()))
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
            let statement = HaltStatement { epoch, engaged, reason: String::new(), since_ms: 0 };
            let payload = serde_json::to_vec(&statement).unwrap();
            let text = Envelope::sign(key, HALT_TYPE, &payload).to_json();
            self.file("state", text.as_bytes());
        }

        fn file(&self, name: &str, bytes: &[u8]) {
            mirror_paths::write_atomic(&self.home.halt().join(name), bytes).unwrap();
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
    fn only_a_trusted_release_of_the_newest_epoch_frees() {
        let f = fixture();
        let (recovery, keeper) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        f.check(Some("cannot be read"));
        f.put(&f.key, 0, false);
        f.check(Some("halt/seen cannot be read"));
        f.file("seen", b"0\n");
        f.check(None);
        let first = fs::read(f.home.halt().join("state")).unwrap();

        f.put(&f.key, 1, true);
        f.check(Some("engaged"));
        f.file("state", &first);
        f.check(Some("epoch 1 was seen"));
        f.put(&f.key, 2, false);
        f.check(Some("no key that may release"));
        assert!(!f.halt.is_releasable());

        let key = |kind: &str, key: &NodeKey| ReleaseKey {
            kind: kind.to_owned(),
            public_key: key.public().to_hex(),
        };
        let keys = ReleaseKeys { keys: vec![key("recovery", &recovery), key("keeper", &keeper)] };
        let keys = serde_json::to_vec(&keys).unwrap();
        f.file("keys", Envelope::sign(&keeper, HALT_KEYS_TYPE, &keys).to_json().as_bytes());
        f.put(&recovery, 2, false);
        f.check(Some("no key that may release"));
        f.file("keys", Envelope::sign(&f.key, HALT_KEYS_TYPE, &keys).to_json().as_bytes());
        f.check(None);
        assert!(f.halt.is_releasable());
        let word = |key: &NodeKey| f.halt.keys().owner_word(&Envelope::sign(key, "x", b"word"), "x");
        assert_eq!(word(&recovery).as_deref(), Some(&b"word"[..]));
        assert_eq!((word(&keeper), word(&f.key)), (None, None), "a machine's key is not the owner");
        let released = fs::read(f.home.halt().join("state")).unwrap();

        f.put(&keeper, 3, false);
        f.check(Some("no key that may release"));
        f.put(&keeper, 3, true);
        f.check(Some("engaged"));
        f.file("state", &released);
        f.check(Some("epoch 3 was seen"));
        f.put(&recovery, 4, false);
        f.check(None);
        fs::remove_file(f.home.halt().join("state")).unwrap();
        f.clock.advance(FRESH);
        f.check(Some("cannot be read"));
    }

    #[test]
    fn an_engagement_needs_no_proof_and_cannot_raise_the_epoch() {
        let f = fixture();
        f.put(&f.key, 0, false);
        f.file("seen", b"0\n");
        f.check(None);
        let initial = fs::read(f.home.halt().join("state")).unwrap();
        f.put(&NodeKey::generate().unwrap(), u64::MAX, true);
        f.check(Some("engaged"));
        assert!(!f.halt.view().trusted);
        f.file("state", b"stop");
        f.check(Some("not trusted"));
        f.file("state", &initial);
        f.check(None);
    }

    #[test]
    fn a_floor_that_is_missing_or_higher_halts() {
        let f = fixture();
        f.put(&f.key, 0, false);
        f.file("seen", b"7\n");
        f.check(Some("epoch 7 was seen"));
        // A later process starts from the file and not from memory.
        let later = Halt::new(&f.home, Some(f.key.public()), Arc::new(f.clock.clone()));
        fs::remove_file(f.home.halt().join("seen")).unwrap();
        assert!(later.reason().is_some_and(|why| why.contains("halt/seen cannot be read")));
    }
}
