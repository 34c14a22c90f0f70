//! Everything that reads a log: the bus, and the reader that shares no code with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mirror_bus::bench::Engine;
use mirror_bus::{Config, RealDisk};
use mirror_types::{Origin, Subject};

use super::{Body, Run, repair};

/// Origin of all logs here.
pub(crate) const ORIGIN: &str = "0123456789abcdef.1";

/// Windows, vectors of lines, and the buffers in which a torn tail is copied: what a reader takes whatever it reads.
const BUS_ROOM: usize = 4 << 20;

/// The window of a mebibyte and one event, and the table of ids.
const VERIFY_ROOM: usize = 8 << 20;

pub(super) const BODIES: [Body; 8] = [
    Body { name: "bus-lines", run: Run::Plain(lines), seeds: logs, repair: repair::log, ..Body::PLAIN },
    Body {
        name: "bus-segment-active",
        run: Run::Plain(active),
        seeds: logs,
        repair: repair::log,
        room: BUS_ROOM,
        ..Body::PLAIN
    },
    Body {
        name: "bus-segment-sealed",
        run: Run::Plain(sealed),
        seeds: logs,
        repair: repair::log,
        room: BUS_ROOM,
        ..Body::PLAIN
    },
    Body {
        name: "bus-recover",
        run: Run::Plain(recover),
        seeds: logs,
        repair: repair::log,
        room: BUS_ROOM,
        ..Body::PLAIN
    },
    Body {
        name: "verify-segment",
        run: Run::Plain(verify),
        seeds: logs,
        repair: repair::log,
        room: VERIFY_ROOM,
        ..Body::PLAIN
    },
    Body { name: "bus-packed", run: Run::Plain(packed), seeds: packed_logs, room: BUS_ROOM, ..Body::PLAIN },
    Body {
        name: "bus-generations",
        run: Run::Plain(generations),
        seeds: numbers,
        // A line of 23 bytes is an entry of a map.
        factor: 64,
        ..Body::PLAIN
    },
    Body {
        name: "verify-packed",
        run: Run::Plain(verify_packed),
        seeds: packed_logs,
        room: VERIFY_ROOM,
        ..Body::PLAIN
    },
];

/// A folder of this thread, in memory where there is such a place.
pub(crate) fn place() -> PathBuf {
    thread_local! {
        static PLACE: Option<tempfile::TempDir> =
            tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).ok();
    }
    PLACE.with(|place| place.as_ref().map(|p| p.path().to_owned()).unwrap_or_default())
}

pub(crate) fn origin() -> Option<Origin> {
    Origin::parse(ORIGIN).ok()
}

pub(crate) fn config() -> Config {
    Config { segment_first_kib: 1024, segment_max_kib: 1024, disk_reserve_mib: 0, ..Config::default() }
}

fn lines(bytes: &[u8]) {
    if let Some(origin) = origin() {
        mirror_bus::fuzz::lines(&origin, bytes);
    }
}

fn segment(bytes: &[u8], active: bool, seen: u64) {
    if let Some(origin) = origin() {
        let read = mirror_bus::fuzz::segment(&place(), &origin, bytes, active, seen);
        assert!(read.is_ok(), "a segment of any bytes can be read: {read:?}");
    }
}

fn active(bytes: &[u8]) {
    segment(bytes, true, 0);
}

fn sealed(bytes: &[u8]) {
    segment(bytes, false, 3);
}

/// Makes the folder of a log as the bus wants it.
pub(crate) fn private(bus: &Path, log: &Path) {
    for dir in [bus, &bus.join("log"), log] {
        // A folder that cannot be made shows in the first recovery, which fails.
        let _ = mirror_paths::private_dir(dir);
    }
}

