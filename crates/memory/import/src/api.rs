//! The gRPC methods.

use std::pin::Pin;
use std::sync::Arc;

use mirror_contract::mirror::import::v1 as pb;
use mirror_contract::mirror::import::v1::import_service_server::ImportService;
use mirror_errors::reject;
use mirror_kit::Context;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::reader::Source;
use crate::run::Runner;
use crate::transcript::Limits;
use crate::wire::Order;

/// Answers that may wait for a slow caller.
const ANSWERS: usize = 16;

/// Starts runs, one at a time.
pub(crate) struct Api {
    pub(crate) runner: Runner,
    pub(crate) limits: Limits,
    pub(crate) cx: Context,
    pub(crate) one: Arc<Semaphore>,
}

#[tonic::async_trait]
impl ImportService for Api {
    type RunImportStream = Pin<Box<dyn Stream<Item = Result<pb::RunImportResponse, Status>> + Send>>;

    async fn run_import(
        &self,
        request: Request<pb::RunImportRequest>,
    ) -> Result<Response<Self::RunImportStream>, Status> {
        let order = Order::try_from(request.into_inner()).map_err(reject)?;
        let permit = Arc::clone(&self.one).try_acquire_owned().map_err(|_| reject(Error::Busy))?;
        let source = Source {
            path: order.path,
            vendor: order.vendor,
            limits: self.limits,
            except: self.cx.home().root().to_owned(),
            quarantine: (!order.dry_run).then(|| self.runner.quarantine.clone()),
        };
        let (out, answers) = mpsc::channel(ANSWERS);
        let runner = self.runner.clone();
        let answers = runner.shutdown.end(ReceiverStream::new(answers));
        self.cx.tasks().spawn(async move {
            runner.run(source, out).await;
            drop(permit);
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
