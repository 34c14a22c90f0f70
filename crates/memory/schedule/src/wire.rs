//! Requests inward, with all validation; answers outward.

use mirror_contract::mirror::schedule::v1 as pb;
use mirror_contract::mirror::schedule::v1::OccurrenceState as Shown;
use mirror_contract::mirror::schedule::v1::job::When as PbWhen;
use mirror_contract::{millis, timestamp};

use crate::entry::{Entry, Now};
use crate::error::Error;
use crate::job::{CatchUp, Job, Open, Outcome, Row};
use crate::schedule::Report;
use crate::when::{Calendar, When};

/// Longest name, in bytes.
const NAME_BYTES: usize = 40;
/// Longest summary, in bytes.
const SUMMARY_BYTES: usize = 120;
/// Longest detail of a report, in bytes.
const DETAIL_BYTES: usize = 300;
/// Shortest period and window, in milliseconds.
const SHORTEST_MS: u64 = 1000;
/// Longest period, window and run, in milliseconds: 31 days.
const LONGEST_MS: u64 = 31 * 86_400_000;
/// Longest run of an occurrence unless the job says otherwise, in milliseconds.
const LIMIT_MS: u64 = 600_000;

/// Reads a job; `owner` is who put it.
pub(crate) fn job(job: Option<pb::Job>, owner: String) -> Result<Job, Error> {
    let refuse = |field, why| Err(Error::Job { field, why });
    let Some(job) = job else { return refuse("job", "is required") };
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if job.name.len() > NAME_BYTES || !job.name.split('-').all(is_word) {
        return refuse("job.name", "must be lower-case words joined by hyphens, at most 40 bytes");
    }
    if job.summary.is_empty() || job.summary.len() > SUMMARY_BYTES || job.summary.contains(char::is_control) {
        return refuse("job.summary", "must be one sentence of 1 to 120 bytes");
    }
    let catch_up = match job.catch_up() {
        pb::CatchUp::Once => CatchUp::Once,
        pb::CatchUp::Within if (SHORTEST_MS..=LONGEST_MS).contains(&job.window_ms) => {
            CatchUp::Within { window_ms: job.window_ms }
        }
        pb::CatchUp::Within => return refuse("job.window_ms", "must be 1,000 ms to 31 days"),
        pb::CatchUp::Skip => CatchUp::Skip,
        pb::CatchUp::Unspecified => return refuse("job.catch_up", "must be ONCE, WITHIN or SKIP"),
    };
    if job.window_ms != 0 && !matches!(catch_up, CatchUp::Within { .. }) {
        return refuse("job.window_ms", "goes only with WITHIN");
    }
    if job.limit_ms > LONGEST_MS {
        return refuse("job.limit_ms", "must be at most 31 days");
    }
    let limit_ms = if job.limit_ms == 0 { LIMIT_MS } else { job.limit_ms };
    let when = when(job.when, job.phase_ms)?;
    Ok(Job { name: job.name, summary: job.summary, when, catch_up, limit_ms, owner })
}

fn when(when: Option<PbWhen>, phase_ms: u64) -> Result<When, Error> {
    let refuse = |field, why| Err(Error::Job { field, why });
    let when = match when {
        None => return refuse("job.when", "must be every_ms, calendar or at"),
        Some(PbWhen::EveryMs(every_ms)) if !(SHORTEST_MS..=LONGEST_MS).contains(&every_ms) => {
            return refuse("job.every_ms", "must be 1,000 ms to 31 days");
        }
        Some(PbWhen::EveryMs(every_ms)) if phase_ms < every_ms => {
            return Ok(When::Every { every_ms, phase_ms });
        }
        Some(PbWhen::EveryMs(_)) => return refuse("job.phase_ms", "must be less than every_ms"),
        Some(PbWhen::Calendar(times)) => When::Calendar(Calendar {
            minute: within("job.calendar.minute", times.minute, 0..=59, "must be 0 to 59")?,
            hour: optional("job.calendar.hour", times.hour, 0..=23, "must be 0 to 23")?,
            day: optional("job.calendar.day", times.day, 1..=31, "must be 1 to 31")?,
            weekday: optional("job.calendar.weekday", times.weekday, 0..=6, "must be 0 (Sunday) to 6")?,
        }),
        Some(PbWhen::At(at)) => match millis(&at) {
            Some(at_ms) => When::At { at_ms },
            None => return refuse("job.at", "must be a time since 1970"),
        },
    };
    if phase_ms == 0 { Ok(when) } else { refuse("job.phase_ms", "goes only with every_ms") }
}

