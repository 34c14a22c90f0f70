//! What is done, when, and whether it may be: one action at a time, behind every guard.

use super::cause::Cause;
use super::incident::{Act, FLEET, Incident};
use super::input::{Ask, Effect, Now, Outcome};
use super::limits::Limits;
use super::target::Seen;
use super::tell::cut;
use super::{BOOT_GRACE, Core};

/// Pause between two actions of one incident of many, in milliseconds.
const APART: u64 = 30_000;
/// The same, where each has a cause of its own that is a fact and not a guess.
const APART_KNOWN: u64 = 5_000;
/// Longest grace after a remedy, in milliseconds.
const GRACE_LIMIT: u64 = 60_000;
/// When the service remedy is asked again, in milliseconds.
const AGAIN: u64 = 5_000;
/// When a refused action is tried again, in milliseconds.
const LATER: u64 = 30_000;

/// What is planned for an incident.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// On what.
    pub(crate) target: String,
    /// What; empty when nothing is.
    pub(crate) remedy: &'static str,
    /// Against what.
    pub(crate) cause: Option<Cause>,
    /// When, on the boot clock.
    pub(crate) when: u64,
    /// What it waits for that no clock ends; empty when nothing.
    pub(crate) hold: String,
}

impl Core {
    /// Returns whether an action is under way on an agent.
    pub(crate) fn is_acted_on(&self, name: &str) -> bool {
        self.incidents.iter().filter_map(Incident::open_act).any(|act| act.target == name)
    }

    /// Returns whether any action is under way.
    fn is_busy(&self) -> bool {
        self.incidents.iter().any(|i| i.open_act().is_some())
    }

    /// Returns why nothing may be done now that no clock ends.
    fn hold(&self, remedy: &str, target: &str, direct: bool) -> String {
        if self.set.observe_only {
            return "the configuration says to observe only".to_owned();
        }
        if let Some(why) = &self.halted {
            return format!("halted: {why}");
        }
        // Whether the supervisor itself can be helped is for the service remedy to know.
        let alone = matches!(remedy, "rotate-logs" | "recreate-run-dir") || target == "supervisor";
        if !self.supervisor && !alone {
            return "the supervisor does not answer".to_owned();
        }
        let remedy = self.agent("remedy").and_then(|n| self.targets.get(n));
        if !direct && remedy.is_some_and(|t| is_useless(&t.seen)) {
            return "the service remedy is down".to_owned();
        }
        String::new()
    }

    /// Returns until when nothing may be done.
    fn held_until(&self) -> u64 {
        self.maintenance_until.max(self.wake_until).max(self.held_until)
    }

    /// Returns what is planned for an incident; an empty remedy means nothing.
    pub(crate) fn plan(&self, now: Now, incident: &Incident) -> Plan {
        if incident.root == FLEET {
            let mut plans: Vec<(usize, Plan)> = Vec::new();
            for name in &incident.members {
                let Some(plan) = self.plan_for(incident, name) else { continue };
                let depth = self.agent(name).map_or(0, |n| self.graph.depth(n));
                plans.push((depth, plan));
            }
            // Those that can be done, by when they are due, then by the order of their needs.
            plans.sort_by_key(|(depth, plan)| (!plan.hold.is_empty(), plan.when.max(now.boot), *depth));
            let mut plan = plans.into_iter().next().map(|(_, plan)| plan).unwrap_or_default();
            plan.when = plan.when.max(incident.not_before);
            return plan;
        }
        self.plan_for(incident, &incident.root).unwrap_or_default()
    }

