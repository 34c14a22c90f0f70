//! The service as its callers see it, with a bus, a service to heal, and a supervisor that plays its part.

mod record;
mod stage;

use std::time::Duration;

use mirror_contract::mirror::remedy::v1 as pb;
use mirror_contract::mirror::remedy::v1::remedy_service_client::RemedyServiceClient;
use mirror_contract::mirror::supervisor::v1::{AgentDesired, AgentState};
use mirror_errors::{Kind, Remote};
use mirror_kit::{Principal, State};
use pb::Outcome;
use stage::{
    Effect, HOUR, OLD, World, actions, check, client, events, log_file, mend_sockets, observing, refused,
    request, run, stale_socket, start, start_with,
};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn where_all_is_well_every_remedy_is_not_needed_and_nothing_is_done() {
    let (node, world) = start().await;
    let remedies =
        client(&node).list_remedies(pb::ListRemediesRequest {}).await.unwrap().into_inner().remedies;
    assert_eq!(remedies.len(), 9);
    for remedy in &remedies {
        let target = if remedy.id == "recreate-run-dir" { "fleet" } else { "apple" };
        check(run(&node, &remedy.id, &remedy.id, target).await, Outcome::NotNeeded);
    }
    check(run(&node, "logs", "rotate-logs", "fleet").await, Outcome::NotNeeded);
    assert!(world.take_calls().is_empty());
    assert_eq!(actions(&node).await.len(), 10, "what was asked for is listed");
    assert!(events(&node).await.is_empty(), "what was not done is not told");
    node.finish().await;
}

#[tokio::test]
async fn each_remedy_does_its_act_once_and_sees_that_it_helped() {
    let (node, world) = start().await;
    let healed = async |remedy: &str, target: &str, calls: &[&str]| {
        node.clock().advance(HOUR);
        let detail = check(run(&node, &format!("{remedy}-{target}"), remedy, target).await, Outcome::Healed);
        assert_eq!(world.take_calls(), calls, "{remedy}");
        detail
    };
    world.down(AgentState::Idle);
    healed("start", "apple", &["start apple"]).await;

    world.says(State::NotServing, "the index is damaged");
    healed("restart", "apple", &["restart apple kill=false"]).await;

    world.agent("apple", |a| a.set_state(AgentState::NotLoaded));
    healed("reload", "apple", &["render apple"]).await;

    world.agent("apple", |a| a.problem = "it was edited".to_owned());
    healed("render", "apple", &["render apple"]).await;

    world.down(AgentState::Idle);
    stale_socket(&node);
    healed("clear-stale-socket", "apple", &["start apple"]).await;
    assert!(node.home().socket("apple").unwrap().is_file(), "the dead socket is gone, a new one is there");

    log_file(&node, "apple.err", 11 * MIB);
    log_file(&node, "bus.err", 12 * MIB);
    assert_eq!(healed("rotate-logs", "fleet", &[]).await, "23 MiB were set aside");
    assert_eq!(std::fs::metadata(node.home().log().join("bus.err.1")).unwrap().len(), 12 * MIB);

    std::fs::remove_dir_all(node.home().run()).unwrap();
    let calls = ["restart bus kill=false", "restart apple kill=false", "restart supervisor kill=false"];
    let detail = healed("recreate-run-dir", "fleet", &calls).await;
    assert!(detail.contains("remedy itself needs a restart"), "{detail}");
    assert!(node.home().fleet().is_dir());

    mend_sockets(node.home());
    world.down(AgentState::Throttled);
    world.agent("apple", |a| a.starts = 5);
    healed("quarantine", "apple", &["stop apple quarantine=true it looks ill"]).await;
    node.finish().await;
}

