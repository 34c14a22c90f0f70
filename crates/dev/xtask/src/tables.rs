//! Tables in the documentation: services, access, errors.

use std::fmt::Write as _;

use mirror_contract::METHODS;
use mirror_kit::{ACCESS, Decl, PrincipalKind};

use crate::catalogue::Reasons;

const HEAD: &str = "<!-- Rendered by `cargo xtask render`; an edit here is refused by the tests. -->\n";

/// Returns the table of services and the call graph, for ARCHITECTURE.md.
pub fn services(catalogue: &[&'static Decl]) -> String {
    let mut text = String::from(
        "| service | primitive | tier | what it does | its absence is | kept | memory |\n|---|---|---|---|---|---|---|\n",
    );
    let mut rows = catalogue.to_vec();
    rows.sort_by_key(|d| (d.tier, d.name));
    for d in &rows {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} | {} MB |",
            d.name,
            d.primitive.name(),
            d.tier,
            d.summary,
            absence(d),
            d.keep.name(),
            d.memory_mb
        );
    }
    text.push_str("\nWho calls whom, and what the caller does while the other is away:\n\n```text\n");
    let width = rows.iter().map(|d| d.name.len()).max().unwrap_or(0);
    for d in &rows {
        let needs: Vec<String> = d
            .needs
            .iter()
            .map(|n| format!("{} ({})", n.service, n.away.name().to_ascii_lowercase()))
            .collect();
        let needs = if needs.is_empty() { "nobody".to_owned() } else { needs.join(", ") };
        let _ = writeln!(text, "tier {}  {:width$} -> {needs}", d.tier, d.name);
    }
    text.push_str("```\n");
    text
}

fn absence(decl: &Decl) -> &'static str {
    match decl.criticality {
        mirror_kit::Criticality::Vital => "fatal",
        mirror_kit::Criticality::Important => "serious",
        mirror_kit::Criticality::Useful => "a nuisance",
    }
}

/// Returns docs/ACCESS.md: who may call what.
pub fn access() -> String {
    let kinds = PrincipalKind::ALL;
    let mut text = format!(
        "# Access\n\n{HEAD}\n\
         Who may call what; what is not here is refused.\n\
         The rights stand in one table, `crates/kit/kit/src/access.rs`; the options stand at each RPC in `proto/`.\n\
         The guard of the kit enforces both before a request reaches a service.\n\
         `agent`, `owner` and `device` have columns but no callers: nothing can prove to be one of them yet.\n\
         A process of another user is refused before this table is read.\n\n\
         ## Scopes\n\n| scope |"
    );
    for kind in kinds {
        let _ = write!(text, " {} |", kind.name());
    }
    let _ = writeln!(text, " methods |\n|---|{}---|", "---|".repeat(kinds.len()));
    let mut table = ACCESS.to_vec();
    table.sort_by_key(|(scope, _)| *scope);
    for (scope, holders) in table {
        let _ = write!(text, "| `{scope}` |");
        for kind in kinds {
            let _ = write!(text, " {} |", if holders.contains(&kind) { "yes" } else { "no" });
        }
        let mut methods: Vec<String> = METHODS
            .iter()
            .filter(|m| m.scope == scope)
            .map(|m| format!("`{}/{}`", m.service.rsplit('.').next().unwrap_or_default(), m.name))
            .collect();
        if scope == "kit.read" {
            methods.push("health".to_owned());
            methods.push("reflection".to_owned());
        }
        let _ = writeln!(text, " {} |", methods.join(", "));
    }
    text.push_str("\n## Methods\n\n| method | scope | risk | under halt | idempotent | deadline |\n|---|---|---|---|---|---|\n");
    for m in METHODS {
        let risk =
            if m.action_field.is_empty() { m.risk.to_owned() } else { format!("by `{}`", m.action_field) };
        let deadline = if m.deadline_ms == 0 { "stream".to_owned() } else { format!("{} ms", m.deadline_ms) };
        let _ = writeln!(
            text,
            "| `{}` | `{}` | {} | {} | {} | {deadline} |",
            m.path,
            m.scope,
            risk.to_ascii_lowercase(),
            if m.when_halted == "ALLOW" { "goes on" } else { "refused" },
            if m.idempotent { "yes" } else { "no" },
        );
    }
    text
}

/// Returns docs/errors/README.md: the index of all reasons.
pub fn errors(reasons: &Reasons) -> String {
    let mut text = format!(
        "# Errors\n\n{HEAD}\n\
         Every error carries a stable reason in its `google.rpc.ErrorInfo`, and each reason has a page here.\n\
         Programs match on the reason and the gRPC code, never on the message.\n"
    );
    for (owner, reasons) in reasons {
        let title = match *owner {
            "kit" => "kit: any service",
            "cli" => "cli: the command line, without a service",
            service => service,
        };
        let _ = write!(text, "\n## {title}\n\n");
        for reason in reasons {
            let _ = writeln!(text, "- [{reason}]({reason}.md)");
        }
    }
    text
}
