//! `mirror import`: progress while it runs, a report at the end.

use std::io::IsTerminal as _;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use mirror_contract::mirror::import::v1::run_import_response::Message;
use mirror_contract::mirror::import::v1::{Format, Report, RunImportRequest};
use serde_json::json;

use crate::args::{ImportArgs, ImportFormat};
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::{ODD, Out};
use crate::text::{self, count, one_line};

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &ImportArgs) -> Result<(), Failure> {
    let path = absolute(&args.path)?;
    let format = match args.format {
        None => Format::Unspecified,
        Some(ImportFormat::Claude) => Format::Claude,
        Some(ImportFormat::Codex) => Format::Codex,
        Some(ImportFormat::Gemini) => Format::Gemini,
    };
    let request = RunImportRequest { path, format: format.into(), dry_run: args.dry_run };
    let refused = |status: &tonic::Status| ctx.refused("import", status);
    let mut stream = ctx.import()?.run_import(request).await.map_err(|s| refused(&s))?.into_inner();
    let bar = progress_bar(!out.json_wanted());
    let mut report = None;
    loop {
        let part = match stream.message().await {
            Ok(Some(part)) => part,
            Ok(None) => break,
            Err(status) => {
                bar.finish_and_clear();
                return Err(
                    refused(&status).hint("rows that were taken stay; run the same import again to go on")
                );
            }
        };
        match part.message {
            Some(Message::Progress(now)) => {
                bar.set_length(now.bytes_total);
                bar.set_position(now.bytes_done);
                bar.set_message(format!("{}  {}", text::some(now.rows, "row"), one_line(&now.file, 40)));
            }
            Some(Message::Report(last)) => report = Some(last),
            None => {}
        }
    }
    bar.finish_and_clear();
    let report = report.ok_or_else(|| ctx.away("import"))?;
    if out.json_wanted() {
        out.json(&report_json(&report, args.dry_run))
    } else {
        show(out, &report, args.dry_run)
    }
}

/// Returns the path as the service needs it; it stands somewhere else than the person does.
fn absolute(path: &Path) -> Result<String, Failure> {
    let whole = std::path::absolute(path).map_err(|e| Failure::file("find", path, &e))?;
    // The service does not follow links, but the person may name one.
    let real = std::fs::canonicalize(&whole).map_err(|e| Failure::file("read", path, &e))?;
    real.into_os_string().into_string().map_err(|name| {
        Failure::input(format!(
            "path {} is not UTF-8; rename it or import its parent",
            Path::new(&name).display()
        ))
    })
}

/// Returns a bar on standard error, or a silent one where nobody looks.
pub(crate) fn progress_bar(wanted: bool) -> ProgressBar {
    if !wanted || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {percent:>3} %  {bytes_per_sec}  {eta}  {wide_msg}")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

fn show(out: &mut Out, report: &Report, dry_run: bool) -> Result<(), Failure> {
    let taken = if dry_run { "would be taken" } else { "taken" };
    out.line(&format!("{:>9}  files read, {} ignored", count(report.files), count(report.files_ignored)))?;
    out.line(&format!("{:>9}  sessions", count(report.sessions)))?;
    out.line(&format!("{:>9}  rows", count(report.rows)))?;
    out.line(&format!("{:>9}  {taken}{}", count(report.taken), kinds(report)))?;
    out.line(&format!("{:>9}  skipped, already on the bus", count(report.skipped)))?;
    if report.blobs > 0 {
        out.line(&format!("{:>9}  payloads stored as blobs", count(report.blobs)))?;
    }
    let bad = format!("{:>9}  quarantined", count(report.quarantined));
    out.line(&if report.quarantined > 0 { out.paint(ODD, &bad) } else { bad })?;
    for row in &report.quarantine {
        out.line(&format!("           {}:{}: {}", text::block(&row.file), row.line, text::block(&row.why)))?;
    }
    let listed = report.quarantine.len() as u64;
    if report.quarantined > listed {
        out.line(&format!("           and {} more", count(report.quarantined - listed)))?;
    }
    if report.last_seq > 0 {
        out.line(&format!("the last of them is event {}", report.last_seq))?;
    }
    Ok(())
}

fn kinds(report: &Report) -> String {
    let mut kinds: Vec<_> = report.taken_by_kind.iter().collect();
    kinds.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let parts: Vec<String> = kinds.iter().map(|(kind, n)| format!("{kind} {}", count(**n))).collect();
    if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) }
}

fn report_json(report: &Report, dry_run: bool) -> serde_json::Value {
    let mut by_kind: Vec<_> = report.taken_by_kind.iter().collect();
    by_kind.sort();
    let by_kind: serde_json::Map<_, _> = by_kind.into_iter().map(|(k, n)| (k.clone(), (*n).into())).collect();
    let quarantine: Vec<_> =
        report.quarantine.iter().map(|q| json!({"file": q.file, "line": q.line, "why": q.why})).collect();
    json!({
        "dry_run": dry_run,
        "files": report.files,
        "files_ignored": report.files_ignored,
        "sessions": report.sessions,
        "rows": report.rows,
        "taken": report.taken,
        "taken_by_kind": by_kind,
        "skipped": report.skipped,
        "quarantined": report.quarantined,
        "quarantine": quarantine,
        "blobs": report.blobs,
        "last_seq": report.last_seq,
    })
}