fn recover(bytes: &[u8]) {
    let Some(origin) = origin() else { return };
    let bus = place().join("bus");
    let log = bus.join("log").join(ORIGIN);
    // Whatever an earlier input left there may stay; only the quarantine would grow.
    let _ = fs::remove_dir_all(bus.join("quarantine"));
    private(&bus, &log);
    let _ = fs::write(log.join("00000000000000000001.seg"), bytes);
    let seen = bytes.first().map_or(0, |b| u64::from(*b % 4));
    let found = mirror_bus::bench::recover(&bus, &origin, &config(), seen);
    assert!(found.is_ok(), "a log of any bytes can be opened: {found:?}");
}

fn verify(bytes: &[u8]) {
    let dir = place().join("verify");
    let _ = fs::create_dir_all(&dir);
    let _ = fs::write(dir.join("00000000000000000001.seg"), bytes);
    let report = mirror_verify::verify(&dir, &mut |_| {});
    assert!(report.is_ok(), "a segment of any bytes can be verified: {report:?}");
}

fn packed(bytes: &[u8]) {
    // A file that is none is refused when it is opened.
    let _ = mirror_bus::fuzz::packed(&place(), bytes);
}

fn generations(bytes: &[u8]) {
    let read = mirror_bus::fuzz::generations(&place(), bytes);
    assert!(read.is_ok(), "a file of any bytes is read or set aside: {read:?}");
}

fn verify_packed(bytes: &[u8]) {
    let dir = place().join("verify-packed");
    let _ = fs::create_dir_all(&dir);
    let _ = fs::write(dir.join("00000000000000000001.seg.zst"), bytes);
    let report = mirror_verify::verify(&dir, &mut |_| {});
    assert!(report.is_ok(), "a compressed segment of any bytes can be verified: {report:?}");
}

fn packed_logs(_: &str) -> Vec<Vec<u8>> {
    logs("").iter().filter_map(|log| mirror_bus::fuzz::pack(&place(), log).ok()).collect()
}

fn numbers(_: &str) -> Vec<Vec<u8>> {
    let line = |first: u64, number: u64| format!("{first:020} {number}\n");
    let some = [line(1, 2), line(400, 1), line(90_000, 18)].concat();
    vec![some.into_bytes(), line(1, 1).into_bytes(), Vec::new()]
}

/// Returns the bytes of logs that the bus wrote, of one event and of several.
pub(super) fn logs(_: &str) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new(), b"\n\n".to_vec()];
    for events in [1, 2, 5, 12] {
        all.extend(written(events));
    }
    if let Some(erased) = all.last().and_then(|log| erased(log)) {
        all.push(erased);
    }
    all
}

/// Returns the bytes of a log of so many events, with a little of the unused end.
pub(crate) fn written(events: usize) -> Option<Vec<u8>> {
    let (temp, origin) = (tempfile::tempdir().ok()?, origin()?);
    let bus = temp.path().join("bus");
    let (engine, _) = Engine::open(&bus, &origin, &config(), Arc::new(RealDisk)).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().ok()?;
    let subject = Subject::parse("local.note").ok()?;
    for n in 0..events {
        let payload = format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(n * 7 % 100));
        let id = (n % 2 == 0).then(|| format!("id-{n}"));
        runtime.block_on(engine.append(&subject, id.as_deref(), payload.into())).ok()?;
    }
    engine.close();
    let bytes = fs::read(bus.join("log").join(ORIGIN).join("00000000000000000001.seg")).ok()?;
    let end = bytes.iter().rposition(|b| *b != b'\n')? + 1;
    Some(bytes[..(end + 4).min(bytes.len())].to_vec())
}

/// Returns a log whose second payload was erased by its last event.
fn erased(log: &[u8]) -> Option<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = log.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let last = lines.iter().filter(|l| l.starts_with(b"E ")).count();
    let line = lines.get_mut(3)?;
    let mut new = format!("{last:020}").into_bytes();
    new.resize(line.len().checked_sub(11)?, b'.');
    let mut with = format!("X {:08x} ", crc32c::crc32c(&new)).into_bytes();
    with.append(&mut new);
    *line = with;
    Some(lines.join(&b'\n'))
}
