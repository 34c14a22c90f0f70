//! The service as its callers see it, with the bus in one process and a clock that the test moves.

mod faults;
mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mirror_client::schedule::{Done, work};
use mirror_contract::millis;
use mirror_contract::mirror::schedule::v1 as pb;
use mirror_contract::mirror::schedule::v1::{CatchUp, OccurrenceState};
use mirror_errors::Kind;
use mirror_kit::Principal;
use mirror_testkit::{START_MS, wait};

use stage::{HOUR, MINUTE, advance, events, job, local, next, refused, sandbox, service};

#[tokio::test]
async fn an_occurrence_fires_is_started_by_one_and_reported() {
    let node = sandbox().start().await;
    let mut owner = service(&node, "tidy");
    assert!(owner.put(job("sweep", HOUR, CatchUp::Once)).await.unwrap());
    assert!(!owner.put(job("sweep", HOUR, CatchUp::Once)).await.unwrap());
    let (mut one, mut two) = (owner.watch().await, owner.watch().await);
    let mut stranger = service(&node, "other").watch().await;
    let due = START_MS + HOUR;
    refused(owner.start("sweep", due).await, Kind::Precondition, "SCHEDULE_NOT_DUE");
    advance(&node, HOUR);
    assert_eq!(next(&mut one).await, ("sweep".to_owned(), due));
    assert_eq!(next(&mut two).await, ("sweep".to_owned(), due));
    assert_eq!(next(&mut owner.watch().await).await, ("sweep".to_owned(), due), "not started: sent again");
    assert_eq!(owner.start("sweep", due).await.unwrap(), due + 10 * MINUTE);
    refused(owner.start("sweep", due).await, Kind::Precondition, "SCHEDULE_NOT_DUE");
    let status = owner.jobs().await.unwrap().remove(0);
    assert_eq!(status.last.unwrap().state(), OccurrenceState::Started);
    assert_eq!(millis(&status.next.unwrap()), Some(due + HOUR));

    let ended = owner.finish("sweep", due, "swept", false).await.unwrap();
    assert_eq!((ended.state(), ended.detail.as_str()), (OccurrenceState::Done, "swept"));
    assert_eq!(owner.finish("sweep", due, "swept", false).await.unwrap(), ended);
    let again = owner.finish("sweep", due, "mopped", false).await;
    refused(again, Kind::Precondition, "SCHEDULE_OCCURRENCE_ENDED");

    advance(&node, HOUR);
    let due = due + HOUR;
    assert_eq!(next(&mut one).await.1, due);
    refused(owner.finish("sweep", due, "early", false).await, Kind::Precondition, "SCHEDULE_NOT_STARTED");
    owner.start("sweep", due).await.unwrap();
    let error = refused(owner.finish("sweep", due, "", true).await, Kind::Invalid, "SCHEDULE_REPORT_INVALID");
    assert_eq!(error.fields[0].0, "detail");
    assert_eq!(owner.finish("sweep", due, "broke", true).await.unwrap().state(), OccurrenceState::Failed);
    let ended = owner.ended("sweep").await;
    assert_eq!(ended, [(120, OccurrenceState::Failed, 0), (60, OccurrenceState::Done, 0)]);
    assert_eq!(events(&node).await, ["schedule.job", "schedule.ended", "schedule.ended"]);
    node.finish().await;
    assert!(stranger.message().await.unwrap().is_none(), "nothing of others, and the drain ends the stream");
}

#[tokio::test]
async fn of_two_workers_one_gets_it() {
    let node = sandbox().start().await;
    let mut owner = local(&node);
    owner.put(job("race", MINUTE, CatchUp::Once)).await.unwrap();
    advance(&node, MINUTE);
    let due = next(&mut owner.watch().await).await.1;
    let (mut a, mut b) = (local(&node), local(&node));
    let (a, b) = tokio::join!(a.start("race", due), b.start("race", due));
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    refused(a.and(b), Kind::Precondition, "SCHEDULE_NOT_DUE");
    node.finish().await;
}

#[tokio::test]
async fn a_job_is_its_owners_alone() {
    let node = sandbox().config("[schedule]\njobs = 2\n").start().await;
    let (mut a, mut b, mut me) = (service(&node, "a"), service(&node, "b"), local(&node));
    a.put(job("of-a", MINUTE, CatchUp::Once)).await.unwrap();
    me.put(job("mine", MINUTE, CatchUp::Once)).await.unwrap();
    for other in [&mut b, &mut me] {
        let error =
            refused(other.put(job("of-a", HOUR, CatchUp::Once)).await, Kind::Denied, "SCHEDULE_JOB_OWNED");
        assert_eq!(error.values["owner"], "svc:a");
        refused(other.delete("of-a").await, Kind::Denied, "SCHEDULE_JOB_OWNED");
        refused(other.start("of-a", START_MS + MINUTE).await, Kind::Denied, "SCHEDULE_JOB_OWNED");
        let report = other.finish("of-a", START_MS + MINUTE, "x", false).await;
        refused(report, Kind::Denied, "SCHEDULE_JOB_OWNED");
    }
    refused(a.delete("mine").await, Kind::Denied, "SCHEDULE_JOB_OWNED");
    assert_eq!(me.jobs().await.unwrap().len(), 2, "anybody may look");
    let full = refused(b.put(job("third", MINUTE, CatchUp::Once)).await, Kind::Precondition, "SCHEDULE_FULL");
    assert_eq!(full.values["limit"], "2");
    let bad = pb::Job { name: "Bad name".to_owned(), ..job("x", MINUTE, CatchUp::Once) };
    let error = refused(b.put(bad).await, Kind::Invalid, "SCHEDULE_JOB_INVALID");
    assert_eq!(error.fields[0].0, "job.name");
    refused(b.start("nothing", 0).await, Kind::NotFound, "SCHEDULE_JOB_MISSING");
    refused(b.rows("nothing").await, Kind::NotFound, "SCHEDULE_JOB_MISSING");
    node.finish().await;
}

