//! Whoever removes, changes or puts back the files stops the system instead of freeing it.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::fs;

use super::place::Place;

/// What the files held after each act.
struct Past {
    states: Vec<Vec<u8>>,
    seens: Vec<Vec<u8>>,
}

impl Place {
    fn keep(&self, past: &mut Past) {
        let dir = self.home().halt();
        past.states.push(fs::read(dir.join("state")).unwrap());
        past.seens.push(fs::read(dir.join("seen")).unwrap());
    }

    fn put(&self, name: &str, bytes: Option<&[u8]>) {
        let path = self.home().halt().join(name);
        match bytes {
            Some(bytes) => mirror_paths::write_atomic(&path, bytes).unwrap(),
            None => {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Returns a home with a past: engaged, released, and in the end as it is asked for.
    async fn with_past(engaged: bool) -> (Self, Past) {
        let mut place = Self::new().await;
        let mut past = Past { states: Vec::new(), seens: Vec::new() };
        place.keep(&mut past);
        for epoch in [2, 4] {
            place.engage("stop").await.unwrap();
            place.keep(&mut past);
            place.release(place.release_by(&place.owner, epoch)).await.unwrap();
            place.keep(&mut past);
        }
        if engaged {
            place.engage("stop").await.unwrap();
            place.keep(&mut past);
        }
        place.node.expect_log("changed by somebody else");
        place.node.expect_log("not signed");
        (place, past)
    }

    async fn restart(&mut self, before: impl FnOnce(&Self)) {
        for service in ["halt", "keeper", "bus"] {
            self.node.kill(service).await;
        }
        before(self);
        for service in ["bus", "keeper", "halt"] {
            self.node.launch(service).await;
        }
    }
}

#[tokio::test]
async fn deleted_or_corrupt_files_leave_an_engaged_system_halted() {
    let (mut place, past) = Place::with_past(true).await;
    let good = past.states.last().unwrap();
    let mut flipped = good.clone();
    flipped[20] ^= 1;
    let corrupt: Vec<(&str, Option<Vec<u8>>)> = vec![
        ("state", None),
        ("state", Some(Vec::new())),
        ("state", Some(b"released".to_vec())),
        ("state", Some(good[..good.len() / 2].to_vec())),
        ("state", Some(flipped)),
        ("seen", None),
        ("seen", Some(b"many\n".to_vec())),
        ("seen", Some(Vec::new())),
    ];
    for (name, bytes) in &corrupt {
        place.put(name, bytes.as_deref());
        assert!(place.fresh().halted.is_some(), "{name} {bytes:?}");
        let view = place.settled("the engagement is back", 5).await;
        assert!(view.statement.unwrap().epoch >= 5);
        assert!(place.halt().await.engaged);
    }
    for (name, bytes) in &corrupt {
        place.restart(|place| place.put(name, bytes.as_deref())).await;
        place.settled("the engagement is back after a restart", 5).await;
    }
    let epoch = place.halt().await.release_epoch;
    let envelope = place.release_by(&place.owner, epoch);
    assert!(!place.release(envelope).await.unwrap().engaged, "the owner is not locked out");
    place.finish().await;
}

#[tokio::test]
async fn every_earlier_pair_of_files_put_back_leaves_the_system_halted() {
    for engaged in [true, false] {
        let (place, past) = Place::with_past(engaged).await;
        let last = past.states.len() - 1;
        for (s, state) in past.states.iter().enumerate() {
            for (e, seen) in past.seens.iter().enumerate() {
                if (s, e) == (last, last) {
                    continue;
                }
                place.put("state", Some(state));
                place.put("seen", Some(seen));
                // The newest release with an older epoch beside it is still the newest release.
                if !engaged && s == last && !place.halt().await.engaged {
                    continue;
                }
                let newest = u64::try_from(last).unwrap();
                place.settled(&format!("state {s} and seen {e} of {last} are replaced"), newest).await;
            }
        }
        let halt = place.halt().await;
        assert!(halt.engaged && halt.epoch > last as u64, "{halt:?}");
        place.finish().await;
    }
}

#[tokio::test]
async fn old_files_put_back_while_nothing_runs_are_found_at_the_start() {
    for forget in [false, true] {
        let (mut place, past) = Place::with_past(true).await;
        for (state, seen) in past.states.iter().zip(&past.seens).take(5) {
            let home = place.home().clone();
            let before = |place: &Place| {
                place.put("state", Some(state));
                place.put("seen", Some(seen));
                if forget {
                    fs::remove_dir_all(home.state("halt")).unwrap();
                }
            };
            place.restart(before).await;
            place.settled("the log proves that this is old", 6).await;
        }
        place.finish().await;
    }
}

#[tokio::test]
async fn removed_keys_and_an_engagement_by_hand_are_put_right() {
    let (mut place, past) = Place::with_past(false).await;
    let theirs = mirror_seal::NodeKey::generate().unwrap();
    let statement =
        mirror_kit::HaltStatement { epoch: u64::MAX, engaged: true, reason: "by hand".into(), since_ms: 0 };
    let payload = serde_json::to_vec(&statement).unwrap();
    let envelope = mirror_seal::Envelope::sign(&theirs, mirror_kit::HALT_TYPE, &payload).to_json();
    place.put("state", Some(envelope.as_bytes()));
    let found = place.settled("it is signed under a proper epoch", 5).await.statement.unwrap();
    assert_eq!((found.epoch, found.reason.as_str()), (5, "by hand"));
    place.release(place.release_by(&place.owner, 6)).await.unwrap();

    place.put("keys", None);
    assert!(place.fresh().halted.is_some(), "without the keys nobody believes a release");
    place.settled("the keeper names the keys again", 7).await;
    assert!(place.halt().await.releasable);
    let epoch = place.halt().await.release_epoch;
    place.release(place.release_by(&place.owner, epoch)).await.unwrap();

    // A release by somebody else's key, and the machine's own of epoch 0.
    for forged in [place.release_by(&theirs, epoch + 1), place.release_by(&place.device(), epoch + 1)] {
        place.put("state", Some(forged.as_bytes()));
        assert!(place.fresh().halted.is_some());
        place.settled("a forged release is replaced", epoch + 1).await;
    }
    place.restart(|place| place.put("state", Some(&past.states[0]))).await;
    place.settled("and so is the first state", epoch + 1).await;
    place.finish().await;
}

#[tokio::test]
async fn whoever_changes_the_files_in_a_loop_does_not_fill_the_log() {
    let (place, past) = Place::with_past(true).await;
    for _ in 0..20 {
        place.put("state", Some(&past.states[2]));
        place.settled("it is replaced", 5).await;
    }
    let engaged = place.events().await.len();
    assert!(engaged <= 6, "{engaged} events");
    place.finish().await;
}

#[tokio::test]
async fn the_same_state_is_built_again_from_the_log() {
    let (mut place, _) = Place::with_past(true).await;
    let snapshot = place.home().state("halt").join("snapshot.json");
    assert_eq!(place.node.stop("halt").await, mirror_kit::Exit::Drained);
    let before = fs::read_to_string(&snapshot).unwrap();
    assert!(before.contains("\"proven\":5"), "{before}");
    fs::remove_dir_all(place.home().state("halt")).unwrap();
    place.node.launch("halt").await;
    place
        .node
        .wait("the log is read", async || fs::read(&snapshot).map(|_| ()).map_err(|e| e.to_string()))
        .await;
    assert_eq!(place.halt().await.epoch, 5);
    place.node.stop("halt").await;
    assert_eq!(fs::read_to_string(&snapshot).unwrap(), before);
    place.finish().await;
}
