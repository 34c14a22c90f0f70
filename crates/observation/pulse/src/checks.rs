//! The checks of the machine: each on a thread of its own with a deadline, so that one that hangs or panics is unknown
//! and holds up nothing.
//!
//! What this system cannot tell is said to be so, and not guessed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mirror_kit::{last_run, spawn_thread};
use mirror_paths::Home;
use tokio::sync::oneshot;

use crate::pulse::{Cause, Check, CheckFault, Facts};

/// How long a check may take.
const LIMIT: Duration = Duration::from_secs(2);

/// What the checks look at.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) home: Home,
    /// Names of the agents, by their numbers.
    pub(crate) agents: Vec<String>,
    /// Process ids of the agents, as the supervisor says them.
    pub(crate) pids: Mutex<BTreeMap<usize, u32>>,
    /// Tells how long ago a job ran.
    pub(crate) clock: Arc<dyn mirror_clock::Clock>,
}

/// Makes checks.
#[derive(Debug, Clone)]
pub(crate) struct Checks {
    places: Arc<Places>,
    /// Which checks have a thread that has not come back.
    away: Arc<BTreeMap<Check, AtomicBool>>,
}

impl Checks {
    pub(crate) fn new(places: Arc<Places>) -> Self {
        let away = Check::ALL.into_iter().map(|check| (check, AtomicBool::new(false))).collect();
        Self { places, away: Arc::new(away) }
    }

    /// Makes one check.
    pub(crate) async fn make(&self, check: Check) -> Result<Facts, CheckFault> {
        let places = Arc::clone(&self.places);
        self.isolate(check, move || look(check, &places)).await
    }

    async fn isolate(
        &self,
        check: Check,
        look: impl FnOnce() -> Result<Facts, CheckFault> + Send + 'static,
    ) -> Result<Facts, CheckFault> {
        let failed = |why: String| Err(CheckFault::Failed(why));
        let away = |set: bool| self.away.get(&check).is_some_and(|flag| flag.swap(set, Ordering::AcqRel));
        // A thread that hangs is waited for and not multiplied.
        if away(true) {
            return failed("the check before it still hangs".to_owned());
        }
        let (done, result) = oneshot::channel();
        let flags = Arc::clone(&self.away);
        let thread = spawn_thread(check.name(), move || {
            let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(look));
            if let Some(flag) = flags.get(&check) {
                flag.store(false, Ordering::Release);
            }
            // Nobody waits any more when it took too long.
            let _ = done.send(found);
        });
        if let Err(e) = thread {
            away(false);
            return failed(format!("no thread could be started: {e}"));
        }
        match tokio::time::timeout(LIMIT, result).await {
            Ok(Ok(Ok(found))) => found,
            Ok(Ok(Err(_)) | Err(_)) => failed("the check panicked".to_owned()),
            Err(_) => failed(format!("the check took longer than {} s", LIMIT.as_secs())),
        }
    }
}

fn look(check: Check, places: &Places) -> Result<Facts, CheckFault> {
    match check {
        Check::Disk => disk(places.home.root()),
        Check::Home => Ok(Facts::Home(home(&places.home))),
        Check::Memory => memory(),
        Check::Cpu => load(),
        Check::Files => files(),
        Check::Logs => logs(places),
        Check::DeadMan => dead_man(places),
        Check::Usage => usage(places),
    }
}

fn failed(what: &str, e: &dyn std::error::Error) -> CheckFault {
    CheckFault::Failed(format!("{what}: {e}"))
}

/// Says of a file of the system's that cannot be read whether there is such a thing here at all.
#[cfg(target_os = "linux")]
fn missing(e: &std::io::Error) -> CheckFault {
    match e.kind() {
        std::io::ErrorKind::NotFound => CheckFault::NotSupported,
        _ => failed("what the system says cannot be read", e),
    }
}

fn disk(root: &Path) -> Result<Facts, CheckFault> {
    let stat = nix::sys::statvfs::statvfs(root).map_err(|e| failed("the disk cannot be asked", &e))?;
    // The fields are narrower on macOS.
    #[allow(clippy::useless_conversion, clippy::allow_attributes, reason = "the types differ by system")]
    let (free, total, unit) =
        (u64::from(stat.blocks_available()), u64::from(stat.blocks()), u64::from(stat.fragment_size()));
    Ok(Facts::Disk { free: free.saturating_mul(unit), total: total.saturating_mul(unit) })
}

