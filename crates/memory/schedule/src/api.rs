//! The gRPC methods: parse, call, render.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use mirror_clock::Clock;
use mirror_contract::mirror::schedule::v1 as pb;
use mirror_contract::mirror::schedule::v1::schedule_service_server::ScheduleService;
use mirror_contract::timestamp;
use mirror_errors::reject;
use mirror_kit::{Peer, Principal, Shutdown, process_start};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::config::Config;
use crate::desk::{Desk, look};
use crate::error::Error;
use crate::job::Worker;
use crate::schedule::Schedule;
use crate::wire;

/// The service.
#[derive(Debug)]
pub(crate) struct Api {
    desk: Desk,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
    config: Config,
}

impl Api {
    pub(crate) fn new(desk: Desk, clock: Arc<dyn Clock>, shutdown: Shutdown, config: Config) -> Self {
        Self { desk, clock, shutdown, config }
    }
}

fn caller<T>(request: &Request<T>) -> String {
    request.extensions().get::<Peer>().map_or_else(|| Principal::Local.actor(), |p| p.principal.actor())
}

/// Returns the process that calls, when it is the only one that works for its name.
async fn worker<T>(request: &Request<T>) -> Option<Worker> {
    let peer = request.extensions().get::<Peer>()?;
    let pid = peer.pid.filter(|_| matches!(peer.principal, Principal::Service(_)))?;
    let born = tokio::task::spawn_blocking(move || process_start(pid)).await.ok()?.ok()?;
    Some(Worker { pid, born })
}

#[tonic::async_trait]
impl ScheduleService for Api {
    async fn put_job(
        &self,
        request: Request<pb::PutJobRequest>,
    ) -> Result<Response<pb::PutJobResponse>, Status> {
        let owner = caller(&request);
        let job = wire::job(request.into_inner().job, owner).map_err(reject)?;
        let (put, limit) = (job.clone(), self.config.jobs);
        let changed = self.desk.record(self.config.hold(), move |s, now| s.put(put, limit, now)).await;
        let changed = changed.map_err(reject)?;
        Ok(Response::new(pb::PutJobResponse { job: Some(wire::shown(&job)), changed }))
    }

    async fn delete_job(
        &self,
        request: Request<pb::DeleteJobRequest>,
    ) -> Result<Response<pb::DeleteJobResponse>, Status> {
        let (caller, name) = (caller(&request), request.into_inner().name);
        let deleted = self.desk.record(self.config.hold(), move |s, now| s.delete(&name, &caller, now)).await;
        Ok(Response::new(pb::DeleteJobResponse { deleted: deleted.map_err(reject)? }))
    }

    async fn list_jobs(
        &self,
        _: Request<pb::ListJobsRequest>,
    ) -> Result<Response<pb::ListJobsResponse>, Status> {
        let now = look(&*self.clock);
        let jobs = self.desk.now().entries.values().map(|entry| wire::status(entry, &now)).collect();
        Ok(Response::new(pb::ListJobsResponse { jobs }))
    }

    async fn list_occurrences(
        &self,
        request: Request<pb::ListOccurrencesRequest>,
    ) -> Result<Response<pb::ListOccurrencesResponse>, Status> {
        let request = request.into_inner();
        let schedule = self.desk.now();
        let found = schedule.entries.get(&request.job).ok_or_else(|| Error::Missing(request.job.clone()));
        Ok(Response::new(wire::occurrences(found.map_err(reject)?, request.limit)))
    }

    type WatchDueStream = Pin<Box<dyn Stream<Item = Result<pb::WatchDueResponse, Status>> + Send>>;

    async fn watch_due(
        &self,
        request: Request<pb::WatchDueRequest>,
    ) -> Result<Response<Self::WatchDueStream>, Status> {
        let owner = caller(&request);
        if let Some(worker) = worker(&request).await {
            let owner = owner.clone();
            let taken_over = self.desk.change(move |s, now| {
                s.takes_over(&owner, &worker, now);
                Ok(())
            });
            taken_over.await.map_err(reject)?;
        }
        let watching = Watching {
            owner,
            clock: Arc::clone(&self.clock),
            view: self.desk.view(),
            sent: HashMap::new(),
            queue: VecDeque::new(),
        };
        let stream = futures::stream::unfold(watching, Watching::next);
        Ok(Response::new(Box::pin(self.shutdown.end(Box::pin(stream)))))
    }

    async fn start_occurrence(
        &self,
        request: Request<pb::StartOccurrenceRequest>,
    ) -> Result<Response<pb::StartOccurrenceResponse>, Status> {
        let (caller, worker) = (caller(&request), worker(&request).await);
        let (name, due) = wire::to_start(request.into_inner()).map_err(reject)?;
        let started = self.desk.change(move |s, now| s.start((&name, due), &caller, worker, now)).await;
        let deadline = Some(timestamp(started.map_err(reject)?));
        Ok(Response::new(pb::StartOccurrenceResponse { deadline }))
    }

    async fn finish_occurrence(
        &self,
        request: Request<pb::FinishOccurrenceRequest>,
    ) -> Result<Response<pb::FinishOccurrenceResponse>, Status> {
        let caller = caller(&request);
        let (name, due, report) = wire::report(request.into_inner()).map_err(reject)?;
        let job = name.clone();
        let finish = move |s: &mut Schedule, now: &_| s.finish((&name, due), &caller, &report, now);
        let ended = self.desk.record(self.config.hold(), finish).await.map_err(reject)?;
        let occurrence = Some(wire::ended(&job, &ended));
        Ok(Response::new(pb::FinishOccurrenceResponse { occurrence }))
    }
}

/// One watch. A job has one open occurrence at most, so what it remembers is bounded by the jobs.
struct Watching {
    owner: String,
    clock: Arc<dyn Clock>,
    view: watch::Receiver<Arc<Schedule>>,
    /// What was sent last of each job.
    sent: HashMap<String, u64>,
    queue: VecDeque<(String, u64)>,
}

impl Watching {
    async fn next(mut self) -> Option<(Result<pb::WatchDueResponse, Status>, Self)> {
        loop {
            if let Some((job, due)) = self.queue.pop_front() {
                let occurrence = Some(wire::due(&job, due));
                self.sent.insert(job, due);
                return Some((Ok(pb::WatchDueResponse { occurrence }), self));
            }
            let schedule = Arc::clone(&self.view.borrow_and_update());
            let now = look(&*self.clock);
            self.sent.retain(|job, _| schedule.entries.contains_key(job));
            let due = schedule.due(&self.owner, &now).filter(|(job, due)| self.sent.get(*job) != Some(due));
            self.queue = due.map(|(job, due)| (job.to_owned(), due)).collect();
            if self.queue.is_empty() {
                self.view.changed().await.ok()?;
            }
        }
    }
}