fn within(
    field: &'static str,
    value: u32,
    range: std::ops::RangeInclusive<i8>,
    why: &'static str,
) -> Result<i8, Error> {
    i8::try_from(value).ok().filter(|v| range.contains(v)).ok_or(Error::Job { field, why })
}

fn optional(
    field: &'static str,
    value: Option<u32>,
    range: std::ops::RangeInclusive<i8>,
    why: &'static str,
) -> Result<Option<i8>, Error> {
    value.map(|value| within(field, value, range, why)).transpose()
}

/// Reads which occurrence is to be started.
pub(crate) fn to_start(request: pb::StartOccurrenceRequest) -> Result<(String, u64), Error> {
    match request.due.as_ref().and_then(millis) {
        Some(due) => Ok((request.job, due)),
        None => Err(Error::NotDue { job: request.job, why: "the request names no due time" }),
    }
}

/// Reads a report.
pub(crate) fn report(request: pb::FinishOccurrenceRequest) -> Result<(String, u64, Report), Error> {
    let refuse = |field, why| Err(Error::Report { field, why });
    let Some(due) = request.due.as_ref().and_then(millis) else {
        return refuse("due", "must be the due time of the occurrence");
    };
    if request.detail.len() > DETAIL_BYTES || request.detail.contains(char::is_control) {
        return refuse("detail", "must be one line of at most 300 bytes");
    }
    if request.failed && request.detail.is_empty() {
        return refuse("detail", "must say why it failed");
    }
    let report = Report { failed: request.failed, worked: request.worked, detail: request.detail };
    Ok((request.job, due, report))
}

/// Returns a job as the contract shows it.
pub(crate) fn shown(job: &Job) -> pb::Job {
    let (when, phase_ms) = match &job.when {
        When::Every { every_ms, phase_ms } => (PbWhen::EveryMs(*every_ms), *phase_ms),
        When::At { at_ms } => (PbWhen::At(timestamp(*at_ms)), 0),
        When::Calendar(times) => {
            let number = |n: i8| u32::try_from(n).unwrap_or_default();
            let times = pb::Calendar {
                minute: number(times.minute),
                hour: times.hour.map(number),
                day: times.day.map(number),
                weekday: times.weekday.map(number),
            };
            (PbWhen::Calendar(times), 0)
        }
    };
    let (catch_up, window_ms) = match job.catch_up {
        CatchUp::Once => (pb::CatchUp::Once, 0),
        CatchUp::Within { window_ms } => (pb::CatchUp::Within, window_ms),
        CatchUp::Skip => (pb::CatchUp::Skip, 0),
    };
    pb::Job {
        name: job.name.clone(),
        summary: job.summary.clone(),
        when: Some(when),
        phase_ms,
        catch_up: catch_up.into(),
        window_ms,
        limit_ms: job.limit_ms,
        owner: job.owner.clone(),
    }
}

/// Returns an occurrence that ended.
pub(crate) fn ended(job: &str, row: &Row) -> pb::Occurrence {
    let state = match row.state {
        Outcome::Done => Shown::Done,
        Outcome::Failed => Shown::Failed,
        Outcome::Missed => Shown::Missed,
        Outcome::Skipped => Shown::Skipped,
    };
    pb::Occurrence {
        job: job.to_owned(),
        due: Some(timestamp(row.due)),
        state: state.into(),
        started: row.started.map(timestamp),
        ended: Some(timestamp(row.ended)),
        detail: row.detail.clone(),
        more: row.more,
    }
}

