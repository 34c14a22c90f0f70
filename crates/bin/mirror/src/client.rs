//! Clients to services, for commands.

use std::sync::Arc;
use std::time::Duration;

use mirror_contract::mirror::blobs::v1::blobs_service_client::BlobsServiceClient;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::consumer_service_client::ConsumerServiceClient;
use mirror_contract::mirror::changelog::v1::changelog_service_client::ChangelogServiceClient;
use mirror_contract::mirror::halt::v1::halt_service_client::HaltServiceClient;
use mirror_contract::mirror::import::v1::import_service_client::ImportServiceClient;
use mirror_contract::mirror::keeper::v1::keeper_service_client::KeeperServiceClient;
use mirror_contract::mirror::kit::v1::kit_service_client::KitServiceClient;
use mirror_contract::mirror::notify::v1::notify_service_client::NotifyServiceClient;
use mirror_contract::mirror::pulse::v1::pulse_service_client::PulseServiceClient;
use mirror_contract::mirror::registry::v1::registry_service_client::RegistryServiceClient;
use mirror_contract::mirror::remedy::v1::remedy_service_client::RemedyServiceClient;
use mirror_contract::mirror::schedule::v1::schedule_service_client::ScheduleServiceClient;
use mirror_contract::mirror::supervisor::v1::supervisor_service_client::SupervisorServiceClient;
use mirror_contract::mirror::witness::v1::witness_service_client::WitnessServiceClient;
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

    pub(crate) fn consumers(&self) -> Result<ConsumerServiceClient<Channel>, Failure> {
        let client = ConsumerServiceClient::new(channel(&self.home()?, "bus"));
        Ok(client.max_decoding_message_size(MESSAGE_LIMIT))
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

    pub(crate) fn supervisor(&self) -> Result<SupervisorServiceClient<Channel>, Failure> {
        Ok(SupervisorServiceClient::new(channel(&self.home()?, "supervisor")))
    }

    pub(crate) fn halt(&self) -> Result<HaltServiceClient<Channel>, Failure> {
        Ok(HaltServiceClient::new(channel(&self.home()?, "halt")))
    }

    pub(crate) fn keeper(&self) -> Result<KeeperServiceClient<Channel>, Failure> {
        Ok(KeeperServiceClient::new(channel(&self.home()?, "keeper")))
    }

    pub(crate) fn witness(&self) -> Result<WitnessServiceClient<Channel>, Failure> {
        Ok(WitnessServiceClient::new(channel(&self.home()?, "witness")))
    }

    pub(crate) fn schedule(&self) -> Result<ScheduleServiceClient<Channel>, Failure> {
        Ok(ScheduleServiceClient::new(channel(&self.home()?, "schedule")))
    }

    pub(crate) fn notify(&self) -> Result<NotifyServiceClient<Channel>, Failure> {
        Ok(NotifyServiceClient::new(channel(&self.home()?, "notify")))
    }

    pub(crate) fn pulse(&self) -> Result<PulseServiceClient<Channel>, Failure> {
        Ok(PulseServiceClient::new(channel(&self.home()?, "pulse")))
    }

    pub(crate) fn remedy(&self) -> Result<RemedyServiceClient<Channel>, Failure> {
        Ok(RemedyServiceClient::new(channel(&self.home()?, "remedy")))
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
