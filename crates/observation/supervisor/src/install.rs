//! Install, update and uninstall of all agents, over any service manager.
//!
//! An update is an install of a new build: the processes of the old one serve until they are kicked, one after the
//! other, and each is verified by its own health before the next. When one is not healthy, everything is put back.
//! It refuses to say that something is installed which did not answer with the expected build.
//! Invariant: no file is touched here but definitions; binaries and data belong to the caller.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use mirror_clock::Clock;
use mirror_kit::desired::{self, Wish};
use mirror_paths::Home;

use crate::manager::{Definition, Manager, ManagerError, Put};

/// Longest wait for an agent to answer with the expected build: the floor between two starts, the drain of the old
/// process, and a start. A build that ends at once is started four times meanwhile, and five failed starts would
/// quarantine the agent before the build from before is back.
pub const HEALTH_LIMIT: Duration = Duration::from_secs(35);
const STEP: Duration = Duration::from_millis(100);

/// An agent to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Name, "bus" or "job.verify-log".
    pub name: String,
    /// Whether it is a job, which has no health to ask for.
    pub job: bool,
    /// How its service manager is to know it.
    pub definition: Definition,
}

/// Who answers for an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Build id.
    pub build: String,
    /// Process id.
    pub pid: u32,
    /// Whether it has found its state: it is no longer starting, nor draining.
    pub settled: bool,
    /// Whether it does its job, or a part of it.
    pub serves: bool,
}

/// What an install needs besides the service manager: the binaries, and the agents' own word.
#[tonic::async_trait]
pub trait Site: Send + Sync {
    /// Puts the new binaries in place, keeping those before; returns whether they differ from those.
    fn lay(&self) -> Result<bool, String>;
    /// Puts the binaries from before in place; there may be none.
    fn put_back(&self) -> Result<(), String>;
    /// Asks a service who it is; nothing when it does not answer.
    async fn health(&self, service: &str) -> Option<Health>;
}

/// What became of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Name.
    pub name: String,
    /// What its definition needed.
    pub put: Put,
    /// Who answers; nothing for a job, or for what is not to run.
    pub health: Option<Health>,
    /// What is wanted of it.
    pub wish: Wish,
    /// Whether its process was replaced.
    pub kicked: bool,
}

/// Why an install was given up.
#[derive(Debug)]
pub struct Failed {
    /// The agent at which it was; nothing when it was not about one.
    pub agent: Option<String>,
    /// Why.
    pub why: String,
    /// What could not be put back as it was; empty when all is as before.
    pub left: Vec<String>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.agent {
            Some(agent) => write!(f, "{agent}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

/// What is expected of whoever answers.
#[derive(Debug, Clone, Copy, Default)]
struct Need<'a> {
    build: Option<&'a str>,
    /// A process that must not be the one.
    gone: Option<u32>,
    /// Whether it must serve: what served before must not be replaced by what does not.
    serves: bool,
}

impl Need<'_> {
    fn is_met(&self, health: &Health) -> bool {
        health.settled
            && (health.serves || !self.serves)
            && self.gone != Some(health.pid)
            && self.build.is_none_or(|build| build == health.build)
    }
}

/// The parts of an install.
#[derive(Clone, Copy)]
pub struct Installer<'a> {
    /// The service manager.
    pub manager: &'a dyn Manager,
    /// The binaries and the agents' answers.
    pub site: &'a dyn Site,
    /// The home, for what is wanted of each agent.
    pub home: &'a Home,
    /// The clock.
    pub clock: &'a dyn Clock,
}

impl fmt::Debug for Installer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installer")
            .field("manager", &self.manager)
            .field("home", &self.home)
            .finish_non_exhaustive()
    }
}