    fn plan_for(&self, incident: &Incident, root: &str) -> Option<Plan> {
        let (cause, wait, grace, limits, target) = match self.agent(root).and_then(|n| self.targets.get(n)) {
            Some(target) => {
                let Seen::Failed { cause, wait, .. } = &target.seen else { return None };
                if target.shadow.is_some() {
                    return None;
                }
                let grace = if target.ever_fine { 0 } else { self.started + BOOT_GRACE };
                (*cause, *wait, grace, Some(&target.limits), root)
            }
            None => {
                let state = self.machine.checks.iter().find(|c| c.check.name() == root)?;
                let Seen::Failed { cause, .. } = &state.seen else { return None };
                let target = if *cause == Cause::DeadManSilent { "job.dead-man" } else { FLEET };
                (*cause, 0, 0, self.others.get(root), target)
            }
        };
        // Nothing would start the supervisor again, and remedy does not act on itself.
        if cause == Cause::CrashLoop && matches!(root, "remedy" | "supervisor") {
            return None;
        }
        let remedy = cause.remedy(incident.failures(target, cause))?;
        let limit = limits.map_or(0, Limits::next);
        let direct = is_direct(root, cause);
        Some(Plan {
            target: target.to_owned(),
            remedy: if direct { "restart-kill" } else { remedy },
            cause: Some(cause),
            when: wait.max(grace).max(limit).max(self.held_until()),
            hold: self.hold(remedy, target, direct),
        })
    }

    /// Does what is due: asks again for what is under way, else for the next action.
    pub(crate) fn act(&mut self, now: Now) {
        self.resume(now);
        let plans: Vec<(usize, Plan)> =
            self.incidents.iter().enumerate().map(|(n, i)| (n, self.plan(now, i))).collect();
        for (n, plan) in plans {
            let Some(cause) = plan.cause else { continue };
            let Some(incident) = self.incidents.get(n) else { continue };
            let direct = is_direct(&plan.target, cause);
            // What waits for the service remedy must not keep that from being restarted.
            let free = direct || !self.is_busy();
            if !plan.hold.is_empty() || plan.when > now.boot || !free || incident.open_act().is_some() {
                continue;
            }
            self.begin(now, n, &plan, cause, direct);
            return;
        }
    }

    fn begin(&mut self, now: Now, n: usize, plan: &Plan, cause: Cause, direct: bool) {
        let root = self.incidents.get(n).map(|i| i.root.clone()).unwrap_or_default();
        self.limits_mut(&root, &plan.target).take(now.boot);
        let seen = self.agent(&plan.target).and_then(|n| self.targets.get(n)).map(|t| t.seen.detail());
        let why = seen.filter(|_| root == FLEET).or(self.incidents.get(n).map(|i| i.detail.as_str()));
        let why = why.unwrap_or_default().replace(char::is_control, " ");
        let Some(incident) = self.incidents.get_mut(n) else { return };
        incident.serial += 1;
        let act = Act {
            id: format!("{}.{}", incident.id, incident.serial),
            remedy: plan.remedy.to_owned(),
            target: plan.target.clone(),
            cause,
            why,
            outcome: None,
            detail: String::new(),
            at: now.wall,
            direct,
            asked: true,
            retry: 0,
        };
        let ask = ask(&act);
        if direct {
            self.tell.direct(&incident.id, &act);
        }
        incident.push(act);
        self.dirty = true;
        self.out.push(if direct { Effect::Restart(ask) } else { Effect::Remedy(ask) });
    }

    /// Asks again, under the same id, for an action whose end is not known.
    fn resume(&mut self, now: Now) {
        let gate = |core: &Self, act: &Act| {
            act.retry <= now.boot
                && core.held_until() <= now.boot
                && core.hold(&act.remedy, &act.target, act.direct).is_empty()
        };
        for n in 0..self.incidents.len() {
            let Some(act) = self.incidents[n].open_act().filter(|a| !a.asked) else { continue };
            // Each call to the supervisor is one restart, so that it is never made twice for the same action.
            // What waits for the service remedy must not keep that from being restarted for the same incident.
            let remedy = self.agent("remedy").and_then(|n| self.targets.get(n));
            let incident = &self.incidents[n];
            let about = act.target == "remedy" || incident.members.contains("remedy");
            let stuck = about && remedy.is_some_and(|t| is_useless(&t.seen));
            let lost = act.direct || stuck || self.is_over(&act.target, &incident.root);
            let (id, ready) = (act.id.clone(), gate(self, act));
            if lost {
                let why = "nobody knows how it ended".to_owned();
                self.settle(now, &id, Outcome::Unknown, why, None);
            } else if ready && let Some(act) = self.incidents[n].open_act_mut() {
                act.asked = true;
                let act = act.clone();
                self.out.push(Effect::Remedy(ask(&act)));
            }
        }
    }