/// Returns an occurrence that is due.
pub(crate) fn due(job: &str, due: u64) -> pb::Occurrence {
    pb::Occurrence {
        job: job.to_owned(),
        due: Some(timestamp(due)),
        state: Shown::Due.into(),
        ..pb::Occurrence::default()
    }
}

fn open(job: &str, open: &Open) -> pb::Occurrence {
    let shown = due(job, open.due);
    match &open.started {
        None => shown,
        Some(started) => {
            pb::Occurrence { state: Shown::Started.into(), started: Some(timestamp(started.at)), ..shown }
        }
    }
}

/// Returns the recorded occurrences of a job and the open one, newest first.
pub(crate) fn occurrences(entry: &Entry, limit: u32) -> pb::ListOccurrencesResponse {
    let name = entry.job.name.as_str();
    let limit = if limit == 0 { 32 } else { usize::try_from(limit).unwrap_or(usize::MAX).min(256) };
    let rows = entry.mark.tail.iter().chain(entry.rows.iter().rev());
    let mut occurrences: Vec<pb::Occurrence> =
        entry.mark.open.iter().map(|o| open(name, o)).chain(rows.map(|row| ended(name, row))).collect();
    // One that runs is older than those that were skipped meanwhile.
    occurrences.sort_by_key(|o| std::cmp::Reverse(o.due.as_ref().map(|due| (due.seconds, due.nanos))));
    occurrences.truncate(limit);
    pb::ListOccurrencesResponse { occurrences }
}

/// Returns a job and where it stands.
pub(crate) fn status(entry: &Entry, now: &Now) -> pb::JobStatus {
    let name = entry.job.name.as_str();
    let mark = &entry.mark;
    let row = [mark.tail.as_ref(), entry.rows.back(), mark.quiet.as_ref()].into_iter().flatten();
    let row = row.max_by_key(|row| row.due);
    let last = match (&mark.open, row) {
        (Some(now), row) if row.is_none_or(|row| row.due < now.due) => Some(open(name, now)),
        (_, row) => row.map(|row| ended(name, row)),
    };
    let next = entry.next.filter(|next| *next > now.wall);
    let next = next.or_else(|| entry.job.when.next(mark.settled.max(now.wall), &now.tz));
    pb::JobStatus {
        job: Some(shown(&entry.job)),
        next: next.map(timestamp),
        last,
        quiet: mark.totals.quiet,
        done: mark.totals.done,
        failed: mark.totals.failed,
        missed: mark.totals.missed,
        skipped: mark.totals.skipped,
    }
}

