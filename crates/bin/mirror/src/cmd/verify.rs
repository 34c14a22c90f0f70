//! `mirror bus verify`: the verdict of the second reader.

use mirror_verify::{OriginReport, Report, Severity, Tail, VerifyError};
use serde_json::json;

use crate::args::BusVerb;
use crate::cmd::import::progress_bar;
use crate::ctx::Ctx;
use crate::failure::{EXIT_DAMAGE, Failure};
use crate::out::{BAD, DIM, GOOD, ODD, Out};
use crate::text::{self, count, some};

pub(crate) fn run(ctx: &Ctx, out: &mut Out, verb: &BusVerb) -> Result<(), Failure> {
    let BusVerb::Verify { dir } = verb;
    let dir = match dir {
        Some(dir) => dir.clone(),
        None => ctx.home()?.bus(),
    };
    let bar = progress_bar(!out.json_wanted());
    let result = mirror_verify::verify(&dir, &mut |now| {
        bar.set_length(now.total);
        bar.set_position(now.bytes);
        bar.set_message(format!("{} events  {}", count(now.events), now.segment));
    });
    bar.finish_and_clear();
    let report = result.map_err(|error| {
        let failure = Failure::of(&error);
        match error {
            VerifyError::Unreadable { .. } if !dir.exists() => failure.hint("a home is made by: mirror init"),
            _ => failure,
        }
    })?;
    if out.json_wanted() {
        let mut value =
            serde_json::to_value(&report).map_err(|e| Failure::bug(format!("the report is no JSON: {e}")))?;
        value["intact"] = json!(report.is_intact());
        value["folder"] = json!(dir);
        out.json(&value)?;
    } else {
        show(out, &report)?;
    }
    if report.is_intact() { Ok(()) } else { Err(Failure::Said(EXIT_DAMAGE)) }
}

fn show(out: &mut Out, report: &Report) -> Result<(), Failure> {
    for origin in &report.origins {
        show_log(out, origin)?;
    }
    if report.origins.is_empty() {
        out.line("no log yet: nothing was ever appended")?;
    }
    for finding in &report.findings {
        out.line(&out.paint(BAD, &text::block(&finding.to_string())))?;
    }
    let verdict = match report.severity() {
        Severity::Clean => out.paint(GOOD, "intact"),
        Severity::Notice => format!("{}, with notes", out.paint(GOOD, "intact")),
        Severity::TornTail => {
            format!("{}; the torn tail holds nothing that was acknowledged", out.paint(GOOD, "intact"))
        }
        Severity::Damage => out.paint(BAD, "DAMAGED"),
    };
    out.line(&format!("verdict: {verdict}"))
}

fn show_log(out: &mut Out, log: &OriginReport) -> Result<(), Failure> {
    let name = if log.origin.is_empty() { "(unnamed)" } else { &log.origin };
    let range =
        if log.events == 0 { "empty".to_owned() } else { format!("{} to {}", log.first_seq, log.head_seq) };
    out.line(&format!(
        "log {name}: {} ({range}) in {}, {} of payload",
        some(log.events, "event"),
        some(log.segments, "segment"),
        text::bytes(log.payload_bytes)
    ))?;
    for (what, hash) in [("head", &log.head_leaf_hex), ("root", &log.root_hex)] {
        if let Some(hash) = hash {
            out.line(&format!("  {}  {hash}", out.paint(DIM, what)))?;
        }
    }
    if log.redacted_count > 0 {
        out.line(&format!("  {} lawfully erased", some(log.redacted_count, "payload")))?;
    }
    if let Tail::Torn { segment, offset, bytes } = &log.tail {
        let text = format!(
            "  torn tail: {bytes} bytes in {segment} at byte {offset}; the bus quarantines them when it starts"
        );
        out.line(&out.paint(ODD, &text::block(&text)))?;
    }
    for finding in &log.findings {
        let style = if finding.kind.severity() == Severity::Damage { BAD } else { ODD };
        out.line(&format!("  {}", out.paint(style, &text::block(&finding.to_string()))))?;
    }
    if log.findings_left_out > 0 {
        out.line(&format!("  and {} more", some(log.findings_left_out, "finding")))?;
    }
    Ok(())
}
