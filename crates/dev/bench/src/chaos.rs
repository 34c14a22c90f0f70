//! The table of docs/CHAOS.md.

use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

use crate::machine::describe;

const INTRO: &str = "# Faults and what the fleet makes of them

Written by `mirror-bench chaos` from the rows of the chaos suite; nothing in the table is typed by hand.

Each fault is made in a fleet of real processes under `mirror up` (the real services, a hub with ten dependents, leaves).
*Detect* is the time from the fault until pulse shows it, *recover* until the target serves again and pulse says so, both
seen from outside every tenth of a second.
A process that had run for ten seconds is started again at once, a younger one when launchd's floor of ten seconds has
passed; where no remedy is named the supervisor did it alone.
*Neighbours* counts healthy processes that were restarted though the fault was not theirs.
A dash means that there was nothing to measure.

Clock jumps and a sleep of two hours cannot be made on a shared machine; they are tested with a manual clock
(`cargo test -p mirror-pulse -p mirror-schedule -p mirror-agents`).

Run it: `cargo test -p mirror-drill --features chaos --test chaos -- --nocapture`.
";

pub(crate) fn run(rows: &Path, out: &Path) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(rows).with_context(|| format!("read {}", rows.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "json") {
            let value: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)
                .with_context(|| format!("read {}", path.display()))?;
            all.push(value);
        }
    }
    all.sort_by_key(|row| text(row, "fault"));
    let mut page = format!("{INTRO}\nMachine: {}.\n\n", describe());
    page.push_str("| fault | target | verdict | cause | remedy | detect | recover | neighbours |\n");
    page.push_str("|---|---|---|---|---|---|---|---|\n");
    for row in &all {
        let cells = [
            text(row, "fault"),
            text(row, "target"),
            text(row, "verdict"),
            list(row, "causes"),
            list(row, "remedies"),
            seconds(row, "detect_ms"),
            seconds(row, "recover_ms"),
            row["collateral"].to_string(),
        ];
        page.push_str(&format!("| {} |\n", cells.map(|c| c.replace('|', "/")).join(" | ")));
    }
    page.push_str(&format!("\n{} faults.\n", all.len()));
    for (what, cause) in [("crashes", "crashed"), ("hangs", "hung")] {
        let mut times: Vec<f64> = all
            .iter()
            .filter(|r| r["causes"].as_array().is_some_and(|c| c.iter().any(|c| c == cause)))
            // A start that is slow on purpose says nothing about the supervisor.
            .filter(|r| !text(r, "fault").contains("slow start"))
            .filter_map(|r| r["recover_ms"].as_f64())
            .collect();
        times.sort_by(f64::total_cmp);
        if let Some(worst) = times.last() {
            let p95 = times[(times.len() * 95).div_ceil(100) - 1];
            page.push_str(&format!(
                "Recovery from {what}: {} rows, p95 {:.1} s, longest {:.1} s.\n",
                times.len(),
                p95 / 1e3,
                worst / 1e3
            ));
        }
    }
    std::fs::write(out, page)?;
    println!("wrote {} with {} rows", out.display(), all.len());
    Ok(())
}

fn text(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap_or_default().to_owned()
}

fn list(row: &Value, key: &str) -> String {
    let items: Vec<&str> = row[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}

fn seconds(row: &Value, key: &str) -> String {
    row[key].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{:.1} s", ms / 1e3))
}
