//! Stops, kills, lost and damaged states, a bus that is away, a disk that refuses, clocks that are set.

use mirror_clock::Clock as _;
use mirror_contract::mirror::schedule::v1 as pb;
use mirror_contract::mirror::schedule::v1::{CatchUp, OccurrenceState};
use mirror_errors::Kind;
use mirror_testkit::START_MS;

use crate::stage::{HOUR, MINUTE, advance, events, job, local, next, refused, sandbox, service, state_dir};

#[tokio::test]
async fn after_a_stop_of_two_hours_each_policy_holds() {
    let mut node = sandbox().start().await;
    let mut owner = service(&node, "tidy");
    for (name, catch_up) in [("once", CatchUp::Once), ("skip", CatchUp::Skip), ("within", CatchUp::Within)] {
        owner.put(job(name, 10 * MINUTE, catch_up)).await.unwrap();
    }
    let short = pb::Job { window_ms: MINUTE, ..job("within-one", 10 * MINUTE, CatchUp::Within) };
    owner.put(short).await.unwrap();
    node.stop("schedule").await;
    advance(&node, 2 * HOUR + 5 * MINUTE);
    node.launch("schedule").await;
    let mut owner = service(&node, "tidy");
    let mut stream = owner.watch().await;
    assert_eq!(next(&mut stream).await, ("once".to_owned(), START_MS + 2 * HOUR));
    assert_eq!(next(&mut stream).await, ("within".to_owned(), START_MS + 2 * HOUR));
    let missed = |newest, more| (newest, OccurrenceState::Missed, more);
    for name in ["once", "within"] {
        let open = (120, OccurrenceState::Due, 0);
        assert_eq!(owner.ended(name).await, [open, missed(110, 10)], "{name}");
    }
    for name in ["skip", "within-one"] {
        assert_eq!(owner.ended(name).await, [missed(120, 11)], "{name}");
    }
    node.wait("the log has one event for all jobs", async || {
        let events = events(&node).await;
        if events[4..] == ["schedule.ended"] { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
    node.finish().await;
}

#[tokio::test]
async fn a_kill_in_mid_occurrence_never_starts_it_again() {
    let mut node = sandbox().start().await;
    let mut owner = local(&node);
    owner.put(job("long", HOUR, CatchUp::Once)).await.unwrap();
    owner.put(job("lost", HOUR, CatchUp::Once)).await.unwrap();
    advance(&node, HOUR);
    let due = next(&mut owner.watch().await).await.1;
    owner.start("long", due).await.unwrap();
    owner.start("lost", due).await.unwrap();
    node.kill("schedule").await;
    advance(&node, 5 * MINUTE);
    node.launch("schedule").await;
    let mut owner = local(&node);
    refused(owner.start("long", due).await, Kind::Precondition, "SCHEDULE_NOT_DUE");
    let ended = owner.finish("long", due, "survived", false).await.unwrap();
    assert_eq!(ended.state(), OccurrenceState::Done, "the worker lives on and may say so");
    node.kill("schedule").await;
    advance(&node, 5 * MINUTE);
    node.launch("schedule").await;
    let mut owner = local(&node);
    node.wait("the limit is over", async || match owner.rows("lost").await.unwrap().first() {
        Some(row) if row.state() == OccurrenceState::Failed && row.detail.contains("unknown") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    refused(owner.start("lost", due).await, Kind::Precondition, "SCHEDULE_NOT_DUE");
    let late = owner.finish("lost", due, "late", false).await;
    refused(late, Kind::Precondition, "SCHEDULE_OCCURRENCE_ENDED");
    node.finish().await;
}

#[tokio::test]
async fn a_state_that_is_deleted_is_made_again_from_the_log() {
    let mut node = sandbox().start().await;
    let mut owner = local(&node);
    owner.put(job("kept", HOUR, CatchUp::Once)).await.unwrap();
    owner.put(job("gone", HOUR, CatchUp::Once)).await.unwrap();
    owner.delete("gone").await.unwrap();
    let mut stream = owner.watch().await;
    for (n, detail) in [(1, "one"), (2, "two"), (3, "")] {
        advance(&node, HOUR);
        let due = next(&mut stream).await.1;
        assert_eq!(due, START_MS + n * HOUR);
        owner.start("kept", due).await.unwrap();
        owner.finish("kept", due, detail, n == 2).await.unwrap();
    }
    let (jobs, rows) = (owner.jobs().await.unwrap(), owner.rows("kept").await.unwrap());
    assert_eq!((rows.len(), jobs[0].quiet, jobs[0].done, jobs[0].failed), (2, 1, 1, 1));

    node.stop("schedule").await;
    node.launch("schedule").await;
    let mut owner = local(&node);
    assert_eq!(owner.jobs().await.unwrap(), jobs, "from its files");
    assert_eq!(owner.rows("kept").await.unwrap(), rows);

    node.stop("schedule").await;
    std::fs::remove_dir_all(state_dir(&node)).unwrap();
    node.launch("schedule").await;
    let mut owner = local(&node);
    let made = owner.rows("kept").await.unwrap();
    assert_eq!(made[1..], rows, "what was recorded is the same");
    assert_eq!(made[0].state(), OccurrenceState::Missed, "what the log was not told of counts as missed");
    assert!(made[0].detail.contains("not known"), "{}", made[0].detail);
    let again = owner.jobs().await.unwrap();
    assert_eq!((again.len(), again[0].quiet, again[0].missed), (1, 0, 1));
    assert_eq!(again[0].job, jobs[0].job);
    let due = START_MS + 3 * HOUR;
    refused(owner.start("kept", due).await, Kind::Precondition, "SCHEDULE_NOT_DUE");
    node.finish().await;
}

#[tokio::test]
async fn a_state_that_is_damaged_or_older_than_the_log_is_set_aside() {
    let mut node = sandbox().start().await;
    node.expect_log("set aside");
    let mut owner = local(&node);
    owner.put(job("old", HOUR, CatchUp::Once)).await.unwrap();
    node.stop("schedule").await;
    let marks = state_dir(&node).join("marks.json");
    let backup = std::fs::read(&marks).unwrap();
    node.launch("schedule").await;
    let mut owner = local(&node);
    owner.put(job("new", HOUR, CatchUp::Once)).await.unwrap();
    let jobs = owner.jobs().await.unwrap();
    for bad in [&backup[..], &backup[..backup.len() / 2], b""] {
        node.stop("schedule").await;
        std::fs::write(&marks, bad).unwrap();
        node.launch("schedule").await;
        assert_eq!(local(&node).jobs().await.unwrap(), jobs);
        assert!(marks.with_extension("json.bad").exists());
    }
    node.finish().await;
}

#[tokio::test]
async fn without_the_bus_work_goes_on_and_the_log_gets_it_later() {
    let mut node = sandbox().config("[schedule]\nhold_ms = 50\n").start().await;
    node.expect_log("recovered from an unclean end");
    let mut owner = local(&node);
    owner.put(job("sweep", HOUR, CatchUp::Once)).await.unwrap();
    node.kill("bus").await;
    advance(&node, HOUR);
    let due = next(&mut owner.watch().await).await.1;
    owner.start("sweep", due).await.unwrap();
    owner.finish("sweep", due, "swept", false).await.unwrap();
    node.kill("schedule").await;
    node.launch("schedule").await;
    let away = refused(local(&node).jobs().await, Kind::Unavailable, "KIT_NOT_SERVING");
    assert!(away.message.contains("reads the log first"), "{away}");
    node.launch("bus").await;
    node.wait("the log has the end of it", async || {
        let events = events(&node).await;
        if events == ["schedule.job", "schedule.ended"] { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
    let rows = local(&node).rows("sweep").await.unwrap();
    assert_eq!((rows.len(), rows[0].state(), rows[0].detail.as_str()), (1, OccurrenceState::Done, "swept"));
    node.finish().await;
}

#[tokio::test]
async fn what_cannot_be_saved_is_not_started_and_nothing_is_lost() {
    let mut node = sandbox().start().await;
    node.expect_log("the state cannot be saved");
    let mut owner = local(&node);
    owner.put(job("sweep", HOUR, CatchUp::Once)).await.unwrap();
    let (state, away) = (state_dir(&node), node.home().root().join("away"));
    std::fs::rename(&state, &away).unwrap();
    advance(&node, HOUR);
    let due = next(&mut owner.watch().await).await.1;
    refused(owner.start("sweep", due).await, Kind::Unavailable, "SCHEDULE_NOT_RECORDED");
    assert_eq!(owner.ended("sweep").await, [(60, OccurrenceState::Due, 0)]);
    std::fs::rename(&away, &state).unwrap();
    node.wait("it is started", async || {
        owner.start("sweep", due).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(owner.ended("sweep").await, [(60, OccurrenceState::Started, 0)]);
    node.finish().await;
}

#[tokio::test]
async fn a_clock_that_is_set_forward_is_a_gap_and_set_back_repeats_nothing() {
    let node = sandbox().start().await;
    let mut owner = local(&node);
    owner.put(job("sweep", HOUR, CatchUp::Once)).await.unwrap();
    let mut stream = owner.watch().await;
    node.clock().set_wall_ms(START_MS + 3 * HOUR + MINUTE);
    advance(&node, MINUTE);
    assert_eq!(next(&mut stream).await.1, START_MS + 3 * HOUR);
    owner.start("sweep", START_MS + 3 * HOUR).await.unwrap();
    owner.finish("sweep", START_MS + 3 * HOUR, "", false).await.unwrap();
    node.clock().set_wall_ms(START_MS);
    advance(&node, 2 * HOUR);
    advance(&node, HOUR + MINUTE);
    refused(owner.start("sweep", START_MS + 3 * HOUR).await, Kind::Precondition, "SCHEDULE_NOT_DUE");
    assert!(node.clock().wall_ms() > START_MS + 3 * HOUR);
    advance(&node, HOUR);
    assert_eq!(next(&mut stream).await.1, START_MS + 4 * HOUR);
    assert_eq!(owner.jobs().await.unwrap()[0].missed, 2);
    node.finish().await;
}
