//! From the catalogue to agents: what supervises keeps each service and runs each job by one property list or unit.

use std::collections::BTreeMap;
use std::path::Path;

use mirror_kit::{Binary, Criticality, Decl, JobDecl, Keep, When};

use crate::calendar::Moment;
use crate::label;
use crate::machine::KeepAlive;
use crate::plist::Plist;

/// Place of the folder of the links in a template.
pub const BIN: &str = "@BIN@";
/// Place of the home in a template.
pub const HOME: &str = "@MIRROR_HOME@";

/// What an agent may find by name: nothing that the owner or a package manager put there.
pub(crate) const PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin";

/// Shortest time between two starts, in seconds; launchd's own floor.
pub(crate) const THROTTLE_SECS: u32 = 10;
/// Time from SIGTERM to SIGKILL, in seconds.
pub(crate) const EXIT_TIME_OUT_SECS: u32 = 15;
/// Open files that an agent may have.
pub(crate) const FILES: u32 = 4096;

/// Tier of every job: above those of the services, so that a drain ends jobs first.
pub const JOB_TIER: u8 = 6;

/// A service or a job, as what supervises knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Name: `bus`, or `job.verify-log` for a job.
    pub name: String,
    /// What it does, one sentence.
    pub summary: &'static str,
    /// Tier; [`JOB_TIER`] for a job.
    pub tier: u8,
    /// When it runs, for a job; absent for a service.
    pub when: Option<When>,
    /// Code identity it ships in.
    pub binary: Binary,
    /// Name of its program in the folder of the links.
    pub link: String,
    /// Arguments, the name of the program first.
    pub arguments: Vec<String>,
    /// What launchd calls it: `Interactive` or `Background`.
    pub process_type: &'static str,
}

/// A service is kept in a way that has no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: kept {keep}, which has no template")]
pub struct NoTemplate {
    /// The service.
    pub name: &'static str,
    /// How it is kept.
    pub keep: &'static str,
}

impl Agent {
    /// Returns the agent of a service.
    ///
    /// # Errors
    ///
    /// When the service is kept in a way that has no template.
    pub fn service(decl: &Decl) -> Result<Self, NoTemplate> {
        if decl.keep != Keep::Always {
            return Err(NoTemplate { name: decl.name, keep: decl.keep.name() });
        }
        Ok(Self {
            name: decl.name.to_owned(),
            summary: decl.summary,
            tier: decl.tier,
            when: None,
            binary: decl.binary,
            link: decl.link(),
            arguments: vec![decl.link()],
            process_type: match decl.criticality {
                Criticality::Vital | Criticality::Important => "Interactive",
                Criticality::Useful => "Background",
            },
        })
    }

    /// Returns the agent of a job.
    pub fn job(decl: &JobDecl) -> Self {
        Self {
            name: decl.agent(),
            summary: decl.summary,
            tier: JOB_TIER,
            when: Some(decl.when),
            binary: Binary::Mirror,
            link: "mirror".to_owned(),
            arguments: vec!["mirror".to_owned(), "job".to_owned(), decl.name.to_owned()],
            process_type: "Background",
        }
    }

    /// Returns whether it is a job that ends by itself.
    pub fn is_job(&self) -> bool {
        self.when.is_some()
    }

    /// Returns the label.
    pub fn label(&self) -> String {
        label(&self.name)
    }

    /// Returns the file name of its property list.
    pub fn file_name(&self) -> String {
        format!("{}.plist", self.label())
    }

    /// Returns its property list with the places not filled in.
    pub fn template(&self) -> String {
        self.plist(BIN, HOME).render()
    }

    /// Returns its property list for a folder of links and a home, as an install fills it in.
    pub fn filled(&self, bin: &Path, home: &Path) -> String {
        self.plist(&bin.display().to_string(), &home.display().to_string()).render()
    }

    fn plist(&self, bin: &str, home: &str) -> Plist {
        let service = !self.is_job();
        let log = format!("{home}/log/{}.err", self.name);
        let variables = [("MIRROR_HOME", home), ("MIRROR_SUPERVISED", "1"), ("PATH", PATH)];
        Plist {
            label: self.label(),
            program: format!("{bin}/{}", self.link),
            arguments: self.arguments.clone(),
            run_at_load: service,
            keep_alive: if service { KeepAlive::AfterFailure } else { KeepAlive::Never },
            throttle_secs: THROTTLE_SECS,
            exit_time_out_secs: EXIT_TIME_OUT_SECS,
            process_type: Some(self.process_type.to_owned()),
            environment: variables
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
            umask: Some(0o077),
            working_directory: None,
            stdout: Some(log.clone()),
            stderr: Some(log),
            session_types: vec!["Aqua".to_owned(), "Background".to_owned()],
            files: Some(FILES),
            interval_secs: match self.when {
                Some(When::Every { secs }) => Some(secs),
                _ => None,
            },
            calendar: self.when.and_then(moment).into_iter().collect(),
        }
    }
}

