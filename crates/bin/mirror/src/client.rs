//! Clients to services, for commands.

use std::sync::Arc;
use std::time::Duration;

use mirror_contract::mirror::blobs::v1::blobs_service_client::BlobsServiceClient;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::changelog::v1::changelog_service_client::ChangelogServiceClient;
use mirror_contract::mirror::import::v1::import_service_client::ImportServiceClient;
use mirror_contract::mirror::kit::v1::kit_service_client::KitServiceClient;
use mirror_contract::mirror::registry::v1::registry_service_client::RegistryServiceClient;
use mirror_errors::Remote;
use mirror_kit::{Channel, SocketDial};
use mirror_paths::Home;
use tonic::{Code, Status};

use crate::ctx::Ctx;
use crate::failure::Failure;

/// Largest message that is read: 256 events of the largest payload, with room for their headers.
pub(crate) const MESSAGE_LIMIT: usize = 64 << 20;

/// Longest pause between two attempts to reach a service again.
const PAUSE_LIMIT: Duration = Duration::from_secs(1);

/// Returns a channel to a service of a home.
pub(crate) fn channel(home: &Home, service: &str) -> Channel {
    mirror_kit::channel(Arc::new(SocketDial::new(home.clone())), service)
}

impl Ctx {
    pub(crate) fn bus(&self) -> Result<BusServiceClient<Channel>, Failure> {
        Ok(BusServiceClient::new(channel(&self.home()?, "bus")).max_decoding_message_size(MESSAGE_LIMIT))
    }

    pub(crate) fn blobs(&self) -> Result<BlobsServiceClient<Channel>, Failure> {
        Ok(BlobsServiceClient::new(channel(&self.home()?, "blobs")).max_decoding_message_size(MESSAGE_LIMIT))
    }

    pub(crate) fn changelog(&self) -> Result<ChangelogServiceClient<Channel>, Failure> {
        let client = ChangelogServiceClient::new(channel(&self.home()?, "changelog"));
        Ok(client.max_decoding_message_size(MESSAGE_LIMIT))
    }

    pub(crate) fn import(&self) -> Result<ImportServiceClient<Channel>, Failure> {
        Ok(ImportServiceClient::new(channel(&self.home()?, "import")))
    }

    pub(crate) fn registry(&self) -> Result<RegistryServiceClient<Channel>, Failure> {
        Ok(RegistryServiceClient::new(channel(&self.home()?, "registry")))
    }

    pub(crate) fn kit(&self, service: &str) -> Result<KitServiceClient<Channel>, Failure> {
        Ok(KitServiceClient::new(channel(&self.home()?, service)))
    }

    /// Returns the failure that a service's status stands for.
    pub(crate) fn refused(&self, service: &str, status: &Status) -> Failure {
        let remote = Remote::from_status(status);
        if remote.reason.is_empty() && Remote::is_away(status) {
            return self.away(service);
        }
        let failure = Failure::of_remote(&remote);
        match status.code() {
            // A limit of the transport has no reason of ours, and its text names bytes that nobody asked about.
            Code::OutOfRange if remote.reason.is_empty() => {
                failure.hint("the answer is too large for one message")
            }
            _ => failure,
        }
    }
}

/// Returns whether asking again later may help, because the service restarts.
pub(crate) fn may_come_back(status: &Status) -> bool {
    Remote::is_away(status)
        || matches!(Remote::from_status(status).reason.as_str(), "KIT_NOT_SERVING" | "KIT_BUSY")
}

/// Pauses between attempts to reach a service again, and says once that it is away.
#[derive(Debug)]
pub(crate) struct Patience {
    service: &'static str,
    pause: Duration,
    away: bool,
}

impl Patience {
    const FIRST: Duration = Duration::from_millis(50);

    pub(crate) fn new(service: &'static str) -> Self {
        Self { service, pause: Self::FIRST, away: false }
    }

    /// Waits before the next attempt.
    pub(crate) async fn wait(&mut self) {
        if self.pause >= PAUSE_LIMIT / 4 && !self.away {
            self.away = true;
            crate::out::say(&format!("the service {} is away; waiting for it", self.service));
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_LIMIT);
    }

    /// Notes that the service answered.
    pub(crate) fn answered(&mut self) {
        if self.away {
            crate::out::say(&format!("the service {} is back", self.service));
        }
        *self = Self::new(self.service);
    }
}