/// Returns what is wrong with the home, if anything.
fn home(home: &Home) -> Option<(Cause, String)> {
    let problem = |dir: &Path| match fs::metadata(dir) {
        Err(e) => Some(format!("{dir:?} cannot be used: {e}")),
        Ok(meta) if !meta.is_dir() => Some(format!("{dir:?} is not a folder")),
        Ok(meta) if meta.uid() != nix::unistd::geteuid().as_raw() => {
            Some(format!("{dir:?} belongs to somebody else"))
        }
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => Some(format!("{dir:?} is open to others")),
        Ok(_) => nix::unistd::access(dir, nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK)
            .err()
            .map(|e| format!("{dir:?} cannot be written: {e}")),
    };
    let root = problem(home.root()).map(|why| (Cause::HomeUnusable, why));
    root.or_else(|| problem(&home.run()).map(|why| (Cause::RunDirGone, why)))
}

#[cfg(target_os = "linux")]
fn memory() -> Result<Facts, CheckFault> {
    let text = fs::read_to_string("/proc/meminfo").map_err(|e| missing(&e))?;
    let kib = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse::<f64>().ok()
    };
    let (Some(total), Some(available)) = (kib("MemTotal"), kib("MemAvailable")) else {
        return Err(CheckFault::Failed("/proc/meminfo does not say what is available".to_owned()));
    };
    // Kernels without pressure stall information still say how much is available.
    let pressure = fs::read_to_string("/proc/pressure/memory").unwrap_or_default();
    let full = pressure.lines().find(|l| l.starts_with("full "));
    let stalled = full.and_then(|l| l.split_whitespace().find_map(|w| w.strip_prefix("avg10=")));
    let stalled = stalled.and_then(|n| n.parse().ok()).unwrap_or(0.0);
    Ok(Facts::Memory { available: available * 100.0 / total.max(1.0), stalled })
}

#[cfg(not(target_os = "linux"))]
fn memory() -> Result<Facts, CheckFault> {
    Err(CheckFault::NotSupported)
}

#[cfg(target_os = "linux")]
fn load() -> Result<Facts, CheckFault> {
    let text = fs::read_to_string("/proc/loadavg").map_err(|e| missing(&e))?;
    let one = text.split_whitespace().next().and_then(|n| n.parse::<f64>().ok());
    let one = one.ok_or_else(|| CheckFault::Failed("/proc/loadavg has no number".to_owned()))?;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(Facts::Cpu(one / processors as f64))
}

#[cfg(not(target_os = "linux"))]
fn load() -> Result<Facts, CheckFault> {
    Err(CheckFault::NotSupported)
}

fn files() -> Result<Facts, CheckFault> {
    use nix::sys::resource::{Resource, getrlimit};
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| failed("the limit of files", &e))?;
    // Linux and macOS both list the open files of a process here.
    let open = fs::read_dir("/dev/fd").map_err(|e| failed("/dev/fd", &e))?.count() as u64;
    Ok(Facts::Files { open, limit })
}

fn logs(places: &Places) -> Result<Facts, CheckFault> {
    let entries = fs::read_dir(places.home.log()).map_err(|e| failed("the folder of logs", &e))?;
    let mut sizes: BTreeMap<usize, u64> = BTreeMap::new();
    for entry in entries.flatten().take(10_000) {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let of = places.agents.iter().position(|a| {
            name.strip_prefix(a.as_str())
                .is_some_and(|rest| rest.starts_with(".log") || rest.starts_with(".err"))
        });
        if let (Some(agent), Ok(meta)) = (of, entry.metadata()) {
            *sizes.entry(agent).or_default() += meta.len();
        }
    }
    Ok(Facts::Logs(sizes.into_iter().collect()))
}

fn dead_man(places: &Places) -> Result<Facts, CheckFault> {
    let last = last_run(&places.home, "dead-man");
    Ok(Facts::DeadMan(last.map(|last| places.clock.wall_ms().saturating_sub(last.ended_ms))))
}

#[cfg(target_os = "linux")]
fn usage(places: &Places) -> Result<Facts, CheckFault> {
    let pids = places.pids.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    let page = u64::try_from(page).unwrap_or(4096);
    // Resident pages without the shared ones: what a process alone holds, readable where its maps are not.
    let own = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        let mut numbers = text.split_whitespace().skip(1).map_while(|n| n.parse::<u64>().ok());
        let (resident, shared) = (numbers.next()?, numbers.next()?);
        Some(resident.saturating_sub(shared).saturating_mul(page))
    };
    Ok(Facts::Usage(pids.iter().filter_map(|(agent, pid)| Some((*agent, own(pid)?))).collect()))
}

