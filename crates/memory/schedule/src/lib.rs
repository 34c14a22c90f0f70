//! schedule: fires durable timers; each occurrence ends in exactly one terminal state.
//!
//! It fires nothing by itself: the owner of a job watches for what is due, starts it and reports its end. It refuses to
//! start an occurrence twice, before its time, or for anybody but the job's owner; and under halt the kit refuses to
//! start any. Invariant: what was started is on the disk before the worker is told, so that no end of a process, at
//! whatever point, makes an occurrence run again; what became of one whose worker is gone counts as failed.
//!
//! A service uses it like this, in a task of its own:
//!
//! ```no_run
//! # async fn example(channel: mirror_client::Channel, job: mirror_contract::mirror::schedule::v1::Job) {
//! use mirror_client::schedule::{Done, work};
//!
//! work(channel, job, async |_due| match std::fs::remove_file("stale") {
//!     Ok(()) => Done::Worked("removed one file".to_owned()),
//!     Err(_) => Done::Nothing,
//! })
//! .await;
//! # }
//! ```
//!
//! Events, each a JSON object: `schedule.job` {put, settled, open?} for a job that is new or was replaced,
//! `schedule.deleted` {job, settled}, and `schedule.ended` {jobs: [{job, settled, open?, totals, rows: [{due, state,
//! started?, ended, detail, more?}]}]}. `settled` is the time up to which all occurrences of the job have ended, but
//! `open`; `totals` counts them by how they ended; `more` are those right before a row that ended likewise. Times are
//! milliseconds since 1970. Occurrences that did nothing are only counted; once a day `schedule.settled`, of the same
//! shape without rows, tells the counts that changed. When the state is lost, what fell due since the last event of
//! its job counts as missed, and says so.

mod api;
mod config;
mod desk;
mod entry;
mod error;
mod job;
#[cfg(test)]
mod model;
mod outbox;
mod recover;
mod schedule;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod when;
mod wire;

#[doc(hidden)]
pub use wire::fuzz_wire;

use std::time::Duration;

use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::schedule::v1::schedule_service_server::ScheduleServiceServer;
use mirror_kit::{Away, Built, Context, Criticality, Decl, Need, Primitive, Service, StartError};

/// The declaration.
pub const DECL: Decl = Decl {
    name: "schedule",
    summary: "Fires durable timers: each occurrence ends in exactly one terminal state.",
    primitive: Primitive::Memory,
    tier: 1,
    needs: &[Need { service: "bus", away: Away::Hold }],
    serves: &["mirror.schedule.v1.ScheduleService"],
    subjects: &["schedule"],
    reasons: error::REASONS,
    criticality: Criticality::Important,
    ..Decl::DEFAULT
};

/// The service.
pub static SERVICE: Service = Service { decl: &DECL, build: |cx| Box::pin(build(cx)) };

/// Pause before a start is tried again.
const PAUSE: Duration = Duration::from_millis(500);

async fn build(cx: Context) -> Result<Built, StartError> {
    let config = cx.config::<config::Config>()?.checked()?;
    let (channel, _) = cx.client("bus")?;
    let store = store::Store::new(&cx.state_dir()?, cx.node().origin.as_str());
    let mut recovery = recover::Recovery::begin(cx.clone(), store.clone(), channel.clone())?;
    let health = desk::Health::new(cx.state().clone());
    let (mut keeper, desk) = desk::Keeper::new(cx.clone(), store.clone(), health.clone());
    cx.tasks().spawn(outbox::flush(
        desk.clone(),
        health.clone(),
        BusServiceClient::new(channel),
        cx.shutdown(),
    ));
    // A bus that is there is read at once; while it is away, nothing may be started.
    let mut begun = begin(&mut recovery, &mut keeper, &health).await;
    let shutdown = cx.shutdown();
    cx.tasks().spawn(async move {
        while !begun {
            let again = async {
                tokio::time::sleep(PAUSE).await;
                begin(&mut recovery, &mut keeper, &health).await
            };
            let Some(again) = shutdown.or(again).await else { return };
            begun = again;
        }
        drop(recovery);
        keeper.run().await;
    });
    let api = api::Api::new(desk.clone(), cx.clock(), cx.shutdown(), config);
    Ok(Built::new().serve(ScheduleServiceServer::new(api)).on_drain(move || {
        let schedule = desk.now();
        if schedule.life.is_empty() {
            return;
        }
        if let Err(error) = store.save_marks(&schedule).and_then(|()| store.save_snapshot(&schedule)) {
            tracing::warn!(%error, "the last state was not saved; the next start reads more of the log");
        }
    }))
}

/// Reads the log and saves what it gives; returns whether both went well.
async fn begin(recovery: &mut recover::Recovery, keeper: &mut desk::Keeper, health: &desk::Health) -> bool {
    match recovery.read().await {
        Ok(schedule) => {
            health.note(desk::Part::Bus, None);
            keeper.begin(schedule).await
        }
        Err(why) => {
            let why = format!("it reads the log first, and the bus is away: {why}");
            health.note(desk::Part::Bus, Some(why));
            false
        }
    }
}
