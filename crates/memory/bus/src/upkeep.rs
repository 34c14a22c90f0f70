//! What the bus does with sealed segments by itself or on request, one at a time: compress them, and repair them.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirror_clock::Clock;
use mirror_kit::Shutdown;
use tokio::sync::oneshot;

use crate::bus::Bus;
use crate::cold::Packing;
use crate::config::Config;
use crate::disk::Disk;
use crate::error::BusError;
use crate::recover::{last_header, rescan};
use crate::segments::name;

/// How often old segments are sought when no segment was sealed meanwhile.
const EVERY: Duration = Duration::from_secs(6 * 3600);

const DAY_MS: u64 = 24 * 3600 * 1000;

/// Longest rest after a mebibyte of work in the background.
const REST: Duration = Duration::from_millis(100);

/// Who asks for work, which decides its pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Somebody waits.
    Full,
    /// Nobody waits; rests three times as long as it works.
    Low,
}

/// What was compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Compressed {
    pub(crate) segments: u32,
    pub(crate) before: u64,
    pub(crate) after: u64,
}

/// What work on sealed segments needs.
#[derive(Debug)]
pub(crate) struct Upkeep {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: Config,
    /// The bus's folder.
    pub(crate) bus: PathBuf,
    turn: Mutex<()>,
    /// Whether the writer went by files that were damaged, so that the log is opened again when they are whole.
    restart: AtomicBool,
    closing: AtomicBool,
    /// When the last event of a plain sealed segment was stored, by the segment's first event.
    ends: Mutex<HashMap<u64, u64>>,
}

impl Upkeep {
    /// Returns the tools; `damaged` is whether the log was opened with damage.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        config: Config,
        bus: PathBuf,
        damaged: bool,
    ) -> Self {
        let (turn, restart, closing) = (Mutex::new(()), AtomicBool::new(damaged), AtomicBool::new(false));
        Self { disk, clock, config, bus, turn, restart, closing, ends: Mutex::default() }
    }

    /// Waits for the work under way, and lets nobody begin.
    pub(crate) fn close(&self) {
        self.closing.store(true, Relaxed);
        drop(self.turn());
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Relaxed)
    }

    pub(crate) fn must_restart(&self) -> bool {
        self.restart.load(Relaxed)
    }

    pub(crate) fn restart_is_due(&self) {
        self.restart.store(true, Relaxed);
    }

    /// Takes the turn to work.
    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(e: io::Error) -> BusError {
    BusError::Read(e.to_string())
}

impl Bus {
    /// Compresses sealed segments whose last event is at least so many days old. Blocks.
    ///
    /// Each is checked before, so that damage stays where it was found.
    pub(crate) fn compress(&self, older_than_days: u32, pace: Pace) -> Result<Compressed, BusError> {
        let _turn = self.upkeep.turn();
        let firsts = self.segments.firsts();
        let mut total = Compressed::default();
        let sealed = firsts.iter().zip(firsts.iter().skip(1));
        for (first, next) in sealed {
            if self.upkeep.is_closing() {
                break;
            }
            if !self.is_due(*first, older_than_days)? {
                continue;
            }
            if let Some(damage) = self.segments.damage().first() {
                return Err(BusError::Damaged(damage.describe()));
            }
            match self.compress_one(*first, *next, pace) {
                Ok(Packing::Done { before, after }) => {
                    self.ends().remove(first);
                    total.segments += 1;
                    total.before += before;
                    total.after += after;
                }
                Ok(Packing::Left) => {}
                Ok(Packing::Stopped) => break,
                // What was done before is the answer; the next call says what is in the way.
                Err(BusError::DiskReserve { .. }) if total.segments > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(total)
    }

    fn ends(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.upkeep.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a sealed segment is plain and old enough. Its age is read once.
    fn is_due(&self, first: u64, days: u32) -> Result<bool, BusError> {
        if !self.segments.dir.join(name(first)).exists() {
            return Ok(false);
        }
        if days == 0 {
            return Ok(true);
        }
        let known = self.ends().get(&first).copied();
        let end = match known {
            Some(end) => end,
            None => {
                let header = last_header(&self.segments, first).map_err(failed)?;
                // A segment without a last event is damaged; whoever looks closer says so.
                let end = header.map_or(0, |header| header.wall_ms);
                self.ends().insert(first, end);
                end
            }
        };
        Ok(end.saturating_add(u64::from(days) * DAY_MS) <= self.upkeep.clock.wall_ms())
    }

    fn compress_one(&self, first: u64, next: u64, pace: Pace) -> Result<Packing, BusError> {
        let (disk, clock) = (self.upkeep.disk.as_ref(), &self.upkeep.clock);
        let Some((segment, _)) = self.segments.of(first) else { return Ok(Packing::Left) };
        let size = self.segments.open(&segment).and_then(|s| s.len()).map_err(failed)?;
        let (free, total) = disk.space(&self.segments.dir).map_err(failed)?;
        let reserve = self.upkeep.config.reserve(total);
        if free < reserve.saturating_add(size) {
            return Err(BusError::DiskReserve { free, reserve });
        }
        if rescan(&self.segments, &segment, Some(next), next - 1).map_err(failed)? {
            tracing::error!(segment = first, "the log is damaged; appends are refused");
        }
        if let Some(damage) = self.segments.damage().first() {
            return Err(BusError::Damaged(damage.describe()));
        }
        let mut since = clock.boot();
        let mut go_on = || {
            if pace == Pace::Low {
                let worked = clock.boot().saturating_sub(since);
                std::thread::park_timeout((worked * 3).min(REST));
                since = clock.boot();
            }
            !self.upkeep.is_closing()
        };
        self.segments.compress(disk, first, &mut go_on).map_err(failed)
    }
}

/// Compresses old segments for as long as the service runs: at the start, when a segment was sealed, and now and then.
pub(crate) async fn keep(bus: Arc<Bus>, shutdown: Shutdown) {
    let days = bus.upkeep.config.compress_after_days;
    if days == 0 {
        return;
    }
    let mut count = bus.segments.watch_count();
    loop {
        count.borrow_and_update();
        let (worker, (done, wait)) = (Arc::clone(&bus), oneshot::channel());
        let started = mirror_kit::spawn_thread("bus-cold", move || {
            let _ = done.send(worker.compress(days, Pace::Low));
        });
        if let Err(e) = started {
            tracing::warn!(error = %e, "old segments are not compressed for now");
        }
        match wait.await {
            Ok(Ok(done)) if done.segments > 0 => {
                let Compressed { segments, before, after } = done;
                tracing::info!(segments, before, after, "old segments are compressed");
            }
            // Damage is told by whoever found it.
            Ok(Err(BusError::Damaged(_))) => {}
            Ok(Err(e)) => tracing::warn!(error = %e, "old segments are not compressed for now"),
            _ => {}
        }
        let next = async {
            tokio::select! {
                changed = count.changed() => changed.is_ok(),
                () = bus.upkeep.clock.sleep(EVERY) => true,
            }
        };
        if shutdown.or(next).await != Some(true) {
            return;
        }
    }
}
