//! A disk that is full, or that fails: nothing acknowledged is lost, and nothing is tried twice.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};

use mirror_bus::bench::build_on;
use mirror_bus::{BusError, Disk, LogFile, RealDisk};
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_kit::{Exit, Service};
use mirror_testkit::{Sandbox, wait};
use mirror_types::Subject;

use crate::damage::append as call;
use crate::{Place, append};

/// What goes wrong, once or from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Writing fails with this code.
    Write(i32),
    /// Half of the bytes are written, then it fails.
    Short,
    /// Syncing fails.
    Sync,
    /// Cutting a full segment to its length fails.
    Seal,
    /// Giving the next segment its name fails.
    Rename,
    /// Filling the next segment fails with this code.
    Fill(i32),
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

#[derive(Debug, Clone)]
struct FaultyDisk(Arc<Faults>);

#[derive(Debug)]
struct Faults {
    fault: Mutex<Fault>,
    free: AtomicU64,
    /// Calls after a fault that touched the log itself.
    failed: AtomicUsize,
    after: AtomicUsize,
}

impl FaultyDisk {
    fn new() -> Self {
        let (failed, after) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self(Arc::new(Faults {
            fault: Mutex::new(Fault::None),
            free: AtomicU64::new(1 << 40),
            failed,
            after,
        }))
    }

    fn set(&self, fault: Fault) {
        *self.0.fault.lock().unwrap() = fault;
    }
}

impl Faults {
    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap()
    }

    fn fail<T>(&self, code: i32) -> io::Result<T> {
        self.failed.fetch_add(1, SeqCst);
        Err(io::Error::from_raw_os_error(code))
    }

    /// Counts what is done to the log after it failed.
    fn count(&self) {
        if self.failed.load(SeqCst) > 0 {
            self.after.fetch_add(1, SeqCst);
        }
    }
}

#[derive(Debug)]
struct FaultyFile {
    file: Box<dyn LogFile>,
    next: bool,
    faults: Arc<Faults>,
}

