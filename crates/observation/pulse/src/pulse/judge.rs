//! From what is seen to incidents: what is a root, what failed together, what is over.

use std::collections::{BTreeMap, BTreeSet};

use super::cause::Cause;
use super::incident::{FLEET, Incident};
use super::input::Now;
use super::target::Seen;
use super::{CLOSED, Core};

/// How long roots are gathered before incidents are opened, in milliseconds: what fails together is one incident.
const GATHER: u64 = 2_000;
/// How much longer while questions or checks are open that may explain them.
const GATHER_LIMIT: u64 = 8_000;
/// What begins within so long has begun together, in milliseconds.
const TOGETHER: u64 = 5_000;
/// How long all must be well before an incident is over, in milliseconds; what crashes again meanwhile is the same one.
const SETTLE: u64 = 30_000;
/// How long nothing is done about many failures without a shared cause, in milliseconds.
const COMMON_WAIT: u64 = 30_000;

/// Roots that no incident has yet.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    since: Option<u64>,
    roots: BTreeMap<String, Root>,
}

#[derive(Debug, Clone)]
struct Root {
    cause: Cause,
    detail: String,
    onset: u64,
    agent: bool,
}

/// What is seen of a root, what it fails because of, since when it is bad, and since when fine.
type Known<'a> = (&'a Seen, Option<&'a str>, Option<u64>, Option<u64>);

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }
}

impl Core {
    /// Looks at everything anew; `asked` is the agent whose answer has just come.
    pub(crate) fn evaluate(&mut self, now: Now, asked: Option<usize>) {
        let needed = if self.machine.is_starved(now.boot) { 4 } else { 2 };
        for target in &mut self.targets {
            target.age(now.boot);
            let mut seen = target.look(now, needed);
            let soft = matches!(
                seen,
                Seen::Failed { cause: Cause::NotServing | Cause::Hung | Cause::Unreachable, .. }
            );
            if soft && target.history.is_flapping() {
                let detail = format!("{}: {}", Cause::Flapping.sentence(), target.history);
                seen = Seen::Failed { cause: Cause::Flapping, detail, wait: 0 };
            }
            target.note(now, seen);
        }
        if let Some(agent) = asked {
            self.push_beat(agent);
        }
        self.cast_shadows(now);
        self.update_incidents(now);
        self.gather(now);
    }

