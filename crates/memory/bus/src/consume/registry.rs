//! Which consumers there are: made, removed, listed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use mirror_consumers::{Config, Created, Deleted, LIMIT, Record};
use mirror_contract::mirror::bus::v1 as pb;
use mirror_kit::{Shutdown, Tasks};
use tokio::sync::Semaphore;

use super::slot::Slot;
use super::snapshot;
use super::store::Shelf;
use super::{Steady, wire};
use crate::bus::Bus;
use crate::disk::Disk;
use crate::error::BusError;
use crate::wire::Filter;

/// Consumers that read the log at the same time.
const READERS: usize = 4;

/// Consumers that keep a file open while they wait for the next event; others open it again.
const KEPT_OPEN: usize = 64;

/// All consumers of this log.
#[derive(Debug)]
pub(crate) struct Consumers {
    pub(super) bus: Arc<Bus>,
    pub(super) time: Steady,
    pub(super) tasks: Tasks,
    pub(super) shutdown: Shutdown,
    pub(super) disk: Arc<dyn Disk>,
    /// The snapshot's file.
    pub(super) path: PathBuf,
    nonce: u64,
    slots: RwLock<BTreeMap<String, Arc<Slot>>>,
    /// Held while one is made or removed.
    change: tokio::sync::Mutex<()>,
    pub(super) shelf: Mutex<Shelf>,
    pub(super) readers: Arc<Semaphore>,
    pub(super) kept_open: Arc<Semaphore>,
}

/// What the consumers need of the process.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) time: Steady,
    pub(crate) tasks: Tasks,
    pub(crate) shutdown: Shutdown,
    pub(crate) disk: Arc<dyn Disk>,
    /// The bus's folder.
    pub(crate) dir: PathBuf,
}

impl Consumers {
    /// Brings all consumers to where the log's records left them. Blocks.
    pub(crate) fn open(bus: Arc<Bus>, around: Surroundings) -> Result<Self, BusError> {
        let Surroundings { time, tasks, shutdown, disk, dir } = around;
        let path = dir.join(snapshot::NAME);
        let shelf = Shelf::new(snapshot::restore(&bus, &path)?);
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(|e| BusError::Read(format!("no random bytes: {e}")))?;
        let nonce = u64::from_le_bytes(nonce);
        let now = time.now();
        let mut slots = BTreeMap::new();
        for standing in shelf.book().iter() {
            let filter = wire::reader(&standing.config.filter)?;
            slots.insert(standing.config.name.clone(), Arc::new(Slot::new(standing, filter, nonce, now)));
        }
        Ok(Self {
            bus,
            time,
            tasks,
            shutdown,
            disk,
            path,
            nonce,
            slots: RwLock::new(slots),
            change: tokio::sync::Mutex::default(),
            shelf: Mutex::new(shelf),
            readers: Arc::new(Semaphore::new(READERS)),
            kept_open: Arc::new(Semaphore::new(KEPT_OPEN)),
        })
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(name).map(Arc::clone)
    }

    fn all(&self) -> Vec<Arc<Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }

    /// Returns a consumer of an owner.
    pub(super) fn of(&self, name: &str, caller: &str) -> Result<Arc<Slot>, BusError> {
        wire::name("name", name)?;
        let slot = self.get(name).ok_or_else(|| BusError::ConsumerMissing(name.to_owned()))?;
        if slot.owner == caller {
            return Ok(slot);
        }
        Err(BusError::ConsumerOwned {
            name: name.to_owned(),
            owner: slot.owner.clone(),
            caller: caller.to_owned(),
        })
    }

    /// Makes a consumer, or finds the same one; says whether it was made.
    pub(super) async fn create(
        self: &Arc<Self>,
        config: Config,
        filter: Filter,
        owner: String,
    ) -> Result<(pb::Consumer, bool), BusError> {
        let _change = self.change.lock().await;
        if let Some(slot) = self.get(&config.name) {
            if slot.owner != owner || *slot.lock().consumer.config() != config {
                return Err(BusError::ConsumerExists { name: config.name, owner: slot.owner.clone() });
            }
            return Ok((self.describe(&slot), false));
        }
        if self.all().len() >= LIMIT {
            return Err(BusError::ConsumerLimit(LIMIT));
        }
        let name = config.name.clone();
        let record = Record::Created(Created::new(config, owner, self.time.now()));
        self.store(vec![record]).await?;
        let slot = {
            let shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
            let standing = shelf.book().get(&name).ok_or_else(|| BusError::ConsumerMissing(name.clone()))?;
            Arc::new(Slot::new(standing, filter, self.nonce, self.time.now()))
        };
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.insert(name, Arc::clone(&slot));
        drop(slots);
        Ok((self.describe(&slot), true))
    }

    /// Removes a consumer.
    pub(super) async fn delete(self: &Arc<Self>, name: &str, caller: &str) -> Result<(), BusError> {
        let _change = self.change.lock().await;
        let slot = self.of(name, caller)?;
        let _writing = slot.writing.lock().await;
        self.store(vec![Record::Deleted(Deleted::new(name.to_owned()))]).await?;
        self.slots.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        slot.lock().bury(&slot.missing());
        slot.wake.notify_one();
        Ok(())
    }

    /// Returns consumers in order of name; only one when it is named.
    pub(super) fn list(self: &Arc<Self>, name: &str) -> Vec<pb::Consumer> {
        let slots = if name.is_empty() { self.all() } else { self.get(name).into_iter().collect() };
        slots.iter().map(|slot| self.describe(slot)).collect()
    }

    fn describe(self: &Arc<Self>, slot: &Arc<Slot>) -> pb::Consumer {
        let (consumer, _) = slot.describe(self.time.now(), self.bus.head().seq);
        // Time may have ended some attempts.
        self.see_to(slot);
        consumer
    }
}
