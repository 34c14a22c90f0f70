//! The service manager of this machine, and the plan of what it is to keep.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mirror_agents::{Agent, NoTemplate, agents, units};
use mirror_clock::Clock;
use mirror_kit::{Decl, JobDecl};
use mirror_paths::Home;

use crate::install::Planned;
use crate::launchd::Launchd;
use crate::manager::{Definition, Manager};
use crate::systemd::Systemd;
use crate::tool::Program;

/// The agent that is installed first, so that it sees the others start.
const FIRST: &str = "supervisor";

/// Why there is no service manager to use.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// The tool is not there.
    #[error("there is neither launchctl nor systemctl here; run the fleet in the foreground with: mirror up")]
    None,
    /// The folder of the definitions is not known.
    #[error("HOME is not set, so the folder for agents is not known; set it")]
    NoHome,
    /// An agent cannot be rendered.
    #[error(transparent)]
    Template(#[from] NoTemplate),
}

/// A service manager, and what it is to keep.
#[derive(Debug, Clone)]
pub struct System {
    /// The service manager.
    pub manager: Arc<dyn Manager>,
    /// All agents, in the order in which they are installed.
    pub plan: Vec<Planned>,
}

impl System {
    /// Returns launchd on a Mac and systemd elsewhere; `MIRROR_LAUNCHCTL` makes it launchd for tests.
    ///
    /// # Errors
    ///
    /// When there is neither, or no folder for definitions.
    pub fn of(
        home: &Home,
        clock: Arc<dyn Clock>,
        catalogue: &[&'static Decl],
        jobs: &[&'static JobDecl],
    ) -> Result<Self, SystemError> {
        let mut all = agents(catalogue, jobs)?;
        all.sort_by(|a, b| (a.name != FIRST, a.tier, &a.name).cmp(&(b.name != FIRST, b.tier, &b.name)));
        let user = std::env::var_os("HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
        let user = user.ok_or(SystemError::NoHome)?;
        let launchctl = Program::launchctl();
        if launchctl.exists() {
            let folder = user.join("Library/LaunchAgents");
            let manager = Arc::new(Launchd::new(Arc::new(launchctl), clock, folder));
            return Ok(Self { manager, plan: all.iter().map(|a| by_launchd(a, home)).collect() });
        }
        let systemctl = Program::systemctl();
        if !systemctl.exists() {
            return Err(SystemError::None);
        }
        let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
        let folder = config.unwrap_or_else(|| user.join(".config")).join("systemd/user");
        let manager = Arc::new(Systemd::new(Arc::new(systemctl), folder));
        Ok(Self { manager, plan: all.iter().map(|a| by_systemd(a, home)).collect() })
    }
}

fn by_launchd(agent: &Agent, home: &Home) -> Planned {
    let text = agent.filled(&home.bin(), home.root());
    let definition =
        Definition { unit: agent.label(), trigger: None, files: vec![(agent.file_name(), text)] };
    Planned { name: agent.name.clone(), job: agent.is_job(), definition }
}

fn by_systemd(agent: &Agent, home: &Home) -> Planned {
    let files: Vec<(String, String)> = units::units(agent)
        .into_iter()
        .map(|(name, text)| (name, fill_unit(&text, &home.bin(), home.root())))
        .collect();
    let unit = files.first().map(|(name, _)| name.clone()).unwrap_or_default();
    let trigger = files.get(1).map(|(name, _)| name.clone());
    Planned { name: agent.name.clone(), job: agent.is_job(), definition: Definition { unit, trigger, files } }
}

/// Fills a unit's places in; systemd reads a percent sign as the beginning of a specifier.
fn fill_unit(text: &str, bin: &Path, home: &Path) -> String {
    let escape = |path: &Path| path.display().to_string().replace('%', "%%");
    text.replace(mirror_agents::BIN, &escape(bin)).replace(mirror_agents::HOME, &escape(home))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_kit::When;

    static JOB: JobDecl =
        JobDecl { name: "sweep", summary: "Sweeps.", when: When::Every { secs: 300 }, limit_secs: 60 };

    #[test]
    fn a_job_is_a_service_and_a_timer_under_systemd_and_one_list_under_launchd() {
        let home = Home::at("/home/x/50%").unwrap();
        let planned = by_systemd(&Agent::job(&JOB), &home);
        assert_eq!(planned.definition.unit, "mirror-job.sweep.service");
        assert_eq!(planned.definition.trigger.as_deref(), Some("mirror-job.sweep.timer"));
        assert!(planned.definition.files[0].1.contains("ExecStart=/home/x/50%%/bin/mirror job sweep\n"));
        let planned = by_launchd(&Agent::job(&JOB), &home);
        assert_eq!((planned.definition.unit.as_str(), planned.job), ("dev.mirrordna.job.sweep", true));
        assert!(planned.definition.files[0].1.contains("/home/x/50%/bin/mirror<"), "{planned:?}");
    }
}