    /// Returns whether what an action was against is well by now.
    fn is_over(&self, target: &str, root: &str) -> bool {
        let agent = self.agent(target).or_else(|| self.agent(root)).and_then(|n| self.targets.get(n));
        let check = self.machine.checks.iter().find(|c| c.check.name() == root);
        let fine = |seen: &Seen| seen.is_fine() || matches!(seen, Seen::Off(_) | Seen::Quarantined(_));
        match (check, agent) {
            (Some(check), _) => fine(&check.seen),
            (None, Some(agent)) => fine(&agent.seen),
            (None, None) => true,
        }
    }

    /// Takes what came of an action.
    pub(crate) fn settle(
        &mut self,
        now: Now,
        id: &str,
        outcome: Outcome,
        detail: String,
        observing: Option<u64>,
    ) {
        // This holds for all, whatever has become of the action meanwhile.
        if let Some(until) = observing {
            self.held_until = now.boot + until.saturating_sub(now.wall).min(3_600_000);
            self.dirty = true;
        }
        let of = |i: &Incident| i.open_act().is_some_and(|a| a.id == id);
        let Some(incident) = self.incidents.iter_mut().find(|i| of(i)) else { return };
        let (root, fleet) = (incident.root.clone(), incident.root == FLEET);
        let Some(act) = incident.open_act_mut() else { return };
        let (target, cause) = (act.target.clone(), act.cause);
        act.detail = detail;
        self.dirty = true;
        if matches!(outcome, Outcome::Running | Outcome::Away) {
            act.asked = false;
            act.retry = now.boot + AGAIN;
            return;
        }
        act.outcome = Some(outcome);
        // Whether it helped is seen before anything else is done.
        self.machine.hurry_all(now.boot);
        if outcome == Outcome::Halted {
            // It was not begun, and the incident itself says that all is halted.
            let id = act.id.clone();
            incident.actions.retain(|a| a.id != id);
        }
        if fleet {
            let known = matches!(cause, Cause::SocketMissing | Cause::StaleSocket | Cause::PlistDrift);
            incident.not_before = now.boot + if known { APART_KNOWN } else { APART };
        }
        let startup = self.agent(&target).and_then(|n| self.targets.get(n)).map_or(0, |t| t.spec.startup);
        let limits = self.limits_mut(&root, &target);
        match outcome {
            Outcome::Healed => limits.ended(now.boot, startup.min(GRACE_LIMIT)),
            Outcome::HeldBack | Outcome::Halted => {
                limits.give_back();
                limits.wait(now.boot + LATER);
            }
            Outcome::NotNeeded => {
                limits.give_back();
                limits.ended(now.boot, 0);
            }
            _ => limits.ended(now.boot, 0),
        }
    }

    fn limits_mut(&mut self, root: &str, target: &str) -> &mut Limits {
        let of_agent = root == FLEET || self.names.contains_key(root);
        let agent = self.names.get(target).filter(|_| of_agent);
        match agent.and_then(|n| self.targets.get_mut(*n)) {
            Some(target) => &mut target.limits,
            None => self.others.entry(root.to_owned()).or_default(),
        }
    }
}

/// Returns whether the service remedy cannot be asked. Without its socket it still answers on the connection that is
/// open, and one that does not serve says why.
fn is_useless(seen: &Seen) -> bool {
    match seen {
        Seen::Failed { cause, .. } => {
            cause.is_down() && !matches!(cause, Cause::SocketMissing | Cause::NotServing)
        }
        seen => seen.is_down(),
    }
}

/// Returns whether the supervisor is asked and not the service remedy, since that is what is to be restarted.
fn is_direct(target: &str, cause: Cause) -> bool {
    target == "remedy" && cause.wants_restart()
}

fn ask(act: &Act) -> Ask {
    let cause = format!("{}: {}", act.cause.id(), act.why);
    Ask { id: act.id.clone(), remedy: act.remedy.clone(), target: act.target.clone(), cause: cut(cause, 300) }
}
