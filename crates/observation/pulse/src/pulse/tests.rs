//! Faults, each with the expected verdict, cause and action.

use super::world::{Mood, SEC, World, settings};
use super::{Cause, Desired, Health, Input, Process};

fn world() -> World {
    World::new(6, settings())
}

/// Returns what was asked for, "<remedy> <target>", each id once.
fn asked(world: &World) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    let first = world.asks.iter().filter(|(_, ask)| seen.insert(ask.id.clone()));
    first.map(|(_, ask)| format!("{} {}", ask.remedy, ask.target)).collect()
}

fn causes(world: &World) -> Vec<(String, Cause)> {
    world.view().incidents.iter().map(|i| (i.incident.root.clone(), i.incident.cause)).collect()
}

/// Waits until something was noticed, and then until all of it is over.
#[track_caller]
fn quiet(world: &mut World, limit: u64) {
    world.until("noticed", 45 * SEC, |w| w.view().verdict != Health::Ok);
    world.until("quiet", limit, |w| w.view().verdict == Health::Ok);
}

#[test]
fn a_quiet_day_asks_for_nothing_and_tells_nothing() {
    let mut world = world();
    world.run(24 * 3600 * SEC);
    assert!(world.asks.is_empty() && world.events.is_empty() && world.cards.is_empty());
    assert_eq!(world.view().verdict, Health::Ok);
    assert!(world.core.sweeps() > 280, "{}", world.core.sweeps());
}

#[test]
fn a_killed_leaf_is_left_to_the_supervisor_and_told_once() {
    let mut world = world();
    let leaf = world.leaf(0);
    world.end(leaf, "SIGKILL");
    world.run(100);
    assert_eq!(world.health("leaf-a"), Health::Recovering);
    world.run(3 * SEC);
    assert_eq!(causes(&world), [("leaf-a".to_owned(), Cause::Crashed)]);
    quiet(&mut world, 60 * SEC);
    assert!(world.asks.is_empty() && world.cards.is_empty());
    assert_eq!(world.events.len(), 2, "opened and closed: {:?}", world.events);
    let told = world.core.closed().next().unwrap();
    assert!(told.recovered_ms.unwrap() - told.began_ms < 12 * SEC, "{told:?}");
}

#[test]
fn a_crash_at_the_floor_shows_when_it_is_started_again() {
    let mut world = world();
    let leaf = world.leaf(0);
    world.end(leaf, "SIGSEGV");
    world.run(SEC);
    world.end(leaf, "SIGSEGV");
    world.run(3 * SEC);
    assert_eq!(world.health("leaf-a"), Health::Recovering);
    let incident = &world.view().incidents[0];
    assert_eq!(incident.remedy, "restart");
    assert!(incident.next_action.unwrap() > world.now.wall + 60 * SEC, "floor and start-up come first");
    quiet(&mut world, 120 * SEC);
    assert!(world.asks.is_empty());
}

#[test]
fn a_hang_is_detected_within_twelve_seconds_and_killed_once() {
    let mut worst = (0, 0);
    for phase in 0..12 {
        let mut world = world();
        world.run(phase * 500);
        let leaf = world.leaf(1);
        world.turn(leaf, Mood::Hung);
        let failed = |w: &World| matches!(w.health("leaf-b"), Health::Failed | Health::Healing);
        let detected = world.until("detected", 20 * SEC, failed);
        let healed = world.until("healed", 40 * SEC, |w| w.health("leaf-b") == Health::Ok);
        worst = (worst.0.max(detected), worst.1.max(detected + healed));
        quiet(&mut world, 60 * SEC);
        assert_eq!(asked(&world), ["restart-kill leaf-b"]);
    }
    assert!(worst.0 <= 12 * SEC && worst.1 <= 30 * SEC, "{worst:?}");
}

#[test]
fn a_slow_start_is_not_restarted_and_a_start_that_never_ends_is() {
    let mut world = world();
    let leaf = world.leaf(0);
    world.agents[leaf].start_ms = 40 * SEC;
    world.end(leaf, "exit code 75");
    world.run(35 * SEC);
    assert_eq!(world.health("leaf-a"), Health::Recovering);
    quiet(&mut world, 60 * SEC);
    assert!(world.asks.is_empty());

    world.agents[leaf].start_ms = 100_000 * SEC;
    world.end(leaf, "exit code 75");
    world.until("asked for", 90 * SEC, |w| !w.asks.is_empty());
    assert_eq!(asked(&world), ["restart leaf-a"]);
    assert_eq!(causes(&world)[0].1, Cause::SlowStart);
}

