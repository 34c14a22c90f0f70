//! `mirror bus verify`: the verdict of the second reader.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use mirror_verify::{Note, Options, OriginReport, Report, Severity, Tail, VerifyError};
use serde_json::json;

use crate::args::VerifyArgs;
use crate::cmd::import::progress_bar;
use crate::ctx::Ctx;
use crate::failure::{EXIT_DAMAGE, Failure};
use crate::out::{BAD, DIM, GOOD, ODD, Out};
use crate::text::{self, count, some};

/// Largest file that is read as a checkpoint.
const NOTE_LIMIT: u64 = 64 << 10;

pub(crate) fn run(ctx: &Ctx, out: &mut Out, args: &VerifyArgs) -> Result<(), Failure> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => ctx.home()?.bus(),
    };
    let notes = args.checkpoint.iter().map(|path| note(path)).collect::<Result<Vec<_>, _>>()?;
    let report = look(out, &dir, notes)?;
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

/// Verifies a folder, with a bar where there is a terminal.
pub(crate) fn look(out: &Out, dir: &Path, notes: Vec<Note>) -> Result<Report, Failure> {
    let bar = progress_bar(!out.json_wanted());
    let options = Options { notes, ..Options::default() };
    let result = mirror_verify::verify_with(dir, &options, &mut |now| {
        bar.set_length(now.total);
        bar.set_position(now.bytes);
        bar.set_message(format!("{} events  {}", count(now.events), now.segment));
    });
    bar.finish_and_clear();
    result.map_err(|error| {
        let failure = Failure::of(&error);
        match error {
            VerifyError::Unreadable { .. } if !dir.exists() => failure.hint("a home is made by: mirror init"),
            _ => failure,
        }
    })
}

fn note(path: &Path) -> Result<Note, Failure> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(NOTE_LIMIT).read_to_string(&mut text));
    read.map_err(|error| Failure::file("read", path, &error))?;
    Ok(Note { name: path.display().to_string(), text })
}

/// Returns what is damaged, in words; none when nothing is.
pub(crate) fn damage(report: &Report) -> Option<String> {
    let logs = report.origins.iter().flat_map(|log| log.findings.iter());
    let mut all = report.findings.iter().chain(logs);
    all.find(|finding| finding.kind.severity() == Severity::Damage).map(ToString::to_string)
}

fn show(out: &mut Out, report: &Report) -> Result<(), Failure> {
    for origin in &report.origins {
        show_log(out, origin)?;
    }
    if report.origins.is_empty() {
        out.line("no log yet: nothing was ever appended")?;
    }
    for finding in &report.findings {
        let style = if finding.kind.severity() == Severity::Damage { BAD } else { ODD };
        out.line(&out.paint(style, &text::block(&finding.to_string())))?;
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
    if log.compressed > 0 {
        out.line(&format!("  {} compressed", some(log.compressed, "segment")))?;
    }
    if log.checkpoints > 0 {
        let covered = count(log.covered);
        out.line(&format!("  {} fit, up to event {covered}", some(log.checkpoints, "checkpoint")))?;
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
