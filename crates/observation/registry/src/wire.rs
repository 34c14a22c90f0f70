//! Messages outward; the only thing inward is a name, which the store knows or not.

use mirror_contract::mirror::registry::v1 as pb;
use mirror_kit::State;

use crate::registry::{Actual, Desired, Record};

impl From<Desired> for pb::Desired {
    fn from(desired: Desired) -> Self {
        match desired {
            Desired::Running => Self::Running,
            Desired::Stopped => Self::Stopped,
            Desired::Quarantined => Self::Quarantined,
        }
    }
}

fn actual(state: State) -> pb::Actual {
    match state {
        State::Starting => pb::Actual::Starting,
        State::Serving => pb::Actual::Serving,
        State::Degraded => pb::Actual::Degraded,
        State::NotServing => pb::Actual::NotServing,
        State::Draining => pb::Actual::Draining,
    }
}

impl From<Record> for pb::ServiceRecord {
    fn from(Record { decl, socket, standing }: Record) -> Self {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let (actual, pid, started_ms, build) = match standing.actual {
            Actual::Down => (pb::Actual::Down, 0, 0, String::new()),
            Actual::Up { state, pid, started_ms, build } => (actual(state), pid, started_ms, build),
        };
        Self {
            name: decl.name.to_owned(),
            summary: decl.summary.to_owned(),
            primitive: decl.primitive.name().to_owned(),
            tier: decl.tier.into(),
            needs: decl.needs.iter().map(|need| need.service.to_owned()).collect(),
            serves: owned(decl.serves),
            desired: pb::Desired::from(standing.desired).into(),
            actual: actual.into(),
            detail: standing.detail,
            socket: socket.to_string_lossy().into_owned(),
            build,
            pid,
            started: (started_ms > 0).then(|| mirror_contract::timestamp(started_ms)),
            memory_mb: decl.memory_mb,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Standing;
    use mirror_kit::{Away, Decl, Need, Primitive};

    const FULL: Decl = Decl {
        name: "full",
        summary: "Has it all.",
        primitive: Primitive::Knowledge,
        tier: 3,
        needs: &[Need { service: "bus", away: Away::Hold }],
        serves: &["mirror.full.v1.FullService"],
        memory_mb: 9,
        ..Decl::DEFAULT
    };

    fn record(actual: Actual) -> pb::ServiceRecord {
        let standing = Standing { desired: Desired::Stopped, actual, detail: "why".into() };
        Record { decl: &FULL, socket: "/home/run/full.sock".into(), standing }.into()
    }

    #[test]
    fn a_running_service_has_every_field() {
        let up = Actual::Up { state: State::Degraded, pid: 7, started_ms: 12_345, build: "b1".into() };
        let expected = pb::ServiceRecord {
            name: "full".into(),
            summary: "Has it all.".into(),
            primitive: "knowledge".into(),
            tier: 3,
            needs: vec!["bus".into()],
            serves: vec!["mirror.full.v1.FullService".into()],
            desired: pb::Desired::Stopped.into(),
            actual: pb::Actual::Degraded.into(),
            detail: "why".into(),
            socket: "/home/run/full.sock".into(),
            build: "b1".into(),
            pid: 7,
            started: Some(prost_types::Timestamp { seconds: 12, nanos: 345_000_000 }),
            memory_mb: 9,
        };
        assert_eq!(record(up), expected);
    }

    #[test]
    fn a_service_that_is_down_has_no_process() {
        let down = record(Actual::Down);
        assert_eq!(down.actual(), pb::Actual::Down);
        assert_eq!((down.pid, down.build.as_str(), down.started), (0, "", None));
    }

    #[test]
    fn every_state_has_a_name_of_its_own_on_the_wire() {
        let states = [State::Starting, State::Serving, State::Degraded, State::NotServing, State::Draining];
        let wire: Vec<_> = states.map(actual).map(|a| a.as_str_name()).into();
        let expected =
            ["ACTUAL_STARTING", "ACTUAL_SERVING", "ACTUAL_DEGRADED", "ACTUAL_NOT_SERVING", "ACTUAL_DRAINING"];
        assert_eq!(wire, expected);
        let wishes = [Desired::Running, Desired::Stopped, Desired::Quarantined];
        let wire: Vec<_> = wishes.map(pb::Desired::from).map(|d| d.as_str_name()).into();
        assert_eq!(wire, ["DESIRED_RUNNING", "DESIRED_STOPPED", "DESIRED_QUARANTINED"]);
    }
}
