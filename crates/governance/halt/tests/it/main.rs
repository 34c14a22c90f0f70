//! The halt as others meet it: with its bus and its keeper, without either, and against whoever changes its files.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod attacks;
mod place;

use mirror_contract::mirror::halt::v1 as pb;
use mirror_kit::{HALT_TYPE, HaltStatement};
use mirror_seal::{Envelope, NodeKey};

use place::Place;

#[tokio::test]
async fn an_engagement_is_in_force_signed_and_recorded() {
    let place = Place::new().await;
    let before = place.halt().await;
    assert!(!before.engaged && before.releasable && before.reason.is_empty());
    assert_eq!((before.epoch, before.release_epoch), (0, 1));
    let answer = place.engage("the agent is loose").await.unwrap();
    assert!(answer.recorded);
    let halt = answer.halt.unwrap();
    assert!(halt.engaged && halt.reason.contains("the agent is loose") && halt.since.is_some());
    assert_eq!((halt.epoch, halt.release_epoch), (1, 2));
    let view = place.fresh();
    assert!(view.trusted && view.halted.unwrap().contains("loose"));
    assert_eq!(view.floor, Some(1));
    let again = place.engage("another reason").await.unwrap();
    assert_eq!((again.halt.unwrap().epoch, again.recorded), (1, true));
    assert_eq!(place.events().await, ["halt.engaged 1 signed"]);
    for bad in ["", "two\nlines", &"x".repeat(301)] {
        assert_eq!(place.engage(bad).await.unwrap_err().reason, "HALT_REASON_INVALID");
    }
    place.finish().await;
}

#[tokio::test]
async fn only_the_owners_key_for_this_epoch_releases_it() {
    let place = Place::new().await;
    place.engage("stop").await.unwrap();
    let (thief, device) = (NodeKey::generate().unwrap(), place.device());
    let keeper =
        NodeKey::from_hex(&std::fs::read_to_string(place.home().keys().join("halt.1.seed")).unwrap())
            .unwrap();
    for (what, envelope, reason) in [
        ("a stranger", place.release_by(&thief, 2), "HALT_PROOF_INVALID"),
        ("the device", place.release_by(&device, 2), "HALT_PROOF_INVALID"),
        ("the device, epoch 0", place.release_by(&device, 0), "HALT_PROOF_INVALID"),
        ("the keeper", place.release_by(&keeper, 2), "HALT_PROOF_INVALID"),
        ("an old epoch", place.release_by(&place.owner, 1), "HALT_EPOCH_STALE"),
        ("a later epoch", place.release_by(&place.owner, 3), "HALT_EPOCH_STALE"),
        ("an engagement", sign(&place.owner, 2, true), "HALT_PROOF_INVALID"),
        (
            "another type",
            Envelope::sign(&place.owner, "text/plain", b"{\"epoch\":2,\"engaged\":false}").to_json(),
            "HALT_PROOF_INVALID",
        ),
        ("no envelope", "release it".to_owned(), "HALT_PROOF_INVALID"),
        ("too long", "x".repeat(9_000), "HALT_PROOF_INVALID"),
    ] {
        assert_eq!(place.release(envelope).await.unwrap_err().reason, reason, "{what}");
        assert!(place.fresh().halted.is_some(), "{what}");
    }
    let stale = place.release(place.release_by(&place.owner, 9)).await.unwrap_err();
    assert_eq!(stale.values.get("release_epoch").map(String::as_str), Some("2"));

    let good = place.release_by(&place.owner, 2);
    let halt = place.release(good.clone()).await.unwrap();
    assert!(!halt.engaged && halt.reason.is_empty());
    assert_eq!((halt.epoch, halt.release_epoch), (2, 3));
    assert_eq!(place.fresh().halted, None);
    assert!(place.release(good.clone()).await.is_ok(), "a repeated release is the same release");
    place.engage("again").await.unwrap();
    assert_eq!(place.release(good).await.unwrap_err().reason, "HALT_EPOCH_STALE", "and good for one epoch");
    assert_eq!(
        place.events().await,
        ["halt.engaged 1 signed", "halt.released 2 signed", "halt.engaged 3 signed"]
    );
    place.finish().await;
}

fn sign(key: &NodeKey, epoch: u64, engaged: bool) -> String {
    let statement = HaltStatement { epoch, engaged, reason: String::new(), since_ms: 0 };
    Envelope::sign(key, HALT_TYPE, &serde_json::to_vec(&statement).unwrap()).to_json()
}

