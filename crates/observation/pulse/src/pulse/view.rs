//! The pulse as it is shown.

use super::cause::Cause;
use super::incident::{FLEET, Incident, Told};
use super::input::Now;
use super::target::{Seen, Target};
use super::{BOOT_GRACE, Core, to_wall};

/// Health of a target or of the whole, in the order in which the worst counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    Ok,
    Maintenance,
    Shadowed,
    Suspect,
    Unknown,
    Recovering,
    Healing,
    Flapping,
    Quarantined,
    Failed,
}

/// A target as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TargetView {
    pub(crate) name: String,
    pub(crate) criticality: &'static str,
    pub(crate) health: Health,
    pub(crate) detail: String,
    pub(crate) seen: Option<u64>,
    pub(crate) shadowed_by: String,
    pub(crate) history: String,
}

/// An open incident with what is planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IncidentView {
    pub(crate) incident: Told,
    pub(crate) remedy: String,
    pub(crate) next_action: Option<u64>,
    pub(crate) note: String,
}

/// The whole; times are wall times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) verdict: Health,
    pub(crate) summary: String,
    pub(crate) targets: Vec<TargetView>,
    pub(crate) incidents: Vec<IncidentView>,
    pub(crate) swept: Option<u64>,
    pub(crate) next_sweep: u64,
    pub(crate) maintenance_until: Option<u64>,
    pub(crate) observing: Option<(Option<u64>, String)>,
}

impl View {
    /// Returns whether another view says the same but for times that pass and beats that repeat.
    pub(crate) fn says_same(&self, other: &Self) -> bool {
        let target = |t: &TargetView| (t.health, t.detail.clone(), t.shadowed_by.clone());
        let incident =
            |i: &IncidentView| (i.incident.clone(), i.remedy.clone(), i.next_action, i.note.clone());
        self.verdict == other.verdict
            && self.summary == other.summary
            && self.swept == other.swept
            && self.maintenance_until.is_some() == other.maintenance_until.is_some()
            && self.targets.len() == other.targets.len()
            && self.targets.iter().map(target).eq(other.targets.iter().map(target))
            && self.incidents.iter().map(incident).eq(other.incidents.iter().map(incident))
    }
}

impl Core {
    /// Returns the pulse as it is shown.
    pub(crate) fn view(&self, now: Now) -> View {
        let mut agents: Vec<TargetView> = self.targets.iter().map(|t| self.show(now, t)).collect();
        agents.sort_by(|a, b| a.name.cmp(&b.name));
        let mut checks = self.show_checks(now);
        checks.sort_by(|a, b| a.name.cmp(&b.name));
        let targets: Vec<TargetView> = agents.into_iter().chain(checks).collect();
        let incidents: Vec<IncidentView> =
            self.incidents.iter().map(|i| self.show_incident(now, i)).collect();
        let verdict = self.verdict(&targets);
        View {
            verdict,
            summary: self.summary(now, verdict, &targets),
            targets,
            incidents,
            swept: self.sweep.ended,
            next_sweep: to_wall(now, self.sweep.next.max(now.boot)),
            maintenance_until: self.maintenance(now),
            observing: self.observing(now),
        }
    }

    fn show(&self, now: Now, target: &Target) -> TargetView {
        let health = self.health(now, target);
        let shadow = target.shadow.as_ref().filter(|_| health == Health::Shadowed);
        let detail = match (&target.seen, shadow) {
            (seen, Some(_)) if seen.detail().is_empty() => "it waits for what it needs".to_owned(),
            (seen, _) => seen.detail().to_owned(),
        };
        TargetView {
            name: target.spec.name.clone(),
            criticality: target.spec.criticality.name(),
            health,
            detail,
            seen: target.heard,
            shadowed_by: shadow.map(|s| s.by.clone()).unwrap_or_default(),
            history: target.history.to_string(),
        }
    }

    fn health(&self, now: Now, target: &Target) -> Health {
        let paused = self.maintenance_until > now.boot;
        match &target.seen {
            Seen::Off(_) => Health::Maintenance,
            Seen::Quarantined(_) => Health::Quarantined,
            Seen::Fine(_) if target.is_looping() || target.history.is_flapping() => Health::Flapping,
            Seen::Fine(_) => Health::Ok,
            _ if target.shadow.is_some() => Health::Shadowed,
            Seen::Partial(_) => Health::Ok,
            _ if self.is_acted_on(&target.spec.name) => Health::Healing,
            Seen::Starting(_) => Health::Recovering,
            Seen::Unknown(_) => Health::Unknown,
            Seen::Suspect(_) | Seen::Failed { .. } if paused => Health::Maintenance,
            Seen::Suspect(_) => Health::Suspect,
            Seen::Failed { cause: Cause::Flapping | Cause::CrashLoop, .. } => Health::Flapping,
            Seen::Failed { cause: Cause::Crashed, wait, .. } if *wait > now.boot => Health::Recovering,
            Seen::Failed { .. } => Health::Failed,
        }
    }

