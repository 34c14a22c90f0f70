//! Requests inward, with all validation; answers outward; and the events.
//!
//! Events: `remedy.began` and `remedy.ended`, each with the action as JSON: `id`, `remedy`, `target`, `cause`, `by`,
//! `outcome`, `detail`, `began_ms`, `ended_ms`. Of one that was not done there is no event.

use mirror_contract::mirror::bus::v1::{NewEvent, PayloadType};
use mirror_contract::mirror::remedy::v1 as pb;
use mirror_contract::timestamp;
use mirror_kit::{Decl, JobDecl, Principal};

use crate::catalogue::Remedy;
use crate::error::Error;
use crate::limits::COOLDOWN;
use crate::remedy::{Action, Ask, Outcome, Unsent};

/// Longest id, in bytes.
const ID_BYTES: usize = 64;
/// Longest cause, in bytes.
const CAUSE_BYTES: usize = 300;
/// Actions that are listed at most, and unless the caller says how many.
const LISTED: (u32, u32) = (256, 32);
/// The only service that may have something done.
const CALLER: &str = "pulse";

/// Checks who asks; returns the name that is recorded.
pub(crate) fn caller(principal: Option<&Principal>) -> Result<String, Error> {
    match principal {
        Some(Principal::Local) => Ok(Principal::Local.actor()),
        Some(Principal::Service(name)) if **name == *CALLER => Ok(format!("svc:{name}")),
        Some(other) => Err(Error::Caller(other.actor())),
        None => Err(Error::Caller("an unknown caller".to_owned())),
    }
}

/// Checks a request.
pub(crate) fn ask(
    request: pb::RunRemedyRequest,
    services: &[&'static Decl],
    jobs: &[&'static JobDecl],
) -> Result<Ask, Error> {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b':' | b'-');
    if request.id.is_empty() || request.id.len() > ID_BYTES || !request.id.bytes().all(known) {
        return Err(Error::Id("must be 1 to 64 of [A-Za-z0-9_.:-]"));
    }
    let Some(remedy) = Remedy::parse(&request.remedy) else {
        return Err(Error::Unknown(request.remedy.chars().take(ID_BYTES).collect()));
    };
    if let Some(why) = remedy.refuses(&request.target, services, jobs) {
        return Err(Error::Target(why));
    }
    if request.cause.is_empty() || request.cause.len() > CAUSE_BYTES {
        return Err(Error::Cause("must be 1 to 300 bytes"));
    }
    if request.cause.chars().any(char::is_control) {
        return Err(Error::Cause("must be one line without control characters"));
    }
    Ok(Ask { id: request.id, remedy, target: request.target, cause: request.cause })
}

/// Returns how many actions to list.
pub(crate) fn limit(asked: u32) -> usize {
    let limit = if asked == 0 { LISTED.1 } else { asked.min(LISTED.0) };
    usize::try_from(limit).unwrap_or_default()
}

/// Returns the catalogue as the contract has it.
pub(crate) fn catalogue() -> Vec<pb::Remedy> {
    let shown = |remedy: Remedy| {
        let words = remedy.words();
        pb::Remedy {
            id: words.id.to_owned(),
            summary: words.summary.to_owned(),
            precondition: words.precondition.to_owned(),
            verify: words.verify.to_owned(),
            undo: words.undo.to_owned(),
            limit_ms: u64::try_from(remedy.limit(None).as_millis()).unwrap_or(u64::MAX),
            cooldown_ms: COOLDOWN.unsigned_abs(),
        }
    };
    Remedy::ALL.into_iter().map(shown).collect()
}

impl From<Outcome> for pb::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Running => Self::Running,
            Outcome::Healed => Self::Healed,
            Outcome::NotHealed => Self::NotHealed,
            Outcome::NotNeeded => Self::NotNeeded,
            Outcome::HeldBack => Self::HeldBack,
            Outcome::Failed => Self::Failed,
            Outcome::Unknown => Self::Unknown,
        }
    }
}

impl From<Action> for pb::Action {
    fn from(action: Action) -> Self {
        Self {
            id: action.id,
            remedy: action.remedy.id().to_owned(),
            target: action.target,
            cause: action.cause,
            by: action.by,
            outcome: pb::Outcome::from(action.outcome).into(),
            detail: action.detail,
            started: Some(timestamp(action.began_ms)),
            ended: action.ended_ms.map(timestamp),
        }
    }
}

/// Returns an event as the bus takes it.
pub(crate) fn event(unsent: &Unsent) -> serde_json::Result<NewEvent> {
    Ok(NewEvent {
        subject: unsent.subject.to_owned(),
        payload: serde_json::to_vec(&unsent.action)?.into(),
        r#type: PayloadType::Json.into(),
        id: unsent.event_id.clone(),
        ..NewEvent::default()
    })
}

/// Runs every check of a request on bytes that nobody wrote, for fuzzing.
#[doc(hidden)]
pub fn fuzz_wire(bytes: &[u8]) {
    if let Some(request) = mirror_contract::decode(bytes) {
        let _ = ask(request, &[], &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_errors::{Classify as _, Detail};

    const BUS: Decl = Decl { name: "bus", ..Decl::DEFAULT };

    /// Checks which field of a request is refused; an empty one means that it is taken.
    #[track_caller]
    fn check(id: &str, remedy: &str, target: &str, cause: &str, field: &str) {
        let request = pb::RunRemedyRequest {
            id: id.to_owned(),
            remedy: remedy.to_owned(),
            target: target.to_owned(),
            cause: cause.to_owned(),
        };
        let refused = ask(request, &[&BUS], &[]).err().map(|error| error.details());
        match refused.as_deref() {
            None => assert_eq!(field, "", "{id:?} {remedy:?} {target:?} was taken"),
            Some([Detail::Field(found, _)]) => assert_eq!(found, field),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_bounds_are_taken_and_what_is_beyond_is_named() {
        check("a", "restart", "bus", "x", "");
        check(&"aZ9_.:-x".repeat(8), "recreate-run-dir", "fleet", &"x".repeat(300), "");
        check("", "restart", "bus", "x", "id");
        check(&"a".repeat(65), "restart", "bus", "x", "id");
        check("a b", "restart", "bus", "x", "id");
        check("a/b", "restart", "bus", "x", "id");
        check("a", "reboot", "bus", "x", "remedy");
        check("a", "", "bus", "x", "remedy");
        check("a", "restart", "init", "x", "target");
        check("a", "restart", "fleet", "x", "target");
        check("a", "restart", "bus", "", "cause");
        check("a", "restart", "bus", &"x".repeat(301), "cause");
        check("a", "restart", "bus", "x\ny", "cause");
    }

    #[test]
    fn pulse_and_local_callers_are_taken_and_nobody_else() {
        assert_eq!(caller(Some(&Principal::Local)).unwrap(), "local");
        assert_eq!(caller(Some(&Principal::Service("pulse".into()))).unwrap(), "svc:pulse");
        for refused in [
            None,
            Some(Principal::Service("bus".into())),
            Some(Principal::Service("pulse2".into())),
            Some(Principal::Stranger { uid: 1 }),
        ] {
            assert_eq!(caller(refused.as_ref()).unwrap_err().reason(), "REMEDY_CALLER_DENIED", "{refused:?}");
        }
    }

    #[test]
    fn a_list_is_bounded() {
        assert_eq!([0, 1, 256, 257, u32::MAX].map(limit), [32, 1, 256, 256, 256]);
    }
}