#[test]
fn an_agent_that_ended_as_if_it_were_done_is_started() {
    let mut world = world();
    let leaf = world.leaf(0);
    world.end(leaf, "exit code 0");
    world.until("started", 15 * SEC, |w| !w.asks.is_empty() && w.health("leaf-a") == Health::Ok);
    assert_eq!(asked(&world), ["start leaf-a"]);
}

#[test]
fn a_bad_configuration_is_never_restarted_and_the_owner_is_told_at_once() {
    let mut world = world();
    let leaf = world.leaf(0);
    world.turn(leaf, Mood::BadConfig);
    world.run(10 * SEC);
    assert_eq!(causes(&world), [("leaf-a".to_owned(), Cause::Config)]);
    assert!(world.cards["pulse.leaf-a"].contains("mend mirror.toml"), "{:?}", world.cards);
    world.run(7200 * SEC);
    assert!(world.asks.is_empty());
    world.turn(leaf, Mood::Well);
    quiet(&mut world, 60 * SEC);
    assert!(world.cards.is_empty());
    assert_eq!(world.events.len(), 2);
}

#[test]
fn a_crash_loop_is_quarantined_and_stays_so_until_it_is_started() {
    let mut world = world();
    let leaf = world.leaf(0);
    world.agents[leaf].crashes_after = Some(SEC);
    world.end(leaf, "exit code 74");
    world.until("quarantined", 120 * SEC, |w| w.health("leaf-a") == Health::Quarantined);
    assert_eq!(asked(&world), ["quarantine leaf-a"]);
    world.run(600 * SEC);
    assert_eq!(causes(&world), [("leaf-a".to_owned(), Cause::Quarantined)]);
    assert!(world.cards.contains_key("pulse.leaf-a"));
    world.agents[leaf].crashes_after = None;
    world.start(leaf);
    quiet(&mut world, 60 * SEC);
    assert_eq!(asked(&world).len(), 1);
    assert!(world.cards.is_empty());
}

#[test]
fn what_is_not_loaded_is_loaded_and_what_was_changed_is_rendered() {
    let mut world = world();
    let leaf = world.leaf(0);
    world.end(leaf, "exit code 0");
    world.agents[leaf].row.process = Process::NotLoaded;
    let other = world.leaf(1);
    world.agents[other].row.problem = "KeepAlive was removed".to_owned();
    world.agents[other].faulted = Some(0);
    world.tell_rows();
    quiet(&mut world, 120 * SEC);
    let mut asked = asked(&world);
    asked.sort();
    assert_eq!(asked, ["reload leaf-a", "render leaf-b"]);
}

#[test]
fn a_missing_socket_is_mended_by_a_restart() {
    let mut world = world();
    let leaf = world.leaf(2);
    world.turn(leaf, Mood::NoSocket);
    world.until("asked for", 30 * SEC, |w| !w.asks.is_empty());
    assert_eq!(asked(&world), ["restart leaf-c"]);
    quiet(&mut world, 60 * SEC);
}

#[test]
fn ten_dependents_of_one_hung_agent_are_one_incident_and_one_action() {
    let mut world = World::new(10, settings());
    for n in 0..10 {
        let leaf = world.leaf(n);
        world.agents[leaf].strict = n % 2 == 0;
    }
    world.turn(0, Mood::Hung);
    world.until("asked for", 30 * SEC, |w| !w.asks.is_empty());
    assert_eq!(asked(&world), ["restart-kill bus"]);
    let view = world.view();
    assert_eq!(causes(&world), [("bus".to_owned(), Cause::Hung)]);
    assert!(view.incidents[0].incident.shadowed.len() >= 10, "{:?}", view.incidents[0]);
    assert_eq!(world.health("leaf-a"), Health::Shadowed);
    quiet(&mut world, 120 * SEC);
    assert_eq!(asked(&world).len(), 1);
    assert_eq!(world.events.len(), 2);
}

