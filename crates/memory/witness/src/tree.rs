//! The tree over the log in its tiles: grown with the log, made again from it, and asked for proofs.
//!
//! It refuses to hand out a proof that does not lead to a signed root: where one does not, the tiles are spoilt, and made
//! again from the log. Only when even that does not help is the log another one.
//! Invariant: whatever is on disk, a proof that is handed out holds.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirror_contract::mirror::bus::v1::ReadRequest;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_errors::Remote;
use mirror_kit::Channel;
use mirror_seal::{Hash, TILE_WIDTH, Tile, TileEdge, TileHashes, subtree, tree_root};
use tonic::Status;

use crate::error::Error;
use crate::notes::Notes;
use crate::proofs;
use crate::tiles::Tiles;
use crate::wire;
use crate::witness::Claim;

/// Leaves that wait for their tiles before these are written: 128 KiB.
const WAITING: usize = 4096;

/// Most leaves that wait: 512 KiB. Those beyond are read again when they are needed.
const WAITING_MOST: usize = 4 * WAITING;

const WIDTH: u64 = TILE_WIDTH as u64;

/// Leaves on their way into tiles.
#[derive(Debug, Default)]
struct Waiting {
    /// Number of leaves before the first of these.
    after: u64,
    leaves: VecDeque<Hash>,
}

impl Waiting {
    fn end(&self) -> u64 {
        self.after + self.leaves.len() as u64
    }

    /// Returns the leaves after the first `from` and up to `to`; none when some of them are not here.
    fn between(&self, from: u64, to: u64) -> Vec<Hash> {
        let at = |place: u64| usize::try_from(place.checked_sub(self.after)?).ok();
        match (at(from), at(to.min(self.end()))) {
            (Some(from), Some(to)) if from < to => self.leaves.range(from..to).copied().collect(),
            _ => Vec::new(),
        }
    }

    fn forget(&mut self, to: u64) {
        let gone = to.min(self.end()).saturating_sub(self.after);
        self.leaves.drain(..usize::try_from(gone).unwrap_or(0));
        self.after += gone;
    }
}

/// Where tiles are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// From those that are there, and the leaves that follow.
    Kept,
    /// From those of level 0 that fit the level above, and the log.
    Tiles,
    /// From the log alone.
    Log,
}

/// What a tile of level 0 that is on disk is worth.
enum Kept {
    /// It fits the level above.
    Leaves(Vec<Hash>),
    /// It does not, or is not there: leaves up to `until` are to be read from the log.
    Missing { until: u64 },
}

/// Returns the leaves of the tile after the first `at`, when it fits the level above in a tree of `size` leaves.
fn kept(tiles: &Tiles, at: u64, size: u64) -> Kept {
    let index = at / WIDTH;
    let tile = Tile { level: 0, index, width: TILE_WIDTH };
    let whole = at.is_multiple_of(WIDTH) && at + WIDTH <= size;
    if let Some(leaves) = whole.then(|| tiles.read(tile)).flatten() {
        let above = Tile::of(1, index / WIDTH, size).and_then(|above| tiles.read(above));
        let place = usize::try_from(index % WIDTH).ok();
        let said = above.and_then(|above| above.get(place?).copied());
        // Where nothing is said of it, the root over all will tell.
        if said.is_none_or(|said| subtree(&leaves) == Some(said)) {
            return Kept::Leaves(leaves);
        }
    }
    let mut next = index + 1;
    while next * WIDTH < size && !tiles.has(Tile { index: next, ..tile }) {
        next += 1;
    }
    Kept::Missing { until: next * WIDTH }
}

/// The tree.
#[derive(Debug)]
pub(crate) struct Tree {
    tiles: Tiles,
    notes: Notes,
    bus: BusServiceClient<Channel>,
    /// How far the tiles reach; none while that is not known. Held by whoever writes tiles, or proves with them.
    edge: tokio::sync::Mutex<Option<TileEdge>>,
    waiting: Mutex<Waiting>,
    /// Whether partial tiles of earlier checkpoints may be missing, because tiles were made anew.
    anew: AtomicBool,
}