impl Installer<'_> {
    /// Installs the agents in the order of the plan, all with one build.
    ///
    /// # Errors
    ///
    /// Says why, after the definitions and binaries from before are back in place, and what of that failed.
    pub async fn install(&self, plan: &[Planned], build: &str) -> Result<Vec<Installed>, Failed> {
        let before: Vec<Option<Definition>> =
            plan.iter().map(|p| found(self.manager.folder(), &p.definition)).collect();
        let mut done = Vec::new();
        let failed = match self.site.lay() {
            Err(why) => Failed { agent: None, why, left: Vec::new() },
            Ok(changed) => {
                let mut failed = None;
                for planned in plan {
                    match self.one(planned, build, changed).await {
                        Ok(installed) => done.push(installed),
                        Err(why) => {
                            failed =
                                Some(Failed { agent: Some(planned.name.clone()), why, left: Vec::new() });
                            break;
                        }
                    }
                }
                match failed {
                    None => return Ok(done),
                    Some(failed) => failed,
                }
            }
        };
        let touched = plan.iter().zip(before).take(done.len() + 1);
        let left = self.put_back(touched.collect(), build).await;
        Err(Failed { left, ..failed })
    }

    async fn one(&self, planned: &Planned, build: &str, changed: bool) -> Result<Installed, String> {
        let name = planned.name.clone();
        let wish = desired::read(self.home, &name).0;
        let unit = &planned.definition.unit;
        let put = self.manager.put(&planned.definition).await.map_err(|e| said(&e))?;
        if planned.job || wish != Wish::Running {
            let shown = self.manager.show(unit).await.map_err(|e| said(&e))?;
            if !shown.loaded {
                return Err(format!("{} does not have {unit}", self.manager.name()));
            }
            return Ok(Installed { name, put, health: None, wish, kicked: false });
        }
        let now = self.site.health(&name).await;
        let current = now.as_ref().is_some_and(|h| h.build == build && h.settled);
        let kicked = match put {
            Put::Unchanged => changed || !current,
            Put::Reread => true,
            Put::Reloaded | Put::Loaded => false,
        };
        let mut gone = None;
        if kicked {
            // Another binary may have the same build id, in a source tree; only the process tells them apart.
            gone = self.manager.show(unit).await.map_err(|e| said(&e))?.pid;
            self.manager.kick(unit).await.map_err(|e| said(&e))?;
        }
        let need = Need { build: Some(build), gone, serves: now.is_some_and(|h| h.serves) };
        let health = self.verify(&name, unit, need).await?;
        Ok(Installed { name, put, health: Some(health), wish, kicked })
    }

    /// Waits until a service answers with a build, from the process that the service manager shows.
    async fn verify(&self, name: &str, unit: &str, need: Need<'_>) -> Result<Health, String> {
        let begun = self.clock.boot();
        let fits = |h: &Health| need.is_met(h);
        loop {
            let right = self.site.health(name).await.filter(fits);
            if let Some(health) = right {
                let shown = self.manager.show(unit).await.map_err(|e| said(&e))?;
                if shown.pid == Some(health.pid) {
                    return Ok(health);
                }
            }
            if self.clock.boot().saturating_sub(begun) >= HEALTH_LIMIT {
                let build = need.build.unwrap_or("any build");
                let last = self.site.health(name).await;
                let last = last.map_or("it does not answer".to_owned(), |h| {
                    let how = if h.serves { "serves" } else { "does not serve" };
                    format!("process {} with build {} {how}", h.pid, h.build)
                });
                return Err(format!(
                    "it did not come up with build {build} within {} s: {last}",
                    HEALTH_LIMIT.as_secs()
                ));
            }
            self.clock.sleep(STEP).await;
        }
    }

    /// Puts everything back as it was, and returns what could not be.
    async fn put_back(&self, touched: Vec<(&Planned, Option<Definition>)>, build: &str) -> Vec<String> {
        let mut left = Vec::new();
        if let Err(why) = self.site.put_back() {
            left.push(why);
        }
        for (planned, before) in touched.into_iter().rev() {
            let name = &planned.name;
            if let Err(why) = self.put_back_one(planned, before, build).await {
                left.push(format!("{name}: {why}"));
            }
        }
        left
    }

    async fn put_back_one(
        &self,
        planned: &Planned,
        before: Option<Definition>,
        build: &str,
    ) -> Result<(), String> {
        let Some(before) = before else {
            return self.manager.remove(&planned.definition).await.map(|_| ()).map_err(|e| said(&e));
        };
        let put = self.manager.put(&before).await.map_err(|e| said(&e))?;
        // The failed starts were those of the other build.
        let _ = std::fs::remove_file(self.home.run().join(format!("{}.starts", planned.name)));
        if planned.job || desired::read(self.home, &planned.name).0 != Wish::Running {
            return Ok(());
        }
        let now = self.site.health(&planned.name).await;
        let new = matches!(put, Put::Reloaded | Put::Loaded);
        if !new && now.is_none_or(|h| h.build == build) {
            self.manager.kick(&before.unit).await.map_err(|e| said(&e))?;
        }
        self.verify(&planned.name, &before.unit, Need::default()).await.map(|_| ())
    }

    /// Unloads all agents, in reverse order of the plan, and removes their definitions; returns what was loaded.
    ///
    /// # Errors
    ///
    /// Says what is left; everything else is gone.
    pub async fn uninstall(&self, plan: &[Planned]) -> Result<Vec<String>, Vec<String>> {
        let (mut gone, mut left) = (Vec::new(), Vec::new());
        for planned in plan.iter().rev() {
            match self.manager.remove(&planned.definition).await {
                Ok(true) => gone.push(planned.name.clone()),
                Ok(false) => {}
                Err(e) => left.push(format!("{}: {}", planned.name, said(&e))),
            }
        }
        if left.is_empty() { Ok(gone) } else { Err(left) }
    }
}

/// Returns a definition as it stands in the folder; nothing when a file of it is missing.
fn found(folder: &Path, definition: &Definition) -> Option<Definition> {
    let files = definition.files.iter().map(|(name, _)| {
        let text = std::fs::read_to_string(folder.join(name)).ok()?;
        Some((name.clone(), text))
    });
    Some(Definition { files: files.collect::<Option<_>>()?, ..definition.clone() })
}

fn said(error: &ManagerError) -> String {
    mirror_errors::Chain(error).to_string()
}
