//! Messages inward, with all validation; messages outward.

use mirror_contract::mirror::kit::v1 as kit;
use mirror_contract::mirror::notify::v1 as notify;
use mirror_contract::mirror::pulse::v1 as pb;
use mirror_contract::mirror::remedy::v1 as remedy;
use mirror_contract::mirror::supervisor::v1 as supervisor;
use mirror_contract::{millis, timestamp};

use crate::error::Error;
use crate::pulse::{
    CLOSED, Card, Desired, Health, IncidentView, Outcome, Process, Row, Said, TargetView, Told, View,
};

/// Longest maintenance, in milliseconds: a day.
const MAINTENANCE_LIMIT: u64 = 86_400_000;
/// Longest reason, in bytes.
const REASON_BYTES: usize = 300;
/// Incidents in an answer unless the caller says otherwise.
const LIMIT: usize = 32;

/// Maintenance that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Maintenance {
    pub(crate) for_ms: u64,
    pub(crate) reason: String,
}

impl TryFrom<pb::PutMaintenanceRequest> for Maintenance {
    type Error = Error;

    fn try_from(request: pb::PutMaintenanceRequest) -> Result<Self, Error> {
        if request.for_ms > MAINTENANCE_LIMIT {
            return Err(Error::Invalid { field: "for_ms", why: "must be at most a day, 86,400,000" });
        }
        if request.reason.len() > REASON_BYTES || request.reason.contains(char::is_control) {
            return Err(Error::Invalid { field: "reason", why: "must be one line of at most 300 bytes" });
        }
        Ok(Self { for_ms: request.for_ms, reason: request.reason })
    }
}

/// Returns how many incidents are wanted; what is beyond the bounds is brought within them.
pub(crate) fn limit(request: &pb::ListIncidentsRequest) -> usize {
    match usize::try_from(request.limit).unwrap_or(CLOSED) {
        0 => LIMIT,
        n => n.min(CLOSED),
    }
}

/// Reads a row of the supervisor.
pub(crate) fn row(agent: supervisor::Agent) -> Row {
    let time = |t: &Option<prost_types::Timestamp>| t.as_ref().and_then(millis);
    let desired = match agent.desired() {
        supervisor::AgentDesired::Stopped => Desired::Stopped,
        supervisor::AgentDesired::Quarantined => Desired::Quarantined,
        supervisor::AgentDesired::Running | supervisor::AgentDesired::Unspecified => Desired::Running,
    };
    let process = match agent.state() {
        supervisor::AgentState::Idle => Process::Idle,
        supervisor::AgentState::Throttled => Process::Throttled,
        supervisor::AgentState::Running => Process::Running,
        supervisor::AgentState::Draining => Process::Draining,
        supervisor::AgentState::NotLoaded | supervisor::AgentState::Unspecified => Process::NotLoaded,
    };
    Row {
        desired,
        process,
        started: time(&agent.started),
        next_start: time(&agent.next_start),
        last_ended: time(&agent.last_ended),
        name: agent.name,
        reason: agent.reason,
        pid: agent.pid,
        last_exit: agent.last_exit,
        problem: agent.problem,
    }
}

/// Reads what a service says of itself; nothing when it says nothing that this build knows.
pub(crate) fn said(state: kit::get_state_response::State) -> Option<Said> {
    use kit::get_state_response::State;
    match state {
        State::Starting => Some(Said::Starting),
        State::Serving => Some(Said::Serving),
        State::Degraded => Some(Said::Degraded),
        State::NotServing => Some(Said::NotServing),
        State::Draining => Some(Said::Draining),
        State::Unspecified => None,
    }
}

/// Reads what came of an action.
pub(crate) fn outcome(outcome: remedy::Outcome) -> Outcome {
    match outcome {
        remedy::Outcome::Healed => Outcome::Healed,
        remedy::Outcome::NotHealed => Outcome::NotHealed,
        remedy::Outcome::NotNeeded => Outcome::NotNeeded,
        remedy::Outcome::HeldBack => Outcome::HeldBack,
        remedy::Outcome::Failed => Outcome::Failed,
        remedy::Outcome::Running => Outcome::Running,
        remedy::Outcome::Unknown | remedy::Outcome::Unspecified => Outcome::Unknown,
    }
}

/// Returns a card as it is put.
pub(crate) fn card(card: Card) -> notify::Card {
    let urgency = match card.urgency {
        5 => notify::Urgency::Urgent,
        4 => notify::Urgency::High,
        3 => notify::Urgency::Default,
        _ => notify::Urgency::Low,
    };
    notify::Card { subject: card.subject, title: card.title, body: card.body, urgency: urgency.into() }
}

