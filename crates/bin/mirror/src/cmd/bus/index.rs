//! `mirror bus index rebuild`: throws the index away, and waits for the new one.

use std::fs::{OpenOptions, TryLockError};

use mirror_clock::{Clock as _, SystemClock};
use mirror_contract::mirror::bus::v1::{GetStatusRequest, RebuildIndexRequest};
use mirror_kit::{Holder, holder};
use mirror_paths::{Home, absent_is_fine, sync_dir};
use serde_json::json;

use crate::args::IndexVerb;
use crate::client::{Patience, may_come_back};
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::Out;
use crate::text::{duration, some};

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, verb: &IndexVerb) -> Result<(), Failure> {
    let IndexVerb::Rebuild = verb;
    let home = ctx.home()?;
    if remove_offline(&home)? {
        return match out.json_wanted() {
            true => out.json(&json!({ "removed": true })),
            false => out.line("the index is removed; the bus builds it when it starts"),
        };
    }
    online(ctx, out, &home).await
}

/// Removes the index when no bus holds the log; returns whether that was so.
fn remove_offline(home: &Home) -> Result<bool, Failure> {
    let bus = home.bus();
    let path = bus.join("LOCK");
    let file = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(error) => return Err(Failure::file("open", &path, &error).hint("a log is made by: mirror up")),
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(error)) => return Err(Failure::file("lock", &path, &error)),
        Ok(()) => {}
    }
    let index = bus.join("index");
    absent_is_fine(std::fs::remove_dir_all(&index)).map_err(|e| Failure::file("remove", &index, &e))?;
    sync_dir(&bus).map_err(|e| Failure::file("sync", &bus, &e))?;
    Ok(true)
}

async fn online(ctx: &Ctx, out: &mut Out, home: &Home) -> Result<(), Failure> {
    let mut client = ctx.bus()?;
    let before = pid(home);
    let started = SystemClock.boot();
    let answer = client.rebuild_index(RebuildIndexRequest {}).await.map_err(|s| ctx.refused("bus", &s))?;
    let head = answer.into_inner().head;
    let mut patience = Patience::new("bus");
    loop {
        // The process that answered still has the old index.
        let is_new = pid(home).is_some_and(|pid| before != Some(pid));
        match client.get_status(GetStatusRequest {}).await {
            Ok(status) if is_new && status.get_ref().index_upto >= head => break,
            Ok(_) => patience.answered(),
            Err(status) if may_come_back(&status) => {}
            Err(status) => return Err(ctx.refused("bus", &status)),
        }
        patience.wait().await;
    }
    let took = u64::try_from(SystemClock.boot().saturating_sub(started).as_millis()).unwrap_or(u64::MAX);
    if out.json_wanted() {
        return out.json(&json!({ "head": head, "took_ms": took }));
    }
    out.line(&format!("the index of {} is built anew; it took {}", some(head, "event"), duration(took)))
}

/// Returns the process that serves the bus.
fn pid(home: &Home) -> Option<u32> {
    match holder(home, "bus") {
        Ok(Holder::Process(info)) => Some(info.pid),
        _ => None,
    }
}
