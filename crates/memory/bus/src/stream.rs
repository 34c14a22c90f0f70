//! The streams of the bus: appends with cumulative acknowledgements, ranges, and tails without gap or repeat.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use mirror_clock::Clock;
use mirror_contract::mirror::bus::v1 as pb;
use mirror_errors::reject;
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};

use crate::api::{Api, Caller};
use crate::bus::Bus;
use crate::error::BusError;
use crate::reader::{Cursor, Record};
use crate::wire::{self, Filter};
use crate::writer::{Expect, Outcome};

/// Events of one answer.
const PAGE_EVENTS: usize = 256;

/// Payload bytes after which an answer is sent, well under what gRPC takes.
const PAGE_BYTES: usize = 256 << 10;

/// Messages of an append stream that are taken together when they are there already.
const READY: usize = 256;

/// Groups of one stream that may wait for their acknowledgement.
const IN_FLIGHT: usize = 64;

/// How often a tail without events says where the head is.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Takes in a stream of events, and acknowledges in order.
pub(crate) async fn append_stream(
    api: Api,
    caller: Caller,
    requests: Streaming<pb::AppendStreamRequest>,
    answers: mpsc::Sender<Result<pb::AppendStreamResponse, Status>>,
) {
    let (sent, waiting) = mpsc::channel(IN_FLIGHT);
    let taking = async move {
        let mut chunks = requests.ready_chunks(READY);
        while let Some(chunk) = chunks.next().await {
            let (events, error) = gather(&api, &caller, chunk);
            if !events.is_empty() {
                let group = api.bus.writer.send(events, Expect::Nothing).await;
                if sent.send(Step::Group(group)).await.is_err() {
                    return;
                }
            }
            if let Some(status) = error {
                // The answers to what came before it are sent first.
                let _ = sent.send(Step::End(status)).await;
                return;
            }
        }
    };
    tokio::join!(taking, acknowledge(waiting, answers));
}

enum Step {
    Group(oneshot::Receiver<Outcome>),
    End(Status),
}

type Gathered = (Vec<crate::event::Prepared>, Option<Status>);

fn gather(api: &Api, caller: &Caller, chunk: Vec<Result<pb::AppendStreamRequest, Status>>) -> Gathered {
    let mut events = Vec::with_capacity(chunk.len());
    for message in chunk {
        let message = match message {
            Ok(message) => message,
            Err(status) => return (events, Some(status)),
        };
        let message = match wire::batch(message.events) {
            Ok(message) => message,
            Err(e) => return (events, Some(reject(e))),
        };
        for event in message {
            match api.prepare(event, caller) {
                Ok(event) => events.push(event),
                Err(e) => return (events, Some(reject(e))),
            }
        }
    }
    (events, None)
}

async fn acknowledge(
    mut waiting: mpsc::Receiver<Step>,
    answers: mpsc::Sender<Result<pb::AppendStreamResponse, Status>>,
) {
    let mut total =
        pb::AppendStreamResponse { durability: pb::Durability::Synced.into(), ..Default::default() };
    while let Some(step) = waiting.recv().await {
        let (acks, error) = match step {
            Step::End(status) => (Vec::new(), Some(status)),
            Step::Group(outcome) => match outcome.await {
                Ok(outcome) => (outcome.acks, outcome.error.map(reject)),
                Err(_) => (Vec::new(), Some(reject(BusError::OutcomeUnknown))),
            },
        };
        if let Some(last) = acks.last() {
            total.count += acks.len() as u64;
            total.last_seq = last.seq;
            total.duplicates += acks.iter().filter(|a| a.duplicate).count() as u64;
            if answers.send(Ok(total)).await.is_err() {
                return;
            }
        }
        if let Some(status) = error {
            let _ = answers.send(Err(status)).await;
            return;
        }
    }
}

/// A range of positions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    first: u64,
    last: u64,
    limit: u64,
    reverse: bool,
}

impl Api {
    /// Checks the range of a request against the log.
    pub(crate) fn range(&self, request: &pb::ReadRequest) -> Result<Range, BusError> {
        let (head, oldest) = (self.bus.head().seq, self.bus.segments.oldest());
        let limit = if request.limit == 0 { u64::MAX } else { request.limit };
        let (from, to) =
            if request.reverse { (request.to, request.from) } else { (request.from, request.to) };
        let first = if from == 0 { oldest } else { from };
        let last = if to == 0 { head } else { to };
        for (name, asked, given) in [("from", first, from), ("to", last, to)] {
            if given > 0 && (asked < oldest || asked > head) {
                if let Some(damage) = self.bus.segments.damage_at(asked) {
                    return Err(BusError::Damaged(damage.describe()));
                }
                let field = match (request.reverse, name) {
                    (false, "from") | (true, "to") => "from",
                    _ => "to",
                };
                return Err(BusError::Position { field, asked, oldest, head });
            }
        }
        Ok(Range { first, last, limit, reverse: request.reverse })
    }
}

type ReadAnswers = mpsc::Sender<Result<pb::ReadResponse, Status>>;

/// Reads a range. Blocks; ends early when nobody listens.
pub(crate) fn read_range(bus: &Bus, range: Range, filter: &Filter, private: bool, answers: &ReadAnswers) {
    let result = if range.reverse {
        backwards(bus, range, filter, private, answers)
    } else {
        forwards(bus, range, filter, private, answers)
    };
    if let Err(e) = result {
        let _ = answers.blocking_send(Err(reject(e)));
    }
}

