//! The files that are read: `desired/<service>` and the leases.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;

use mirror_kit::{Decl, holder};
use mirror_paths::{Home, PathError};

use crate::error::Error;
use crate::registry::{Record, Wish, join};

/// Most bytes of a desired state that are read.
const WISH_LIMIT: u64 = 64 << 10;

/// The services of a home.
#[derive(Debug)]
pub(crate) struct Store {
    home: Home,
    services: Vec<(&'static Decl, PathBuf)>,
}

impl Store {
    /// Returns the services of a catalogue, in order of tier and name.
    pub(crate) fn at(home: &Home, catalogue: &[&'static Decl]) -> Result<Self, PathError> {
        let mut services = catalogue
            .iter()
            .map(|decl| Ok((*decl, home.socket(decl.name)?)))
            .collect::<Result<Vec<_>, PathError>>()?;
        services.sort_by_key(|(decl, _)| (decl.tier, decl.name));
        Ok(Self { home: home.clone(), services })
    }

    /// Returns how every service stands.
    pub(crate) fn list(&self) -> Result<Vec<Record>, Error> {
        self.services.iter().map(|service| self.record(service)).collect()
    }

    /// Returns how one service stands.
    pub(crate) fn get(&self, name: &str) -> Result<Record, Error> {
        let service = self.services.iter().find(|(decl, _)| decl.name == name);
        self.record(service.ok_or_else(|| Error::unknown(name))?)
    }

    fn record(&self, (decl, socket): &(&'static Decl, PathBuf)) -> Result<Record, Error> {
        let holder = holder(&self.home, decl.name)
            .map_err(|e| Error::Storage { path: self.home.lease(decl.name), source: Arc::new(e) })?;
        let standing = join(decl.keep, self.wish(decl.name), holder);
        Ok(Record { decl, socket: socket.clone(), standing })
    }

    /// Returns what is wanted of a service; a file that cannot be read stops no service when it starts, so it says
    /// nothing here either.
    fn wish(&self, name: &str) -> Wish {
        let path = self.home.desired().join(name);
        let mut text = String::new();
        match File::open(path).and_then(|file| file.take(WISH_LIMIT).read_to_string(&mut text)) {
            Ok(_) => Wish::parse(&text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Wish::running(""),
            Err(e) => Wish::running(format!("its desired state cannot be read ({e}) and counts as running")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Actual, Desired};
    use mirror_errors::Classify as _;
    use mirror_kit::{LeaseInfo, State};

    const LOW: Decl = Decl { name: "low", summary: "Is low.", tier: 0, ..Decl::DEFAULT };
    const APPLE: Decl = Decl { name: "apple", summary: "Is a fruit.", tier: 1, ..Decl::DEFAULT };
    const PEAR: Decl = Decl { name: "pear", summary: "Is another.", tier: 1, ..Decl::DEFAULT };

    fn fixture() -> (tempfile::TempDir, Home, Store) {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        let store = Store::at(&home, &[&PEAR, &LOW, &APPLE]).unwrap();
        (temp, home, store)
    }

    /// Holds a lease as a serving process does, until the file is dropped.
    fn lease(home: &Home, service: &str, text: &str) -> File {
        let path = home.lease(service);
        std::fs::write(&path, text).unwrap();
        let file = File::open(path).unwrap();
        file.try_lock().unwrap();
        file
    }

    fn info(state: State) -> String {
        let info = LeaseInfo {
            pid: 41,
            started_ms: 5,
            build: "b1".into(),
            state: state.name().into(),
            detail: "a part is away".into(),
        };
        format!("{:<1024}", serde_json::to_string(&info).unwrap())
    }

    #[test]
    fn services_are_in_order_of_tier_and_name() {
        let (_temp, home, store) = fixture();
        let list = store.list().unwrap();
        assert_eq!(list.iter().map(|r| r.decl.name).collect::<Vec<_>>(), ["low", "apple", "pear"]);
        assert_eq!(list[1].socket, home.socket("apple").unwrap());
    }

    #[test]
    fn a_locked_lease_is_a_running_service_and_a_free_one_is_not() {
        let (_temp, home, store) = fixture();
        assert_eq!(store.get("apple").unwrap().standing.actual, Actual::Down);

        let held = lease(&home, "apple", &info(State::Degraded));
        let standing = store.get("apple").unwrap().standing;
        let up = Actual::Up { state: State::Degraded, pid: 41, started_ms: 5, build: "b1".into() };
        assert_eq!((standing.actual, standing.detail.as_str()), (up, "a part is away"));
        assert_eq!(store.get("pear").unwrap().standing.actual, Actual::Down);

        drop(held);
        assert_eq!(
            store.get("apple").unwrap().standing.actual,
            Actual::Down,
            "the text of a free lease is old"
        );
    }

    #[test]
    fn a_locked_lease_without_a_readable_text_is_a_starting_service() {
        let (_temp, home, store) = fixture();
        for text in ["", "{\"pid\":", "[]"] {
            let _held = lease(&home, "apple", text);
            let Actual::Up { state, pid, .. } = store.get("apple").unwrap().standing.actual else {
                panic!("{text:?} is down")
            };
            assert_eq!((state, pid), (State::Starting, 0));
        }
    }

    #[test]
    fn the_desired_state_is_read_each_time() {
        let (_temp, home, store) = fixture();
        let path = home.desired().join("apple");
        #[track_caller]
        fn check(store: &Store, desired: Desired, detail: &str) {
            let standing = store.get("apple").unwrap().standing;
            assert_eq!(standing.desired, desired);
            assert!(standing.detail.contains(detail), "{}", standing.detail);
        }
        check(&store, Desired::Running, "no process holds its lease");
        std::fs::write(&path, "stopped for a backup\n").unwrap();
        check(&store, Desired::Stopped, "for a backup");
        std::fs::write(&path, "quarantined failed 5 times\n").unwrap();
        check(&store, Desired::Quarantined, "failed 5 times");
        std::fs::write(&path, b"stopped \xff").unwrap();
        check(&store, Desired::Running, "cannot be read");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        check(&store, Desired::Running, "cannot be read");
    }

    #[test]
    fn a_huge_desired_state_is_read_in_part() {
        let (_temp, home, store) = fixture();
        std::fs::write(home.desired().join("apple"), format!("stopped {}", "x".repeat(1 << 20))).unwrap();
        let standing = store.get("apple").unwrap().standing;
        assert_eq!(standing.desired, Desired::Stopped);
        assert!(standing.detail.len() < WISH_LIMIT as usize);
    }

    #[test]
    fn a_lease_that_cannot_be_read_is_an_error_and_not_a_guess() {
        let (_temp, home, store) = fixture();
        // A link to itself: opening it fails, for root too.
        std::os::unix::fs::symlink(home.lease("apple"), home.lease("apple")).unwrap();
        let error = store.list().unwrap_err();
        assert_eq!(error.reason(), "REGISTRY_STORAGE");
        assert!(error.to_string().contains("apple.lease"), "{error}");
        assert_eq!(store.get("pear").unwrap().standing.actual, Actual::Down);
    }

    #[test]
    fn an_unknown_name_is_refused_and_repeated_in_part() {
        let (_temp, _home, store) = fixture();
        for name in ["", "plum", "Apple", "apple/../low", &"x".repeat(10_000)] {
            let error = store.get(name).unwrap_err();
            assert_eq!(error.reason(), "REGISTRY_SERVICE_UNKNOWN");
            assert!(error.to_string().len() < 200, "{error}");
        }
    }

    #[test]
    fn a_home_with_a_path_too_long_for_sockets_is_refused() {
        let home = Home::at(format!("/{}", "x".repeat(100))).unwrap();
        assert!(Store::at(&home, &[&LOW]).is_err());
    }
}
