//! Who fails because of whom: the declared needs, and what all agents share.
//!
//! Invariant: what is explained by something else that failed before it is never a root.

use super::Core;
use super::cause::Cause;
use super::input::{Check, Now};
use super::target::{Seen, Shadow, Target};

/// How much later than its consequence a cause may be detected, in milliseconds: a hang takes two questions.
const SLACK: u64 = 15_000;
/// Longest time that a dependent gets to recover after what it needs has, in milliseconds.
const LINGER: u64 = 30_000;
/// How far apart a full disk and its consequences may be, in milliseconds.
const DISK: u64 = 60_000;

impl Cause {
    /// Returns whether an agent that fails so is of no use to those who need it.
    pub(crate) fn is_down(self) -> bool {
        !matches!(self, Self::PlistDrift | Self::Memory | Self::LogFlood | Self::JobFailed)
    }

    /// Returns whether the failure of something else can be the reason for it.
    fn is_explicable(self) -> bool {
        matches!(
            self,
            Self::Crashed
                | Self::CrashLoop
                | Self::Hung
                | Self::SlowStart
                | Self::NotServing
                | Self::SocketMissing
                | Self::StaleSocket
                | Self::Unreachable
                | Self::Flapping
        )
    }
}

impl Core {
    /// Says for each agent whether it fails because of something else.
    pub(crate) fn cast_shadows(&mut self, now: Now) {
        let mut order: Vec<usize> = (0..self.targets.len()).collect();
        order.sort_by_key(|n| self.graph.depth(*n));
        for agent in order {
            let by = self.shadower(agent);
            let Some(target) = self.targets.get_mut(agent) else { continue };
            let old = target.shadow.take();
            target.shadow = match (by, old) {
                (Some(by), _) => Some(Shadow { by, until: None }),
                (None, Some(_)) if target.seen.is_fine() || !is_bad(target) => None,
                (None, Some(Shadow { by, until: None })) => {
                    Some(Shadow { by, until: Some(now.boot + target.spec.startup.min(LINGER)) })
                }
                (None, Some(shadow)) => {
                    Some(shadow).filter(|s| s.until.is_some_and(|until| now.boot < until))
                }
                (None, None) => None,
            };
        }
    }

    fn shadower(&self, agent: usize) -> Option<String> {
        let target = self.targets.get(agent)?;
        let (cause, onset) = match &target.seen {
            Seen::Failed { cause, .. } if cause.is_explicable() => (Some(*cause), target.bad_since?),
            // What says itself that a part is missing is explained by whatever it needs, whenever that failed.
            Seen::Partial(_) => (None, u64::MAX),
            Seen::Suspect(_) => (None, target.bad_since.unwrap_or(u64::MAX)),
            Seen::Unknown(_) | Seen::Starting(_) if target.shadow.is_some() => (None, u64::MAX),
            _ => return None,
        };
        let shared = [Check::Home, Check::Disk].into_iter().find(|check| {
            let state = self.machine.get(*check).filter(|c| c.seen.is_failed());
            let since = state.and_then(|c| c.bad_since);
            since.is_some_and(|since| match check {
                Check::Disk => {
                    let near = since <= onset.saturating_add(SLACK) && onset.saturating_sub(since) <= DISK;
                    near || cause.is_some_and(|c| c != Cause::Hung && since <= onset)
                }
                _ => cause.is_some() && since <= onset.saturating_add(SLACK),
            })
        });
        if let Some(check) = shared {
            return Some(check.name().to_owned());
        }
        // Nothing is healed without it, so that it never waits for what only it could heal.
        if target.spec.name == "remedy" && cause.is_some_and(|c| c != Cause::NotServing) {
            return None;
        }
        let down = |need: &usize| {
            let Some(other) = self.targets.get(*need) else { return false };
            match &other.seen {
                Seen::Failed { cause, .. } => {
                    cause.is_down() && other.bad_since.is_some_and(|at| at <= onset.saturating_add(SLACK))
                }
                seen => seen.is_down(),
            }
        };
        let need = self.graph.needs(agent).filter(down).min_by_key(|n| self.graph.depth(*n))?;
        let need = self.targets.get(need)?;
        // Agents were taken in the order of their needs, so what it waits for knows what that itself waits for.
        Some(need.shadow.as_ref().map_or_else(|| need.spec.name.clone(), |s| s.by.clone()))
    }
}

fn is_bad(target: &Target) -> bool {
    !matches!(target.seen, Seen::Off(_) | Seen::Quarantined(_))
}