impl Tree {
    /// Returns the tree of a log of which `size` leaves were taken before.
    pub(crate) fn new(tiles: Tiles, notes: Notes, bus: Channel, size: u64) -> Arc<Self> {
        let waiting = Mutex::new(Waiting { after: size, leaves: VecDeque::new() });
        let bus = BusServiceClient::new(bus);
        let (edge, anew) = (tokio::sync::Mutex::new(None), AtomicBool::new(true));
        Arc::new(Self { tiles, notes, bus, edge, waiting, anew })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the leaves that follow those that it took before.
    pub(crate) async fn take(&self, leaves: &[Hash]) {
        let crowded = {
            let mut waiting = self.waiting();
            waiting.leaves.extend(leaves);
            waiting.leaves.len() >= WAITING
        };
        if crowded {
            self.flush().await;
        }
    }

    /// Writes the tiles of the leaves that wait, where these follow; what cannot be written now is read again later.
    async fn flush(&self) {
        // Whoever holds it may be reading the whole log: the follower does not wait for that.
        if let Ok(mut held) = self.edge.try_lock() {
            let from = self.waiting().after;
            let edge = held.take().or_else(|| (from == 0).then(TileEdge::default));
            if let Some(edge) = edge.filter(|edge| edge.size() >= from) {
                let leaves = self.waiting().between(edge.size(), u64::MAX);
                *held = self.extend(edge, leaves).await.ok();
            }
        }
        let mut waiting = self.waiting();
        let most = waiting.end().saturating_sub(WAITING_MOST as u64);
        waiting.forget(most);
    }

    /// Forgets all: the log begins anew.
    pub(crate) async fn restart(&self) {
        let mut held = self.edge.lock().await;
        *held = None;
        self.anew.store(true, Ordering::Relaxed);
        *self.waiting() = Waiting::default();
        if let Err(error) = self.on_disk(Tiles::clear).await {
            tracing::warn!(%error, "the tiles of the log as it was before are still there");
        }
    }

    /// Proves that a new claim is of the log, and that the log only grew since the last one.
    pub(crate) async fn check(&self, claim: Claim, last: Option<Claim>) -> Result<(), Error> {
        let fits = move |tiles: &Tiles| {
            let mut hashes = TileHashes::new(claim.size, tiles);
            let root = tree_root(claim.size, &mut hashes).ok().filter(|root| *root == claim.root)?;
            let new = Claim { size: claim.size, root };
            last.is_none_or(|last| proofs::leads(&mut hashes, last, new)).then_some(())
        };
        self.prove(claim.size, last, fits).await
    }

    /// Returns what `make` makes of the tiles of a tree of `size` leaves, of which those of `known` may be on disk.
    ///
    /// When it makes nothing, the tiles do not fit what was signed, and are made again.
    pub(crate) async fn prove<T, M>(&self, size: u64, known: Option<Claim>, make: M) -> Result<T, Error>
    where
        T: Send + 'static,
        M: Fn(&Tiles) -> Option<T> + Clone + Send + 'static,
    {
        let mut held = self.edge.lock().await;
        for source in [Source::Kept, Source::Tiles, Source::Log] {
            if !self.reach(&mut held, source, known, size).await? {
                tracing::info!(
                    size,
                    "there are no tiles of the newest checkpoint; they are made from the log"
                );
                continue;
            }
            let make = make.clone();
            let made = self.on_disk(move |tiles| Ok(make(tiles))).await;
            if let Some(made) = made.map_err(|e| Error::storage(self.tiles.dir(), e))? {
                return Ok(made);
            }
            tracing::warn!(size, ?source, path = %self.tiles.dir().display(), "the tiles do not fit what was signed");
            *held = None;
        }
        Err(Error::Unproven { size })
    }

    /// Makes the tiles of a size; returns false when it is not known how far those on disk reach.
    async fn reach(
        &self,
        held: &mut Option<TileEdge>,
        source: Source,
        known: Option<Claim>,
        size: u64,
    ) -> Result<bool, Error> {
        let storage = |e| Error::storage(self.tiles.dir(), e);
        if source != Source::Kept {
            self.anew.store(true, Ordering::Relaxed);
        }
        let start = match source {
            Source::Kept if held.is_some() => held.take(),
            Source::Kept => self.load(known).await.map_err(storage)?,
            Source::Tiles => Some(TileEdge::default()),
            Source::Log => {
                self.on_disk(Tiles::clear).await.map_err(storage)?;
                Some(TileEdge::default())
            }
        };
        let Some(mut edge) = start else { return Ok(false) };
        while edge.size() < size {
            edge = self.step(edge, source, size).await?;
        }
        let (notes, anew) = (self.notes.clone(), self.anew.load(Ordering::Relaxed));
        let settled = self.on_disk(move |tiles| {
            let signed = if anew { notes.sizes()? } else { Vec::new() };
            tiles.settle(&edge, signed.into_iter().filter(|signed| *signed < size).chain([size]))?;
            Ok(edge)
        });
        *held = Some(settled.await.map_err(storage)?);
        self.anew.store(false, Ordering::Relaxed);
        Ok(true)
    }

    /// Returns the edge that the tiles on disk have at a claim; none when they do not fit it.
    async fn load(&self, known: Option<Claim>) -> io::Result<Option<TileEdge>> {
        let found = match known {
            Some(known) => {
                self.on_disk(move |tiles| {
                    let edge = TileEdge::load(known.size, |tile| Ok::<_, io::Error>(tiles.read(tile)))?;
                    let root = tree_root(known.size, &mut TileHashes::new(known.size, tiles));
                    Ok(edge.filter(|_| root == Ok(known.root)))
                })
                .await?
            }
            None => None,
        };
        Ok(found.or_else(|| (self.waiting().after == 0).then(TileEdge::default)))
    }

    /// Adds the leaves that follow, as many as are at hand.
    async fn step(&self, edge: TileEdge, source: Source, size: u64) -> Result<TileEdge, Error> {
        let storage = |e| Error::storage(self.tiles.dir(), e);
        let at = edge.size();
        let (leaves, first) = {
            let waiting = self.waiting();
            (waiting.between(at, size), waiting.after)
        };
        if !leaves.is_empty() {
            return self.extend(edge, leaves).await.map_err(storage);
        }
        let mut end = if first > at { first.min(size) } else { size };
        if source == Source::Tiles {
            let kept = self.on_disk(move |tiles| Ok(kept(tiles, at, size))).await.map_err(storage)?;
            match kept {
                Kept::Leaves(leaves) => return self.extend(edge, leaves).await.map_err(storage),
                Kept::Missing { until } => end = end.min(until),
            }
        }
        self.read(edge, end).await
    }

    /// Adds leaves, writes the tiles that they complete, and forgets that they waited.
    async fn extend(&self, mut edge: TileEdge, leaves: Vec<Hash>) -> io::Result<TileEdge> {
        let edge = self.on_disk(move |tiles| tiles.extend(&mut edge, &leaves).map(|()| edge)).await?;
        self.waiting().forget(edge.size());
        Ok(edge)
    }

    /// Adds the leaves of the events up to a place, as the bus has them.
    async fn read(&self, mut edge: TileEdge, end: u64) -> Result<TileEdge, Error> {
        let refused = |status: Status| Error::LogUnread(Remote::from_status(&status).to_string());
        let request = ReadRequest { from: edge.size() + 1, to: end, ..ReadRequest::default() };
        let mut events = self.bus.clone().read(request).await.map_err(refused)?.into_inner();
        while let Some(part) = events.message().await.map_err(refused)? {
            let mut leaves = Vec::with_capacity(part.events.len());
            for event in &part.events {
                let next = edge.size() + leaves.len() as u64 + 1;
                let leaf = wire::seen(event).filter(|_| event.seq == next).map(|seen| seen.leaf);
                leaves.push(leaf.ok_or_else(|| Error::LogUnread(format!("event {next} is missing")))?);
            }
            edge = self.extend(edge, leaves).await.map_err(|e| Error::storage(self.tiles.dir(), e))?;
        }
        if edge.size() < end {
            return Err(Error::LogUnread(format!("it ends after {} events of {end}", edge.size())));
        }
        Ok(edge)
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Tiles) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let tiles = self.tiles.clone();
        tokio::task::spawn_blocking(move || run(&tiles)).await.unwrap_or_else(|e| Err(io::Error::other(e)))
    }
}
