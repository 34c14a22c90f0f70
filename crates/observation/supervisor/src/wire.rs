//! Messages outward; inward there are only names and a reason.

use mirror_contract::mirror::supervisor::v1 as pb;
use mirror_contract::timestamp;
use mirror_kit::desired::Wish;

use crate::backend::{AgentRow, AgentState};

impl From<AgentState> for pb::AgentState {
    fn from(state: AgentState) -> Self {
        match state {
            AgentState::NotLoaded => Self::NotLoaded,
            AgentState::Idle => Self::Idle,
            AgentState::Throttled => Self::Throttled,
            AgentState::Running => Self::Running,
            AgentState::Draining => Self::Draining,
        }
    }
}

fn wanted(wish: Wish) -> pb::AgentDesired {
    match wish {
        Wish::Running => pb::AgentDesired::Running,
        Wish::Stopped => pb::AgentDesired::Stopped,
        Wish::Quarantined => pb::AgentDesired::Quarantined,
    }
}

impl From<AgentRow> for pb::Agent {
    fn from(row: AgentRow) -> Self {
        let time = |ms: u64| (ms > 0).then(|| timestamp(ms));
        Self {
            name: row.name,
            label: row.label,
            job: row.job,
            desired: wanted(row.wish).into(),
            reason: row.reason,
            state: pb::AgentState::from(row.state).into(),
            pid: row.pid,
            started: time(row.started_ms),
            next_start: time(row.next_start_ms),
            last_exit: row.last_exit,
            last_ended: time(row.last_ended_ms),
            starts: row.starts,
            problem: row.problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_sent_and_an_unknown_time_is_absent() {
        let row = AgentRow {
            wish: Wish::Quarantined,
            reason: "fails".into(),
            state: AgentState::Throttled,
            pid: 7,
            started_ms: 1_000,
            next_start_ms: 2_000,
            last_exit: "SIGKILL".into(),
            last_ended_ms: 3_000,
            starts: 4,
            problem: "edited".into(),
            ..AgentRow::new("job.sweep", true)
        };
        let agent = pb::Agent::from(row);
        assert_eq!((agent.label.as_str(), agent.job), ("dev.mirrordna.job.sweep", true));
        assert_eq!(
            (agent.desired(), agent.state()),
            (pb::AgentDesired::Quarantined, pb::AgentState::Throttled)
        );
        let times =
            [&agent.started, &agent.next_start, &agent.last_ended].map(|t| t.as_ref().map(|t| t.seconds));
        assert_eq!(times, [Some(1), Some(2), Some(3)]);
        assert_eq!((agent.pid, agent.starts, agent.problem.as_str()), (7, 4, "edited"));
        assert_eq!((agent.reason.as_str(), agent.last_exit.as_str()), ("fails", "SIGKILL"));
        let fresh = pb::Agent::from(AgentRow::new("bus", false));
        assert_eq!((fresh.started, fresh.next_start, fresh.last_ended), (None, None, None));
        assert_eq!((fresh.state(), fresh.desired()), (pb::AgentState::NotLoaded, pb::AgentDesired::Running));
    }
}
