//! One run: what the reader hands out is stored, blobs before the events that name them.
//!
//! Invariant: a row counts as taken only after the bus has acknowledged it, and as skipped only when the bus has an
//! event with its id. So a run that ended early, for whatever reason, is finished by running it again.

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt as _;
use mirror_client::{Channel, hold};
use mirror_contract::mirror::blobs::v1 as blobs;
use mirror_contract::mirror::blobs::v1::blobs_service_client::BlobsServiceClient;
use mirror_contract::mirror::bus::v1 as bus;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::import::v1 as pb;
use mirror_errors::{Kind as ErrorKind, Remote, reject};
use mirror_kit::Shutdown;
use mirror_types::Model;
use tokio::sync::mpsc;
use tonic::Status;

use crate::error::Error;
use crate::quarantine::Folder;
use crate::reader::{self, Chunk, ReadRow, Source};
use crate::report::{Kept, Report};
use crate::row::Blob;
use crate::transcript::BadRow;
use crate::wire;

/// Bytes of one message to blobs; it takes up to 1 MiB.
const BLOB_CHUNK: usize = 512 << 10;
/// Questions to the bus under way in a dry run.
const QUESTIONS: usize = 16;
/// Ids that a dry run remembers; repeats of later ones count as new.
const REMEMBERED: usize = 2_000_000;

/// What becomes of one event.
enum Fate {
    Taken(u64),
    Skipped,
    Refused(String),
}

/// Stores what is read.
#[derive(Debug, Clone)]
pub(crate) struct Runner {
    pub(crate) bus: BusServiceClient<Channel>,
    pub(crate) blobs: BlobsServiceClient<Channel>,
    pub(crate) wait: Duration,
    pub(crate) quarantine: Folder,
    pub(crate) shutdown: Shutdown,
}

impl Runner {
    /// Runs an import to its end, and answers with progress and the report, or with why there is none.
    pub(crate) async fn run(self, source: Source, out: mpsc::Sender<Result<pb::RunImportResponse, Status>>) {
        let dry_run = source.quarantine.is_none();
        let (send, mut chunks) = mpsc::channel(2);
        let reading = tokio::task::spawn_blocking(move || {
            reader::read_all(&source, &mut |chunk| send.blocking_send(chunk).is_ok())
        });
        let mut report = Report::default();
        let mut ids = HashSet::new();
        let mut stored = Ok(());
        while let Some(chunk) = chunks.recv().await {
            let progress = progress(&chunk, &report);
            let storing = self.chunk(chunk, dry_run.then_some(&mut ids), &mut report);
            match self.shutdown.or(storing).await {
                Some(Ok(())) if !out.is_closed() => {}
                Some(Err(error)) => {
                    stored = Err(error);
                    break;
                }
                // Nobody waits for the rest; the next run takes it.
                _ => {
                    chunks.close();
                    let _ = reading.await;
                    return;
                }
            }
            // A caller who reads slowly misses progress, never the report.
            let _ = out.try_send(Ok(wire::progress(progress)));
        }
        drop(chunks);
        let read = reading
            .await
            .unwrap_or_else(|error| Err(Error::read("the reader ended early", std::io::Error::other(error))));
        let mut end = stored.and(read);
        if end.is_ok() && report.taken > 0 && !dry_run {
            end = self.finished(&report).await;
        }
        let answer = end.map(|()| report.into()).map_err(reject);
        let _ = out.send(answer).await;
    }

    async fn chunk(
        &self,
        chunk: Chunk,
        dry: Option<&mut HashSet<String>>,
        report: &mut Report,
    ) -> Result<(), Error> {
        report.files += chunk.files;
        report.files_ignored += chunk.ignored;
        for kept in chunk.bad {
            report.quarantined(kept);
        }
        let mut once = HashSet::new();
        let mut rows = Vec::with_capacity(chunk.rows.len());
        for read in chunk.rows {
            report.session(read.row.vendor, &read.row.session);
            if once.insert(read.row.id.clone()) {
                rows.push(read);
            } else {
                report.skipped();
            }
        }
        let fates = match dry {
            Some(ids) => self.weigh(&rows, ids, report).await?,
            None => {
                for blob in rows.iter().filter_map(|read| read.row.blob.as_ref()) {
                    report.blobs += u64::from(self.put(blob).await?);
                }
                let events: Vec<bus::NewEvent> = rows.iter().map(event).collect();
                self.append(&events).await?
            }
        };
        for (read, fate) in rows.into_iter().zip(fates) {
            match fate {
                Fate::Taken(seq) => report.taken(read.row.kind, seq),
                Fate::Skipped => report.skipped(),
                Fate::Refused(why) => self.refused(read, why, report).await?,
            }
        }
        Ok(())
    }

    /// Appends events in order; all that are new, wherever they stand among those that are stored.
    ///
    /// A batch is all or none, so one that is partly stored is halved until each part is wholly new or wholly stored.
    /// An id that is stored with other content belongs to the same row, taken by a build that classified it otherwise.
    async fn append(&self, events: &[bus::NewEvent]) -> Result<Vec<Fate>, Error> {
        let mut fates = Vec::with_capacity(events.len());
        let mut parts = Vec::new();
        if !events.is_empty() {
            parts.push(0..events.len());
        }
        while let Some(part) = parts.pop() {
            let request = bus::AppendBatchRequest { events: events[part.clone()].to_vec(), expect: None };
            let answer = hold(self.wait, || {
                let (mut bus, request) = (self.bus.clone(), request.clone());
                async move { bus.append_batch(request).await }
            })
            .await;
            let status = match answer {
                Ok(response) => {
                    let acks = response.into_inner().acks;
                    if acks.len() != part.len() {
                        return Err(Error::BusAway("it did not acknowledge each event".into()));
                    }
                    let fate =
                        |ack: bus::Ack| if ack.duplicate { Fate::Skipped } else { Fate::Taken(ack.seq) };
                    fates.extend(acks.into_iter().map(fate));
                    continue;
                }
                Err(status) => status,
            };
            let remote = Remote::from_status(&status);
            let reused = remote.reason == "BUS_ID_REUSED";
            if !reused && remote.kind != ErrorKind::Invalid {
                return Err(Error::bus(&status));
            }
            if part.len() > 1 {
                let middle = part.start + part.len() / 2;
                parts.push(middle..part.end);
                parts.push(part.start..middle);
            } else if reused {
                fates.push(Fate::Skipped);
            } else {
                fates.push(Fate::Refused(remote.message));
            }
        }
        Ok(fates)
    }

