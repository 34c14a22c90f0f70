//! What several tests begin with.

use jiff::tz::TimeZone;

use crate::entry::Now;
use crate::job::{CatchUp, Job};
use crate::schedule::Report;
use crate::when::When;

/// Returns a job of `svc:x` that is due every so many milliseconds and caught up with once.
pub(crate) fn job(name: &str, every_ms: u64) -> Job {
    Job {
        name: name.to_owned(),
        summary: "Is a test.".to_owned(),
        when: When::Every { every_ms, phase_ms: 0 },
        catch_up: CatchUp::Once,
        limit_ms: 600_000,
        owner: "svc:x".to_owned(),
    }
}

/// Returns a moment at which both clocks show the same.
pub(crate) fn now(ms: u64) -> Now {
    Now { wall: ms, boot: ms, tz: TimeZone::UTC }
}

/// Returns the report of a worker that did something.
pub(crate) fn done(detail: &str) -> Report {
    Report { failed: false, worked: true, detail: detail.to_owned() }
}

/// Returns the report of a worker that found nothing to do.
pub(crate) fn quiet() -> Report {
    Report { failed: false, worked: false, detail: String::new() }
}

/// Returns the report of a worker that failed.
pub(crate) fn failed(detail: &str) -> Report {
    Report { failed: true, worked: true, detail: detail.to_owned() }
}