#[tokio::test]
async fn a_home_without_a_recovery_key_says_how_to_get_one() {
    let place = Place::without_owner().await;
    let halt = place.engage("stop").await.unwrap().halt.unwrap();
    assert!(!halt.releasable);
    let refused = place.release(place.release_by(&place.owner, 2)).await.unwrap_err();
    assert_eq!(refused.reason, "HALT_NO_RELEASE_KEY");
    assert!(refused.message.contains("mirror init"), "{}", refused.message);

    // The kit may be made while everything runs, and its passphrase releases at once.
    let draft = mirror_keeper::recovery::draft(place.home(), 1).unwrap();
    let passphrase = draft.passphrase().clone();
    draft.commit().unwrap();
    let key = mirror_keeper::recovery::unlock(place.home(), &passphrase).unwrap();
    let halt = place.release(key.release(2).to_json()).await.unwrap();
    assert!(!halt.engaged && halt.releasable);
    place.engage("once more").await.unwrap();
    assert!(place.halt().await.releasable, "the keeper leaves the recovery key in place");
    place.finish().await;
}

#[tokio::test]
async fn a_keeper_that_is_away_holds_up_nothing() {
    let mut place = Place::new().await;
    place.node.expect_log("not signed");
    place.node.kill("keeper").await;
    let answer = place.engage("no keeper").await.unwrap();
    assert!(answer.halt.unwrap().engaged && answer.recorded);
    let view = place.fresh();
    assert!(!view.trusted && view.halted.unwrap().contains("no keeper"));
    assert_eq!(view.floor, Some(0), "what nobody signed does not raise the epoch");
    place.node.launch("keeper").await;
    let view = place.settled("the keeper signs it", 1).await;
    let statement = view.statement.unwrap();
    assert_eq!((statement.epoch, statement.reason.as_str()), (1, "no keeper"));
    place.recorded(&["halt.engaged 1 unsigned", "halt.engaged 1 signed"]).await;
    place.release(place.release_by(&place.owner, 2)).await.unwrap();
    place.finish().await;
}

#[tokio::test]
async fn a_bus_that_is_away_records_it_later_exactly_once() {
    let mut place = Place::new().await;
    place.node.kill("bus").await;
    let answer = place.engage("no bus").await.unwrap();
    assert!(answer.halt.unwrap().engaged && !answer.recorded);
    assert!(place.fresh().trusted);
    let refused = place.release(place.release_by(&place.owner, 2)).await.unwrap_err();
    assert_eq!(refused.reason, "HALT_NOT_RECORDED");
    assert!(place.fresh().halted.is_some(), "what the log cannot record does not happen");
    // What waits survives a kill.
    place.node.kill("halt").await;
    place.node.launch("halt").await;
    place.node.launch("bus").await;
    place.recorded(&["halt.engaged 1 signed"]).await;
    place.node.kill("halt").await;
    place.node.launch("halt").await;
    let halt = place.release(place.release_by(&place.owner, 2)).await.unwrap();
    assert!(!halt.engaged);
    assert_eq!(place.events().await, ["halt.engaged 1 signed", "halt.released 2 signed"]);
    place.finish().await;
}

#[tokio::test]
async fn watchers_see_each_change() {
    let place = Place::new().await;
    let mut stream = place.client().watch_halt(pb::WatchHaltRequest {}).await.unwrap().into_inner();
    let mut next = async || stream.message().await.unwrap().unwrap().halt.unwrap();
    assert!(!next().await.engaged);
    place.engage("look").await.unwrap();
    let seen = next().await;
    assert!(seen.engaged && seen.reason.contains("look"), "{seen:?}");
    place.release(place.release_by(&place.owner, 2)).await.unwrap();
    let seen = next().await;
    assert!(!seen.engaged && seen.epoch == 2, "{seen:?}");
    // Also a change that did not come by way of the service.
    let mut place = place;
    place.node.expect_log("changed by somebody else");
    std::fs::remove_file(place.home().halt().join("state")).unwrap();
    assert!(next().await.engaged);
    place.finish().await;
}

#[tokio::test]
async fn a_stop_wins_over_a_release_that_is_on_its_way() {
    let place = Place::new().await;
    for round in 0..12 {
        place.engage("before").await.unwrap();
        let epoch = place.halt().await.release_epoch;
        let envelope = place.release_by(&place.owner, epoch);
        let (released, engaged) = tokio::join!(place.release(envelope), async {
            for _ in 0..round * 3 {
                tokio::task::yield_now().await;
            }
            place.engage("during").await
        });
        engaged.unwrap();
        if let Err(refused) = &released {
            assert_eq!(refused.reason, "HALT_EPOCH_STALE");
        }
        // Whichever came first: an engagement that was made anew, and not found in force, is in force now.
        let halt = place.halt().await;
        if released.is_err() {
            assert!(halt.engaged && halt.epoch >= epoch, "{halt:?}");
        }
    }
    place.finish().await;
}
