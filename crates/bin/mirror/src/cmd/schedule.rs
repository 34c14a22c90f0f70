//! `mirror schedule`: jobs and their occurrences.

use mirror_clock::{Clock as _, SystemClock};
use mirror_contract::mirror::schedule::v1::job::When;
use mirror_contract::mirror::schedule::v1::{
    Calendar, CatchUp, DeleteJobRequest, Job, JobStatus, ListJobsRequest, ListOccurrencesRequest, Occurrence,
    OccurrenceState, PutJobRequest,
};
use mirror_errors::Kind;
use serde_json::json;

use crate::args::{ScheduleAdd, ScheduleArgs, ScheduleVerb, Weekday};
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::{BAD, ODD, Out, say};
use crate::text::{self, one_line};

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &ScheduleArgs) -> Result<(), Failure> {
    match &args.verb {
        None | Some(ScheduleVerb::List) => list(ctx, out).await,
        Some(ScheduleVerb::Add(args)) => add(ctx, out, args).await,
        Some(ScheduleVerb::Remove { job }) => remove(ctx, out, job).await,
        Some(ScheduleVerb::History { job, lines }) => history(ctx, out, job, *lines).await,
    }
}

async fn list(ctx: &Ctx, out: &mut Out) -> Result<(), Failure> {
    let answer = ctx.schedule()?.list_jobs(ListJobsRequest {}).await;
    let jobs = answer.map_err(|s| ctx.refused("schedule", &s))?.into_inner().jobs;
    if out.json_wanted() {
        return jobs.iter().try_for_each(|job| out.json(&status_json(job)));
    }
    let rows: Vec<Vec<String>> = jobs.iter().map(row).collect();
    let header = ["JOB", "OWNER", "WHEN", "NEXT", "LAST", "DONE", "FAILED", "MISSED", "SKIPPED", "SUMMARY"];
    out.table(&header, &rows, |i| match last_state(jobs.get(i)?) {
        OccurrenceState::Failed => Some(BAD),
        OccurrenceState::Missed => Some(ODD),
        _ => None,
    })
}

async fn add(ctx: &Ctx, out: &mut Out, args: &ScheduleAdd) -> Result<(), Failure> {
    let job = job_of(args, SystemClock.wall_ms()).map_err(Failure::input)?;
    let request = PutJobRequest { job: Some(job) };
    let answer =
        ctx.schedule()?.put_job(request).await.map_err(|s| ctx.refused("schedule", &s))?.into_inner();
    let job = answer.job.ok_or_else(|| Failure::bug("the service sent no job"))?;
    if out.json_wanted() {
        let mut value = job_json(&job);
        value["changed"] = answer.changed.into();
        return out.json(&value);
    }
    let note = if answer.changed { "" } else { "  (was there before)" };
    out.line(&format!("{}  {}{note}", job.name, when(&job)))
}

async fn remove(ctx: &Ctx, out: &mut Out, name: &str) -> Result<(), Failure> {
    let request = DeleteJobRequest { name: name.to_owned() };
    let answer = ctx.schedule()?.delete_job(request).await.map_err(|s| ctx.refused("schedule", &s))?;
    if !answer.into_inner().deleted {
        let home = ctx.home()?;
        let hint = format!("see the jobs with: {}", ctx.command(&home, &ctx.exe()?, "schedule"));
        let message = format!("there is no job {name:?}");
        return Err(Failure::new(Kind::NotFound, "SCHEDULE_JOB_MISSING", message).hint(hint));
    }
    if out.json_wanted() {
        return out.json(&json!({"job": name, "deleted": true}));
    }
    say(&format!("job {name} is gone"));
    Ok(())
}

async fn history(ctx: &Ctx, out: &mut Out, job: &str, limit: u32) -> Result<(), Failure> {
    let request = ListOccurrencesRequest { job: job.to_owned(), limit };
    let answer = ctx.schedule()?.list_occurrences(request).await.map_err(|s| ctx.refused("schedule", &s))?;
    let found = answer.into_inner().occurrences;
    if out.json_wanted() {
        return found.iter().try_for_each(|occurrence| out.json(&occurrence_json(occurrence)));
    }
    let rows: Vec<Vec<String>> = found.iter().map(occurrence_row).collect();
    out.table(&["DUE", "STATE", "TOOK", "DETAIL"], &rows, |i| match found.get(i)?.state() {
        OccurrenceState::Failed => Some(BAD),
        OccurrenceState::Missed => Some(ODD),
        _ => None,
    })
}

