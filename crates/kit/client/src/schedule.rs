//! Working for the schedule: puts a job, and runs its occurrences as they fall due.
//!
//! It refuses to run an occurrence that the schedule did not give it, so none runs twice and none while all is halted.
//! Invariant: one occurrence at a time; each that was started is reported, or ends as failed when this process does.

use std::time::Duration;

use mirror_contract::mirror::schedule::v1 as pb;
use mirror_contract::mirror::schedule::v1::schedule_service_client::ScheduleServiceClient;
use mirror_errors::{Kind, Remote};
use tonic::Status;

use crate::{Channel, trace};

/// Shortest wait before the schedule is tried again.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest wait before the schedule is tried again.
const PAUSE_LIMIT: Duration = Duration::from_secs(5);
/// Longest detail of a report, in bytes.
const DETAIL_BYTES: usize = 300;

/// An occurrence that is to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    /// Its job.
    pub job: String,
    /// When it was due, in milliseconds since 1970.
    pub due_ms: u64,
    /// When it ends as failed unless it is over, in milliseconds since 1970.
    pub deadline_ms: u64,
}

/// How an occurrence ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// There was nothing to do; it is counted and not recorded.
    Nothing,
    /// It did what this says.
    Worked(String),
    /// It failed, and this says why.
    Failed(String),
}

/// Puts a job, and runs its occurrences, one at a time and for ever; drop the future to end.
///
/// It waits for a schedule that is away. A job that the schedule refuses is tried again every few seconds, because the
/// one who may have the same name may leave; [`put`] tells why it is refused.
pub async fn work<F>(channel: Channel, job: pb::Job, mut run: F)
where
    F: AsyncFnMut(Due) -> Done,
{
    let mut client = ScheduleServiceClient::new(channel);
    let mut pause = Pause::default();
    loop {
        // Whatever went wrong, it is tried again.
        let _ = session(&mut client, &job, &mut run, &mut pause).await.is_ok();
        pause.wait().await;
    }
}

/// Puts a job; returns whether it is new or was changed.
///
/// # Errors
///
/// What the schedule answers.
pub async fn put(channel: Channel, job: pb::Job) -> Result<bool, Status> {
    let request = pb::PutJobRequest { job: Some(job) };
    Ok(ScheduleServiceClient::new(channel).put_job(request).await?.into_inner().changed)
}

async fn session<F>(
    client: &mut ScheduleServiceClient<Channel>,
    job: &pb::Job,
    run: &mut F,
    pause: &mut Pause,
) -> Result<(), Status>
where
    F: AsyncFnMut(Due) -> Done,
{
    client.put_job(pb::PutJobRequest { job: Some(job.clone()) }).await?;
    let mut stream = client.watch_due(pb::WatchDueRequest {}).await?.into_inner();
    *pause = Pause::default();
    while let Some(response) = stream.message().await? {
        let Some(occurrence) = response.occurrence.filter(|occurrence| occurrence.job == job.name) else {
            continue;
        };
        let Some(deadline) = start(client, &occurrence).await? else { continue };
        let ms =
            |at: Option<&prost_types::Timestamp>| at.and_then(mirror_contract::millis).unwrap_or_default();
        let due = Due {
            job: occurrence.job.clone(),
            due_ms: ms(occurrence.due.as_ref()),
            deadline_ms: ms(deadline.as_ref()),
        };
        let done = run(due).await;
        finish(client, occurrence, done).await;
    }
    Ok(())
}

/// Starts an occurrence; returns until when it may run, or nothing when it is not to run.
async fn start(
    client: &mut ScheduleServiceClient<Channel>,
    occurrence: &pb::Occurrence,
) -> Result<Option<Option<prost_types::Timestamp>>, Status> {
    let request = pb::StartOccurrenceRequest { job: occurrence.job.clone(), due: occurrence.due };
    let mut pause = Pause::default();
    loop {
        match client.start_occurrence(request.clone()).await {
            Ok(started) => return Ok(Some(started.into_inner().deadline)),
            // While all is halted it stays due, until the job's policy says that it was missed.
            Err(status) if Remote::from_status(&status).reason == "KIT_HALTED" => pause.wait().await,
            // Whether it was started is not known when the answer was lost: it then ends as failed.
            Err(status) if Remote::is_away(&status) => return Err(status),
            Err(_) => return Ok(None),
        }
    }
}

/// Reports how an occurrence ended, until the schedule has taken it or never will.
async fn finish(client: &mut ScheduleServiceClient<Channel>, occurrence: pb::Occurrence, done: Done) {
    let (failed, worked, detail) = match done {
        Done::Nothing => (false, false, String::new()),
        Done::Worked(detail) => (false, true, detail),
        Done::Failed(why) if why.trim().is_empty() => (true, true, "it did not say why".to_owned()),
        Done::Failed(why) => (true, true, why),
    };
    let pb::Occurrence { job, due, .. } = occurrence;
    let request = pb::FinishOccurrenceRequest { job, due, failed, worked, detail: one_line(&detail) };
    let mut pause = Pause::default();
    loop {
        match client.finish_occurrence(request.clone()).await {
            Ok(_) => return,
            Err(status) => {
                let later = Remote::is_away(&status) || Remote::from_status(&status).kind == Kind::Timeout;
                if !later && !Kind::from_code(status.code()).is_retryable() {
                    return;
                }
            }
        }
        pause.wait().await;
    }
}

/// Returns a text as one line of at most 300 bytes.
fn one_line(text: &str) -> String {
    let mut line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    while line.len() > DETAIL_BYTES {
        line.pop();
    }
    line
}

#[derive(Debug)]
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(PAUSE)
    }
}

impl Pause {
    async fn wait(&mut self) {
        tokio::time::sleep(self.0 / 2 + self.0.mul_f64(trace::unit_random() / 2.0)).await;
        self.0 = (self.0 * 2).min(PAUSE_LIMIT);
    }
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn a_detail_is_one_line_and_not_too_long() {
        assert_eq!(one_line(" a\nb\u{1b}[0m \n"), "a b [0m");
        let long = one_line(&"\u{e9}x".repeat(300));
        assert!(long.len() <= 300 && long.len() >= 299, "{}", long.len());
    }
}