#[test]
fn twenty_that_are_killed_at_once_are_one_incident_and_nothing_is_done() {
    let mut world = World::new(20, settings());
    for n in 0..20 {
        let leaf = world.leaf(n);
        world.end(leaf, "SIGKILL");
    }
    world.run(5 * SEC);
    assert_eq!(causes(&world), [("fleet".to_owned(), Cause::Common)]);
    quiet(&mut world, 120 * SEC);
    assert!(world.asks.is_empty());
    assert_eq!(world.events.len(), 2);
}

#[test]
fn twenty_that_hang_at_once_are_mended_one_at_a_time_after_a_wait() {
    let mut world = World::new(20, settings());
    for n in 0..20 {
        let leaf = world.leaf(n);
        world.turn(leaf, Mood::Hung);
    }
    world.until("one incident", 30 * SEC, |w| !causes(w).is_empty());
    assert_eq!(causes(&world), [("fleet".to_owned(), Cause::Common)]);
    let detected = world.now.boot;
    quiet(&mut world, 1800 * SEC);
    assert_eq!(world.asks.len(), 20);
    assert!(world.asks[0].0 >= detected + 29 * SEC, "shared facts and time come first");
    assert!(world.asks.windows(2).all(|p| p[1].0 - p[0].0 >= 30 * SEC), "{:?}", world.asks);
}

#[test]
fn a_lost_folder_of_sockets_is_the_cause_and_no_agent_is_restarted_for_it() {
    let mut world = World::new(20, settings());
    world.run_dir = false;
    for agent in &mut world.agents {
        agent.faulted = Some(0);
    }
    quiet(&mut world, 300 * SEC);
    assert_eq!(asked(&world), ["recreate-run-dir fleet"]);
    let told: Vec<Cause> = world.core.closed().map(|t| t.cause).collect();
    assert_eq!(told, [Cause::RunDirGone]);
}

#[test]
fn a_full_disk_is_told_and_logs_are_rotated() {
    let mut world = world();
    world.free = 100 << 20;
    world.until("asked for", 60 * SEC, |w| !w.asks.is_empty());
    assert_eq!(asked(&world), ["rotate-logs fleet"]);
    assert_eq!(world.view().incidents[0].incident.cause, Cause::DiskFull);
    quiet(&mut world, 120 * SEC);
}

#[test]
fn nothing_is_done_in_maintenance_and_what_still_fails_after_it_is() {
    let mut world = world();
    world.maintenance = world.now.boot + 600 * SEC;
    world.step(Input::Maintenance(600 * SEC));
    let leaf = world.leaf(0);
    world.turn(leaf, Mood::Hung);
    world.run(500 * SEC);
    assert_eq!(world.health("leaf-a"), Health::Maintenance);
    assert!(world.view().incidents.is_empty() && world.events.is_empty());
    world.until("asked for", 130 * SEC, |w| !w.asks.is_empty());
    assert_eq!(asked(&world), ["restart-kill leaf-a"]);
}

#[test]
fn what_the_owner_stopped_stays_stopped_and_shadows_who_needs_it() {
    let mut world = world();
    world.agents[4].strict = true;
    world.end(0, "exit code 0");
    world.agents[0].row.desired = Desired::Stopped;
    world.tell_rows();
    world.run(600 * SEC);
    assert_eq!(world.health("bus"), Health::Maintenance);
    assert_eq!(world.health("leaf-a"), Health::Shadowed);
    assert!(world.asks.is_empty() && world.view().incidents.is_empty());
}

#[test]
fn after_two_hours_of_sleep_it_looks_anew_and_waits_a_minute() {
    let mut world = world();
    let leaf = world.leaf(0);
    world.sleep(7200 * SEC);
    assert_eq!(world.health("leaf-a"), Health::Unknown, "what was known is old");
    world.turn(leaf, Mood::Hung);
    world.until("asked for", 90 * SEC, |w| !w.asks.is_empty());
    assert!(world.asks[0].0 >= world.woke + 60 * SEC);
    assert_eq!(asked(&world), ["restart-kill leaf-a"]);
}

