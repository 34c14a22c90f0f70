//! launchd, driven through `launchctl`.
//!
//! It refuses to believe `launchctl print` further than a pid: the text is no interface. An answer that it does not
//! know is an error, and never "not loaded", because a second copy would be the price.
//! Invariant: a unit is unloaded only to change its definition or to remove it.

mod print;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mirror_clock::Clock;

use crate::manager::{Definition, Manager, ManagerError, Put, Shown};
use crate::manager::{Staged, remove_files, same_on_disk};
use crate::tool::{Answer, Tool};

/// Exit codes of `launchctl`, as they were seen.
mod code {
    /// No such process.
    pub(super) const NO_PROCESS: i32 = 3;
    /// Input/output error: still draining, already loaded, or a bad file.
    pub(super) const IO: i32 = 5;
    /// It exists already.
    pub(super) const EXISTS: i32 = 17;
    /// Operation now in progress: a bootout goes on behind its back.
    pub(super) const IN_PROGRESS: i32 = 36;
    /// Operation already in progress.
    pub(super) const ALREADY: i32 = 37;
    /// No such domain.
    pub(super) const NO_DOMAIN: i32 = 112;
    /// No such service.
    pub(super) const NO_SERVICE: i32 = 113;
    /// The service is disabled.
    pub(super) const DISABLED: i32 = 119;
    /// The domain does not support the action, as without a session.
    pub(super) const NO_ACTION: i32 = 125;
}

/// Codes that may be over in a moment.
const BUSY: [i32; 4] = [code::IO, code::EXISTS, code::IN_PROGRESS, code::ALREADY];

/// Pauses before a busy launchd is asked again.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// Longest wait for an unloaded unit to go: its `ExitTimeOut` of 15 s, and launchd's own 4 s after SIGKILL.
const GONE_LIMIT: Duration = Duration::from_secs(25);
const GONE_STEP: Duration = Duration::from_millis(250);

/// launchd, for agents of this user.
#[derive(Debug)]
pub struct Launchd {
    tool: Arc<dyn Tool>,
    clock: Arc<dyn Clock>,
    folder: PathBuf,
    uid: u32,
    domain: Mutex<Option<String>>,
}

impl Launchd {
    /// Returns launchd with the definitions in `folder`, which is `~/Library/LaunchAgents`.
    pub fn new(tool: Arc<dyn Tool>, clock: Arc<dyn Clock>, folder: PathBuf) -> Self {
        let uid = nix::unistd::geteuid().as_raw();
        Self { tool, clock, folder, uid, domain: Mutex::new(None) }
    }

    /// Returns the domain that takes agents: that of the desktop session, else that of the user.
    ///
    /// The choice is made once. A domain that answered and then refuses is an error: to change over would run a second
    /// copy of each agent.
    async fn domain(&self) -> Result<String, ManagerError> {
        let known = self.domain.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(domain) = known {
            return Ok(domain);
        }
        let uid = self.uid;
        let (mut codes, mut found) = ([0; 2], None);
        for (i, domain) in [format!("gui/{uid}"), format!("user/{uid}")].into_iter().enumerate() {
            let answer = self.ask(&["print", &domain]).await?;
            match answer.code {
                0 => {
                    found = Some(domain);
                    break;
                }
                code::NO_DOMAIN | code::NO_ACTION => codes[i] = answer.code,
                _ => return Err(ManagerError::refused("looking at domain", &domain, &answer)),
            }
        }
        let domain = found.ok_or(ManagerError::NoDomain { uid, gui: codes[0], user: codes[1] })?;
        *self.domain.lock().unwrap_or_else(PoisonError::into_inner) = Some(domain.clone());
        Ok(domain)
    }

    async fn ask(&self, args: &[&str]) -> Result<Answer, ManagerError> {
        self.tool.ask(args).await.map_err(ManagerError::Tool)
    }

    /// Runs a verb on a unit, again while launchd is busy; returns its code, which is 0 or one of `fine`.
    async fn insist(
        &self,
        doing: &'static str,
        unit: &str,
        args: &[&str],
        fine: &[i32],
    ) -> Result<i32, ManagerError> {
        let mut pauses = PAUSES.iter();
        loop {
            let answer = self.ask(args).await?;
            match answer.code {
                0 => return Ok(0),
                code if fine.contains(&code) => return Ok(code),
                code::DISABLED => return Err(ManagerError::Disabled { unit: unit.to_owned() }),
                code if BUSY.contains(&code) => match pauses.next() {
                    Some(pause) => self.clock.sleep(*pause).await,
                    None => return Err(ManagerError::refused(doing, unit, &answer)),
                },
                _ => return Err(ManagerError::refused(doing, unit, &answer)),
            }
        }
    }

