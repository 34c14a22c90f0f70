//! `mirror status`: what should run, what does, and how the log is.

use std::time::Duration;

use clap::builder::styling::Style;
use mirror_clock::{Clock as _, SystemClock};
use mirror_contract::mirror::bus::v1::get_status_response::Writer;
use mirror_contract::mirror::bus::v1::{GetStatusRequest, GetStatusResponse};
use mirror_contract::mirror::kit::v1::GetStateRequest;
use mirror_contract::mirror::registry::v1::{Actual, Desired, ListServicesRequest, ServiceRecord};
use mirror_kit::{Holder, Keep, State, holder};
use mirror_paths::Home;
use serde_json::json;

use crate::app::app;
use crate::ctx::{Ctx, up_is_running};
use crate::failure::{EXIT_AWAY, Failure};
use crate::out::{BAD, ODD, Out, say};
use crate::text::{self, count, some};
use mirror_kit::desired::{self, Wish};

/// Longest wait for one answer; a service that hangs must not hang this.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    name: String,
    tier: u32,
    wish: Wish,
    on_demand: bool,
    state: &'static str,
    serves: bool,
    pid: u32,
    started_ms: u64,
    build: String,
    detail: String,
}

impl Row {
    fn is_missing(&self) -> bool {
        self.wish == Wish::Running && !self.on_demand && !self.serves
    }
}

pub(crate) async fn run(ctx: &Ctx, out: &mut Out) -> Result<(), Failure> {
    let home = ctx.home()?;
    let mut rows = match registry(ctx).await {
        Some(records) => records.iter().map(of_record).collect(),
        None => leases(&home),
    };
    rows.sort_by(|a, b| (a.tier, &a.name).cmp(&(b.tier, &b.name)));
    let (bus, ()) = futures::future::join(bus(ctx), probe(ctx, &mut rows)).await;
    let healthy = rows.iter().all(|row| !row.is_missing());
    if out.json_wanted() {
        let rows: Vec<_> = rows.iter().map(row_json).collect();
        out.json(&json!({
            "home": home.root(),
            "healthy": healthy,
            "up": up_is_running(&home),
            "services": rows,
            "bus": bus.as_ref().map(bus_json),
        }))?;
    } else {
        show(out, &rows, bus.as_ref())?;
    }
    if healthy {
        return Ok(());
    }
    if rows.iter().all(|row| row.pid == 0) && !up_is_running(&home) {
        return Err(ctx.away("bus"));
    }
    for row in rows.iter().filter(|row| row.is_missing() && row.pid == 0) {
        let log = home.log().join(format!("{}.log", row.name));
        say(&format!("hint: {} is down; its log is {}", row.name, log.display()));
    }
    Err(Failure::Said(EXIT_AWAY))
}

async fn registry(ctx: &Ctx) -> Option<Vec<ServiceRecord>> {
    let mut client = ctx.registry().ok()?;
    let asked = tokio::time::timeout(PATIENCE, client.list_services(ListServicesRequest {})).await;
    Some(asked.ok()?.ok()?.into_inner().services)
}

async fn bus(ctx: &Ctx) -> Option<GetStatusResponse> {
    let mut client = ctx.bus().ok()?;
    let asked = tokio::time::timeout(PATIENCE, client.get_status(GetStatusRequest {})).await;
    Some(asked.ok()?.ok()?.into_inner())
}

/// Asks each process itself: one that hangs still holds its lease, with the last thing that it wrote there.
async fn probe(ctx: &Ctx, rows: &mut [Row]) {
    let running = rows.iter_mut().filter(|row| row.pid != 0);
    futures::future::join_all(running.map(|row| async {
        let Ok(mut kit) = ctx.kit(&row.name) else { return };
        let asked = tokio::time::timeout(PATIENCE, kit.get_state(GetStateRequest {})).await;
        if !matches!(asked, Ok(Ok(_))) {
            row.serves = false;
            row.state = "no answer";
            row.detail = "its process lives, but its socket does not answer".to_owned();
        }
    }))
    .await;
}

fn of_record(record: &ServiceRecord) -> Row {
    let (state, serves) = match record.actual() {
        Actual::Down | Actual::Unspecified => ("down", false),
        Actual::Starting => ("starting", false),
        Actual::Serving => ("serving", true),
        Actual::Degraded => ("degraded", true),
        Actual::NotServing => ("not serving", false),
        Actual::Draining => ("draining", false),
    };
    Row {
        name: record.name.clone(),
        tier: record.tier,
        wish: match record.desired() {
            Desired::Running | Desired::Unspecified => Wish::Running,
            Desired::Stopped => Wish::Stopped,
            Desired::Quarantined => Wish::Quarantined,
        },
        on_demand: is_on_demand(&record.name),
        state,
        serves,
        pid: record.pid,
        started_ms: record.started.as_ref().map_or(0, |t| u64::try_from(text::millis(t)).unwrap_or(0)),
        build: record.build.clone(),
        detail: record.detail.clone(),
    }
}

fn is_on_demand(name: &str) -> bool {
    app().service(name).is_some_and(|s| s.decl.keep != Keep::Always)
}

