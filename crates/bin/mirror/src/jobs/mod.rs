//! The jobs: processes that run at their times and end by themselves.
//!
//! They refuse to mend data: what they find, they say, and only a silent watcher is restarted.

mod dead_man;
pub(crate) mod disk;
mod disk_forecast;
mod verify_log;

pub(crate) use dead_man::DEAD_MAN;
pub(crate) use disk_forecast::DISK_FORECAST;
pub(crate) use verify_log::VERIFY_LOG;

use mirror_contract::mirror::notify::v1::notify_service_client::NotifyServiceClient;
use mirror_contract::mirror::notify::v1::{Card, DeleteCardRequest, PutCardRequest, Urgency};
use mirror_kit::JobContext;

/// Shows the owner a card.
async fn tell(
    cx: &JobContext,
    subject: &str,
    title: &str,
    body: &str,
    urgency: Urgency,
) -> Result<(), String> {
    let body: String = body.chars().take(300).collect();
    let card = Card { subject: subject.to_owned(), title: title.to_owned(), body, urgency: urgency.into() };
    let asked =
        NotifyServiceClient::new(cx.channel("notify")).put_card(PutCardRequest { card: Some(card) }).await;
    asked.map(|_| ()).map_err(|e| format!("the owner could not be told: {}", e.message()))
}

/// Clears a card; where notify is away, the card tells of something that is over until the next run.
async fn clear(cx: &JobContext, subject: &str) {
    let request = DeleteCardRequest { subject: subject.to_owned() };
    if let Err(error) = NotifyServiceClient::new(cx.channel("notify")).delete_card(request).await {
        tracing::info!(subject, error = error.message(), "the card cannot be cleared");
    }
}
