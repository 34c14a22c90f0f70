//! The service as its callers see it, with fakes of the supervisor, the service remedy and notify.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod fakes;

use std::time::Duration;

use fakes::{Fleet, LEAF, NOTIFY, OTHER, REMEDY, SUPERVISOR};
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::{GetStatusRequest, ReadRequest};
use mirror_contract::mirror::pulse::v1 as pb;
use mirror_contract::mirror::pulse::v1::pulse_service_client::PulseServiceClient;
use mirror_contract::mirror::supervisor::v1::{AgentDesired, AgentState};
use mirror_errors::{Kind, Remote};
use mirror_kit::{Channel, Principal};
use mirror_pulse::SERVICE;
use mirror_testkit::{Node, Sandbox};

/// The disk of a test machine is not what is tested.
const CONFIG: &str = "[pulse]\ndisk_free_mib = 0\ndisk_free_percent = 0\n";
const STEP: Duration = Duration::from_millis(500);

async fn start(fleet: &std::sync::Arc<Fleet>) -> Node {
    let services = [&mirror_bus::SERVICE, &SUPERVISOR, &NOTIFY, &REMEDY, &LEAF, &OTHER, &SERVICE];
    let node = Sandbox::with(&services).manual_clock().config(CONFIG).given(std::sync::Arc::clone(fleet));
    let node = node.start().await;
    fleet.know(&["bus", "supervisor", "notify", "remedy", "leaf", "other", "pulse"]);
    until(&node, "all is well", |p| p.verdict() == pb::Health::Ok).await;
    node
}

fn client(node: &Node) -> PulseServiceClient<Channel> {
    PulseServiceClient::new(node.channel("pulse"))
}

async fn pulse(node: &Node) -> pb::Pulse {
    client(node).get_pulse(pb::GetPulseRequest {}).await.unwrap().into_inner().pulse.unwrap()
}

/// Lets a step of time pass, and what it set off come to an end: all run on one thread, in turns.
async fn step(node: &Node) {
    node.clock().advance(STEP);
    for _ in 0..4 {
        pulse(node).await;
    }
}

async fn pass(node: &Node, time: Duration) {
    for _ in 0..time.as_millis() / STEP.as_millis() {
        step(node).await;
    }
}

/// Lets time pass until the pulse is so.
async fn until(node: &Node, what: &str, mut so: impl FnMut(&pb::Pulse) -> bool) -> pb::Pulse {
    let mut found = None;
    node.wait(what, async || {
        step(node).await;
        let pulse = pulse(node).await;
        if so(&pulse) {
            found = Some(pulse);
            return Ok(());
        }
        Err(format!("{} {:?} {:?}", pulse.summary, pulse.incidents, pulse.targets))
    })
    .await;
    found.unwrap()
}

fn health(pulse: &pb::Pulse, name: &str) -> pb::Health {
    pulse.targets.iter().find(|t| t.name == name).map_or(pb::Health::Unspecified, pb::Target::health)
}

async fn incidents(node: &Node) -> Vec<pb::Incident> {
    let request = pb::ListIncidentsRequest { limit: 0 };
    client(node).list_incidents(request).await.unwrap().into_inner().incidents
}

/// Returns the payloads of pulse's own events.
async fn events(node: &Node) -> Vec<serde_json::Value> {
    let mut bus = BusServiceClient::new(node.channel_as(Principal::Service("test".into()), "bus"));
    let head = bus.get_status(GetStatusRequest {}).await.unwrap().into_inner().head;
    if head == 0 {
        return Vec::new();
    }
    let filter = mirror_contract::mirror::bus::v1::Filter {
        subjects: vec!["pulse.>".to_owned()],
        ..Default::default()
    };
    let request = ReadRequest { from: 1, to: head, filter: Some(filter), ..ReadRequest::default() };
    let mut stream = bus.read(request).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(batch) = stream.message().await.unwrap() {
        found.extend(batch.events.iter().map(|e| serde_json::from_slice(&e.payload).unwrap()));
    }
    found
}

