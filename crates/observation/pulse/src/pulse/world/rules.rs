//! What becomes of the pulse's wishes, and what none of them may break.

use std::collections::{BTreeMap, BTreeSet};

use super::super::view::TargetView;
use super::{Ask, Desired, Effect, Event, Health, Mood, Outcome, Process, SEC, World};

impl World {
    /// What the supervisor does for a remedy.
    fn heal(&mut self, ask: &Ask) {
        if ask.remedy == "recreate-run-dir" {
            self.run_dir = true;
            return;
        }
        if ask.remedy == "rotate-logs" && ask.target == "fleet" {
            self.free += 4 << 30;
            return;
        }
        let Some(n) = self.agents.iter().position(|a| a.row.name == ask.target) else { return };
        match ask.remedy.as_str() {
            "quarantine" => {
                let agent = &mut self.agents[n];
                agent.row.desired = Desired::Quarantined;
                agent.row.reason = ask.cause.clone();
                agent.row.process = Process::Idle;
                agent.row.next_start = None;
                self.at(5, Event::Row(n));
            }
            "render" | "reload" => {
                self.agents[n].row.problem.clear();
                if self.agents[n].row.process == Process::NotLoaded {
                    self.start(n);
                } else {
                    self.at(5, Event::Row(n));
                }
            }
            _ => {
                let agent = &mut self.agents[n];
                agent.row.last_exit =
                    if ask.remedy == "restart" { "exit code 75" } else { "SIGKILL" }.to_owned();
                agent.row.last_ended = Some(self.now.wall);
                self.start(n);
            }
        }
    }

    pub(super) fn serve(&mut self, effect: Effect) {
        match effect {
            Effect::Probe { agent, .. } => {
                let hung = self.agents[agent].mood == Mood::Hung && !self.down_process(agent);
                let after = if hung { 2 * SEC } else { 3 };
                let asked = self.now.boot;
                self.at(after, Event::Answer(agent, asked));
            }
            Effect::Check(check) => self.at(5, Event::Checked(check)),
            Effect::List => self.tell_rows(),
            Effect::Remedy(ask) => self.take_ask(ask, false),
            Effect::Restart(ask) => self.take_ask(ask, true),
            Effect::Append { payload, .. } => {
                if !self.bus_away {
                    self.events.push(payload);
                }
                self.at(2, Event::Appended);
            }
            Effect::PutCard(card) => {
                self.cards.insert(card.subject.clone(), card.body);
                self.at(2, Event::Carded(card.subject));
            }
            Effect::ClearCard(subject) => {
                self.cards.remove(&subject);
                self.at(2, Event::Carded(subject));
            }
        }
    }

    fn down_process(&self, n: usize) -> bool {
        self.agents[n].row.process != Process::Running || !self.run_dir
    }

    fn take_ask(&mut self, ask: Ask, direct: bool) {
        let now = self.now.boot;
        let why = || format!("{ask:?} at {now}");
        assert!(!self.halted, "{} while halted", why());
        assert!(!self.settings.observe_only, "{} while only observing", why());
        assert!(now >= self.maintenance, "{} in maintenance", why());
        assert!(now >= self.woke + 60 * SEC || self.woke == 0, "{} just after waking", why());
        assert!(now >= self.told, "{} while remedy only observes", why());
        let never_fine =
            self.agents.iter().any(|a| a.row.name == ask.target) && !self.fine.contains_key(&ask.target);
        let again = self.asks.iter().any(|(_, a)| a.id == ask.id);
        assert!(!never_fine || again || now >= self.born + 120 * SEC, "{} in its boot grace", why());
        assert!(!direct || ask.target == "remedy", "{} of the supervisor", why());
        assert!(
            direct || self.open.values().all(|o| o.target == "remedy"),
            "{} while {:?}",
            why(),
            self.open
        );
        self.check_target(&ask);
        self.asks.push((now, ask.clone()));
        self.open.insert(ask.id.clone(), ask.clone());
        if self.done.contains_key(&ask.id) {
            assert!(!direct, "{} twice", why());
            self.at(3, Event::Acted(ask.id));
            return;
        }
        let outcome = if self.remedy_away && !direct {
            self.at(3, Event::Acted(ask.id));
            return;
        } else if self.chance(100) < self.trouble {
            [Outcome::NotHealed, Outcome::HeldBack, Outcome::Failed, Outcome::NotNeeded, Outcome::Unknown]
                [self.chance(5) as usize]
        } else {
            self.heal(&ask);
            Outcome::Healed
        };
        self.done.insert(ask.id.clone(), outcome);
        if outcome == Outcome::HeldBack && self.chance(3) == 0 {
            self.held = now + 600 * SEC;
        }
        let after = 200 + self.chance(2_000);
        self.at(after, Event::Acted(ask.id));
    }

    /// Nothing that was well is acted on, and nothing too often.
    fn check_target(&self, ask: &Ask) {
        let now = self.now.boot;
        let agent = self.agents.iter().find(|a| a.row.name == ask.target);
        if let Some(agent) = agent {
            assert!(agent.faulted.is_some(), "{ask:?} is a neighbour: it never failed");
        }
        let helped =
            |id: &str| !matches!(self.done.get(id), None | Some(Outcome::HeldBack | Outcome::NotNeeded));
        let mut before: BTreeMap<&str, u64> = BTreeMap::new();
        for (at, other) in self.asks.iter().filter(|(_, o)| o.target == ask.target && o.id != ask.id) {
            if helped(&other.id) {
                before.entry(other.id.as_str()).or_insert(*at);
            }
        }
        let within = |ms: u64| before.values().filter(|at| now - **at < ms).count();
        assert!(within(900 * SEC) < 3, "{ask:?} is the fourth in a quarter of an hour");
        assert!(within(86_400 * SEC) < 10, "{ask:?} is the eleventh in a day");
    }

    pub(super) fn check_invariants(&self) {
        let view = self.view();
        for (n, agent) in self.agents.iter().enumerate() {
            let Some(target) = view.targets.iter().find(|t| t.name == agent.row.name) else { continue };
            let heard = self.fine.get(&agent.row.name);
            let silent = heard.is_none_or(|at| self.now.boot - at > 25 * SEC);
            let fine = target.health == Health::Ok && silent;
            assert!(!fine, "{n} {} is called fine and has not been heard: {target:?}", agent.row.name);
        }
        let open: Vec<&str> = view.incidents.iter().map(|i| i.incident.root.as_str()).collect();
        let unique: BTreeSet<&&str> = open.iter().collect();
        assert_eq!(unique.len(), open.len(), "one cause is one incident: {open:?}");
        if view.verdict == Health::Ok {
            assert!(open.is_empty(), "{open:?}");
            let bad = |t: &&TargetView| matches!(t.health, Health::Unknown | Health::Failed);
            assert!(view.targets.iter().find(bad).is_none(), "{view:#?}");
        }
    }
}
