//! What is recorded, where, and what a restart makes of it.

use std::time::Duration;

use mirror_contract::mirror::remedy::v1::Outcome;
use mirror_contract::mirror::supervisor::v1::AgentState;
use mirror_errors::Kind;
use mirror_kit::State;

use crate::stage::{Effect, actions, check, client, events, refused, request, run, start, wait_for_events};

#[tokio::test]
async fn what_was_begun_and_not_ended_is_unknown_and_never_repeated() {
    let (mut node, world) = start().await;
    world.says(State::NotServing, "ill");
    world.effect(Effect::Hangs);
    let mut caller = client(&node);
    let call = caller.run_remedy(request("a", "restart", "apple"));
    tokio::select! {
        answer = call => panic!("it hangs: {answer:?}"),
        () = wait_for_events(&node, &["remedy.began a running"]) => {}
    }
    assert_eq!(actions(&node).await[0].outcome(), Outcome::Running);
    node.kill("remedy").await;
    node.expect_log("it is not known what came of a remedy");
    node.launch("remedy").await;
    wait_for_events(&node, &["remedy.began a running", "remedy.ended a unknown"]).await;
    world.effect(Effect::Obeys);
    check(run(&node, "a", "restart", "apple").await, Outcome::Unknown);
    assert_eq!(world.take_calls(), ["restart apple kill=false"], "once, by the process that was killed");
    node.finish().await;
}

#[tokio::test]
async fn without_the_bus_it_acts_and_the_bus_is_told_once_when_it_is_back() {
    let (mut node, world) = start().await;
    world.says(State::NotServing, "ill");
    node.kill("bus").await;
    check(run(&node, "a", "restart", "apple").await, Outcome::Healed);
    node.kill("remedy").await;
    node.launch("remedy").await;
    node.clock().advance(Duration::from_secs(60));
    world.down(AgentState::Idle);
    check(run(&node, "b", "start", "apple").await, Outcome::Healed);
    node.launch("bus").await;
    let told = [
        "remedy.began a running",
        "remedy.ended a healed",
        "remedy.began b running",
        "remedy.ended b healed",
    ];
    wait_for_events(&node, &told).await;

    // The mark of what was told is lost, as in a power cut.
    node.stop("remedy").await;
    let journal = node.home().state("remedy").join("journal");
    let text = std::fs::read_to_string(&journal).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.contains("\"sent\"")).collect();
    std::fs::write(&journal, kept.join("\n") + "\n").unwrap();
    node.launch("remedy").await;
    node.wait("the events are told again", async || {
        let again = std::fs::read_to_string(&journal).unwrap().matches("\"sent\"").count();
        if again >= 4 { Ok(()) } else { Err(format!("{again} marks")) }
    })
    .await;
    assert_eq!(events(&node).await, told);
    node.finish().await;
}

#[tokio::test]
async fn without_its_folder_the_log_gives_the_same_actions_back() {
    let (mut node, world) = start().await;
    world.says(State::NotServing, "ill");
    check(run(&node, "a", "restart", "apple").await, Outcome::Healed);
    node.clock().advance(Duration::from_secs(60));
    world.down(AgentState::Idle);
    check(run(&node, "b", "start", "apple").await, Outcome::Healed);
    let told = [
        "remedy.began a running",
        "remedy.ended a healed",
        "remedy.began b running",
        "remedy.ended b healed",
    ];
    wait_for_events(&node, &told).await;
    let before = actions(&node).await;
    node.stop("remedy").await;
    std::fs::remove_dir_all(node.home().state("remedy")).unwrap();
    node.launch("remedy").await;
    node.wait("the actions are back", async || {
        let now = actions(&node).await;
        if now == before { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    check(run(&node, "a", "restart", "apple").await, Outcome::Healed);
    assert_eq!(world.take_calls().len(), 2, "an id of before is not acted on again");
    assert_eq!(events(&node).await, told);
    node.finish().await;
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_done() {
    let (node, world) = start().await;
    world.says(State::NotServing, "ill");
    let journal = node.home().state("remedy").join("journal");
    std::fs::remove_file(&journal).unwrap();
    std::fs::create_dir(&journal).unwrap();
    let error = refused(run(&node, "a", "restart", "apple").await, Kind::Unavailable, "REMEDY_NOT_RECORDED");
    assert!(error.message.contains("nothing was done"), "{error}");
    assert!(world.take_calls().is_empty());
    assert!(actions(&node).await.is_empty());
    std::fs::remove_dir(&journal).unwrap();
    check(run(&node, "a", "restart", "apple").await, Outcome::Healed);
    assert_eq!(world.take_calls().len(), 1);
    node.finish().await;
}

#[tokio::test]
async fn a_torn_journal_is_set_aside_and_the_rest_of_it_kept() {
    let (mut node, world) = start().await;
    world.says(State::NotServing, "ill");
    check(run(&node, "a", "restart", "apple").await, Outcome::Healed);
    node.stop("remedy").await;
    let journal = node.home().state("remedy").join("journal");
    let torn = std::fs::read_to_string(&journal).unwrap() + "{\"began\":{\"id\":\"b";
    std::fs::write(&journal, &torn).unwrap();
    node.expect_log("set aside");
    node.launch("remedy").await;
    assert_eq!(std::fs::read_to_string(journal.with_extension("bad")).unwrap(), torn);
    assert_eq!(actions(&node).await.iter().map(|a| a.id.as_str()).collect::<Vec<_>>(), ["a"]);
    node.finish().await;
}

#[tokio::test]
async fn an_id_stands_for_one_request() {
    let (mut node, world) = start().await;
    world.says(State::NotServing, "ill");
    let first = run(&node, "a", "restart", "apple").await;
    check(first.clone(), Outcome::Healed);
    node.kill("remedy").await;
    node.launch("remedy").await;
    world.says(State::NotServing, "ill again");
    assert_eq!(run(&node, "a", "restart", "apple").await, first);
    for (remedy, target) in [("restart-kill", "apple"), ("restart", "bus")] {
        let error = refused(run(&node, "a", remedy, target).await, Kind::Invalid, "REMEDY_ID_INVALID");
        assert_eq!(error.fields[0].0, "id", "{error}");
    }
    refused(run(&node, "b", "reboot", "apple").await, Kind::Invalid, "REMEDY_UNKNOWN");
    refused(run(&node, "b", "restart", "remedy").await, Kind::Invalid, "REMEDY_TARGET_INVALID");
    assert_eq!(world.take_calls().len(), 1);
    node.finish().await;
}
