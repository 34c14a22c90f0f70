//! `mirror bus repair`: restores damaged ranges from a copy.

use mirror_contract::mirror::bus::v1::{RepairRequest, repair_response::Range};
use serde_json::json;

use crate::args::RepairArgs;
use crate::ctx::Ctx;
use crate::failure::{EXIT_DAMAGE, Failure};
use crate::out::{BAD, GOOD, Out};
use crate::text::{block, some};

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &RepairArgs) -> Result<(), Failure> {
    let from = std::path::absolute(&args.from).map_err(|e| Failure::file("find", &args.from, &e))?;
    let from =
        from.to_str().ok_or_else(|| Failure::input("--from is not UTF-8; name the folder by a link"))?;
    let request = RepairRequest { from: from.to_owned() };
    let answer = ctx.bus()?.repair(request).await.map_err(|s| ctx.refused("bus", &s))?;
    let ranges = answer.into_inner().ranges;
    let left = ranges.iter().filter(|range| !range.why.is_empty()).count();
    for range in &ranges {
        if out.json_wanted() {
            out.json(&json!({ "first": range.first, "last": range.last, "why": range.why }))?;
        } else {
            let line = told(range);
            out.line(&out.paint(if range.why.is_empty() { GOOD } else { BAD }, &block(&line)))?;
        }
    }
    if !out.json_wanted() {
        out.line(&match (ranges.len(), left) {
            (0, _) => "the log is whole; nothing was changed".to_owned(),
            (_, 0) => "the log is whole again; what was damaged is kept in bus/quarantine".to_owned(),
            _ => format!(
                "{} damaged; try another copy",
                some(left as u64, "range") + if left == 1 { " stays" } else { " stay" }
            ),
        })?;
    }
    if left == 0 { Ok(()) } else { Err(Failure::Said(EXIT_DAMAGE)) }
}

fn told(range: &Range) -> String {
    let Range { first, last, why } = range;
    let events = if first == last { format!("event {first}") } else { format!("events {first} to {last}") };
    if why.is_empty() { format!("repaired  {events}") } else { format!("damaged   {events}: {why}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_told_with_its_reason() {
        let range = |first, last, why: &str| told(&Range { first, last, why: why.to_owned() });
        assert_eq!(range(3, 3, ""), "repaired  event 3");
        assert_eq!(range(3, 9, "the copy ends"), "damaged   events 3 to 9: the copy ends");
    }
}