#[test]
fn a_jump_of_the_clock_is_shown_and_changes_nothing() {
    let mut world = world();
    for jump in [3_600_000_i64, -86_400_000] {
        world.now.wall = world.now.wall.saturating_add_signed(jump);
        world.run(SEC);
        assert_eq!(world.health("check.clock"), Health::Suspect);
        world.run(120 * SEC);
        assert_eq!(world.view().verdict, Health::Ok);
    }
    assert!(world.asks.is_empty() && world.events.is_empty());
}

#[test]
fn an_agent_that_answers_in_turns_flaps_and_is_not_restarted_for_it() {
    let mut world = world();
    let leaf = world.leaf(0);
    for n in 0..60 {
        world.turn(leaf, if n % 2 == 0 { Mood::Refusing } else { Mood::Well });
        world.run(5 * SEC);
    }
    assert_eq!(world.health("leaf-a"), Health::Flapping);
    assert!(world.asks.is_empty());
    world.turn(leaf, Mood::Well);
    quiet(&mut world, 300 * SEC);
}

#[test]
fn pulse_that_ends_in_mid_remedy_asks_with_the_same_id_and_nothing_is_done_twice() {
    let mut world = world();
    let leaf = world.leaf(0);
    world.turn(leaf, Mood::Hung);
    world.remedy_away = true;
    world.until("asked for", 30 * SEC, |w| !w.asks.is_empty());
    world.restart_pulse();
    world.run(30 * SEC);
    world.remedy_away = false;
    quiet(&mut world, 300 * SEC);
    let ids: std::collections::BTreeSet<&str> = world.asks.iter().map(|(_, a)| a.id.as_str()).collect();
    assert!(world.asks.len() > 1 && ids.len() == 1, "{:?}", world.asks);
    assert_eq!(world.core.closed().count(), 1);
}

#[test]
fn the_service_remedy_itself_is_restarted_by_the_supervisor() {
    let mut world = world();
    world.turn(3, Mood::Hung);
    world.until("asked for", 30 * SEC, |w| !w.asks.is_empty());
    assert_eq!(asked(&world), ["restart-kill remedy"]);
    quiet(&mut world, 120 * SEC);
    assert!(world.events.iter().any(|e| e.contains("\"incident\":")), "{:?}", world.events);
}

#[test]
fn without_the_bus_the_same_is_done_and_told_when_it_is_back() {
    let mut world = world();
    world.bus_away = true;
    let leaf = world.leaf(0);
    world.turn(leaf, Mood::Hung);
    quiet(&mut world, 120 * SEC);
    assert_eq!(asked(&world), ["restart-kill leaf-a"]);
    assert!(world.events.is_empty());
    world.bus_away = false;
    world.run(120 * SEC);
    assert_eq!(world.events.len(), 2);
}

#[test]
fn a_check_that_fails_is_unknown_and_keeps_nothing_from_being_healed() {
    let mut world = world();
    world.check_fails = true;
    world.run(60 * SEC);
    assert_eq!(world.view().verdict, Health::Unknown);
    let leaf = world.leaf(0);
    world.turn(leaf, Mood::Hung);
    world.until("healed", 40 * SEC, |w| !w.asks.is_empty() && w.health("leaf-a") == Health::Ok);
}

#[test]
fn an_answer_that_says_nothing_is_unknown_and_not_acted_on() {
    let mut world = world();
    let leaf = world.leaf(0);
    world.turn(leaf, Mood::Mute);
    world.run(3600 * SEC);
    assert_eq!((world.health("leaf-a"), world.view().verdict), (Health::Unknown, Health::Unknown));
    assert!(world.asks.is_empty());
}

#[test]
fn only_observing_it_sees_everything_and_does_nothing() {
    let mut world = World::new(3, super::Settings { observe_only: true, ..settings() });
    world.turn(4, Mood::Hung);
    world.run(600 * SEC);
    assert!(world.asks.is_empty());
    assert_eq!(causes(&world), [("leaf-a".to_owned(), Cause::Hung)]);
}

#[test]
fn a_hung_bus_and_a_hung_remedy_do_not_wait_for_each_other() {
    let mut world = world();
    world.turn(0, Mood::Hung);
    world.turn(3, Mood::Hung);
    quiet(&mut world, 300 * SEC);
    let mut asked = asked(&world);
    asked.sort();
    assert_eq!(asked, ["restart-kill bus", "restart-kill remedy"]);
}
