//! What the tests share: callers, and what they look at.

#![expect(clippy::unwrap_used, clippy::result_large_err, reason = "in a test, a panic is the report")]

use std::path::PathBuf;
use std::time::Duration;

use mirror_contract::mirror::bus::v1 as bus;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::schedule::v1 as pb;
use mirror_contract::mirror::schedule::v1::schedule_service_client::ScheduleServiceClient;
use mirror_contract::mirror::schedule::v1::{CatchUp, OccurrenceState};
use mirror_contract::{millis, timestamp};
use mirror_errors::{Kind, Remote};
use mirror_kit::{Channel, Principal};
use mirror_schedule::SERVICE;
use mirror_testkit::{Node, START_MS, Sandbox};
use tonic::Streaming;

pub(crate) const MINUTE: u64 = 60_000;
pub(crate) const HOUR: u64 = 60 * MINUTE;

pub(crate) fn sandbox() -> Sandbox {
    Sandbox::with(&[&mirror_bus::SERVICE, &SERVICE]).manual_clock()
}

/// A caller of the service.
pub(crate) struct Caller(ScheduleServiceClient<Channel>);

pub(crate) fn service(node: &Node, name: &str) -> Caller {
    Caller(ScheduleServiceClient::new(node.channel_as(Principal::Service(name.into()), "schedule")))
}

pub(crate) fn local(node: &Node) -> Caller {
    Caller(ScheduleServiceClient::new(node.channel("schedule")))
}

pub(crate) fn inner<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> Result<T, Remote> {
    answer.map(tonic::Response::into_inner).map_err(|status| Remote::from_status(&status))
}

impl Caller {
    pub(crate) async fn put(&mut self, job: pb::Job) -> Result<bool, Remote> {
        inner(self.0.put_job(pb::PutJobRequest { job: Some(job) }).await).map(|answer| answer.changed)
    }

    pub(crate) async fn delete(&mut self, name: &str) -> Result<bool, Remote> {
        inner(self.0.delete_job(pb::DeleteJobRequest { name: name.to_owned() }).await).map(|a| a.deleted)
    }

    pub(crate) async fn watch(&mut self) -> Streaming<pb::WatchDueResponse> {
        self.0.watch_due(pb::WatchDueRequest {}).await.unwrap().into_inner()
    }

    pub(crate) async fn start(&mut self, job: &str, due: u64) -> Result<u64, Remote> {
        let request = pb::StartOccurrenceRequest { job: job.to_owned(), due: Some(timestamp(due)) };
        let answer = inner(self.0.start_occurrence(request).await)?;
        Ok(millis(&answer.deadline.unwrap()).unwrap())
    }

    pub(crate) async fn finish(
        &mut self,
        job: &str,
        due: u64,
        detail: &str,
        failed: bool,
    ) -> Result<pb::Occurrence, Remote> {
        let request = pb::FinishOccurrenceRequest {
            job: job.to_owned(),
            due: Some(timestamp(due)),
            failed,
            worked: !detail.is_empty(),
            detail: detail.to_owned(),
        };
        inner(self.0.finish_occurrence(request).await).map(|answer| answer.occurrence.unwrap())
    }

    pub(crate) async fn jobs(&mut self) -> Result<Vec<pb::JobStatus>, Remote> {
        inner(self.0.list_jobs(pb::ListJobsRequest {}).await).map(|answer| answer.jobs)
    }

    pub(crate) async fn rows(&mut self, job: &str) -> Result<Vec<pb::Occurrence>, Remote> {
        let request = pb::ListOccurrencesRequest { job: job.to_owned(), limit: 0 };
        inner(self.0.list_occurrences(request).await).map(|answer| answer.occurrences)
    }

    /// Returns the recorded occurrences as hours or minutes since the start, how they ended, and how many with each.
    pub(crate) async fn ended(&mut self, job: &str) -> Vec<(u64, OccurrenceState, u64)> {
        let rows = self.rows(job).await.unwrap();
        rows.iter().map(|row| ((due_of(row) - START_MS) / MINUTE, row.state(), row.more)).collect()
    }
}

pub(crate) fn due_of(occurrence: &pb::Occurrence) -> u64 {
    millis(occurrence.due.as_ref().unwrap()).unwrap()
}

pub(crate) async fn next(stream: &mut Streaming<pb::WatchDueResponse>) -> (String, u64) {
    let occurrence = stream.message().await.unwrap().unwrap().occurrence.unwrap();
    assert_eq!(occurrence.state(), OccurrenceState::Due);
    let due = due_of(&occurrence);
    (occurrence.job, due)
}

pub(crate) fn job(name: &str, every_ms: u64, catch_up: CatchUp) -> pb::Job {
    pb::Job {
        name: name.to_owned(),
        summary: "Is a test.".to_owned(),
        when: Some(pb::job::When::EveryMs(every_ms)),
        catch_up: catch_up.into(),
        window_ms: if catch_up == CatchUp::Within { HOUR } else { 0 },
        ..pb::Job::default()
    }
}

#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, Remote>, kind: Kind, reason: &str) -> Remote {
    let error = answer.expect_err("it is refused");
    assert_eq!((error.kind, error.reason.as_str()), (kind, reason), "{error}");
    error
}

pub(crate) fn advance(node: &Node, ms: u64) {
    node.clock().advance(Duration::from_millis(ms));
}

pub(crate) fn state_dir(node: &Node) -> PathBuf {
    node.home().state("schedule")
}

/// Returns the subjects of the service's events.
pub(crate) async fn events(node: &Node) -> Vec<String> {
    let mut client = BusServiceClient::new(node.channel("bus"));
    let filter = bus::Filter { subjects: vec!["schedule.>".to_owned()], ..bus::Filter::default() };
    let request = bus::ReadRequest { filter: Some(filter), ..bus::ReadRequest::default() };
    let mut stream = client.read(request).await.unwrap().into_inner();
    let mut subjects = Vec::new();
    while let Some(response) = stream.message().await.unwrap() {
        subjects.extend(response.events.into_iter().map(|event| event.subject));
    }
    subjects
}
