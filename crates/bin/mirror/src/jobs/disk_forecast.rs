//! `disk-forecast`: tells the owner in time that the disk fills.

use mirror_contract::mirror::notify::v1::Urgency;
use mirror_kit::{Job, JobContext, JobDecl, When};

use super::disk::{self, FREE_LOW};

/// The card that tells of it.
const CARD: &str = "disk.low";

/// The job.
pub(crate) static DISK_FORECAST: Job = Job {
    decl: &JobDecl {
        name: "disk-forecast",
        summary: "Tells in time that the disk fills.",
        when: When::Daily { hour: 4, minute: 10 },
        limit_secs: 120,
    },
    run: |cx| Box::pin(run(cx)),
};

async fn run(cx: JobContext) -> Result<String, String> {
    let forecast = disk::look(cx.home(), cx.env().clock.wall_ms())
        .map_err(|e| format!("the disk cannot be looked at: {e}"))?;
    let words = forecast.in_words();
    if !forecast.is_low() {
        super::clear(&cx, CARD).await;
        return Ok(words);
    }
    let urgency = if forecast.free < FREE_LOW { Urgency::High } else { Urgency::Default };
    let body = format!("{words}. Make room on the disk of {}.", cx.home().root().display());
    super::tell(&cx, CARD, "The disk fills", &body, urgency).await?;
    Ok(format!("{words}; the owner was told"))
}
