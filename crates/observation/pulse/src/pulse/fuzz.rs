//! Random schedules of faults in virtual time: the invariants of `World` hold throughout, and it always converges.
//!
//! `PULSE_SCHEDULES=100000 cargo test --release -p mirror-pulse --lib fuzz` runs as many as the design asks for.

use super::world::{Mood, SEC, World, settings};
use super::{Desired, Health, Input, Process};

/// Schedules of a run that nobody asked to be longer.
const SCHEDULES: u64 = 150;

fn fault(world: &mut World) {
    let n = world.chance(world.agents.len() as u64) as usize;
    match world.chance(22) {
        0..=3 => world.end(n, "SIGKILL"),
        4 | 5 => world.turn(n, Mood::Hung),
        6 => world.end(n, "exit code 0"),
        7 => world.turn(n, Mood::NoSocket),
        8 => world.turn(n, Mood::Refusing),
        9 => world.turn(n, Mood::Mute),
        10 => {
            world.agents[n].crashes_after = Some(500);
            world.end(n, "exit code 74");
        }
        11 => {
            world.agents[n].start_ms = 40 * SEC;
            world.end(n, "SIGABRT");
        }
        12 => {
            world.agents[n].row.problem = "it was edited".to_owned();
            world.agents[n].faulted = Some(0);
            world.tell_rows();
        }
        13 => {
            let mood = if world.chance(2) == 0 { Mood::Hung } else { Mood::NoSocket };
            for n in 0..world.agents.len() {
                if world.chance(3) > 0 {
                    world.turn(n, mood);
                }
            }
        }
        14 => {
            for n in 0..world.agents.len() {
                world.end(n, "SIGKILL");
            }
        }
        15 => {
            world.run_dir = false;
            world.agents.iter_mut().for_each(|a| a.faulted = Some(0));
        }
        16 => {
            let for_ms = world.chance(200) * SEC;
            world.maintenance = world.now.boot + for_ms;
            world.step(Input::Maintenance(for_ms));
        }
        17 => {
            world.halted = !world.halted;
            let why = world.halted.then(|| "by the owner".to_owned());
            world.step(Input::Halt(why));
        }
        18 => {
            let for_ms = 40 * SEC + world.chance(7_200) * SEC;
            world.sleep(for_ms);
        }
        19 => world.remedy_away = !world.remedy_away,
        20 => {
            world.supervisor_away = !world.supervisor_away;
            if world.supervisor_away {
                world.step(Input::SupervisorAway);
            } else {
                world.tell_rows();
            }
        }
        _ => world.restart_pulse(),
    }
}

/// What only a person can mend is mended, and the faults stop.
fn mend(world: &mut World) {
    world.halted = false;
    world.step(Input::Halt(None));
    (world.remedy_away, world.supervisor_away, world.check_fails, world.bus_away) =
        (false, false, false, false);
    world.trouble = 0;
    for n in 0..world.agents.len() {
        let agent = &mut world.agents[n];
        agent.crashes_after = None;
        agent.start_ms = 300;
        // A supervisor that hangs cannot restart itself.
        if n == 1 || matches!(agent.mood, Mood::Refusing | Mood::BadConfig | Mood::Mute) {
            agent.mood = Mood::Well;
        }
        if agent.row.desired != Desired::Running || agent.row.process == Process::NotLoaded {
            world.start(n);
        }
    }
    world.tell_rows();
}

fn schedule(seed: u64) {
    let mut world = World::new(4, super::Settings { seed, ..settings() });
    world.random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    world.trouble = world.chance(40);
    for _ in 0..=world.chance(4) {
        fault(&mut world);
        let pause = world.chance(40_000);
        world.run(pause);
    }
    mend(&mut world);
    // Ten actions a day may be used up by then; a day later there are new ones.
    let limit = 26 * 3600 * SEC;
    let began = world.now.boot;
    let done = |w: &World| {
        let view = w.view();
        view.verdict == Health::Ok && view.incidents.is_empty()
    };
    while !done(&world) {
        // Quarantine is final until a person looks, and the person does.
        for n in 0..world.agents.len() {
            if world.agents[n].row.desired == Desired::Quarantined {
                world.start(n);
            }
        }
        assert!(world.now.boot - began < limit, "seed {seed} does not converge: {:#?}", world.view());
        world.run(10 * SEC);
    }
}

#[test]
fn random_faults_never_break_an_invariant_and_always_end_well() {
    let wanted = std::env::var("PULSE_SCHEDULES").ok().and_then(|n| n.parse().ok());
    let first = std::env::var("PULSE_FIRST").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    for seed in first..first + wanted.unwrap_or(SCHEDULES) {
        let run = std::panic::catch_unwind(|| schedule(seed));
        assert!(run.is_ok(), "seed {seed} breaks an invariant; see above");
    }
}