fn forwards(
    bus: &Bus,
    range: Range,
    filter: &Filter,
    private: bool,
    answers: &ReadAnswers,
) -> Result<(), BusError> {
    let mut cursor = Cursor::new(Arc::clone(&bus.segments), range.first);
    let mut left = range.limit;
    loop {
        let max = PAGE_EVENTS.min(usize::try_from(left).unwrap_or(usize::MAX));
        let (events, failure) = page(bus, &mut cursor, range.last, filter, private, max);
        left -= events.len() as u64;
        let end = events.is_empty() || left == 0 || cursor.next() > range.last;
        if !events.is_empty() && answers.blocking_send(Ok(pb::ReadResponse { events })).is_err() {
            return Ok(());
        }
        match failure {
            Some(e) => return Err(e),
            None if end => return Ok(()),
            None => {}
        }
    }
}

/// Newest first, in stretches that are each read forwards.
fn backwards(
    bus: &Bus,
    range: Range,
    filter: &Filter,
    private: bool,
    answers: &ReadAnswers,
) -> Result<(), BusError> {
    const STRETCH: u64 = 1024;
    let mut left = range.limit;
    let mut last = range.last;
    while last >= range.first && last > 0 && left > 0 {
        let first = last.saturating_sub(STRETCH - 1).max(range.first);
        let mut cursor = Cursor::new(Arc::clone(&bus.segments), first);
        let mut found = std::collections::VecDeque::new();
        let mut want = |header: &crate::line::Header| filter.wants(header);
        while let Some(record) = cursor.read(last, &mut want)? {
            found.push_front(wire::event(record, bus.origin.as_str(), private, false));
            if found.len() as u64 > left {
                // Only the newest are wanted; the oldest of the stretch stands at the back.
                found.pop_back();
            }
        }
        let found: Vec<_> = found.into();
        left -= found.len() as u64;
        for events in found.chunks(PAGE_EVENTS / 4) {
            let events = events.to_vec();
            if answers.blocking_send(Ok(pb::ReadResponse { events })).is_err() {
                return Ok(());
            }
        }
        last = first - 1;
    }
    Ok(())
}

fn page(
    bus: &Bus,
    cursor: &mut Cursor,
    last: u64,
    filter: &Filter,
    private: bool,
    max: usize,
) -> (Vec<pb::Event>, Option<BusError>) {
    let mut events = Vec::new();
    let mut bytes = 0;
    let mut want = |header: &crate::line::Header| filter.wants(header);
    while events.len() < max && bytes < PAGE_BYTES {
        match cursor.read(last, &mut want) {
            Ok(Some(record)) => {
                let event = wire::event(record, bus.origin.as_str(), private, false);
                bytes += event.payload.len();
                events.push(event);
            }
            Ok(None) => break,
            Err(e) => return (events, Some(e)),
        }
    }
    (events, None)
}

/// What a tail follows.
#[derive(Debug)]
pub(crate) struct Follow {
    pub(crate) bus: Arc<Bus>,
    pub(crate) filter: Filter,
    pub(crate) private: bool,
    pub(crate) from: u64,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Delivers events from a position on, for ever.
///
/// It knows no live queue: it reads the log up to the durable head, waits until the head moves, and reads on. So a slow
/// reader is served from disk, and there is nothing to lag behind. At the head one reads for all.
pub(crate) async fn tail(follow: Follow, answers: mpsc::Sender<Result<pb::TailResponse, Status>>) {
    let Follow { bus, filter, private, from, clock } = follow;
    let filter = Arc::new(filter);
    let mut head = bus.watch();
    let mut next = from;
    let mut behind: Option<Cursor> = None;
    loop {
        let upto = head.borrow_and_update().seq;
        while next <= upto {
            let recent = match behind {
                None => bus.recent.at(&bus.segments, next, upto).await,
                Some(_) => None,
            };
            let (events, failure) = match recent {
                Some(stretch) => {
                    let records = stretch.from(next);
                    next += records.len() as u64;
                    let wanted = records.iter().filter(|record| filter.wants(&record.header));
                    let event =
                        |record: &Record| wire::event(record.clone(), bus.origin.as_str(), private, false);
                    (wanted.map(event).collect(), None)
                }
                None => {
                    let (reader, wanted, segments) =
                        (Arc::clone(&bus), Arc::clone(&filter), Arc::clone(&bus.segments));
                    let read = tokio::task::spawn_blocking(move || {
                        let mut cursor = behind.unwrap_or_else(|| Cursor::new(segments, next));
                        let (events, failure) =
                            page(&reader, &mut cursor, upto, &wanted, private, PAGE_EVENTS);
                        (cursor, events, failure)
                    });
                    let Ok((cursor, events, failure)) = read.await else { return };
                    next = cursor.next();
                    // At the head it reads with the others again.
                    behind = (next <= upto).then_some(cursor);
                    (events, failure)
                }
            };
            let answer = pb::TailResponse { events, upto: next - 1 };
            let says = failure.is_none() || !answer.events.is_empty();
            if says && answers.send(Ok(answer)).await.is_err() {
                return;
            }
            if let Some(e) = failure {
                let _ = answers.send(Err(reject(e))).await;
                return;
            }
        }
        tokio::select! {
            changed = head.changed() => if changed.is_err() { return },
            () = clock.sleep(HEARTBEAT) => {
                let beat = pb::TailResponse { events: Vec::new(), upto: next - 1 };
                if answers.send(Ok(beat)).await.is_err() {
                    return;
                }
            }
            () = answers.closed() => return,
        }
    }
}
