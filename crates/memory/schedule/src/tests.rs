//! The rules of the schedule, one by one.

use crate::entry::{DAY_MS, Now};
use crate::error::Error;
use crate::job::{CatchUp, Job, Note, Outcome, Row, Totals, Worker};
use crate::schedule::{OUTBOX, Schedule};
use crate::testing::{done, failed, job, now, quiet};
use crate::when::When;

const OWNER: &str = "svc:x";
const MINUTE: u64 = 60_000;
const NONE: [u64; 0] = [];

/// Returns a schedule with one job that is due each minute, put at 0.
fn with(job: Job) -> Schedule {
    let mut schedule = Schedule::default();
    schedule.tick(&now(0));
    assert_eq!(schedule.put(job, 10, &now(0)), Ok(true));
    schedule
}

fn each_minute(catch_up: CatchUp) -> Schedule {
    with(Job { catch_up, ..job("a", MINUTE) })
}

fn due(schedule: &Schedule, now: &Now) -> Vec<u64> {
    schedule.due(OWNER, now).map(|(_, due)| due).collect()
}

/// Lets time pass until then, and returns what may be started.
fn pass(schedule: &mut Schedule, now: &Now) -> Vec<u64> {
    schedule.tick(now);
    due(schedule, now)
}

fn rows(schedule: &Schedule) -> Vec<(u64, Outcome, u64)> {
    let entry = &schedule.entries["a"];
    entry.rows.iter().chain(&entry.mark.tail).map(|row| (row.due / MINUTE, row.state, row.more)).collect()
}

fn totals(schedule: &Schedule) -> Totals {
    schedule.entries["a"].mark.totals
}