impl LogFile for FaultyFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.next {
            return match self.faults.fault() {
                Fault::Fill(code) => self.faults.fail(code),
                _ => self.file.write_all_at(bytes, offset),
            };
        }
        self.faults.count();
        match self.faults.fault() {
            Fault::Write(code) => self.faults.fail(code),
            Fault::Short => {
                self.file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
                self.faults.fail(EIO)
            }
            _ => self.file.write_all_at(bytes, offset),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        if !self.next {
            self.faults.count();
            if self.faults.fault() == Fault::Sync {
                return self.faults.fail(EIO);
            }
        }
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if !self.next {
            self.faults.count();
            if self.faults.fault() == Fault::Seal {
                return self.faults.fail(EIO);
            }
        }
        self.file.set_len(len)
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        let next = path.extension().is_some_and(|e| e == "fill");
        Ok(Box::new(FaultyFile { file: RealDisk.open(path)?, next, faults: Arc::clone(&self.0) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.count();
        if self.0.fault() == Fault::Rename {
            return self.0.fail(EIO);
        }
        RealDisk.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn space(&self, _: &Path) -> io::Result<(u64, u64)> {
        Ok((self.0.free.load(SeqCst), 1 << 40))
    }
}

/// An event so large that every third one needs a new segment.
fn large(n: u64) -> String {
    format!("\"{n}{}\"", "x".repeat(20_000))
}

/// Appends until a fault is met; then everything acknowledged is there, and the retry is stored once.
fn check(fault: Fault) {
    let place = Place::new();
    let disk = FaultyDisk::new();
    let (engine, _) = place.open_on(Arc::new(disk.clone()));
    for n in 1..=5 {
        append(&engine, &format!("id-{n}"), &large(n)).unwrap();
    }
    disk.set(fault);
    let mut n = 6;
    let error = loop {
        match append(&engine, &format!("id-{n}"), &large(n)) {
            Ok(seq) => assert_eq!(seq, n),
            Err(e) => break e,
        }
        n += 1;
        assert!(n < 12, "{fault:?} is never met");
    };
    assert_eq!(error, BusError::OutcomeUnknown, "{fault:?}");
    assert_eq!(engine.state().0, n - 1, "{fault:?}: nothing unsynced is shown");
    disk.set(Fault::None);
    for id in [format!("id-{n}"), "other".to_owned()] {
        assert_eq!(append(&engine, &id, "1"), Err(BusError::OutcomeUnknown), "{fault:?}: it is poisoned");
    }
    assert_eq!(engine.get(n - 1).unwrap().0, format!("id-{}", n - 1), "{fault:?}: reading goes on");
    assert_eq!(disk.0.failed.load(SeqCst), 1, "{fault:?}");
    assert_eq!(disk.0.after.load(SeqCst), 0, "{fault:?}: nothing is tried again, least of all a sync");
    drop(engine);

    let (engine, found) = place.open();
    assert_eq!(engine.damage(), "", "{fault:?}");
    assert!(!found.contains("lost") || found.contains("lost: 0"), "{fault:?}: {found}");
    let first = append(&engine, &format!("id-{n}"), &large(n)).unwrap();
    assert_eq!(append(&engine, &format!("id-{n}"), &large(n)), Ok(first), "{fault:?}");
    let ids: Vec<String> = engine.all().unwrap().into_iter().map(|(id, _)| id).collect();
    for i in 1..=n {
        assert_eq!(ids.iter().filter(|id| **id == format!("id-{i}")).count(), 1, "{fault:?}: id-{i}");
    }
    assert_eq!(&ids[..5], ["id-1", "id-2", "id-3", "id-4", "id-5"]);
}

#[test]
fn a_failed_write_or_sync_poisons_the_writer_and_loses_nothing() {
    for fault in [
        Fault::Write(EIO),
        Fault::Write(ENOSPC),
        Fault::Short,
        Fault::Sync,
        Fault::Seal,
        Fault::Rename,
        Fault::Fill(EIO),
    ] {
        check(fault);
    }
}

#[test]
fn below_the_reserve_only_the_bus_itself_writes() {
    let place = Place::new();
    let disk = FaultyDisk::new();
    let config = mirror_bus::Config { disk_reserve_mib: 256, ..crate::config() };
    let (engine, _) =
        mirror_bus::bench::Engine::open(&place.bus(), &crate::origin(), &config, Arc::new(disk.clone()))
            .unwrap();
    append(&engine, "id-1", "1").unwrap();
    disk.0.free.store(100 << 20, SeqCst);
    refused_within_a_moment(&engine);
    let segments = std::fs::read_dir(place.segment(1).parent().unwrap()).unwrap().count();
    for n in 0..6 {
        assert!(matches!(append(&engine, "large", &large(n)), Err(BusError::DiskReserve { .. })));
    }
    let now = std::fs::read_dir(place.segment(1).parent().unwrap()).unwrap().count();
    assert_eq!(now, segments, "what is refused takes nothing from the reserve");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let subject = Subject::parse("bus.note").unwrap();
    let head = engine.state().0;
    for n in 1..=6 {
        // More than fits into what is filled: the reserve takes another segment.
        let seq = runtime.block_on(engine.record(&subject, large(n).into())).unwrap();
        assert_eq!(seq, head + n);
    }
    disk.0.free.store(1 << 40, SeqCst);
    runtime.block_on(wait("appends are taken again", async || {
        append_in(&engine).await.map(|_| ()).map_err(|e| e.to_string())
    }));
}

async fn append_in(engine: &mirror_bus::bench::Engine) -> Result<u64, BusError> {
    engine.append(&Subject::parse("local.note").unwrap(), None, "1".into()).await
}

/// The free space is asked for twice a second.
fn refused_within_a_moment(engine: &mirror_bus::bench::Engine) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(wait("an append is refused", async || match append_in(engine).await {
        Err(BusError::DiskReserve { free, reserve }) => {
            assert_eq!((free, reserve), (100 << 20, 256 << 20));
            Ok(())
        }
        other => Err(format!("{other:?}")),
    }));
}

#[test]
fn a_segment_that_cannot_be_filled_refuses_and_recovers() {
    let place = Place::new();
    let disk = FaultyDisk::new();
    let (engine, _) = place.open_on(Arc::new(disk.clone()));
    disk.set(Fault::Fill(ENOSPC));
    let mut n = 1;
    let error = loop {
        match append(&engine, &format!("id-{n}"), &large(n)) {
            Ok(seq) => assert_eq!(seq, n),
            Err(e) => break e,
        }
        n += 1;
        assert!(n < 12);
    };
    assert!(matches!(error, BusError::DiskReserve { .. }), "{error}");
    disk.set(Fault::None);
    assert_eq!(append(&engine, &format!("id-{n}"), &large(n)), Ok(n), "nothing was written before");
    drop(engine);
    assert_eq!(place.open().1, "");
}

/// A volume that is really full, where one can be made.
#[test]
fn a_full_volume_refuses_and_recovers() {
    let place = Place::new();
    let bus = place.bus();
    mirror_paths::private_dir(&bus).unwrap();
    let mount = nix::mount::mount(
        Some("tmpfs"),
        &bus,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=3m,mode=0700"),
    );
    if let Err(e) = mount {
        println!("SKIPPED: a volume of three megabytes cannot be mounted here: {e}");
        return;
    }
    let unmount = Unmount(bus.clone());
    let (engine, _) = place.open();
    let filler = bus.join("filler");
    let fill = |size: usize| {
        while std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&filler)
            .and_then(|mut f| io::Write::write_all(&mut f, &vec![0; size]))
            .is_ok()
        {}
    };
    append(&engine, "id-1", "1").unwrap();
    fill(4096);
    let mut n = 2;
    let error = loop {
        match append(&engine, &format!("id-{n}"), &large(n)) {
            Ok(seq) => assert_eq!(seq, n),
            Err(e) => break e,
        }
        n += 1;
        fill(4096);
        assert!(n < 12, "the volume is full");
    };
    assert!(matches!(error, BusError::DiskReserve { .. }), "{error}");
    std::fs::remove_file(&filler).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(wait("appends are taken again", async || {
        append_in(&engine).await.map(|_| ()).map_err(|e| e.to_string())
    }));
    let ids: Vec<String> = engine.all().unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids[..usize::try_from(n - 1).unwrap()].last(), Some(&format!("id-{}", n - 1)));
    drop(engine);
    drop(unmount);
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

static DISK: OnceLock<FaultyDisk> = OnceLock::new();
static SERVICE: Service = Service {
    decl: &mirror_bus::DECL,
    build: |cx| Box::pin(build_on(cx, Arc::new(DISK.get_or_init(FaultyDisk::new).clone()))),
};

#[tokio::test]
async fn a_failed_sync_ends_the_process_and_its_successor_knows_every_id() {
    let mut node = Sandbox::with(&[&SERVICE]).start().await;
    let mut client = BusServiceClient::new(node.channel("bus"));
    for n in 1..=10 {
        call(&mut client, &format!("id-{n}")).await.unwrap();
    }
    node.expect_log("a write failed");
    // Nothing else can be written either while the disk fails.
    node.expect_log("the snapshot of the consumers was not written");
    let disk = DISK.get().unwrap();
    disk.set(Fault::Sync);
    let error = call(&mut client, "id-11").await.unwrap_err();
    assert_eq!(error.reason, "BUS_OUTCOME_UNKNOWN", "{error}");
    wait("the service ends", async || match call(&mut client, "id-12").await {
        Err(e) if e.reason != "BUS_OUTCOME_UNKNOWN" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let exit = node.stop("bus").await;
    assert!(matches!(&exit, Exit::Fatal(why) if why.contains("write to the log failed")), "{exit:?}");
    disk.set(Fault::None);
    node.launch("bus").await;
    let again = call(&mut client, "id-11").await.unwrap();
    assert_eq!(again, 11, "it had been written whole, so it is there, and only once");
    assert_eq!(call(&mut client, "id-11").await.unwrap(), 11);
    assert_eq!(call(&mut client, "id-12").await.unwrap(), 12);
    node.finish().await;
}