/// Reads a job from its arguments.
fn job_of(args: &ScheduleAdd, now_ms: u64) -> Result<Job, String> {
    let when = match (&args.every, &args.daily, &args.at) {
        (Some(every), ..) => When::EveryMs(text::span_ms(every)?),
        (_, Some(daily), _) => When::Calendar(calendar(daily, args.weekday)?),
        (_, _, Some(at)) => When::At(text::moment_ahead(at, now_ms)?),
        (None, None, None) => return Err("a job needs --every, --daily or --at".to_owned()),
    };
    let (catch_up, window_ms) = match args.catch_up.as_str() {
        "once" => (CatchUp::Once, 0),
        "skip" => (CatchUp::Skip, 0),
        rule => match rule.strip_prefix("within=") {
            Some(window) => (CatchUp::Within, text::span_ms(window)?),
            None => return Err(format!("--catch-up {rule:?} is none of once, skip and within=DURATION")),
        },
    };
    Ok(Job {
        name: args.name.clone(),
        summary: args.summary.clone(),
        when: Some(when),
        catch_up: catch_up.into(),
        window_ms,
        ..Job::default()
    })
}

fn calendar(time: &str, weekday: Option<Weekday>) -> Result<Calendar, String> {
    let number = |part: &str, limit: u32| {
        let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        part.parse().ok().filter(|n| digits && *n < limit)
    };
    let parts = time.split_once(':').and_then(|(h, m)| Some((number(h, 24)?, number(m, 60)?)));
    let (hour, minute) =
        parts.ok_or_else(|| format!("--daily {time:?} is no time of the day such as \"07:30\""))?;
    Ok(Calendar { minute, hour: Some(hour), day: None, weekday: weekday.map(|day| day as u32) })
}

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Returns when a job is due, in words.
fn when(job: &Job) -> String {
    match &job.when {
        Some(When::EveryMs(ms)) => format!("every {}", text::span(*ms)),
        Some(When::At(at)) => format!("once, {}", text::local_time(text::millis(at))),
        Some(When::Calendar(calendar)) => {
            let time = match calendar.hour {
                Some(hour) => format!("at {hour:02}:{:02}", calendar.minute),
                None => format!("{} min past each hour", calendar.minute),
            };
            let weekday = calendar.weekday.and_then(|day| DAYS.get(usize::try_from(day).ok()?));
            match (calendar.day, weekday) {
                (Some(day), Some(name)) => format!("{time}, {name}s that are day {day}"),
                (Some(day), None) => format!("{time}, day {day} of the month"),
                (None, Some(name)) => format!("{time}, {name}s"),
                (None, None) => time,
            }
        }
        None => "never".to_owned(),
    }
}

fn state_name(state: OccurrenceState) -> &'static str {
    match state {
        OccurrenceState::Unspecified => "unknown",
        OccurrenceState::Due => "due",
        OccurrenceState::Started => "started",
        OccurrenceState::Done => "done",
        OccurrenceState::Failed => "failed",
        OccurrenceState::Missed => "missed",
        OccurrenceState::Skipped => "skipped",
    }
}

fn last_state(status: &JobStatus) -> OccurrenceState {
    status.last.as_ref().map_or(OccurrenceState::Unspecified, Occurrence::state)
}

fn time(at: Option<&prost_types::Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| text::local_time(text::millis(at)))
}

fn row(status: &JobStatus) -> Vec<String> {
    let job = status.job.clone().unwrap_or_default();
    let last = status.last.as_ref().map_or("-", |last| state_name(last.state()));
    vec![
        one_line(&job.name, 40),
        one_line(&job.owner, 40),
        when(&job),
        time(status.next.as_ref()),
        last.to_owned(),
        text::count(status.done.saturating_add(status.quiet)),
        text::count(status.failed),
        text::count(status.missed),
        text::count(status.skipped),
        one_line(&job.summary, 120),
    ]
}

fn occurrence_row(occurrence: &Occurrence) -> Vec<String> {
    let took = match (&occurrence.started, &occurrence.ended) {
        (Some(start), Some(end)) => {
            text::span(u64::try_from(text::millis(end).saturating_sub(text::millis(start))).unwrap_or(0))
        }
        _ => "-".to_owned(),
    };
    let mut state = state_name(occurrence.state()).to_owned();
    if occurrence.more > 0 {
        state = format!("{state}, and {} before", text::count(occurrence.more));
    }
    vec![time(occurrence.due.as_ref()), state, took, one_line(&occurrence.detail, 300)]
}

fn moment(at: Option<&prost_types::Timestamp>) -> Option<String> {
    at.and_then(text::rfc3339)
}

