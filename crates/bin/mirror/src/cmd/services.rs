//! `mirror services`: the catalogue.

use mirror_kit::Decl;
use serde_json::json;

use crate::app::app;
use crate::failure::Failure;
use crate::out::Out;

pub(crate) fn run(out: &mut Out) -> Result<(), Failure> {
    let mut catalogue = app().catalogue();
    catalogue.sort_by_key(|d| (d.tier, d.name));
    if out.json_wanted() {
        return catalogue.iter().try_for_each(|decl| out.json(&row_json(decl)));
    }
    let rows: Vec<Vec<String>> = catalogue.iter().map(|decl| row(decl)).collect();
    let header = ["SERVICE", "TIER", "PRIMITIVE", "KEPT", "MEMORY", "CALLS", "SUMMARY"];
    out.table(&header, &rows, |_| None)
}

fn row(decl: &Decl) -> Vec<String> {
    let needs: Vec<&str> = decl.needs.iter().map(|n| n.service).collect();
    vec![
        decl.name.to_owned(),
        decl.tier.to_string(),
        decl.primitive.name().to_owned(),
        decl.keep.name().to_owned(),
        format!("{} MiB", decl.memory_mb),
        if needs.is_empty() { "-".to_owned() } else { needs.join(", ") },
        decl.summary.to_owned(),
    ]
}

fn row_json(decl: &Decl) -> serde_json::Value {
    let needs: Vec<_> =
        decl.needs.iter().map(|n| json!({"service": n.service, "when_away": n.away.name()})).collect();
    json!({
        "name": decl.name,
        "summary": decl.summary,
        "primitive": decl.primitive.name(),
        "tier": decl.tier,
        "keep": decl.keep.name(),
        "criticality": decl.criticality.name(),
        "needs": needs,
        "serves": decl.serves,
        "subjects": decl.subjects,
        "memory_mb": decl.memory_mb,
        "binary": decl.binary.name(),
        "label": decl.label(),
    })
}