#[tokio::test]
async fn a_service_that_hangs_is_killed_once_and_serves_again() {
    let (mut node, world) = start().await;
    node.kill("apple").await;
    // No lease says that it was ready before, so its start time counts.
    let now = mirror_contract::timestamp(mirror_testkit::START_MS);
    world.agent("apple", |a| a.started = Some(now));
    check(run(&node, "young", "restart-kill", "apple").await, Outcome::NotNeeded);
    node.clock().advance(Duration::from_secs(61));
    let clock = node.clock().clone();
    let mut client = client(&node);
    let call = client.run_remedy(request("a", "restart-kill", "apple"));
    let relaunch = async {
        node.wait("the order is given", async || {
            let calls = world.take_calls();
            if calls == ["restart apple kill=true"] { Ok(()) } else { Err(format!("{calls:?}")) }
        })
        .await;
        node.launch("apple").await;
        loop {
            clock.advance(Duration::from_millis(100));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answer = tokio::select! {
        answer = call => answer,
        () = relaunch => unreachable!("the loop has no end"),
    };
    assert_eq!(answer.unwrap().into_inner().action.unwrap().outcome(), Outcome::Healed);
    assert!(world.take_calls().is_empty());
    node.finish().await;
}

#[tokio::test]
async fn after_three_that_did_not_help_it_only_observes_for_half_an_hour() {
    let (mut node, world) = start().await;
    world.says(State::NotServing, "a bad configuration");
    world.effect(Effect::Nods);
    let detail = check(run(&node, "1", "restart", "apple").await, Outcome::NotHealed);
    assert!(detail.starts_with("70 s later") && detail.contains("no new process"), "{detail}");
    node.clock().advance(HOUR);
    check(run(&node, "2", "restart", "apple").await, Outcome::NotHealed);
    node.clock().advance(HOUR);
    assert_eq!(observing(&node).await, None);
    world.effect(Effect::Refuses);
    let detail = check(run(&node, "3", "restart", "apple").await, Outcome::Failed);
    assert!(detail.contains("launchctl said no"), "{detail}");
    assert_eq!(world.take_calls().len(), 3);

    let until = observing(&node).await.expect("it only observes");
    node.kill("remedy").await;
    node.launch("remedy").await;
    assert_eq!(observing(&node).await, Some(until), "a restart forgets nothing");
    world.effect(Effect::Obeys);
    let detail = check(run(&node, "4", "restart", "apple").await, Outcome::HeldBack);
    assert!(detail.contains("only observes; until 2026-"), "{detail}");
    assert!(world.take_calls().is_empty());
    node.clock().advance(Duration::from_secs(30 * 60));
    assert_eq!(observing(&node).await, None);
    check(run(&node, "5", "restart", "apple").await, Outcome::Healed);
    node.finish().await;
}

#[tokio::test]
async fn limits_hold_back_what_comes_too_soon_and_outlive_a_restart() {
    let (mut node, world) = start().await;
    let ill = |world: &World| world.says(State::NotServing, "ill");
    ill(&world);
    check(run(&node, "1", "restart", "apple").await, Outcome::Healed);
    log_file(&node, "apple.err", 11 * MIB);
    let detail = check(run(&node, "2", "rotate-logs", "fleet").await, Outcome::HeldBack);
    assert!(detail.contains("30 s apart"), "{detail}");
    node.clock().advance(Duration::from_secs(30));
    check(run(&node, "3", "rotate-logs", "fleet").await, Outcome::Healed);
    for (id, pause) in [("4", 60), ("5", 90)] {
        node.clock().advance(Duration::from_secs(pause));
        ill(&world);
        check(run(&node, id, "restart", "apple").await, Outcome::Healed);
    }
    node.stop("remedy").await;
    node.launch("remedy").await;
    node.clock().advance(Duration::from_secs(90));
    ill(&world);
    let detail = check(run(&node, "6", "restart", "apple").await, Outcome::HeldBack);
    assert!(detail.contains("three remedies of this target"), "{detail}");
    assert_eq!(world.take_calls().len(), 3);
    node.finish().await;
}

#[tokio::test]
async fn a_halted_home_is_left_alone() {
    let (node, world) = start().await;
    world.says(State::NotServing, "ill");
    std::fs::remove_file(node.home().halt().join("state")).unwrap();
    node.clock().advance(Duration::from_secs(1));
    refused(run(&node, "a", "restart", "apple").await, Kind::Precondition, "KIT_HALTED");
    assert!(world.take_calls().is_empty());
    assert!(actions(&node).await.is_empty());
    node.finish().await;
}

#[tokio::test]
async fn a_halt_between_the_call_and_the_act_stops_the_act() {
    let (node, world) = start().await;
    world.says(State::NotServing, "ill");
    world.gate(false);
    let mut caller = client(&node);
    let call = caller.run_remedy(request("a", "restart", "apple"));
    let halted = async {
        node.wait("it looks", async || if world.waits() { Ok(()) } else { Err("nobody asks".to_owned()) })
            .await;
        std::fs::remove_file(node.home().halt().join("state")).unwrap();
        node.clock().advance(Duration::from_secs(1));
        world.gate(true);
    };
    let (answer, ()) = tokio::join!(call, halted);
    let action = answer.unwrap().into_inner().action.unwrap();
    assert_eq!(action.outcome(), Outcome::HeldBack);
    assert!(action.detail.contains("halt/state"), "{action:?}");
    assert!(world.take_calls().is_empty());
    node.finish().await;
}

#[tokio::test]
async fn only_pulse_and_the_owners_commands_have_something_done() {
    let (node, world) = start().await;
    world.says(State::NotServing, "ill");
    let call = async |principal: Principal, id: &str| {
        let mut client = RemedyServiceClient::new(node.channel_as(principal, "remedy"));
        let answer = client.run_remedy(request(id, "restart", "apple")).await;
        answer.map(|a| a.into_inner().action.unwrap()).map_err(|status| Remote::from_status(&status))
    };
    refused(call(Principal::Service("bus".into()), "a").await, Kind::Denied, "REMEDY_CALLER_DENIED");
    assert!(world.take_calls().is_empty());
    assert_eq!(call(Principal::Local, "b").await.unwrap().by, "local");
    node.clock().advance(HOUR);
    world.says(State::NotServing, "ill");
    assert_eq!(call(Principal::Service("pulse".into()), "c").await.unwrap().by, "svc:pulse");
    node.finish().await;
}

#[tokio::test]
async fn one_at_a_time_and_whoever_asks_for_the_same_gets_the_same() {
    let (node, world) = start().await;
    world.says(State::NotServing, "ill");
    world.effect(Effect::Nods);
    let (mut first, mut second) = (client(&node), client(&node));
    let moving = async {
        loop {
            node.clock().advance(Duration::from_millis(100));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let both = async {
        let other = async {
            node.wait("the first is under way", async || match actions(&node).await.first() {
                Some(action) if action.outcome() == Outcome::Running => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await;
            let detail = check(run(&node, "b", "restart", "bus").await, Outcome::HeldBack);
            assert!(detail.contains("under way: restart of apple"), "{detail}");
            // It goes on without those who asked for it.
            world.effect(Effect::Obeys);
        };
        let asked = (
            first.run_remedy(request("a", "restart", "apple")),
            second.run_remedy(request("a", "restart", "apple")),
        );
        tokio::join!(asked.0, asked.1, other)
    };
    let (one, two, ()) = tokio::select! { answers = both => answers, () = moving => unreachable!("no end") };
    let (one, two) = (one.unwrap().into_inner(), two.unwrap().into_inner());
    assert_eq!(one, two);
    assert_eq!(one.action.unwrap().outcome(), Outcome::NotHealed);
    assert_eq!(world.take_calls(), ["restart apple kill=false"]);
    node.finish().await;
}

#[tokio::test]
async fn it_is_seen_through_when_the_caller_goes_away() {
    let (node, world) = start().await;
    world.says(State::NotServing, "ill");
    world.effect(Effect::Nods);
    {
        let mut caller = client(&node);
        let call = caller.run_remedy(request("a", "restart", "apple"));
        let begun = node.wait("it is under way", async || match actions(&node).await.first() {
            Some(_) => Ok(()),
            None => Err("nothing was begun".to_owned()),
        });
        tokio::select! { _ = call => panic!("it is not over"), () = begun => {} }
    }
    node.wait("it has ended", async || {
        node.clock().advance(Duration::from_secs(1));
        match actions(&node).await[0].outcome() {
            Outcome::NotHealed => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    node.finish().await;
}

#[tokio::test]
async fn what_cannot_be_looked_at_or_is_not_wanted_is_not_touched() {
    let (mut node, world) = start().await;
    world.says(State::NotServing, "ill");
    world.agent("apple", |a| a.set_desired(AgentDesired::Stopped));
    check(run(&node, "stopped", "restart", "apple").await, Outcome::NotNeeded);
    world.agent("apple", |a| {
        a.set_desired(AgentDesired::Running);
        a.pid = OLD;
    });
    node.kill("supervisor").await;
    let detail = check(run(&node, "blind", "restart", "apple").await, Outcome::HeldBack);
    assert!(detail.contains("does not say how things stand"), "{detail}");
    // The folders can be made without it, and that is not the whole remedy.
    std::fs::remove_dir_all(node.home().run()).unwrap();
    let detail = check(run(&node, "run", "recreate-run-dir", "fleet").await, Outcome::NotHealed);
    assert!(detail.contains("does not say how things stand") && node.home().fleet().is_dir(), "{detail}");
    mend_sockets(node.home());
    node.launch("supervisor").await;
    check(run(&node, "again", "restart", "apple").await, Outcome::Healed);
    assert_eq!(world.take_calls().len(), 1);
    node.finish().await;
}

#[tokio::test]
async fn an_owner_may_have_it_only_observe_and_its_heart_beats_all_the_same() {
    let (node, world) = start_with("[remedy]\nobserve_only = true\n").await;
    world.says(State::NotServing, "ill");
    let detail = check(run(&node, "a", "restart", "apple").await, Outcome::HeldBack);
    assert!(detail.contains("observe_only"), "{detail}");
    assert!(world.take_calls().is_empty());
    let beat = node.home().run().join("remedy.beat");
    let first = std::fs::read_to_string(&beat).unwrap();
    node.wait("the heart beats", async || {
        node.clock().advance(Duration::from_secs(30));
        let now = std::fs::read_to_string(&beat).unwrap();
        if now > first { Ok(()) } else { Err(now) }
    })
    .await;
    node.finish().await;
}
