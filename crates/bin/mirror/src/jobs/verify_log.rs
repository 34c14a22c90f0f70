//! `verify-log`: reads every byte of the log with the second reader, once a day.

use mirror_contract::mirror::notify::v1::Urgency;
use mirror_kit::{Job, JobContext, JobDecl, When};
use mirror_verify::Report;

use crate::text::some;

/// The card that tells of damage.
const CARD: &str = "log.damaged";

/// The job.
pub(crate) static VERIFY_LOG: Job = Job {
    decl: &JobDecl {
        name: "verify-log",
        summary: "Checks every byte of the log with the second reader.",
        when: When::Daily { hour: 3, minute: 40 },
        limit_secs: 7_200,
    },
    run: |cx| Box::pin(run(cx)),
};

async fn run(cx: JobContext) -> Result<String, String> {
    let dir = cx.home().bus();
    if !dir.join("log").is_dir() {
        return Ok("no log yet: nothing was ever appended".to_owned());
    }
    // On a thread of its own, so that the limit of the job holds.
    let reading = tokio::task::spawn_blocking(move || mirror_verify::verify(&dir, &mut |_| {}));
    let report = match reading.await {
        Ok(Ok(report)) => report,
        Ok(Err(e)) => return Err(mirror_errors::Chain(&e).to_string()),
        Err(e) => return Err(format!("the reader failed: {e}")),
    };
    if report.is_intact() {
        clear_if_shown(&cx).await;
        let events: u64 = report.origins.iter().map(|o| o.events).sum();
        return Ok(format!("intact: {}", some(events, "event")));
    }
    let found = damage(&report);
    let body = format!("{found} See all of it with: mirror bus verify");
    let told = super::tell(&cx, CARD, "The log is damaged", &body, Urgency::High).await;
    match told {
        Ok(()) => Err(found),
        Err(why) => Err(format!("{found} And {why}")),
    }
}

/// Nobody is asked to clear a card on each sound day.
async fn clear_if_shown(cx: &JobContext) {
    let failed_before = mirror_kit::last_run(cx.home(), VERIFY_LOG.decl.name).is_some_and(|last| !last.ok);
    if failed_before {
        super::clear(cx, CARD).await;
    }
}

/// Returns the first finding in words, and how many there are.
fn damage(report: &Report) -> String {
    let all: Vec<String> = report
        .findings
        .iter()
        .chain(report.origins.iter().flat_map(|o| o.findings.iter()))
        .filter(|f| f.kind.severity() == mirror_verify::Severity::Damage)
        .map(ToString::to_string)
        .collect();
    let first = all.first().cloned().unwrap_or_else(|| "the report names no place".to_owned());
    let first = crate::text::one_line(&first, 300);
    match all.len() {
        0 | 1 => format!("Damage: {first}."),
        n => format!("Damage in {n} places, the first: {first}."),
    }
}