    fn show_checks(&self, now: Now) -> Vec<TargetView> {
        let mut shown = Vec::new();
        for state in self.machine.checks.iter().filter(|c| c.supported) {
            let health = match &state.seen {
                Seen::Fine(_) => Health::Ok,
                Seen::Suspect(_) => Health::Suspect,
                Seen::Failed { .. } if self.is_healing(state.check.name()) => Health::Healing,
                Seen::Failed { .. } => Health::Failed,
                _ => Health::Unknown,
            };
            shown.push(TargetView {
                name: state.check.name().to_owned(),
                criticality: state.check.criticality().name(),
                health,
                detail: state.seen.detail().to_owned(),
                seen: state.heard,
                shadowed_by: String::new(),
                history: state.history.to_string(),
            });
        }
        let (health, detail) = match self.machine.jumped {
            None => (Health::Ok, String::new()),
            Some((_, by)) => (Health::Suspect, format!("the wall clock jumped by {} s", by / 1000)),
        };
        shown.push(TargetView {
            name: "check.clock".to_owned(),
            criticality: mirror_kit::Criticality::Useful.name(),
            health,
            detail,
            seen: Some(now.wall),
            shadowed_by: String::new(),
            history: String::new(),
        });
        shown
    }

    fn is_healing(&self, root: &str) -> bool {
        self.incidents.iter().any(|i| i.root == root && i.open_act().is_some())
    }

    fn show_incident(&self, now: Now, incident: &Incident) -> IncidentView {
        let (plan, open) = (self.plan(now, incident), incident.open_act());
        let remedy = open.map_or_else(|| plan.remedy.to_owned(), |act| act.remedy.clone());
        let timed = open.is_none() && !plan.remedy.is_empty() && plan.hold.is_empty();
        IncidentView {
            remedy,
            next_action: timed.then(|| to_wall(now, plan.when.max(incident.opened))),
            note: plan.hold,
            incident: incident.told(),
        }
    }

    fn verdict(&self, targets: &[TargetView]) -> Health {
        let counted = |health: Health| match health {
            Health::Maintenance | Health::Shadowed => Health::Ok,
            Health::Flapping | Health::Quarantined => Health::Failed,
            other => other,
        };
        let worst = targets.iter().map(|t| counted(t.health)).max().unwrap_or(Health::Unknown);
        // What has recovered is watched for a while, and what is open is not fine, whatever its targets look like.
        if self.incidents.is_empty() { worst } else { worst.max(Health::Recovering) }
    }

    fn summary(&self, now: Now, verdict: Health, targets: &[TargetView]) -> String {
        let count = |health: Health| targets.iter().filter(|t| t.health == health).count();
        let paused =
            if self.maintenance(now).is_some() { "; maintenance lasts, nothing is acted on" } else { "" };
        let plural = |n: usize| if n == 1 { "1 target is".to_owned() } else { format!("{n} targets are") };
        // What has recovered is no news while something else fails that has no incident yet.
        let news = |i: &&Incident| i.recovered.is_none() || verdict == Health::Recovering;
        let first = self.incidents.iter().filter(news).min_by_key(|i| i.recovered.is_some());
        let text = match (verdict, first) {
            (Health::Ok, _) => format!("all {} targets are well", targets.len()),
            (_, Some(incident)) => {
                let others = match self.incidents.len() {
                    1 => String::new(),
                    n => format!(", and {} more", n - 1),
                };
                let root = if incident.root == FLEET { "the fleet" } else { &incident.root };
                let state = if incident.recovered.is_some() { " (well again, still watched)" } else { "" };
                format!("{root}: {}{state}{others}", incident.cause.id())
            }
            (Health::Unknown, _) => format!("{} unknown", plural(count(Health::Unknown))),
            (Health::Suspect, _) => format!("{} suspect", plural(count(Health::Suspect))),
            (Health::Recovering, _) => format!("{} recovering", plural(count(Health::Recovering))),
            _ => {
                let bad = [Health::Failed, Health::Flapping, Health::Quarantined, Health::Healing];
                format!("{} failed", plural(bad.into_iter().map(count).sum()))
            }
        };
        format!("{text}{paused}.")
    }

    fn observing(&self, now: Now) -> Option<(Option<u64>, String)> {
        let until = |boot: u64| Some(to_wall(now, boot));
        if self.set.observe_only {
            return Some((None, "the configuration says to observe only".to_owned()));
        }
        if let Some(why) = &self.halted {
            return Some((None, format!("halted: {why}")));
        }
        if self.held_until > now.boot {
            return Some((until(self.held_until), "the last remedies did not help".to_owned()));
        }
        if self.wake_until > now.boot {
            return Some((until(self.wake_until), "the machine woke".to_owned()));
        }
        let young = self.targets.iter().any(|t| t.is_asked() && !t.ever_fine);
        let grace = self.started + BOOT_GRACE;
        (grace > now.boot && young).then(|| (until(grace), "pulse has just been started".to_owned()))
    }
}

impl super::Check {
    fn criticality(self) -> mirror_kit::Criticality {
        use mirror_kit::Criticality::{Important, Useful, Vital};
        match self {
            Self::Disk | Self::Home => Vital,
            Self::Memory | Self::Files | Self::DeadMan => Important,
            Self::Cpu | Self::Logs | Self::Usage => Useful,
        }
    }
}