fn not_due(result: Result<u64, Error>) -> &'static str {
    match result {
        Err(Error::NotDue { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_occurrence_is_due_at_its_time_started_once_and_ends_once() {
    let mut s = each_minute(CatchUp::Once);
    assert_eq!(pass(&mut s, &now(MINUTE - 1)), NONE);
    let at = now(MINUTE);
    assert_eq!(pass(&mut s, &at), [MINUTE]);
    assert_eq!(not_due(s.start(("a", 2 * MINUTE), OWNER, None, &at)), "it is not due yet");
    assert_eq!(s.start(("a", MINUTE), OWNER, None, &at), Ok(MINUTE + 600_000));
    assert_eq!(due(&s, &at), NONE);
    assert_eq!(not_due(s.start(("a", MINUTE), OWNER, None, &at)), "it was started before");
    let row = s.finish(("a", MINUTE), OWNER, &done("swept"), &now(MINUTE + 5)).unwrap();
    assert_eq!(
        (row.due, row.state, row.started, row.ended),
        (MINUTE, Outcome::Done, Some(MINUTE), MINUTE + 5)
    );
    assert_eq!(not_due(s.start(("a", MINUTE), OWNER, None, &at)), "it has ended");

    assert_eq!(s.finish(("a", MINUTE), OWNER, &done("swept"), &now(MINUTE + 9)), Ok(row), "the same report");
    for other in [done("mopped"), failed("swept"), quiet()] {
        assert_eq!(s.finish(("a", MINUTE), OWNER, &other, &at), Err(Error::Ended("a".into())));
    }
    assert_eq!(s.finish(("a", 2 * MINUTE), OWNER, &quiet(), &at), Err(Error::NotStarted("a".into())));
    assert_eq!(totals(&s), Totals { done: 1, ..Totals::default() });
}

#[test]
fn one_that_did_nothing_is_counted_and_told_once_a_day() {
    let mut s = each_minute(CatchUp::Once);
    s.outbox.clear();
    for n in 1..=1500 {
        assert_eq!(pass(&mut s, &now(n * MINUTE)), [n * MINUTE]);
        s.start(("a", n * MINUTE), OWNER, None, &now(n * MINUTE)).unwrap();
        let row = s.finish(("a", n * MINUTE), OWNER, &quiet(), &now(n * MINUTE + 1)).unwrap();
        assert_eq!(s.finish(("a", n * MINUTE), OWNER, &quiet(), &now(n * MINUTE + 2)), Ok(row));
    }
    assert_eq!((totals(&s).quiet, rows(&s)), (1500, vec![]));
    let notes: Vec<_> = s.outbox.iter().map(|posted| posted.note.subject()).collect();
    assert_eq!(notes, ["schedule.settled"]);
    assert!(matches!(&s.outbox[0].note, Note::Told { jobs } if jobs[0].totals.quiet == 1439));
}

#[test]
fn after_a_stop_each_policy_runs_at_most_one_and_the_others_are_missed() {
    let stop = now(120 * MINUTE + 30_000);
    let after = |catch_up| {
        let mut s = each_minute(catch_up);
        let due = pass(&mut s, &stop);
        (due, rows(&s))
    };
    let newest = 120 * MINUTE;
    assert_eq!(after(CatchUp::Once), (vec![newest], vec![(119, Outcome::Missed, 118)]));
    let within = |window_ms| after(CatchUp::Within { window_ms });
    assert_eq!(within(30_000), (vec![newest], vec![(119, Outcome::Missed, 118)]));
    assert_eq!(within(29_999), (vec![], vec![(120, Outcome::Missed, 119)]));

    let hourly = |late: u64| {
        let mut s = with(Job { catch_up: CatchUp::Skip, ..job("a", 60 * MINUTE) });
        let due = pass(&mut s, &now(120 * MINUTE + late));
        (due, rows(&s))
    };
    let missed = |n| vec![(n, Outcome::Missed, n / 60 - 1)];
    assert_eq!(hourly(60_000), (vec![newest], missed(60)), "a worker needs a moment");
    assert_eq!(hourly(60_001), (vec![], missed(120)));
}

#[test]
fn what_nobody_starts_is_missed_when_the_next_falls_due_and_told_in_few_events() {
    let mut s = each_minute(CatchUp::Once);
    s.outbox.clear();
    for n in 1..=300 {
        assert_eq!(pass(&mut s, &now(n * MINUTE)), [n * MINUTE]);
    }
    assert_eq!(totals(&s).missed, 299);
    assert_eq!(rows(&s), [(1, Outcome::Missed, 0), (299, Outcome::Missed, 297)]);
    assert_eq!(s.outbox.len(), 1, "the first of the day at once");
    assert_eq!(not_due(s.start(("a", 299 * MINUTE), OWNER, None, &now(300 * MINUTE))), "a newer one is open");
    s.start(("a", 300 * MINUTE), OWNER, None, &now(300 * MINUTE)).unwrap();
    s.finish(("a", 300 * MINUTE), OWNER, &done("late"), &now(300 * MINUTE)).unwrap();
    let Note::Told { jobs } = &s.outbox[1].note else { panic!() };
    assert_eq!(jobs[0].rows.iter().map(|row| row.more).collect::<Vec<_>>(), [297, 0]);
    s.tick(&now(DAY_MS + MINUTE));
    assert!(s.entries["a"].mark.tail.is_none(), "at the end of the day the log is told the rest");
}

#[test]
fn what_falls_due_while_one_runs_is_skipped() {
    let mut s = each_minute(CatchUp::Once);
    pass(&mut s, &now(MINUTE));
    s.start(("a", MINUTE), OWNER, None, &now(MINUTE)).unwrap();
    assert_eq!(pass(&mut s, &now(4 * MINUTE)), NONE);
    s.finish(("a", MINUTE), OWNER, &quiet(), &now(4 * MINUTE)).unwrap();
    assert_eq!(rows(&s), [(4, Outcome::Skipped, 2)]);
    assert_eq!(pass(&mut s, &now(5 * MINUTE)), [5 * MINUTE]);
    assert_eq!(totals(&s), Totals { quiet: 1, skipped: 3, ..Totals::default() });
}

#[test]
fn a_run_beyond_its_limit_has_failed_and_a_late_report_changes_nothing() {
    let mut s = with(Job { limit_ms: 90_000, ..job("a", MINUTE) });
    pass(&mut s, &now(MINUTE));
    s.start(("a", MINUTE), OWNER, None, &now(MINUTE)).unwrap();
    // The wall clock is set back; the limit counts by the boot clock.
    let set_back = |boot: u64| Now { wall: 30_000, ..now(boot) };
    s.tick(&set_back(149_999));
    assert!(s.entries["a"].running().is_some());
    assert_eq!(s.ripe_in(&set_back(149_999)), Some(1));
    s.tick(&set_back(150_000));
    let row = s.entries["a"].rows.back().unwrap().clone();
    assert_eq!((row.due, row.state), (MINUTE, Outcome::Failed));
    assert!(row.detail.contains("limit of 90 s") && row.detail.contains("unknown"), "{}", row.detail);
    assert_eq!(s.finish(("a", MINUTE), OWNER, &done("late"), &now(200_000)), Err(Error::Ended("a".into())));
}

#[test]
fn a_clock_that_is_set_back_never_repeats_and_never_runs_before_due() {
    let mut s = each_minute(CatchUp::Once);
    pass(&mut s, &now(10 * MINUTE));
    s.start(("a", 10 * MINUTE), OWNER, None, &now(10 * MINUTE)).unwrap();
    s.finish(("a", 10 * MINUTE), OWNER, &quiet(), &now(10 * MINUTE)).unwrap();
    assert_eq!(pass(&mut s, &now(11 * MINUTE)), [11 * MINUTE]);
    for wall in [0, 5, 9, 10].map(|n| Now { wall: n * MINUTE, ..now(12 * MINUTE) }) {
        assert_eq!(pass(&mut s, &wall), NONE, "{}", wall.wall);
        assert_eq!(not_due(s.start(("a", 11 * MINUTE), OWNER, None, &wall)), "it is not due yet");
        assert!(s.ripe_in(&wall).unwrap() <= 11 * MINUTE - wall.wall);
    }
    assert_eq!(pass(&mut s, &now(11 * MINUTE)), [11 * MINUTE]);
}

#[test]
fn a_clock_that_was_more_than_a_day_ahead_does_not_silence_a_job() {
    let mut s = each_minute(CatchUp::Once);
    let far = now(100 * DAY_MS);
    assert_eq!(pass(&mut s, &far), [100 * DAY_MS]);
    assert_eq!(pass(&mut s, &now(MINUTE + 5)), NONE);
    assert_eq!(pass(&mut s, &now(2 * MINUTE)), [2 * MINUTE]);
}

#[test]
fn a_replaced_job_keeps_what_it_had_and_gets_no_past() {
    let mut s = each_minute(CatchUp::Once);
    pass(&mut s, &now(3 * MINUTE));
    s.start(("a", 3 * MINUTE), OWNER, None, &now(3 * MINUTE)).unwrap();
    let at = now(3 * MINUTE + 30_000);
    s.tick(&at);
    assert_eq!(s.put(job("a", MINUTE), 10, &at), Ok(false), "nothing is changed by the same job");
    assert_eq!(s.put(job("a", 7_000), 10, &at), Ok(true));
    assert_eq!(pass(&mut s, &at), NONE);
    s.finish(("a", 3 * MINUTE), OWNER, &done("ran"), &at).unwrap();
    assert_eq!(rows(&s).last(), Some(&(3, Outcome::Done, 0)));
    assert_eq!(pass(&mut s, &at), NONE);
    assert_eq!(pass(&mut s, &now(31 * 7_000)), [31 * 7_000]);
}

#[test]
fn a_deleted_job_ends_what_was_open_and_its_name_repeats_nothing() {
    let mut s = each_minute(CatchUp::Once);
    pass(&mut s, &now(MINUTE));
    s.start(("a", MINUTE), OWNER, None, &now(MINUTE)).unwrap();
    assert_eq!(s.delete("a", OWNER, &now(MINUTE + 1)), Ok(true));
    assert_eq!(s.delete("a", OWNER, &now(MINUTE + 1)), Ok(false));
    let told: Vec<Row> = s
        .outbox
        .iter()
        .flat_map(|posted| match &posted.note {
            Note::Told { jobs } => jobs.iter().flat_map(|told| told.rows.clone()).collect(),
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(told.iter().map(|row| (row.due, row.state)).collect::<Vec<_>>(), [(MINUTE, Outcome::Skipped)]);
    assert_eq!(s.finish(("a", MINUTE), OWNER, &quiet(), &now(MINUTE + 2)), Err(Error::Missing("a".into())));
    let back = Now { wall: 30_000, ..now(MINUTE + 3) };
    s.put(job("a", MINUTE), 10, &back).unwrap();
    assert_eq!(pass(&mut s, &now(MINUTE + 4)), NONE, "the clock was set back, and this one ran");
    assert_eq!(pass(&mut s, &now(2 * MINUTE)), [2 * MINUTE]);
}

#[test]
fn a_job_that_is_due_once_must_lie_ahead_and_has_no_next() {
    let mut s = Schedule::default();
    let once = Job { when: When::At { at_ms: 500 }, ..job("a", MINUTE) };
    assert!(matches!(s.put(once.clone(), 10, &now(500)), Err(Error::Job { field: "job.at", .. })));
    s.put(once.clone(), 10, &now(499)).unwrap();
    assert_eq!(pass(&mut s, &now(600)), [500]);
    assert_eq!(s.put(once, 10, &now(600)), Ok(false), "it is put again at each start of its owner");
    assert_eq!(s.entries["a"].next, None);
}

#[test]
fn a_job_is_its_owners_alone_and_jobs_are_bounded() {
    let mut s = each_minute(CatchUp::Once);
    pass(&mut s, &now(MINUTE));
    let owned = Error::Owned { job: "a".into(), owner: OWNER.into() };
    let other = Job { owner: "local".into(), ..job("a", MINUTE) };
    assert_eq!(s.put(other, 10, &now(MINUTE)), Err(owned.clone()));
    assert_eq!(s.delete("a", "local", &now(MINUTE)), Err(owned.clone()));
    assert_eq!(s.start(("a", MINUTE), "svc:y", None, &now(MINUTE)), Err(owned.clone()));
    s.start(("a", MINUTE), OWNER, None, &now(MINUTE)).unwrap();
    assert_eq!(s.finish(("a", MINUTE), "svc:y", &quiet(), &now(MINUTE)), Err(owned));
    assert_eq!(s.due("svc:y", &now(MINUTE)).count(), 0);
    assert_eq!(s.put(job("b", MINUTE), 1, &now(MINUTE)), Err(Error::Full(1)));
}

#[test]
fn another_process_of_a_service_ends_what_the_first_had_started() {
    let first = Worker { pid: 1, born: "1".into() };
    let second = Worker { pid: 1, born: "2".into() };
    let mut s = each_minute(CatchUp::Once);
    pass(&mut s, &now(MINUTE));
    s.start(("a", MINUTE), OWNER, Some(first.clone()), &now(MINUTE)).unwrap();
    s.takes_over(OWNER, &first, &now(MINUTE + 1));
    s.takes_over("svc:y", &second, &now(MINUTE + 1));
    assert!(s.entries["a"].running().is_some());
    s.takes_over(OWNER, &second, &now(MINUTE + 1));
    let row = s.entries["a"].rows.back().unwrap();
    assert!(row.state == Outcome::Failed && row.detail.contains("unknown"), "{row:?}");
    assert_eq!(pass(&mut s, &now(MINUTE + 2)), NONE);
}

#[test]
fn while_the_log_is_away_for_long_nothing_more_is_settled_and_nothing_is_lost() {
    let mut s = each_minute(CatchUp::Once);
    for n in 1..OUTBOX as u64 {
        s.put(Job { limit_ms: 60_000 + n, ..job("a", MINUTE) }, 10, &now(1)).unwrap();
    }
    assert_eq!(s.outbox.len(), OUTBOX);
    assert!(matches!(s.put(job("b", MINUTE), 10, &now(1)), Err(Error::NotRecorded(_))));
    assert!(matches!(s.delete("a", OWNER, &now(1)), Err(Error::NotRecorded(_))));
    s.tick(&now(60 * MINUTE));
    assert_eq!(totals(&s), Totals::default());
    s.outbox.clear();
    assert_eq!(pass(&mut s, &now(90 * MINUTE)), [90 * MINUTE]);
    assert_eq!(totals(&s).missed, 89);
}

#[test]
fn twenty_four_idle_hours_tell_the_log_next_to_nothing() {
    let mut s = Schedule::default();
    s.tick(&now(0));
    for n in 1..=10_u64 {
        s.put(job(&format!("job-{n}"), n * 3 * MINUTE), 10, &now(0)).unwrap();
    }
    s.outbox.clear();
    let (mut at, mut runs) = (0, 0);
    while at < DAY_MS {
        at += s.ripe_in(&now(at)).unwrap().max(1);
        s.tick(&now(at));
        let due: Vec<_> = s.due(OWNER, &now(at)).map(|(job, due)| (job.to_owned(), due)).collect();
        for (job, due) in due {
            s.start((&job, due), OWNER, None, &now(at)).unwrap();
            s.finish((&job, due), OWNER, &quiet(), &now(at + 1)).unwrap();
            runs += 1;
        }
    }
    assert!(runs > 1300, "{runs}");
    let bytes: usize = s.outbox.iter().map(|p| serde_json::to_vec(&p.note).unwrap().len() + 500).sum();
    assert!(s.outbox.len() == 1 && bytes < 2000, "{bytes} bytes in {} events", s.outbox.len());
}