/// Reads what each process wrote of itself, for when the registry does not answer.
fn leases(home: &Home) -> Vec<Row> {
    let rows = app().services.iter().map(|service| {
        let name = service.decl.name;
        let row = Row {
            name: name.to_owned(),
            tier: u32::from(service.decl.tier),
            wish: desired::read(home, name).0,
            on_demand: is_on_demand(name),
            state: "down",
            serves: false,
            pid: 0,
            started_ms: 0,
            build: String::new(),
            detail: String::new(),
        };
        match holder(home, name) {
            Ok(Holder::Process(info)) => {
                let state = State::parse(&info.state);
                Row {
                    state: state.map_or("unknown", State::name),
                    serves: matches!(state, Some(State::Serving | State::Degraded)),
                    pid: info.pid,
                    started_ms: info.started_ms,
                    build: info.build,
                    detail: info.detail,
                    ..row
                }
            }
            Ok(Holder::Unknown) => Row { state: State::Starting.name(), ..row },
            Ok(Holder::Nobody) => row,
            Err(e) => Row { detail: format!("its lease cannot be read: {e}"), ..row },
        }
    });
    rows.collect()
}

fn show(out: &mut Out, rows: &[Row], bus: Option<&GetStatusResponse>) -> Result<(), Failure> {
    let now = SystemClock.wall_ms();
    let cells: Vec<Vec<String>> = rows.iter().map(|row| cells(row, now)).collect();
    let header = ["SERVICE", "TIER", "STATE", "PID", "UPTIME", "BUILD"];
    out.table(&header, &cells, |i| rows.get(i).and_then(style))?;
    for row in rows.iter().filter(|row| !row.detail.is_empty()) {
        out.line(&format!("{}: {}", row.name, text::block(&row.detail)))?;
    }
    out.line("")?;
    match bus {
        Some(bus) => show_bus(out, bus),
        None => out.line("log: the bus does not answer"),
    }
}

fn cells(row: &Row, now: u64) -> Vec<String> {
    let up = row.pid != 0;
    let state = match row.wish {
        Wish::Running => row.state.to_owned(),
        Wish::Stopped if up => format!("{}, to be stopped", row.state),
        Wish::Stopped => "stopped".to_owned(),
        Wish::Quarantined => "quarantined".to_owned(),
    };
    let or_dash = |text: String| if up { text } else { "-".to_owned() };
    vec![
        row.name.clone(),
        row.tier.to_string(),
        state,
        or_dash(row.pid.to_string()),
        or_dash(text::duration(now.saturating_sub(row.started_ms))),
        or_dash(row.build.clone()),
    ]
}

fn style(row: &Row) -> Option<Style> {
    if row.is_missing() {
        Some(if row.state == "starting" { ODD } else { BAD })
    } else if row.state == "degraded" || row.wish == Wish::Quarantined {
        Some(ODD)
    } else {
        None
    }
}

fn writer(bus: &GetStatusResponse) -> &'static str {
    match bus.writer() {
        Writer::Open => "open",
        Writer::DiskReserve => "refuses: the disk reserve is reached",
        Writer::Damaged => "refuses: the log is damaged",
        Writer::Poisoned => "refuses: a write failed",
        Writer::Sealed => "refuses: the log is sealed",
        Writer::Unspecified => "unknown",
    }
}

fn show_bus(out: &mut Out, bus: &GetStatusResponse) -> Result<(), Failure> {
    let lag = bus.head.saturating_sub(bus.index_upto);
    let size = format!("{} in {}", text::bytes(bus.log_bytes), some(bus.segments.into(), "segment"));
    out.line(&format!("log {}: {}, {size}, index lag {}", bus.origin, some(bus.head, "event"), count(lag)))?;
    let line = format!(
        "writer {}, {} queued; disk {} free, {} kept free",
        writer(bus),
        bus.queued,
        text::bytes(bus.free_bytes),
        text::bytes(bus.reserve_bytes)
    );
    out.line(&if bus.writer() == Writer::Open { line } else { out.paint(BAD, &line) })?;
    if !bus.damage.is_empty() {
        out.line(&out.paint(BAD, &format!("damage: {}", text::block(&bus.damage))))?;
    }
    if bus.clock_suspect {
        out.line(&out.paint(ODD, "clock: the wall clock disagrees with the log by more than 24 hours"))?;
    }
    Ok(())
}

fn row_json(row: &Row) -> serde_json::Value {
    json!({
        "name": row.name,
        "tier": row.tier,
        "desired": row.wish.name(),
        "state": row.state,
        "serves": row.serves,
        "pid": (row.pid != 0).then_some(row.pid),
        "started_ms": (row.pid != 0).then_some(row.started_ms),
        "build": row.build,
        "detail": row.detail,
    })
}

fn bus_json(bus: &GetStatusResponse) -> serde_json::Value {
    json!({
        "origin": bus.origin,
        "head": bus.head,
        "head_leaf": bus.head_leaf,
        "index_upto": bus.index_upto,
        "index_lag": bus.head.saturating_sub(bus.index_upto),
        "writer": writer(bus),
        "damage": bus.damage,
        "segments": bus.segments,
        "log_bytes": bus.log_bytes,
        "free_bytes": bus.free_bytes,
        "reserve_bytes": bus.reserve_bytes,
        "queued": bus.queued,
        "last_sync_micros": bus.last_sync_micros,
        "clock_suspect": bus.clock_suspect,
    })
}
