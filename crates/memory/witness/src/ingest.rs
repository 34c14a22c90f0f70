//! Reads the keeper's own log and has what it says recorded on the bus.
//!
//! The keeper calls nobody, so it is asked. How far the log was read is a fold over `witness.keeper` events.
//! Invariant: no record is told of twice, and a record that does not follow the one before is told of as such.

use std::sync::Arc;
use std::time::Duration;

use mirror_contract::millis;
use mirror_contract::mirror::bus::v1::AppendRequest;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::keeper::v1::keeper_service_client::KeeperServiceClient;
use mirror_contract::mirror::keeper::v1::{KeeperRecord, ListRecordsRequest};
use mirror_errors::Remote;
use mirror_kit::{Channel, Context};

use crate::follow::Shared;
use crate::health::{Health, Part};
use crate::outbox::{Outbox, event};
use crate::records::{Broken, Reading, Record};
use crate::wire::KEEPER;

/// Time between two questions.
const EVERY: Duration = Duration::from_secs(30);

/// Most answers that are read at a time, each of at most 256 records.
const PAGES: usize = 64;

/// Reads the keeper's log.
pub(crate) struct Ingest {
    cx: Context,
    bus: BusServiceClient<Channel>,
    keeper: KeeperServiceClient<Channel>,
    shared: Arc<Shared>,
    health: Arc<Health>,
    outbox: Outbox,
    reading: Option<Reading>,
}

impl Ingest {
    pub(crate) fn new(
        cx: Context,
        (bus, keeper): (Channel, Channel),
        shared: Arc<Shared>,
        health: Arc<Health>,
        outbox: Outbox,
    ) -> Self {
        let (bus, keeper) = (BusServiceClient::new(bus), KeeperServiceClient::new(keeper));
        Self { cx, bus, keeper, shared, health, outbox, reading: None }
    }

    /// Runs until the service is to stop.
    pub(crate) async fn run(mut self) {
        let (shutdown, clock) = (self.cx.shutdown(), self.cx.clock());
        let mut progress = self.shared.progress();
        loop {
            // Before the log is read to its end it is not known how far the keeper's was told of.
            let Some(Ok(_)) = shutdown.or(progress.wait_for(|now| now.caught_up)).await else { return };
            if shutdown.or(self.ask()).await.is_none() || !shutdown.sleep(&*clock, EVERY).await {
                return;
            }
        }
    }

    async fn ask(&mut self) {
        let told = self.shared.fold().keeper().clone();
        let mut reading = match self.reading.take() {
            // What was gathered stays, unless the log has come to tell of less, or of more.
            Some(reading) if reading.begins_after(&told) => reading,
            _ => Reading::after(told),
        };
        for _ in 0..PAGES {
            if reading.is_full() {
                break;
            }
            let request = ListRecordsRequest { from: reading.next() };
            // An absent keeper is told of where a signature is missed.
            let Ok(answer) = self.keeper.list_records(request).await else { break };
            let (records, head) = (answer.get_ref().records.clone(), answer.get_ref().head);
            if let Err(broken) = reading.take(records.into_iter().map(record).collect()) {
                return self.broken(&broken);
            }
            if reading.at().number >= head {
                self.health.good(Part::Records);
                break;
            }
        }
        while let Some(digest) = reading.due(self.cx.clock().boot()) {
            let Ok(payload) = serde_json::to_vec(&digest) else { break };
            let event = Some(event(KEEPER, digest.id(), payload));
            match self.bus.append(AppendRequest { event, expect: None }).await {
                Ok(answer) => {
                    reading.recorded();
                    let seq = answer.get_ref().ack.as_ref().map_or(0, |ack| ack.seq);
                    let mut progress = self.shared.progress();
                    // The fold must have it before it is asked again how far the log tells; a fold that begins anew
                    // is waited for there.
                    let _ = progress.wait_for(|now| now.size >= seq || !now.caught_up).await;
                    self.health.good(Part::Telling);
                }
                Err(status) => {
                    let why = Remote::from_status(&status);
                    self.health.bad(Part::Telling, format!("the keeper's records wait for the bus: {why}"));
                    break;
                }
            }
        }
        self.reading = Some(reading);
    }

    fn broken(&self, broken: &Broken) {
        let number = broken.number;
        let why = format!(
            "the keeper's log was altered or rolled back at record {number}; see keys/ and the backups"
        );
        if self.health.bad(Part::Records, why) {
            tracing::error!(?broken, "the keeper's log is not the one that was read");
        }
        self.outbox.put("witness.keeper.broken", broken);
    }
}

fn record(given: KeeperRecord) -> (Record, String) {
    let record = Record {
        v: 1,
        number: given.number,
        prev: String::new(),
        at_ms: given.at.as_ref().and_then(millis).unwrap_or_default(),
        act: given.act,
        caller: given.caller,
        kind: given.r#type,
        key: given.key,
        digest: given.digest,
        reason: given.reason,
        size: (!given.root.is_empty()).then_some(given.size),
        root: given.root,
    };
    (record, given.hash)
}