    /// Returns what is known of an agent or a check.
    fn root(&self, name: &str) -> Option<Known<'_>> {
        if let Some(target) = self.agent(name).and_then(|n| self.targets.get(n)) {
            let shadow = target.shadow.as_ref().map(|s| s.by.as_str());
            return Some((&target.seen, shadow, target.bad_since, target.fine_since));
        }
        let check = self.machine.checks.iter().find(|c| c.check.name() == name && c.supported)?;
        Some((&check.seen, None, check.bad_since, check.fine_since))
    }

    fn new_roots(&self) -> BTreeMap<String, Root> {
        let has = |name: &str| self.incidents.iter().any(|i| i.root == name || i.members.contains(name));
        let agents = self.targets.iter().map(|t| (t.spec.name.as_str(), true));
        let checks = self.machine.checks.iter().map(|c| (c.check.name(), false));
        let mut roots = BTreeMap::new();
        for (name, agent) in agents.chain(checks) {
            let Some((seen, None, Some(onset), _)) = self.root(name) else { continue };
            if let Seen::Failed { cause, detail, .. } = seen
                && !has(name)
            {
                roots.insert(name.to_owned(), Root { cause: *cause, detail: detail.clone(), onset, agent });
            }
        }
        for target in &self.targets {
            let name = target.spec.name.as_str();
            if let Seen::Quarantined(detail) = &target.seen
                && !has(name)
            {
                let root = Root {
                    cause: Cause::Quarantined,
                    detail: detail.clone(),
                    onset: target.bad_since.unwrap_or(self.last.boot),
                    agent: true,
                };
                roots.insert(name.to_owned(), root);
            }
        }
        roots
    }

    fn gather(&mut self, now: Now) {
        if self.maintenance_until > now.boot || self.wake_until > now.boot {
            self.pending = Pending::default();
            return;
        }
        let mut roots = self.new_roots();
        // A crash is told even when it is over before the others could have followed.
        let crashed = |name: &str, root: &Root| {
            root.cause == Cause::Crashed && self.root(name).is_some_and(|(seen, ..)| seen.is_fine())
        };
        for (name, root) in &self.pending.roots {
            if !roots.contains_key(name) && crashed(name, root) {
                roots.insert(name.clone(), root.clone());
            }
        }
        if roots.is_empty() {
            self.pending = Pending::default();
            return;
        }
        let since = *self.pending.since.get_or_insert(now.boot);
        self.pending.roots = roots;
        self.look_around(now, since);
        let suspects = self.targets.iter().any(|t| t.is_asked() && matches!(t.seen, Seen::Suspect(_)));
        let open = suspects || !self.machine.is_fresh(since);
        let waited = now.boot.saturating_sub(since);
        if waited >= GATHER_LIMIT || (waited >= GATHER && !open) {
            self.open_incidents(now);
        }
    }

    /// Asks for what would explain the pending roots: the shared facts, what they need, and when there are several, all.
    fn look_around(&mut self, now: Now, since: u64) {
        self.machine.hurry(now.boot, since.saturating_sub(1));
        let suspects =
            self.targets.iter().filter(|t| t.is_asked() && matches!(t.seen, Seen::Suspect(_))).count();
        let all = self.pending.roots.len() + suspects >= 2;
        let roots = self.pending.roots.keys().filter_map(|name| self.agent(name));
        let needed: BTreeSet<usize> = roots.flat_map(|n| self.graph.needs(n).collect::<Vec<_>>()).collect();
        for (n, target) in self.targets.iter_mut().enumerate() {
            let old = target.answer.as_ref().is_none_or(|(_, at)| *at < since);
            if old && (all || needed.contains(&n)) {
                target.next_probe = target.next_probe.min(now.boot);
            }
        }
    }

    fn open_incidents(&mut self, now: Now) {
        let roots = std::mem::take(&mut self.pending).roots;
        let together = self.together(&roots);
        let mut members = BTreeSet::new();
        for (name, root) in roots {
            if together.contains(&name) {
                members.insert((name, root.cause, root.detail, root.onset));
            } else {
                let recovered = self.root(&name).is_some_and(|(seen, ..)| seen.is_fine()).then_some(now.wall);
                self.open(now, name, root.cause, root.detail, root.onset, BTreeSet::new(), recovered);
            }
        }
        if members.is_empty() {
            return;
        }
        let names: BTreeSet<String> = members.iter().map(|m| m.0.clone()).collect();
        if let Some(fleet) = self.incidents.iter_mut().find(|i| i.root == FLEET) {
            fleet.members.extend(names);
            fleet.not_before = fleet.not_before.max(now.boot + COMMON_WAIT);
            self.dirty = true;
            return;
        }
        let causes: BTreeSet<Cause> = members.iter().map(|m| m.1).collect();
        let one = causes.first().copied().filter(|c| causes.len() == 1 && c.remedy(0).is_none());
        let onset = members.iter().map(|m| m.3).min().unwrap_or(now.boot);
        let each: Vec<&str> = causes.iter().map(|c| c.id()).collect();
        let first = members.first().map_or("", |m| m.2.as_str());
        let detail = format!("{} agents failed at once ({}): {first}", names.len(), each.join(", "));
        self.open(now, FLEET.to_owned(), one.unwrap_or(Cause::Common), detail, onset, names, None);
    }

    /// Returns those of the roots that failed with so many others that something they share is to be suspected.
    fn together(&self, roots: &BTreeMap<String, Root>) -> BTreeSet<String> {
        let targets = self.targets.len();
        let threshold = if targets < 20 { 3 } else { (targets * 3).div_ceil(10) };
        let agents: Vec<(&String, u64)> =
            roots.iter().filter(|(_, r)| r.agent).map(|(n, r)| (n, r.onset)).collect();
        let earlier = self.incidents.iter().filter(|i| i.recovered.is_none());
        let earlier: Vec<u64> =
            earlier.filter_map(|i| self.agent(&i.root)).filter_map(|n| self.targets[n].bad_since).collect();
        let near = |at: u64, other: u64| other >= at && other - at <= TOGETHER;
        let mut together = BTreeSet::new();
        for (_, at) in &agents {
            let group: Vec<&String> = agents.iter().filter(|(_, o)| near(*at, *o)).map(|(n, _)| *n).collect();
            let before = earlier.iter().filter(|o| near(*at, **o) || near(**o, *at)).count();
            if group.len() + before >= threshold {
                together.extend(group.into_iter().cloned());
            }
        }
        together
    }

    #[expect(clippy::too_many_arguments, reason = "an incident has as many facts")]
    fn open(
        &mut self,
        now: Now,
        root: String,
        cause: Cause,
        detail: String,
        onset: u64,
        members: BTreeSet<String>,
        recovered: Option<u64>,
    ) {
        self.serial += 1;
        let extra = if self.machine.jumped.is_some() { COMMON_WAIT } else { 0 };
        let not_before = if root == FLEET { now.boot + COMMON_WAIT + extra } else { 0 };
        let mut incident = Incident {
            id: format!("p{:x}-{}", now.wall, self.serial),
            cause,
            detail,
            shadowed: BTreeSet::new(),
            began: super::to_wall(now, onset.min(now.boot)),
            detected: now.wall,
            recovered,
            actions: Vec::new(),
            serial: 0,
            opened: now.boot,
            not_before,
            fine_since: None,
            root,
            members,
        };
        self.note_shadowed(&mut incident);
        self.tell.opened(&incident);
        self.incidents.push(incident);
        self.dirty = true;
    }

    fn note_shadowed(&self, incident: &mut Incident) {
        for target in &self.targets {
            if target.shadow.as_ref().is_some_and(|s| s.by == incident.root) {
                incident.shadowed.insert(target.spec.name.clone());
            }
        }
        incident.shadowed.extend(incident.members.iter().cloned());
    }

    fn update_incidents(&mut self, now: Now) {
        let mut over = Vec::new();
        let mut incidents = std::mem::take(&mut self.incidents);
        for incident in &mut incidents {
            self.note_shadowed(incident);
            let end = if incident.root == FLEET {
                self.update_fleet(now, incident)
            } else {
                self.update_single(now, incident)
            };
            if let Some(why) = end
                && incident.open_act().is_none()
            {
                over.push((incident.id.clone(), why));
            }
        }
        self.incidents = incidents;
        for (id, why) in over {
            self.close(now, &id, why);
        }
    }

    /// Brings an incident up to date; returns why it is over, when it is.
    fn update_single(&self, now: Now, incident: &mut Incident) -> Option<&'static str> {
        // An agent that the catalogue no longer has, or a check that this system cannot make, is nobody's trouble.
        let Some((seen, shadow, _, fine_since)) = self.root(&incident.root) else { return Some("is gone") };
        match seen {
            Seen::Off(_) => return Some("the owner stopped it"),
            Seen::Quarantined(detail) => {
                incident.cause = Cause::Quarantined;
                incident.detail.clone_from(detail);
                incident.recovered = None;
            }
            Seen::Failed { cause, detail, .. } => {
                if shadow.is_some() {
                    return Some("it fails because of something else");
                }
                if incident.cause != *cause {
                    incident.cause = *cause;
                    incident.detail.clone_from(detail);
                }
                incident.recovered = None;
            }
            seen if seen.is_fine() => {
                incident.recovered.get_or_insert(now.wall);
                let since = fine_since.unwrap_or(now.boot);
                return (now.boot.saturating_sub(since) >= SETTLE).then_some("");
            }
            _ => incident.recovered = None,
        }
        None
    }

    fn update_fleet(&self, now: Now, incident: &mut Incident) -> Option<&'static str> {
        let mut fine = true;
        for name in &incident.members {
            let Some((seen, shadow, ..)) = self.root(name) else { continue };
            fine &= seen.is_fine()
                || matches!(seen, Seen::Off(_) | Seen::Quarantined(_))
                || (seen.is_failed() && shadow.is_some());
        }
        if !fine {
            (incident.recovered, incident.fine_since) = (None, None);
            return None;
        }
        incident.recovered.get_or_insert(now.wall);
        let since = *incident.fine_since.get_or_insert(now.boot);
        (now.boot.saturating_sub(since) >= SETTLE).then_some("")
    }

    fn close(&mut self, now: Now, id: &str, why: &str) {
        let Some(at) = self.incidents.iter().position(|i| i.id == id) else { return };
        let mut incident = self.incidents.remove(at);
        incident.recovered.get_or_insert(now.wall);
        if !why.is_empty() {
            incident.detail = format!("{}; over, because {why}", incident.detail);
        }
        self.tell.closed(&incident);
        self.closed.push_front(incident.told());
        self.closed.truncate(CLOSED);
        self.dirty = true;
    }
}