fn job_json(job: &Job) -> serde_json::Value {
    let when = match &job.when {
        Some(When::EveryMs(ms)) => json!({"every_ms": ms, "phase_ms": job.phase_ms}),
        Some(When::At(at)) => json!({"at": text::rfc3339(at)}),
        Some(When::Calendar(c)) => {
            json!({"minute": c.minute, "hour": c.hour, "day": c.day, "weekday": c.weekday})
        }
        None => serde_json::Value::Null,
    };
    let catch_up = match job.catch_up() {
        CatchUp::Unspecified => "unknown",
        CatchUp::Once => "once",
        CatchUp::Within => "within",
        CatchUp::Skip => "skip",
    };
    json!({
        "name": job.name,
        "owner": job.owner,
        "summary": job.summary,
        "when": when,
        "catch_up": catch_up,
        "window_ms": job.window_ms,
        "limit_ms": job.limit_ms,
    })
}

fn occurrence_json(occurrence: &Occurrence) -> serde_json::Value {
    json!({
        "job": occurrence.job,
        "due": moment(occurrence.due.as_ref()),
        "state": state_name(occurrence.state()),
        "started": moment(occurrence.started.as_ref()),
        "ended": moment(occurrence.ended.as_ref()),
        "detail": occurrence.detail,
        "more": occurrence.more,
    })
}

fn status_json(status: &JobStatus) -> serde_json::Value {
    let mut value = job_json(&status.job.clone().unwrap_or_default());
    value["next"] = json!(moment(status.next.as_ref()));
    value["last"] = json!(status.last.as_ref().map(occurrence_json));
    value["quiet"] = status.quiet.into();
    value["done"] = status.done.into();
    value["failed"] = status.failed.into();
    value["missed"] = status.missed.into();
    value["skipped"] = status.skipped.into();
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-01T00:00:00Z.
    const NOW: u64 = 1_767_225_600_000;

    fn args(set: impl FnOnce(&mut ScheduleAdd)) -> ScheduleAdd {
        let mut args = ScheduleAdd {
            name: "tidy".into(),
            every: None,
            daily: None,
            weekday: None,
            at: None,
            catch_up: "once".into(),
            summary: "Tidies.".into(),
        };
        set(&mut args);
        args
    }

    #[track_caller]
    fn check(set: impl FnOnce(&mut ScheduleAdd), words: &str) -> Job {
        let job = job_of(&args(set), NOW).unwrap();
        assert_eq!(when(&job), words);
        job
    }

    #[test]
    fn a_job_is_read_and_told_in_words() {
        check(|a| a.every = Some("5m".into()), "every 5 min");
        check(|a| a.every = Some("1d".into()), "every 1 d");
        check(|a| a.daily = Some("07:30".into()), "at 07:30");
        let monday =
            check(|a| (a.daily, a.weekday) = (Some("00:00".into()), Some(Weekday::Mon)), "at 00:00, Mondays");
        let Some(When::Calendar(calendar)) = monday.when else { panic!("a calendar") };
        assert_eq!((calendar.weekday, calendar.day), (Some(1), None));
        let later = job_of(&args(|a| a.at = Some("2h".into())), NOW).unwrap();
        let Some(When::At(at)) = later.when else { panic!("a moment") };
        assert_eq!(text::millis(&at), i64::try_from(NOW).unwrap() + 7_200_000);
        let within = job_of(&args(|a| (a.every, a.catch_up) = (Some("1h".into()), "within=10m".into())), NOW);
        let within = within.unwrap();
        assert_eq!((within.catch_up(), within.window_ms), (CatchUp::Within, 600_000));
    }

    #[test]
    fn what_is_no_job_is_named() {
        #[track_caller]
        fn refused(set: impl FnOnce(&mut ScheduleAdd), part: &str) {
            let why = job_of(&args(set), NOW).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
        refused(|_| {}, "--every");
        for bad in ["soon", "-5m", "0s", ""] {
            refused(|a| a.every = Some(bad.into()), "is no duration");
        }
        for bad in ["7:30", "24:00", "07:60", "0730", "+7:30"] {
            refused(|a| a.daily = Some(bad.into()), "no time of the day");
        }
        refused(|a| (a.every, a.catch_up) = (Some("5m".into()), "never".into()), "within=DURATION");
        refused(|a| a.at = Some("2025-12-31T00:00:00Z".into()), "is over");
    }

    #[test]
    fn occurrences_are_rows() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let mut occurrence = Occurrence {
            due: at(60),
            state: OccurrenceState::Done.into(),
            started: at(61),
            ended: at(64),
            detail: "moved\n2".into(),
            ..Occurrence::default()
        };
        assert_eq!(occurrence_row(&occurrence)[1..], ["done", "3 s", "moved 2"]);
        occurrence = Occurrence { state: OccurrenceState::Missed.into(), more: 4, ..Occurrence::default() };
        assert_eq!(occurrence_row(&occurrence), ["-", "missed, and 4 before", "-", ""]);
        let status = JobStatus { job: Some(Job::default()), done: 2, quiet: 1_000, ..JobStatus::default() };
        assert_eq!(row(&status)[2..6], ["never", "-", "-", "1,002"]);
    }
}
