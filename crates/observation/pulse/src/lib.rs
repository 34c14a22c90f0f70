//! pulse: watches every agent of the fleet, finds the cause of what is wrong, and has it remedied, once.
//!
//! It refuses to guess: a check that fails or hangs is unknown and never fine, and what fails because of something else
//! is left alone. It acts on nothing itself: it asks the service remedy, and only for that one the supervisor.
//! Invariants: at most one remedy is under way; none is asked for in maintenance, in a grace time, while halted or while
//! only observing; no limit is exceeded; one cause is one incident.
//!
//! Agents are watched by the supervisor's stream of rows, by the health stream of each service, and by a question every
//! six seconds; a sweep over everything every five minutes is the net. `docs/PULSE.md` has the causes and the rules.
//!
//! Events, all with JSON payloads: `pulse.incident` tells an incident when it opens and when it is over (`state`, `id`,
//! `cause`, `detail`, `root`, `shadowed`, `began_ms`, `detected_ms`; at its end also `recovered_ms`, `actions`).
//! `pulse.action` tells of a restart that the supervisor was asked for, of the service remedy itself.
//! `pulse.maintenance` tells of maintenance that was begun or ended (`for_ms`, `reason`). A day on which nothing happens
//! adds none.

mod api;
mod checks;
mod config;
mod engine;
mod error;
mod hands;
mod history;
mod probe;
mod pulse;
mod store;
mod wire;

#[doc(hidden)]
pub use wire::fuzz_wire;

use std::sync::{Arc, Mutex};

use mirror_contract::mirror::pulse::v1::pulse_service_server::PulseServiceServer;
use mirror_kit::{
    Away, Built, Context, Criticality, Decl, Halt, Keep, Need, Primitive, Service, StartError, When,
};
use tokio::sync::mpsc;

/// Inputs that wait at most; a source that finds the queue full waits.
const QUEUE: usize = 256;

/// The declaration.
pub const DECL: Decl = Decl {
    name: "pulse",
    summary: "Watches the fleet, finds root causes and has them remedied.",
    primitive: Primitive::Observation,
    tier: 4,
    needs: &[
        Need { service: "bus", away: Away::Degrade },
        Need { service: "supervisor", away: Away::Degrade },
        Need { service: "remedy", away: Away::Degrade },
        Need { service: "notify", away: Away::Degrade },
    ],
    serves: &["mirror.pulse.v1.PulseService"],
    subjects: &["pulse"],
    reasons: error::REASONS,
    criticality: Criticality::Important,
    memory_mb: 6,
    observes: true,
    ..Decl::DEFAULT
};

/// The service.
pub static SERVICE: Service = Service { decl: &DECL, build: |cx| Box::pin(async move { build(&cx) }) };

fn build(cx: &Context) -> Result<Built, StartError> {
    let config = cx.config::<config::Config>()?.checked()?;
    let store = store::Store::at(&cx.state_dir()?);
    let (clock, hands) = (cx.clock(), hands::Hands::new(cx)?);
    let specs = specs(cx);
    let agents: Vec<String> = specs.iter().map(|s| s.name.clone()).collect();
    let places = Arc::new(checks::Places {
        home: cx.home().clone(),
        agents,
        pids: Mutex::default(),
        clock: Arc::clone(&clock),
    });
    let (sender, inputs) = mpsc::channel(QUEUE);
    let probers = specs.iter().enumerate().map(|(n, s)| probe(cx, n, s, &sender, &hands));
    let probers = probers.collect::<Result<_, _>>()?;
    let now = engine::now(&*clock);
    let saved = store.load();
    let blank = saved.is_none();
    let core = pulse::Core::new(now, config.settings(now.wall ^ now.boot), specs, saved.unwrap_or_default());
    let shared = engine::Shared::new(core, Arc::clone(&clock));
    if blank {
        cx.tasks().spawn(history::recall(cx.clone(), shared.clone(), hands.clone()));
    }
    cx.tasks().spawn(hands.clone().follow_agents(cx.clone(), sender.clone()));
    let engine = engine::Engine {
        cx: cx.clone(),
        shared: shared.clone(),
        hands: hands.clone(),
        checks: checks::Checks::new(Arc::clone(&places)),
        places,
        store: store.clone(),
        probers,
        sender: sender.clone(),
        halt: Halt::new(cx.home(), Some(cx.node().key), Arc::clone(&clock)),
    };
    cx.tasks().spawn(engine.run(inputs));
    let api = api::Api { shared: shared.clone(), hands, inputs: sender, clock, shutdown: cx.shutdown() };
    Ok(Built::new().serve(PulseServiceServer::new(api)).on_drain(move || {
        let now = shared.now();
        if let Err(error) = store.save(shared.with(|core| core.saved(now))) {
            tracing::warn!(%error, "the snapshot was not saved; pulse begins with what was saved before");
        }
    }))
}

/// Starts what watches one agent; a job is watched by its rows alone.
fn probe(
    cx: &Context,
    agent: usize,
    spec: &pulse::Spec,
    inputs: &mpsc::Sender<pulse::Input>,
    hands: &hands::Hands,
) -> Result<Option<mpsc::Sender<u64>>, StartError> {
    if spec.job {
        return Ok(None);
    }
    let (sender, asked) = mpsc::channel(1);
    let prober = probe::Prober {
        agent,
        name: spec.name.clone(),
        channel: hands.channel(&spec.name).map_or_else(|| cx.observe(&spec.name), Ok)?,
        home: cx.home().clone(),
        clock: cx.clock(),
        inputs: inputs.clone(),
    };
    cx.tasks().spawn(prober.run(asked, cx.shutdown()));
    Ok(Some(sender))
}

/// Returns what is declared of every agent: the services, then the jobs.
fn specs(cx: &Context) -> Vec<pulse::Spec> {
    let number = |name: &str| cx.catalogue().iter().position(|d| d.name == name);
    let services = cx.catalogue().iter().map(|decl| pulse::Spec {
        name: decl.name.to_owned(),
        job: false,
        on_demand: decl.keep != Keep::Always,
        criticality: decl.criticality,
        needs: decl.needs.iter().filter_map(|need| number(need.service)).collect(),
        startup: u64::from(decl.startup_secs) * 1000,
        memory: u64::from(decl.memory_mb) << 20,
        every: 0,
    });
    let jobs = cx.jobs().iter().map(|job| pulse::Spec {
        name: job.agent(),
        job: true,
        on_demand: true,
        criticality: Criticality::Useful,
        needs: Vec::new(),
        startup: 0,
        memory: 0,
        every: match job.when {
            When::Every { secs } => u64::from(secs) * 1000,
            _ => 0,
        },
    });
    services.chain(jobs).collect()
}
