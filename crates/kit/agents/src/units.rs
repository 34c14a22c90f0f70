//! systemd user units: one service for each agent, and a timer for each job, with the meaning of the property lists.

use mirror_kit::When;

use crate::agent::{Agent, BIN, EXIT_TIME_OUT_SECS, FILES, HOME, THROTTLE_SECS};

const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

/// Returns the name of an agent's unit without its kind: `mirror-bus`, or `mirror-job.verify-log`.
pub fn unit_name(agent: &str) -> String {
    format!("mirror-{agent}")
}

/// Returns the units of an agent by file name, with the places not filled in; a timer comes after its service.
pub fn units(agent: &Agent) -> Vec<(String, String)> {
    let name = unit_name(&agent.name);
    let mut units = vec![(format!("{name}.service"), service(agent))];
    units.extend(agent.when.map(|when| (format!("{name}.timer"), timer(agent, when))));
    units
}

const NOTE: &str = "# Rendered from the catalogue by `cargo xtask render` and filled in by an install; an edit is \
                    reported and replaced.";

/// Exit code 75 is a drain that nobody declared final: systemd starts the service again, unless it was told to stop it.
fn service(agent: &Agent) -> String {
    let (name, link) = (&agent.name, &agent.link);
    let summary = agent.summary.replace('%', "%%");
    let arguments: String = agent.arguments.iter().skip(1).map(|a| format!(" {a}")).collect();
    let (kind, kept) = if agent.is_job() {
        ("oneshot", String::new())
    } else {
        let kept = format!(
            "Restart=on-failure\nRestartForceExitStatus=75\nSuccessExitStatus=75\nRestartSec={THROTTLE_SECS}\n"
        );
        ("exec", kept)
    };
    let install = if agent.is_job() { "" } else { "\n[Install]\nWantedBy=default.target\n" };
    format!(
        "{NOTE}\n\
         [Unit]\n\
         Description=MirrorDNA {name}: {summary}\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type={kind}\n\
         ExecStart={BIN}/{link}{arguments}\n\
         Environment=\"MIRROR_HOME={HOME}\" MIRROR_SUPERVISED=1 PATH=/usr/bin:/bin\n\
         {kept}\
         TimeoutStopSec={EXIT_TIME_OUT_SECS}\n\
         UMask=0077\n\
         LimitNOFILE={FILES}\n\
         NoNewPrivileges=yes\n\
         StandardOutput=append:{HOME}/log/{name}.err\n\
         StandardError=append:{HOME}/log/{name}.err\n\
         {install}"
    )
}

fn timer(agent: &Agent, when: When) -> String {
    let when = match when {
        // The first run is one interval after the timer begins, as launchd has it.
        When::Every { secs } => format!("OnActiveSec={secs}\nOnUnitActiveSec={secs}\nAccuracySec=1s\n"),
        When::Daily { hour, minute } => calendar("*-*-*", hour, minute),
        When::Weekly { weekday, hour, minute } => {
            calendar(&format!("{} *-*-*", DAYS[usize::from(weekday % 7)]), hour, minute)
        }
        When::Monthly { day, hour, minute } => calendar(&format!("*-*-{day:02}"), hour, minute),
    };
    format!(
        "{NOTE}\n\
         [Unit]\n\
         Description=Times of MirrorDNA {}\n\
         \n\
         [Timer]\n\
         {when}\
         \n\
         [Install]\n\
         WantedBy=timers.target\n",
        agent.name
    )
}

/// What was slept through runs once after waking, as launchd has it.
fn calendar(date: &str, hour: u8, minute: u8) -> String {
    format!("OnCalendar={date} {hour:02}:{minute:02}:00\nPersistent=true\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_kit::{Decl, JobDecl};

    const JOB: JobDecl = JobDecl {
        name: "sweep",
        summary: "Sweeps.",
        when: When::Daily { hour: 4, minute: 5 },
        limit_secs: 60,
    };

    fn well_formed(text: &str) {
        for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            assert!(line.starts_with('[') || line.contains('='), "{line:?}");
        }
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{text}");
    }

    #[test]
    fn a_service_starts_its_link_and_escapes_its_summary() {
        let decl = Decl { name: "sample", summary: "Keeps 5 % free.", ..Decl::DEFAULT };
        let units = units(&Agent::service(&decl).unwrap());
        let [(name, text)] = &units[..] else { panic!("{units:?}") };
        assert_eq!(name, "mirror-sample.service");
        assert!(text.contains("\nExecStart=@BIN@/mirror-sample\n"), "{text}");
        assert!(text.contains("Keeps 5 %% free."), "{text}");
        assert!(
            text.contains("\nRestart=on-failure\n") && text.contains("WantedBy=default.target"),
            "{text}"
        );
        well_formed(text);
    }

    #[test]
    fn a_job_has_a_timer_and_is_not_kept() {
        let units = units(&Agent::job(&JOB));
        let [(service, text), (timer, times)] = &units[..] else { panic!("{units:?}") };
        assert_eq!((&**service, &**timer), ("mirror-job.sweep.service", "mirror-job.sweep.timer"));
        assert!(text.contains("\nExecStart=@BIN@/mirror job sweep\n") && !text.contains("Restart"), "{text}");
        assert!(!text.contains("[Install]"), "only the timer is enabled: {text}");
        assert!(times.contains("\nOnCalendar=*-*-* 04:05:00\nPersistent=true\n"), "{times}");
        well_formed(text);
        well_formed(times);
    }

    #[test]
    fn each_kind_of_time_has_its_form() {
        #[track_caller]
        fn check(when: When, part: &str) {
            let text = timer(&Agent::job(&JobDecl { when, ..JOB }), when);
            assert!(text.contains(part), "{part:?} in {text}");
        }
        check(When::Every { secs: 300 }, "OnActiveSec=300\nOnUnitActiveSec=300\n");
        check(When::Weekly { weekday: 1, hour: 9, minute: 0 }, "OnCalendar=Mon *-*-* 09:00:00\n");
        check(When::Monthly { day: 1, hour: 0, minute: 30 }, "OnCalendar=*-*-01 00:30:00\n");
    }
}