#[cfg(not(target_os = "linux"))]
fn usage(_: &Places) -> Result<Facts, CheckFault> {
    Err(CheckFault::NotSupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> (tempfile::TempDir, Checks) {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        let places = Places {
            home,
            agents: vec!["bus".into(), "bus-two".into(), "job.dead-man".into()],
            pids: Mutex::new(BTreeMap::from([(0, std::process::id()), (1, u32::MAX)])),
            clock: Arc::new(mirror_clock::ManualClock::new(1_000_000)),
        };
        (temp, Checks::new(Arc::new(places)))
    }

    #[tokio::test]
    async fn every_check_says_something_that_makes_sense_here() {
        let (_temp, checks) = fixture();
        for check in Check::ALL {
            match (check, checks.make(check).await) {
                (Check::Disk, Ok(Facts::Disk { free, total })) => assert!(free <= total && total > 0),
                (Check::Home, Ok(Facts::Home(None))) => {}
                (Check::Memory, Ok(Facts::Memory { available, .. })) => {
                    assert!((0.0..=100.0).contains(&available));
                }
                (Check::Cpu, Ok(Facts::Cpu(load))) => assert!(load >= 0.0),
                (Check::Files, Ok(Facts::Files { open, limit })) => assert!(open > 0 && open <= limit),
                (Check::Logs, Ok(Facts::Logs(sizes))) => assert!(sizes.is_empty()),
                (Check::DeadMan, Ok(Facts::DeadMan(None))) => {}
                (Check::Usage, Ok(Facts::Usage(rows))) => {
                    assert!(matches!(rows[..], [(0, bytes)] if bytes > 0), "{rows:?}");
                }
                (_, Err(CheckFault::NotSupported)) if !cfg!(target_os = "linux") => {}
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_check_that_panics_says_so_and_the_next_is_made() {
        let (_temp, checks) = fixture();
        let result = checks.isolate(Check::Disk, || panic!("on purpose")).await;
        assert_eq!(result, Err(CheckFault::Failed("the check panicked".into())));
        assert!(checks.make(Check::Disk).await.is_ok());
    }

    #[tokio::test]
    async fn a_check_that_hangs_is_given_up_and_not_multiplied() {
        let (_temp, checks) = fixture();
        let (free, held) = std::sync::mpsc::channel::<()>();
        let hang = checks.isolate(Check::Home, move || {
            let _ = held.recv();
            Err(CheckFault::NotSupported)
        });
        let Err(CheckFault::Failed(why)) = hang.await else { panic!("it hangs") };
        assert!(why.contains("longer than 2 s"), "{why}");
        let Err(CheckFault::Failed(why)) = checks.make(Check::Home).await else { panic!("it hangs") };
        assert!(why.contains("still hangs"), "{why}");
        assert!(checks.make(Check::Logs).await.is_ok(), "it is alone in that");
        drop(free);
        mirror_testkit::wait("the thread comes back", async || {
            checks.make(Check::Home).await.map(drop).map_err(|e| format!("{e:?}"))
        })
        .await;
    }

    #[tokio::test]
    async fn folders_that_are_gone_or_open_are_told_apart() {
        let (_temp, checks) = fixture();
        let home = checks.places.home.clone();
        let found = async || match checks.make(Check::Home).await {
            Ok(Facts::Home(found)) => found.map(|(cause, _)| cause),
            other => panic!("{other:?}"),
        };
        fs::set_permissions(home.run(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(found().await, Some(Cause::RunDirGone));
        fs::remove_dir_all(home.run()).unwrap();
        assert_eq!(found().await, Some(Cause::RunDirGone));
        fs::remove_dir_all(home.root()).unwrap();
        assert_eq!(found().await, Some(Cause::HomeUnusable));
    }

    #[tokio::test]
    async fn logs_are_counted_for_their_own_agent() {
        let (_temp, checks) = fixture();
        let log = checks.places.home.log();
        for (name, bytes) in [
            ("bus.log", 10),
            ("bus.log.1", 5),
            ("bus.err", 1),
            ("bus-two.log", 100),
            ("job.dead-man.log", 7),
            ("x", 9),
        ] {
            fs::write(log.join(name), vec![b'x'; bytes]).unwrap();
        }
        let Ok(Facts::Logs(sizes)) = checks.make(Check::Logs).await else { panic!("no sizes") };
        assert_eq!(sizes, [(0, 16), (1, 100), (2, 7)]);
    }
}