#[tokio::test]
async fn a_quiet_fleet_is_well_and_nothing_is_told() {
    let fleet = Fleet::new();
    let node = start(&fleet).await;
    pass(&node, Duration::from_secs(90)).await;
    let now = pulse(&node).await;
    assert_eq!(now.verdict(), pb::Health::Ok, "{now:?}");
    assert!(now.summary.contains("all") && now.targets.iter().any(|t| t.name == "check.home"));
    assert!(fleet.asked().is_empty() && fleet.cards().is_empty() && events(&node).await.is_empty());
    let beat = std::fs::metadata(node.home().run().join("pulse.beat")).unwrap().modified().unwrap();
    let beat = beat.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!(beat > Duration::from_millis(mirror_testkit::START_MS + 60_000), "{beat:?}");
    node.finish().await;
}

#[tokio::test]
async fn a_killed_service_is_waited_for_and_told_of_once() {
    let fleet = Fleet::new();
    let mut node = start(&fleet).await;
    node.kill("leaf").await;
    fleet.crashed("leaf", node.clock());
    let now = until(&node, "it is noticed", |p| !p.incidents.is_empty()).await;
    assert_eq!(health(&now, "leaf"), pb::Health::Recovering);
    assert_eq!((now.incidents[0].cause.as_str(), now.incidents[0].root.as_str()), ("crashed", "leaf"));
    assert!(now.incidents[0].next_action.is_some() && now.incidents[0].recovered.is_none());
    node.launch("leaf").await;
    fleet.started("leaf", node.clock());
    until(&node, "all is well", |p| p.verdict() == pb::Health::Ok).await;
    assert!(fleet.asked().is_empty());
    let over = incidents(&node).await;
    assert_eq!(over.len(), 1);
    assert!(over[0].recovered.is_some() && over[0].actions.is_empty(), "{over:?}");
    node.wait("both events are on the log", async || match events(&node).await {
        events if events.len() == 2 => {
            assert_eq!((&events[0]["state"], &events[1]["state"]), (&"opened".into(), &"closed".into()));
            Ok(())
        }
        other => Err(format!("{other:?}")),
    })
    .await;

    // What the log knows comes back without the state.
    node.stop("pulse").await;
    std::fs::remove_dir_all(node.home().state("pulse")).unwrap();
    node.launch("pulse").await;
    node.wait("the incident is back", async || match incidents(&node).await {
        again if again == over => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    node.finish().await;
}

#[tokio::test]
async fn a_service_that_is_idle_is_started_by_remedy_and_by_nobody_else() {
    let fleet = Fleet::new();
    let mut node = start(&fleet).await;
    node.stop("leaf").await;
    fleet.put("leaf", |agent| {
        agent.set_state(AgentState::Idle);
        agent.last_exit = "exit code 0".to_owned();
        agent.pid = 0;
    });
    node.wait("it is asked for", async || {
        step(&node).await;
        if fleet.asked().is_empty() { Err(format!("{:?}", pulse(&node).await.incidents)) } else { Ok(()) }
    })
    .await;
    let asked = fleet.asked();
    assert_eq!((asked[0].remedy.as_str(), asked[0].target.as_str()), ("start", "leaf"));
    assert!(asked[0].cause.starts_with("exited: "), "{asked:?}");
    node.launch("leaf").await;
    fleet.started("leaf", node.clock());
    until(&node, "all is well", |p| p.verdict() == pb::Health::Ok).await;
    assert_eq!(fleet.asked().len(), 1);
    let over = incidents(&node).await;
    assert!(over[0].actions[0].starts_with("start leaf: healed"), "{over:?}");
    assert_eq!(health(&pulse(&node).await, "other"), pb::Health::Ok);
    node.finish().await;
}

#[tokio::test]
async fn a_bad_configuration_is_a_card_and_no_remedy() {
    let fleet = Fleet::new();
    let mut node = start(&fleet).await;
    node.expect_log("not serving");
    fleet.refuse("leaf", "leaf.size must be 1 to 9; mend mirror.toml and restart the service");
    node.stop("leaf").await;
    node.launch("leaf").await;
    fleet.started("leaf", node.clock());
    let now = until(&node, "it is told", |p| !p.incidents.is_empty()).await;
    assert_eq!((now.verdict(), now.incidents[0].cause.as_str()), (pb::Health::Failed, "config"));
    assert!(now.incidents[0].remedy.is_empty() && now.incidents[0].detail.contains("leaf.size"), "{now:?}");
    node.wait("the card is put", async || {
        step(&node).await;
        match fleet.cards().get("pulse.leaf") {
            Some(body) if body.contains("leaf.size") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    pass(&node, Duration::from_secs(120)).await;
    assert!(fleet.asked().is_empty());
    fleet.refuse("leaf", "");
    node.stop("leaf").await;
    node.launch("leaf").await;
    fleet.started("leaf", node.clock());
    until(&node, "all is well", |p| p.verdict() == pb::Health::Ok).await;
    node.wait("the card is cleared", async || {
        step(&node).await;
        if fleet.cards().is_empty() { Ok(()) } else { Err(format!("{:?}", fleet.cards())) }
    })
    .await;
    node.finish().await;
}

#[tokio::test]
async fn pulse_killed_in_mid_remedy_asks_again_with_the_same_id() {
    let fleet = Fleet::new();
    let mut node = start(&fleet).await;
    fleet.hold_answers(true);
    node.stop("leaf").await;
    fleet.put("leaf", |agent| agent.set_state(AgentState::NotLoaded));
    node.wait("it is asked for", async || {
        step(&node).await;
        if fleet.asked().is_empty() { Err(format!("{:?}", pulse(&node).await.incidents)) } else { Ok(()) }
    })
    .await;
    node.kill("pulse").await;
    node.launch("pulse").await;
    node.wait("it is asked for again", async || {
        step(&node).await;
        if fleet.asked().len() < 2 { Err(format!("{:?}", pulse(&node).await.incidents)) } else { Ok(()) }
    })
    .await;
    let asked = fleet.asked();
    assert_eq!(asked[0], asked[1], "the same action, by the same id");
    assert_eq!(fleet.acts(), 1);
    fleet.hold_answers(false);
    node.launch("leaf").await;
    fleet.started("leaf", node.clock());
    until(&node, "all is well", |p| p.verdict() == pb::Health::Ok).await;
    assert_eq!((fleet.acts(), incidents(&node).await.len()), (1, 1));
    node.finish().await;
}

#[tokio::test]
async fn maintenance_is_recorded_and_nothing_is_asked_for_while_it_lasts() {
    let fleet = Fleet::new();
    let node = start(&fleet).await;
    let put = async |for_ms: u64, reason: &str| {
        let request = pb::PutMaintenanceRequest { for_ms, reason: reason.to_owned() };
        let answer = client(&node).put_maintenance(request).await;
        answer.map(|a| a.into_inner().until).map_err(|status| Remote::from_status(&status))
    };
    let error = put(86_400_001, "").await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (Kind::Invalid, "PULSE_MAINTENANCE_INVALID"));
    assert_eq!(error.fields[0].0, "for_ms");
    assert!(put(0, "").await.unwrap().is_none() && events(&node).await.is_empty());
    assert!(put(60_000, "a new disk").await.unwrap().is_some());
    fleet.put("leaf", |agent| agent.set_state(AgentState::NotLoaded));
    pass(&node, Duration::from_secs(40)).await;
    let now = pulse(&node).await;
    assert_eq!(health(&now, "leaf"), pb::Health::Maintenance, "{now:?}");
    assert!(fleet.asked().is_empty() && now.incidents.is_empty() && now.maintenance_until.is_some());
    assert_eq!(events(&node).await[0]["reason"], "a new disk");
    assert!(put(0, "").await.unwrap().is_none());
    node.wait("it is asked for", async || {
        step(&node).await;
        if fleet.asked().is_empty() { Err(format!("{:?}", pulse(&node).await)) } else { Ok(()) }
    })
    .await;
    assert_eq!(fleet.asked()[0].remedy, "reload");
    node.finish().await;
}

#[tokio::test]
async fn what_the_owner_stopped_is_not_started() {
    let fleet = Fleet::new();
    let mut node = start(&fleet).await;
    node.stop("leaf").await;
    fleet.put("leaf", |agent| {
        agent.set_state(AgentState::Idle);
        agent.set_desired(AgentDesired::Stopped);
        agent.reason = "for a backup".to_owned();
    });
    pass(&node, Duration::from_secs(60)).await;
    let now = pulse(&node).await;
    assert_eq!((health(&now, "leaf"), now.verdict()), (pb::Health::Maintenance, pb::Health::Ok), "{now:?}");
    assert!(fleet.asked().is_empty());
    node.finish().await;
}

#[tokio::test]
async fn without_the_bus_the_same_remedy_is_asked_for_and_told_later() {
    let fleet = Fleet::new();
    let mut node = start(&fleet).await;
    node.stop("bus").await;
    fleet.put("bus", |agent| {
        agent.set_state(AgentState::Idle);
        agent.last_exit = "exit code 0".to_owned();
    });
    node.wait("it is asked for", async || {
        step(&node).await;
        if fleet.asked().is_empty() { Err(format!("{:?}", pulse(&node).await.incidents)) } else { Ok(()) }
    })
    .await;
    assert_eq!((fleet.asked()[0].remedy.as_str(), fleet.asked()[0].target.as_str()), ("start", "bus"));
    node.launch("bus").await;
    fleet.started("bus", node.clock());
    until(&node, "all is well", |p| p.verdict() == pb::Health::Ok).await;
    node.wait("both events are on the log", async || {
        step(&node).await;
        match events(&node).await {
            events if events.len() == 2 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    node.finish().await;
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_used_is_set_aside_and_pulse_watches_on() {
    let fleet = Fleet::new();
    let mut node = start(&fleet).await;
    node.stop("pulse").await;
    let path = node.home().state("pulse").join("snapshot.json");
    std::fs::write(&path, "{\"form\":1,").unwrap();
    node.expect_log("set aside");
    node.launch("pulse").await;
    until(&node, "all is well", |p| p.verdict() == pb::Health::Ok).await;
    assert!(path.with_extension("json.bad").is_file());
    node.finish().await;
}

#[tokio::test]
async fn a_watcher_is_told_of_changes_and_a_sweep_ends() {
    let fleet = Fleet::new();
    let node = start(&fleet).await;
    let mut stream = client(&node).watch_pulse(pb::WatchPulseRequest {}).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap().pulse.unwrap();
    assert_eq!(first.verdict(), pb::Health::Ok);
    let swept = client(&node).run_sweep(pb::RunSweepRequest {}).await.unwrap().into_inner().pulse.unwrap();
    assert!(swept.swept.is_some(), "{swept:?}");
    fleet.put("leaf", |agent| agent.set_state(AgentState::NotLoaded));
    let mut changed = None;
    node.wait("the watcher is told", async || {
        step(&node).await;
        match tokio::time::timeout(Duration::from_millis(20), stream.message()).await {
            Ok(Ok(Some(news))) if health(news.pulse.as_ref().unwrap(), "leaf") == pb::Health::Failed => {
                changed = news.pulse;
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(changed.unwrap().verdict(), pb::Health::Failed);
    node.finish().await;
}

#[tokio::test]
async fn a_value_out_of_bounds_keeps_it_from_serving_and_it_says_why() {
    let fleet = Fleet::new();
    let services = [&mirror_bus::SERVICE, &SUPERVISOR, &NOTIFY, &REMEDY, &SERVICE];
    let node = Sandbox::with(&services).config("[pulse]\nprobe_ms = 1\n").given(fleet);
    let mut node = node.start().await;
    node.expect_log("not serving");
    let error = client(&node).get_pulse(pb::GetPulseRequest {}).await.unwrap_err();
    let error = Remote::from_status(&error);
    assert_eq!(error.reason, "KIT_NOT_SERVING");
    assert!(error.message.contains("pulse.probe_ms"), "{error}");
    node.finish().await;
}