    async fn look(&self, unit: &str) -> Result<Shown, ManagerError> {
        let target = format!("{}/{unit}", self.domain().await?);
        // A busy launchd must not be taken for one that does not have the unit.
        let mut pauses = PAUSES.iter();
        loop {
            let answer = self.ask(&["print", &target]).await?;
            match answer.code {
                0 => return Ok(print::parse(&answer.out)),
                code::NO_SERVICE => return Ok(Shown::default()),
                code if BUSY.contains(&code) => match pauses.next() {
                    Some(pause) => self.clock.sleep(*pause).await,
                    None => return Err(ManagerError::refused("looking at", unit, &answer)),
                },
                _ => return Err(ManagerError::refused("looking at", unit, &answer)),
            }
        }
    }

    /// Unloads a unit and waits until it is gone; returns whether it was there.
    async fn unload(&self, unit: &str) -> Result<bool, ManagerError> {
        let target = format!("{}/{unit}", self.domain().await?);
        let there = [code::NO_PROCESS, code::NO_SERVICE, code::IN_PROGRESS, code::ALREADY];
        let code = self.insist("unloading", unit, &["bootout", &target], &there).await?;
        let begun = self.clock.boot();
        while self.look(unit).await?.loaded {
            if self.clock.boot().saturating_sub(begun) >= GONE_LIMIT {
                return Err(ManagerError::Lingers { unit: unit.to_owned(), secs: GONE_LIMIT.as_secs() });
            }
            self.clock.sleep(GONE_STEP).await;
        }
        Ok(!matches!(code, code::NO_PROCESS | code::NO_SERVICE))
    }

    /// Loads a unit from its file, which must be there.
    async fn load(&self, definition: &Definition) -> Result<(), ManagerError> {
        let unit = &definition.unit;
        let domain = self.domain().await?;
        self.insist("enabling", unit, &["enable", &format!("{domain}/{unit}")], &[]).await?;
        let Some((name, _)) = definition.files.first() else { return Ok(()) };
        let path = self.folder.join(name).display().to_string();
        self.insist("loading", unit, &["bootstrap", &domain, &path], &[]).await?;
        if self.look(unit).await?.loaded {
            return Ok(());
        }
        let answer = Answer {
            code: 0,
            err: "it says that it loaded it, and does not have it".to_owned(),
            ..Answer::default()
        };
        Err(ManagerError::refused("loading", unit, &answer))
    }

    async fn exchange(&self, definition: &Definition) -> Result<Put, ManagerError> {
        let unit = &definition.unit;
        let loaded = self.look(unit).await?.loaded;
        let same = same_on_disk(&self.folder, definition);
        if loaded && same {
            return Ok(Put::Unchanged);
        }
        // The file changes only while nothing is loaded, so that what is loaded is always what the file says.
        let staged = Staged::write(&self.folder, definition)?;
        if loaded {
            self.unload(unit).await?;
        }
        let before = staged.commit()?;
        match self.load(definition).await {
            Ok(()) => Ok(if loaded { Put::Reloaded } else { Put::Loaded }),
            Err(error) => {
                before.put_back()?;
                if loaded {
                    // What was there before is better than nothing; the first error is the one to tell.
                    let _ = self.load(definition).await;
                }
                Err(error)
            }
        }
    }

    async fn verb(
        &self,
        doing: &'static str,
        unit: &str,
        verb: &[&str],
        fine: &[i32],
    ) -> Result<(), ManagerError> {
        let target = format!("{}/{unit}", self.domain().await?);
        let args: Vec<&str> = verb.iter().copied().chain([target.as_str()]).collect();
        self.insist(doing, unit, &args, fine).await.map(|_| ())
    }
}

#[tonic::async_trait]
impl Manager for Launchd {
    fn name(&self) -> &'static str {
        "launchd"
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    async fn put(&self, definition: &Definition) -> Result<Put, ManagerError> {
        self.exchange(definition).await
    }

    async fn remove(&self, definition: &Definition) -> Result<bool, ManagerError> {
        let was = self.unload(&definition.unit).await?;
        remove_files(&self.folder, definition)?;
        Ok(was)
    }

    async fn show(&self, unit: &str) -> Result<Shown, ManagerError> {
        self.look(unit).await
    }

    async fn list(&self, units: &[&str]) -> Result<Vec<Shown>, ManagerError> {
        // A list is of whatever session one is in; it counts only where the domain is known.
        self.domain().await?;
        let answer = self.ask(&["list"]).await?;
        if answer.code != 0 {
            return Err(ManagerError::refused("listing", "all units", &answer));
        }
        Ok(print::list(&answer.out, units))
    }

    async fn start(&self, unit: &str) -> Result<(), ManagerError> {
        if self.look(unit).await?.pid.is_some() {
            return Ok(());
        }
        self.verb("starting", unit, &["kickstart"], &[]).await
    }

    async fn kick(&self, unit: &str) -> Result<(), ManagerError> {
        self.verb("restarting", unit, &["kickstart", "-k"], &[]).await
    }

    async fn signal(&self, unit: &str, signal: &str) -> Result<(), ManagerError> {
        self.verb("signalling", unit, &["kill", signal], &[code::NO_PROCESS, code::NO_SERVICE]).await
    }
}