impl From<Health> for pb::Health {
    fn from(health: Health) -> Self {
        match health {
            Health::Ok => Self::Ok,
            Health::Suspect => Self::Suspect,
            Health::Failed => Self::Failed,
            Health::Healing => Self::Healing,
            Health::Recovering => Self::Recovering,
            Health::Flapping => Self::Flapping,
            Health::Quarantined => Self::Quarantined,
            Health::Maintenance => Self::Maintenance,
            Health::Unknown => Self::Unknown,
            Health::Shadowed => Self::Shadowed,
        }
    }
}

impl From<TargetView> for pb::Target {
    fn from(target: TargetView) -> Self {
        Self {
            name: target.name,
            criticality: target.criticality.to_owned(),
            health: pb::Health::from(target.health).into(),
            detail: target.detail,
            seen: target.seen.map(timestamp),
            shadowed_by: target.shadowed_by,
            history: target.history,
        }
    }
}

impl From<Told> for pb::Incident {
    fn from(incident: Told) -> Self {
        Self {
            id: incident.id,
            cause: incident.cause.id().to_owned(),
            detail: format!("{} {}.", incident.cause.sentence(), incident.detail.trim_end_matches('.')),
            root: incident.root,
            shadowed: incident.shadowed.into_iter().collect(),
            remedy: String::new(),
            next_action: None,
            began: Some(timestamp(incident.began_ms)),
            detected: Some(timestamp(incident.detected_ms)),
            recovered: incident.recovered_ms.map(timestamp),
            actions: incident.actions,
        }
    }
}

impl From<IncidentView> for pb::Incident {
    fn from(view: IncidentView) -> Self {
        let mut shown = Self::from(view.incident);
        if !view.note.is_empty() {
            shown.detail = format!("{} Held back: {}.", shown.detail, view.note);
        }
        Self { remedy: view.remedy, next_action: view.next_action.map(timestamp), ..shown }
    }
}

impl From<View> for pb::Pulse {
    fn from(view: View) -> Self {
        let (until, reason) = view.observing.unwrap_or_default();
        Self {
            verdict: pb::Health::from(view.verdict).into(),
            summary: view.summary,
            targets: view.targets.into_iter().map(Into::into).collect(),
            incidents: view.incidents.into_iter().map(Into::into).collect(),
            swept: view.swept.map(timestamp),
            next_sweep: Some(timestamp(view.next_sweep)),
            maintenance_until: view.maintenance_until.map(timestamp),
            observing_until: until.map(timestamp),
            observing_reason: reason,
        }
    }
}

/// Runs every check of a request on bytes that nobody wrote, for fuzzing.
#[doc(hidden)]
pub fn fuzz_wire(bytes: &[u8]) {
    if let Some(request) = mirror_contract::decode::<pb::PutMaintenanceRequest>(bytes) {
        let _ = Maintenance::try_from(request);
    }
    if let Some(request) = mirror_contract::decode(bytes) {
        let _ = limit(&request);
    }
    if let Some(agent) = mirror_contract::decode(bytes) {
        let _ = row(agent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_errors::{Classify as _, Detail};

    #[track_caller]
    fn check(for_ms: u64, reason: &str, field: &str) {
        let request = pb::PutMaintenanceRequest { for_ms, reason: reason.to_owned() };
        let refused = Maintenance::try_from(request).err().map(|error| error.details());
        match refused.as_deref() {
            None => assert_eq!(field, "", "{for_ms} {reason:?} was taken"),
            Some([Detail::Field(found, _)]) => assert_eq!(found, field),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_bounds_of_maintenance_are_taken_and_what_is_beyond_is_named() {
        check(0, "", "");
        check(86_400_000, &"x".repeat(300), "");
        check(86_400_001, "", "for_ms");
        check(1, &"x".repeat(301), "reason");
        check(1, "two\nlines", "reason");
    }

    #[test]
    fn a_limit_is_brought_within_its_bounds() {
        let of = |limit_| limit(&pb::ListIncidentsRequest { limit: limit_ });
        assert_eq!((of(0), of(1), of(256), of(u32::MAX)), (32, 1, 256, 256));
    }

    #[test]
    fn what_a_later_build_says_is_never_good_news() {
        let agent = supervisor::Agent { state: 99, desired: 99, ..supervisor::Agent::default() };
        assert_eq!((row(agent.clone()).process, row(agent).desired), (Process::NotLoaded, Desired::Running));
        assert_eq!(outcome(remedy::Outcome::Unspecified), Outcome::Unknown);
        assert_eq!(said(kit::get_state_response::State::Unspecified), None);
    }
}