#[tokio::test]
async fn a_run_beyond_its_limit_fails_and_a_deleted_job_is_gone() {
    let node = sandbox().start().await;
    let mut owner = local(&node);
    owner.put(pb::Job { limit_ms: 5000, ..job("slow", HOUR, CatchUp::Once) }).await.unwrap();
    advance(&node, HOUR);
    let due = next(&mut owner.watch().await).await.1;
    assert_eq!(owner.start("slow", due).await.unwrap(), due + 5000);
    advance(&node, 5000);
    node.wait("it has failed", async || {
        let rows = owner.rows("slow").await.unwrap();
        if rows[0].state() == OccurrenceState::Failed { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
    let replaced = pb::Job { limit_ms: 6000, ..job("slow", 2 * HOUR, CatchUp::Skip) };
    assert!(owner.put(replaced).await.unwrap());
    assert_eq!(owner.ended("slow").await, [(60, OccurrenceState::Failed, 0)], "it keeps what it had");
    assert!(owner.delete("slow").await.unwrap());
    assert!(!owner.delete("slow").await.unwrap());
    refused(owner.rows("slow").await, Kind::NotFound, "SCHEDULE_JOB_MISSING");
    assert_eq!(owner.jobs().await.unwrap(), []);
    node.finish().await;
}

#[tokio::test]
async fn under_halt_nothing_is_started_and_the_policy_decides() {
    let node = sandbox().start().await;
    let mut owner = local(&node);
    owner.put(job("once", HOUR, CatchUp::Once)).await.unwrap();
    owner.put(job("skip", HOUR, CatchUp::Skip)).await.unwrap();
    let halt = node.home().halt().join("state");
    let statement = std::fs::read(&halt).unwrap();
    std::fs::remove_file(&halt).unwrap();
    advance(&node, HOUR);
    let mut stream = owner.watch().await;
    for _ in 0..2 {
        let (job, due) = next(&mut stream).await;
        refused(owner.start(&job, due).await, Kind::Precondition, "KIT_HALTED");
    }
    advance(&node, 10 * MINUTE);
    node.wait("the one that is not caught up with is missed", async || {
        let ended = owner.ended("skip").await;
        if ended == [(60, OccurrenceState::Missed, 0)] { Ok(()) } else { Err(format!("{ended:?}")) }
    })
    .await;
    mirror_paths::write_atomic(&halt, &statement).unwrap();
    node.clock().advance(Duration::from_secs(1));
    owner.start("once", START_MS + HOUR).await.unwrap();
    node.finish().await;
}

/// Takes only what the kit's tasks take.
fn for_a_task<T: Future<Output = ()> + Send + 'static>(future: T) -> T {
    future
}

#[tokio::test]
async fn a_worker_of_five_lines_survives_the_service() {
    let mut node = sandbox().start().await;
    let ran = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&ran);
    let channel = node.channel_as(Principal::Service("tidy".into()), "schedule");
    let worker = for_a_task(work(channel, job("sweep", HOUR, CatchUp::Once), async move |due| {
        assert_eq!(due.due_ms % HOUR, 0);
        match counted.fetch_add(1, Ordering::SeqCst) % 3 {
            0 => Done::Nothing,
            1 => Done::Worked("swept\nwell".to_owned()),
            _ => Done::Failed("the broom broke".to_owned()),
        }
    }));
    let test = async {
        let mut other = local(&node);
        wait("the job is there", async || match other.jobs().await {
            Ok(jobs) if jobs.len() == 1 => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        for n in 1..=6 {
            if n == 4 {
                node.kill("schedule").await;
                node.launch("schedule").await;
                other = local(&node);
            }
            advance(&node, HOUR);
            wait("it ran and is reported", async || match other.jobs().await {
                Ok(jobs) if jobs[0].quiet + jobs[0].done + jobs[0].failed == n => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await;
        }
        assert_eq!(ran.load(Ordering::SeqCst), 6);
        let rows = other.rows("sweep").await.unwrap();
        let details: Vec<_> = rows.iter().map(|row| row.detail.as_str()).collect();
        assert_eq!(details, ["the broom broke", "swept well", "the broom broke", "swept well"]);
    };
    tokio::select! {
        () = test => {}
        () = worker => {}
    }
    node.finish().await;
}

#[tokio::test]
async fn a_value_out_of_bounds_keeps_it_from_serving_and_it_says_why() {
    let mut node = sandbox().config("[schedule]\njobs = 0\n").start().await;
    node.expect_log("not serving");
    let error = refused(local(&node).jobs().await, Kind::Unavailable, "KIT_NOT_SERVING");
    assert!(error.message.contains("schedule.jobs"), "{error}");
    node.finish().await;
}