/// Runs every check of a request on bytes that nobody wrote, for fuzzing.
#[doc(hidden)]
pub fn fuzz_wire(bytes: &[u8]) {
    if let Some(request) = mirror_contract::decode::<pb::PutJobRequest>(bytes) {
        let _ = job(request.job, "local".to_owned());
    }
    if let Some(request) = mirror_contract::decode(bytes) {
        let _ = to_start(request);
    }
    if let Some(request) = mirror_contract::decode(bytes) {
        let _ = report(request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_errors::{Classify as _, Detail};

    fn good() -> pb::Job {
        pb::Job {
            name: "sweep".to_owned(),
            summary: "Sweeps.".to_owned(),
            when: Some(PbWhen::EveryMs(300_000)),
            phase_ms: 1,
            catch_up: pb::CatchUp::Once.into(),
            ..pb::Job::default()
        }
    }

    /// Checks which field of a job is refused after a change; an empty one means that it is taken.
    #[track_caller]
    fn check(change: impl FnOnce(&mut pb::Job), field: &str) {
        let mut changed = good();
        change(&mut changed);
        let refused = job(Some(changed.clone()), "local".to_owned()).err().map(|error| error.details());
        match refused.as_deref() {
            None => assert_eq!(field, "", "{changed:?} was taken"),
            Some([Detail::Field(found, _)]) => assert_eq!(found, field, "{changed:?}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_bounds_of_a_job_are_taken_and_what_is_beyond_is_named() {
        check(|_| {}, "");
        for name in ["a", "a-1", &"z".repeat(40)] {
            check(|j| name.clone_into(&mut j.name), "");
        }
        for name in ["", "A", "a--b", "-a", "a-", "a.b", "a b", "a/b", "\u{e9}", &"z".repeat(41)] {
            check(|j| name.clone_into(&mut j.name), "job.name");
        }
        for summary in ["", "a\nb", &"x".repeat(121)] {
            check(|j| summary.clone_into(&mut j.summary), "job.summary");
        }
        check(|j| j.when = None, "job.when");
        check(|j| j.when = Some(PbWhen::EveryMs(1000)), "");
        check(|j| j.when = Some(PbWhen::EveryMs(999)), "job.every_ms");
        check(|j| j.when = Some(PbWhen::EveryMs(LONGEST_MS + 1)), "job.every_ms");
        check(|j| j.phase_ms = 300_000, "job.phase_ms");
        check(|j| j.when = Some(PbWhen::At(timestamp(5))), "job.phase_ms");
        check(|j| j.limit_ms = LONGEST_MS + 1, "job.limit_ms");
        check(|j| j.catch_up = 0, "job.catch_up");
        check(|j| j.catch_up = 9, "job.catch_up");
        check(|j| j.window_ms = 1000, "job.window_ms");
        check(|j| j.catch_up = pb::CatchUp::Within.into(), "job.window_ms");
        let within = |j: &mut pb::Job| (j.catch_up, j.window_ms) = (pb::CatchUp::Within.into(), 1000);
        check(within, "");
        let before_1970 = prost_types::Timestamp { seconds: -1, nanos: 0 };
        check(|j| (j.phase_ms, j.when) = (0, Some(PbWhen::At(before_1970))), "job.at");
    }

    #[test]
    fn a_calendar_out_of_range_is_named() {
        let calendar = |minute, hour, day, weekday| {
            move |j: &mut pb::Job| {
                let times = pb::Calendar { minute, hour, day, weekday };
                (j.phase_ms, j.when) = (0, Some(PbWhen::Calendar(times)));
            }
        };
        check(calendar(59, Some(23), Some(31), Some(6)), "");
        check(calendar(60, None, None, None), "job.calendar.minute");
        check(calendar(u32::MAX, None, None, None), "job.calendar.minute");
        check(calendar(0, Some(24), None, None), "job.calendar.hour");
        check(calendar(0, None, Some(0), None), "job.calendar.day");
        check(calendar(0, None, None, Some(7)), "job.calendar.weekday");
    }

    #[test]
    fn a_job_is_shown_as_it_was_put() {
        let read = job(Some(good()), "local".to_owned()).unwrap();
        let expected = pb::Job { owner: "local".to_owned(), limit_ms: LIMIT_MS, ..good() };
        assert_eq!(shown(&read), expected);
        assert_eq!(job(Some(shown(&read)), "local".to_owned()).unwrap(), read);
    }

    #[test]
    fn a_report_without_its_due_time_or_its_reason_is_refused() {
        let good = pb::FinishOccurrenceRequest {
            due: Some(timestamp(5)),
            failed: true,
            detail: "x".repeat(300),
            ..pb::FinishOccurrenceRequest::default()
        };
        assert!(report(good.clone()).is_ok());
        let refused = |request| report(request).unwrap_err().details();
        let field =
            |name: &str, details: Vec<Detail>| matches!(&details[..], [Detail::Field(f, _)] if f == name);
        assert!(field("due", refused(pb::FinishOccurrenceRequest { due: None, ..good.clone() })));
        for detail in ["", "a\u{1b}b", &"x".repeat(301)] {
            let request = pb::FinishOccurrenceRequest { detail: detail.to_owned(), ..good.clone() };
            assert!(field("detail", refused(request)), "{detail:?}");
        }
    }
}
