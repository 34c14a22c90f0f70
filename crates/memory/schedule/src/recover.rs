//! The start: what the log tells, and over it what the disk kept.
//!
//! It refuses to begin before the log was read: a state that is older than the log could start an occurrence again.
//! Invariant: without marks that belong to this log, nothing that fell due before the start is run.

use mirror_client::follow::{Follower, Next, Place};
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::{Event, Filter, GetStatusRequest, PayloadState};
use mirror_errors::Remote;
use mirror_kit::{Channel, Context, StartError, Trace, process_start};

use crate::desk::look;
use crate::job::{Note, Worker};
use crate::schedule::Schedule;
use crate::store::{Marks, Store};

/// A start under way.
#[derive(Debug)]
pub(crate) struct Recovery {
    cx: Context,
    store: Store,
    bus: BusServiceClient<Channel>,
    follower: Follower,
    /// What the log tells so far.
    folded: Schedule,
    marks: Option<Marks>,
    /// Whether the log has the event on which the marks stand.
    stands: bool,
    /// Ids of the events after that one.
    later: Vec<String>,
    /// The end of the log; unknown until the bus answers.
    head: Option<u64>,
}

impl Recovery {
    /// Reads the files.
    pub(crate) fn begin(cx: Context, store: Store, bus: Channel) -> Result<Self, StartError> {
        let marks = store.load_marks().map_err(|e| StartError::failed("read the state", e))?;
        let mut folded = store.load_snapshot();
        let stood = marks.as_ref().map(Marks::place);
        if stood.as_ref().is_some_and(|stood| folded.place.seq > stood.seq) {
            folded = Schedule::default();
        }
        let follower = follower(bus.clone(), folded.place.clone());
        let stands = stood.is_none_or(|stood| stood == folded.place);
        let bus = BusServiceClient::new(bus);
        Ok(Self { cx, store, bus, follower, folded, marks, stands, later: Vec::new(), head: None })
    }

    /// Reads the log; returns the schedule, or why the bus is away. May be called again in both cases.
    pub(crate) async fn read(&mut self) -> Result<Schedule, String> {
        loop {
            if self.head.is_some_and(|head| self.follower.place().upto >= head) {
                return Ok(self.finish());
            }
            match self.follower.next().await {
                Next::Open => {
                    let status = self.bus.get_status(GetStatusRequest {}).await;
                    let status = status.map_err(|status| Remote::from_status(&status).to_string())?;
                    self.head = Some(status.get_ref().head);
                }
                Next::Batch(events) => events.iter().for_each(|event| self.take(event)),
                Next::Away(why) => return Err(why),
                Next::Elsewhere => {
                    self.set_aside("the log is another one, or older than the state");
                    self.folded = Schedule::default();
                    self.follower.restart();
                }
            }
        }
    }

    fn take(&mut self, event: &Event) {
        if let Some(marks) = &self.marks {
            let stood = marks.place();
            self.stands |= event.seq == stood.seq && event.leaf == stood.leaf;
            if event.seq > stood.seq {
                self.later.push(event.id.clone());
            }
        }
        self.folded.place = Place { upto: event.seq, seq: event.seq, leaf: event.leaf.clone() };
        if event.payload_state() == PayloadState::Present {
            match serde_json::from_slice::<Note>(&event.payload) {
                Ok(note) => self.folded.apply(note),
                Err(error) => tracing::warn!(seq = event.seq, %error, "skipped a record that cannot be read"),
            }
        }
    }

    fn finish(&mut self) -> Schedule {
        let mut schedule = self.folded.clone();
        let now = look(&*self.cx.clock());
        schedule.life = Trace::fresh().to_header();
        match &self.marks {
            Some(marks) if self.stands && marks.lay_over(&mut schedule, &self.later) => {
                schedule.resume(&now, is_alive);
                return schedule;
            }
            Some(_) => {
                self.set_aside("it does not belong to this log");
                schedule = self.folded.clone();
                schedule.life = Trace::fresh().to_header();
            }
            None if schedule.entries.is_empty() => {}
            None => tracing::info!(jobs = schedule.entries.len(), "the state is made again from the log"),
        }
        schedule.resume_from_log(&now);
        schedule
    }

    fn set_aside(&mut self, why: &str) {
        self.marks = None;
        if let Err(error) = self.store.set_aside(why) {
            tracing::warn!(%error, "the state that is not used could not be moved away");
        }
    }
}

fn follower(bus: Channel, place: Place) -> Follower {
    let filter = Filter { subjects: vec!["schedule.>".to_owned()], ..Filter::default() };
    Follower::new(bus, place).filtered(filter)
}

fn is_alive(worker: &Worker) -> bool {
    process_start(worker.pid).is_ok_and(|born| born == worker.born)
}