fn moment(when: When) -> Option<Moment> {
    let at = |hour: u8, minute: u8| Moment { hour: Some(hour), minute: Some(minute), ..Moment::default() };
    match when {
        When::Every { .. } => None,
        When::Daily { hour, minute } => Some(at(hour, minute)),
        When::Weekly { weekday, hour, minute } => Some(Moment { weekday: Some(weekday), ..at(hour, minute) }),
        When::Monthly { day, hour, minute } => Some(Moment { day: Some(day), ..at(hour, minute) }),
    }
}

/// Returns the agents of a catalogue in order of name.
///
/// # Errors
///
/// When a service is kept in a way that has no template.
pub fn agents(catalogue: &[&'static Decl], jobs: &[&'static JobDecl]) -> Result<Vec<Agent>, NoTemplate> {
    let services = catalogue.iter().map(|decl| Agent::service(decl));
    let mut agents =
        services.chain(jobs.iter().map(|decl| Ok(Agent::job(decl)))).collect::<Result<Vec<_>, _>>()?;
    agents.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(agents)
}

/// Returns a template with its places filled in, as an install does.
pub fn fill(template: &str, bin: &Path, home: &Path) -> String {
    let escape = |path: &Path| crate::plist::escape(&path.display().to_string());
    template.replace(BIN, &escape(bin)).replace(HOME, &escape(home))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECL: Decl = Decl { name: "sample", summary: "Is a sample & more.", ..Decl::DEFAULT };
    const JOB: JobDecl = JobDecl {
        name: "sweep",
        summary: "Sweeps.",
        when: When::Weekly { weekday: 0, hour: 4, minute: 5 },
        limit_secs: 60,
    };

    #[test]
    fn a_filled_template_is_what_is_rendered_for_the_place() {
        let (bin, home) = (Path::new("/opt/m&m <x>/bin"), Path::new("/opt/mirror"));
        for agent in [Agent::service(&DECL).unwrap(), Agent::job(&JOB)] {
            let text = fill(&agent.template(), bin, home);
            assert_eq!(text, agent.filled(bin, home));
            let plist = Plist::parse(&agent.file_name(), &text).unwrap();
            assert_eq!(plist, agent.plist("/opt/m&m <x>/bin", "/opt/mirror"));
            plist.check_promises().unwrap();
        }
    }

    #[test]
    fn a_job_runs_at_its_times_and_is_not_kept() {
        let every = JobDecl { when: When::Every { secs: 300 }, ..JOB };
        let plist = |decl: &JobDecl| Agent::job(decl).plist("/b", "/h");
        let weekly = plist(&JOB);
        assert_eq!((weekly.run_at_load, weekly.keep_alive), (false, KeepAlive::Never));
        assert_eq!(weekly.arguments, ["mirror", "job", "sweep"]);
        let moment = Moment { weekday: Some(0), hour: Some(4), minute: Some(5), ..Moment::default() };
        assert_eq!((weekly.calendar, weekly.interval_secs), (vec![moment], None));
        assert_eq!((plist(&every).calendar, plist(&every).interval_secs), (Vec::new(), Some(300)));
        let daily = plist(&JobDecl { when: When::Daily { hour: 1, minute: 2 }, ..JOB }).calendar;
        assert_eq!((daily[0].hour, daily[0].minute, daily[0].day), (Some(1), Some(2), None));
        let monthly = plist(&JobDecl { when: When::Monthly { day: 3, hour: 1, minute: 2 }, ..JOB }).calendar;
        assert_eq!((monthly[0].day, monthly[0].weekday), (Some(3), None));
    }

    #[test]
    fn a_service_that_has_no_template_is_refused() {
        let error = Agent::service(&Decl { keep: Keep::OnDemand, ..DECL }).unwrap_err().to_string();
        assert!(error.contains("on demand"), "{error}");
        static ODD: Decl = Decl { keep: Keep::Calendar, ..DECL };
        assert!(agents(&[&ODD], &[]).is_err());
    }
}