    /// Stores a blob unless it is there; returns whether it was stored now.
    async fn put(&self, blob: &Blob) -> Result<bool, Error> {
        let known = hold(self.wait, || {
            let (mut client, digest) = (self.blobs.clone(), blob.blake3.clone());
            async move { client.get_blob_info(blobs::GetBlobInfoRequest { digest }).await }
        })
        .await;
        match known {
            Ok(_) => return Ok(false),
            Err(status) if ErrorKind::from_code(status.code()) == ErrorKind::NotFound => {}
            Err(status) => return Err(Error::blobs(&status)),
        }
        let content = bytes::Bytes::copy_from_slice(&blob.bytes);
        let stored = hold(self.wait, || {
            let (mut client, content, digest) = (self.blobs.clone(), content.clone(), blob.blake3.clone());
            let parts = (0..content.len()).step_by(BLOB_CHUNK).map(move |at| blobs::PutBlobRequest {
                chunk: content.slice(at..content.len().min(at + BLOB_CHUNK)),
                expect_digest: if at == 0 { digest.clone() } else { String::new() },
            });
            async move { client.put_blob(tokio_stream::iter(parts)).await }
        })
        .await
        .map_err(|status| Error::blobs(&status))?;
        Ok(!stored.into_inner().duplicate)
    }

    /// Returns what would become of rows, and counts the blobs that would be stored with them.
    async fn weigh(
        &self,
        rows: &[ReadRow],
        ids: &mut HashSet<String>,
        report: &mut Report,
    ) -> Result<Vec<Fate>, Error> {
        let asking = rows.iter().map(|read| {
            let id = read.row.id.clone();
            hold(self.wait, move || {
                let (mut bus, id) = (self.bus.clone(), id.clone());
                let by = Some(bus::get_event_request::By::Id(id));
                async move { bus.get_event(bus::GetEventRequest { by }).await }
            })
        });
        let asking: Vec<_> = asking.collect();
        let mut answers = futures::stream::iter(asking).buffered(QUESTIONS);
        let mut fates = Vec::with_capacity(rows.len());
        for read in rows {
            let Some(answer) = answers.next().await else { break };
            let stored = match answer {
                Ok(_) => true,
                Err(status) if ErrorKind::from_code(status.code()) == ErrorKind::NotFound => false,
                Err(status) => return Err(Error::bus(&status)),
            };
            let again = ids.contains(&read.row.id);
            if ids.len() < REMEMBERED {
                ids.insert(read.row.id.clone());
            }
            if stored || again {
                fates.push(Fate::Skipped);
            } else {
                report.blobs += u64::from(read.row.blob.is_some());
                fates.push(Fate::Taken(0));
            }
        }
        Ok(fates)
    }

    /// Keeps a row that the bus holds for invalid.
    async fn refused(&self, read: ReadRow, why: String, report: &mut Report) -> Result<(), Error> {
        let ReadRow { row, file } = read;
        let bytes = row.blob.map_or(row.payload, |blob| blob.bytes);
        let bad = BadRow {
            line: row.line,
            why: format!("the bus refuses the row: {why}"),
            length: bytes.len() as u64,
            bytes,
        };
        report.quarantined(Kept { file: file.to_string(), line: bad.line, why: bad.why.clone() });
        let folder = self.quarantine.clone();
        tokio::task::spawn_blocking(move || folder.keep(&file, &bad))
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(|error| Error::read("cannot keep a row in the quarantine folder", error))
    }

    /// Appends that the run has ended, with its counts.
    async fn finished(&self, report: &Report) -> Result<(), Error> {
        let event = bus::NewEvent {
            subject: "import.finished".into(),
            payload: report.counts().into(),
            r#type: bus::PayloadType::Json.into(),
            id: format!("imp-run-{}", report.last_seq),
            ..bus::NewEvent::default()
        };
        match self.append(&[event]).await?.pop() {
            Some(Fate::Refused(why)) => Err(Error::BusAway(why)),
            _ => Ok(()),
        }
    }
}

fn event(read: &ReadRow) -> bus::NewEvent {
    let row = &read.row;
    bus::NewEvent {
        subject: row.subject(),
        payload: bytes::Bytes::copy_from_slice(&row.payload),
        r#type: bus::PayloadType::Json.into(),
        id: row.id.clone(),
        model: row.model.as_ref().map(Model::as_str).unwrap_or_default().to_owned(),
        causes: Vec::new(),
        labels: row.labels.iter().map(|label| (*label).to_owned()).collect(),
    }
}

fn progress(chunk: &Chunk, report: &Report) -> pb::Progress {
    pb::Progress {
        bytes_done: chunk.bytes_done,
        bytes_total: chunk.bytes_total,
        rows: report.rows + (chunk.rows.len() + chunk.bad.len()) as u64,
        file: chunk.file.as_deref().map(str::to_owned).unwrap_or_default(),
    }
}
