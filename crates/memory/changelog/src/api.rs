//! The calls.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use mirror_clock::Clock;
use mirror_contract::mirror::bus::v1::GetStatusRequest;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::changelog::v1 as pb;
use mirror_contract::mirror::changelog::v1::changelog_service_server::ChangelogService;
use mirror_errors::reject;
use mirror_kit::{Channel, Shutdown};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::fold::{Query, page};
use crate::page::Day;
use crate::reader::{Progress, Shelf};
use crate::wire;

/// Longest time that a call waits for the fold to reach the head of the log.
const PATIENCE: Duration = Duration::from_secs(2);
/// Shortest time between two rounds of a watch.
const ROUND: Duration = Duration::from_millis(250);

/// The service.
pub(crate) struct Api {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) bus: BusServiceClient<Channel>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) shutdown: Shutdown,
}

#[tonic::async_trait]
impl ChangelogService for Api {
    async fn get_changelog(
        &self,
        request: Request<pb::GetChangelogRequest>,
    ) -> Result<Response<pb::GetChangelogResponse>, Status> {
        let query = Query::try_from(request.into_inner()).map_err(reject)?;
        self.catch_up().await.map_err(reject)?;
        let fold = self.shelf.fold();
        let days = fold.find(&query);
        let pages = days.iter().map(|day| page(day, query.writer.as_deref()));
        Ok(Response::new(wire::answer(pages, fold.upto())))
    }

    type WatchChangelogStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchChangelogResponse, Status>> + Send>>;

    async fn watch_changelog(
        &self,
        request: Request<pb::WatchChangelogRequest>,
    ) -> Result<Response<Self::WatchChangelogStream>, Status> {
        let writer = wire::writer(request.into_inner().writer).map_err(reject)?;
        self.catch_up().await.map_err(reject)?;
        let watching = Watching {
            shelf: Arc::clone(&self.shelf),
            progress: self.shelf.progress(),
            clock: Arc::clone(&self.clock),
            writer,
            sent: None,
            last_round: None,
            queue: VecDeque::new(),
        };
        let stream = futures::stream::unfold(watching, Watching::next);
        Ok(Response::new(Box::pin(self.shutdown.end(Box::pin(stream)))))
    }
}

impl Api {
    /// Waits, not for long, until the pages reflect what the log held when the call came.
    async fn catch_up(&self) -> Result<(), Error> {
        let mut progress = self.shelf.progress();
        let mut head = None;
        let reached = async {
            let mut bus = self.bus.clone();
            if let Ok(status) = bus.get_status(GetStatusRequest {}).await {
                let at = status.get_ref().head;
                head = Some(at);
                let _ = progress.wait_for(|now| now.upto >= at).await.is_ok();
            }
        };
        tokio::select! {
            () = reached => {}
            () = self.clock.sleep(PATIENCE) => {}
        }
        let upto = self.shelf.progress().borrow().upto;
        match head {
            None if upto == 0 => Err(Error::NotReady("the bus is away")),
            Some(head) if upto == 0 && head > 0 => Err(Error::NotReady("it has just begun to")),
            _ => Ok(()),
        }
    }
}

/// One watch.
struct Watching {
    shelf: Arc<Shelf>,
    progress: watch::Receiver<Progress>,
    clock: Arc<dyn Clock>,
    writer: Option<String>,
    /// How far the fold was in the last round; none before the first.
    sent: Option<Progress>,
    last_round: Option<Duration>,
    /// Pages of this round that are still to be sent, with the position that they reflect.
    queue: VecDeque<(Arc<Day>, u64)>,
}

impl Watching {
    async fn next(mut self) -> Option<(Result<pb::WatchChangelogResponse, Status>, Self)> {
        loop {
            if let Some((day, upto)) = self.queue.pop_front() {
                let day = Some(page(&day, self.writer.as_deref()).into());
                return Some((Ok(pb::WatchChangelogResponse { day, upto }), self));
            }
            let sent = self.sent;
            let now = *self.progress.wait_for(|now| Some(*now) != sent).await.ok()?;
            if let Some(last) = self.last_round {
                let passed = self.clock.boot().saturating_sub(last);
                if passed < ROUND {
                    self.clock.sleep(ROUND - passed).await;
                }
            }
            self.last_round = Some(self.clock.boot());
            self.round(now.life);
        }
    }

    /// Queues the pages that changed since the last round, newest first; all of the newest days after a new beginning.
    fn round(&mut self, life: u64) {
        let since = self.sent.filter(|sent| sent.life == life).map(|sent| sent.upto);
        let fold = self.shelf.fold();
        let days = if since.is_some() { usize::MAX } else { wire::DAYS_DEFAULT };
        let mut changed = fold.find(&Query { writer: self.writer.clone(), days, ..Query::default() });
        if let Some(since) = since {
            changed.retain(|day| day.changed_after(since, self.writer.as_deref()));
        }
        let upto = fold.upto();
        self.queue.extend(changed.into_iter().map(|day| (day, upto)));
        self.sent = Some(Progress { upto, life });
    }
}
