//! Claude Code: one JSON row a line; sub-agents in files of their own, their rows marked `isSidechain`.
//!
//! The format is undocumented and changes often, so the rules ask for little: a row whose type is unknown is kept as
//! `other` and labelled untrusted.

use crate::json::Fields;
use crate::kind::Kind;
use crate::row::Facts;
use crate::view::{self, Found, Tokens};

/// Beginnings of user rows that the program wrote, with what they are.
const WRAPPERS: [(&str, Kind); 7] = [
    ("<task-notification", Kind::ToolResult),
    ("<bash-stdout", Kind::ToolResult),
    ("<bash-stderr", Kind::ToolResult),
    ("<local-command-stdout", Kind::ToolResult),
    ("<local-command-stderr", Kind::ToolResult),
    ("<system-reminder", Kind::System),
    ("[Request interrupted by user", Kind::System),
];

/// Returns what a row is.
pub(crate) fn facts(row: &Fields<'_>) -> Facts {
    let kind = row.text("type").unwrap_or_default();
    let message = row.object("message");
    let mut facts = Facts {
        session: row.text("sessionId").or_else(|| row.text("session_id")),
        agent: row.text("agentId"),
        at: row
            .text("timestamp")
            .or_else(|| row.object("snapshot").and_then(|snapshot| snapshot.text("timestamp"))),
        sidechain: row.flag("isSidechain"),
        ..Facts::default()
    };
    let (what, untrusted) = match kind.as_str() {
        "user" => user(row, message.as_ref()),
        "assistant" => {
            facts.model = message.as_ref().and_then(|m| m.text("model"));
            (Kind::Turn, message.is_some_and(|m| has_block(&m, "tool_result")))
        }
        "progress" => (Kind::Progress, true),
        "system" => system(row),
        "file-history-snapshot" | "file-history-delta" => (Kind::Snapshot, false),
        "queue-operation" => {
            let told = row.text("content").is_some_and(|text| text.starts_with("<task-notification"));
            (Kind::Queue, told)
        }
        "attachment" | "saved_hook_context" | "api-request" => (Kind::Context, true),
        "tools-used" | "cost-state" => (Kind::Usage, false),
        "summary" | "custom-title" | "ai-title" | "last-prompt" | "agent-name" | "agent-color"
        | "agent-setting" | "mode" | "permission-mode" | "pr-link" | "tag" | "worktree-state" => {
            (Kind::Meta, false)
        }
        _ => (Kind::Other, true),
    };
    facts.kind = what;
    facts.untrusted = untrusted;
    facts.summary = row.flag("isCompactSummary");
    facts
}

fn user(row: &Fields<'_>, message: Option<&Fields<'_>>) -> (Kind, bool) {
    if row.flag("isCompactSummary") {
        return (Kind::Compaction, false);
    }
    if row.has("toolUseResult") || message.is_some_and(|m| has_block(m, "tool_result")) {
        return (Kind::ToolResult, true);
    }
    let opening = message.and_then(|m| view::opening(m.raw("content"))).unwrap_or_default();
    let opening = opening.trim_start();
    match WRAPPERS.iter().find(|(start, _)| opening.starts_with(start)) {
        Some((_, kind)) => (*kind, opening.starts_with('<')),
        None if row.flag("isMeta") => (Kind::System, true),
        None => (Kind::Prompt, false),
    }
}

fn system(row: &Fields<'_>) -> (Kind, bool) {
    match row.text("subtype").unwrap_or_default().as_str() {
        "compact_boundary" | "microcompact_boundary" => (Kind::Compaction, false),
        "turn_duration" => (Kind::System, false),
        _ => (Kind::System, true),
    }
}

fn has_block(message: &Fields<'_>, end: &str) -> bool {
    message
        .list("content")
        .into_iter()
        .filter_map(|block| Fields::parse(block).ok())
        .any(|block| block.text("type").is_some_and(|kind| kind.ends_with(end)))
}

/// Finds the readable text, tools and tokens of a row.
pub(crate) fn look(row: &Fields<'_>, found: &mut Found) {
    found.cwd = row.text("cwd");
    if let Some(message) = row.object("message") {
        blocks(&message, found);
        if let Some(usage) = message.object("usage") {
            found.tokens = Some(tokens(&usage));
        }
    }
    if let Some(data) = row.object("data") {
        progress(&data, found);
    }
    found.first_of(
        row,
        &["content", "summary", "customTitle", "aiTitle", "lastPrompt", "subtype", "operation"],
    );
}

fn tokens(usage: &Fields<'_>) -> Tokens {
    let count = |name| usage.number(name).unwrap_or(0);
    let cached = count("cache_read_input_tokens");
    let input = count("input_tokens").saturating_add(count("cache_creation_input_tokens"));
    Tokens { input: input.saturating_add(cached), cached, output: count("output_tokens") }
}

fn blocks(message: &Fields<'_>, found: &mut Found) {
    if message.text("content").is_some() {
        view::content(message.raw("content"), found);
        return;
    }
    for block in message.list("content") {
        let Ok(block) = Fields::parse(block) else { continue };
        match block.text("type").unwrap_or_default().as_str() {
            "tool_use" | "server_tool_use" | "mcp_tool_use" => {
                found.tool(block.text("name"), block.raw("input"))
            }
            kind if kind.ends_with("tool_result") => view::content(block.raw("content"), found),
            _ => found.first_of(&block, &["text", "thinking"]),
        }
    }
}

fn progress(data: &Fields<'_>, found: &mut Found) {
    found.first_of(data, &["hookName", "taskDescription", "query", "prompt"]);
    found.first_of(data, &["fullOutput", "output", "command"]);
    let inner = data.object("message").and_then(|message| message.object("message"));
    if let Some(inner) = inner {
        blocks(&inner, found);
    }
}

/// Types by which a row is recognised when it names its session.
const TYPES: [&str; 8] = [
    "user",
    "assistant",
    "system",
    "progress",
    "queue-operation",
    "attachment",
    "custom-title",
    "last-prompt",
];

/// Returns whether an object's member names are those of a row.
pub(crate) fn is_row(kind: Option<&str>, has: impl Fn(&str) -> bool) -> bool {
    match kind {
        Some("file-history-snapshot") => has("messageId") || has("snapshot"),
        Some("summary") => has("leafUuid"),
        Some(kind) if TYPES.contains(&kind) => has("sessionId") || (has("session_id") && has("uuid")),
        Some(_) => has("sessionId") && has("uuid") && has("parentUuid"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(row: &str, kind: Kind, labels: &str) {
        let facts = facts(&Fields::parse(row).unwrap());
        let mut found = Vec::new();
        found.extend(facts.sidechain.then_some("sidechain"));
        found.extend(facts.summary.then_some("summary"));
        found.extend(facts.untrusted.then_some("untrusted"));
        assert_eq!((facts.kind, found.join(" ").as_str()), (kind, labels), "{row}");
    }

    #[test]
    fn what_a_person_typed_is_a_prompt() {
        check(r#"{"type":"user","message":{"role":"user","content":"go on"}}"#, Kind::Prompt, "");
        check(r#"{"type":"user","message":{"content":[{"type":"text","text":"go on"}]}}"#, Kind::Prompt, "");
        check(
            r#"{"type":"user","message":{"content":"<command-name>/mcp</command-name>"}}"#,
            Kind::Prompt,
            "",
        );
        check(
            r#"{"type":"user","isSidechain":true,"message":{"content":"look"}}"#,
            Kind::Prompt,
            "sidechain",
        );
    }

    #[test]
    fn what_tools_and_hooks_said_is_untrusted() {
        let result = r#"{"type":"user","message":{"content":[{"type":"tool_result","content":"x"}]}}"#;
        check(result, Kind::ToolResult, "untrusted");
        check(
            r#"{"type":"user","toolUseResult":{"stdout":"x"},"message":{}}"#,
            Kind::ToolResult,
            "untrusted",
        );
        check(r#"{"type":"user","message":{"content":"<bash-stdout>x"}}"#, Kind::ToolResult, "untrusted");
        check(
            r#"{"type":"user","message":{"content":"\n<task-notification>"}}"#,
            Kind::ToolResult,
            "untrusted",
        );
        check(
            r#"{"type":"user","isMeta":true,"message":{"content":"<system-reminder>"}}"#,
            Kind::System,
            "untrusted",
        );
        check(r#"{"type":"user","isMeta":true,"message":{"content":"a skill"}}"#, Kind::System, "untrusted");
        check(r#"{"type":"progress","data":{"type":"hook_progress"}}"#, Kind::Progress, "untrusted");
        check(r#"{"type":"system","subtype":"stop_hook_summary"}"#, Kind::System, "untrusted");
        check(r#"{"type":"attachment","attachment":{}}"#, Kind::Context, "untrusted");
        check(
            r#"{"type":"assistant","message":{"content":[{"type":"web_search_tool_result"}]}}"#,
            Kind::Turn,
            "untrusted",
        );
        check(
            r#"{"type":"queue-operation","operation":"enqueue","content":"<task-notification>"}"#,
            Kind::Queue,
            "untrusted",
        );
    }

    #[test]
    fn the_rest_of_the_known_rows() {
        check(r#"{"type":"assistant","message":{"content":[]}}"#, Kind::Turn, "");
        check(r#"{"type":"user","message":{"content":"[Request interrupted by user]"}}"#, Kind::System, "");
        check(r#"{"type":"system","subtype":"compact_boundary"}"#, Kind::Compaction, "");
        check(
            r#"{"type":"user","isCompactSummary":true,"message":{"content":"so far"}}"#,
            Kind::Compaction,
            "summary",
        );
        check(r#"{"type":"file-history-snapshot","messageId":"m"}"#, Kind::Snapshot, "");
        check(r#"{"type":"queue-operation","operation":"remove"}"#, Kind::Queue, "");
        check(r#"{"type":"summary","summary":"A title","leafUuid":"u"}"#, Kind::Meta, "");
        check(r#"{"type":"cost-state","sessionId":"s"}"#, Kind::Usage, "");
    }

    #[test]
    fn an_unknown_row_is_kept_and_not_trusted() {
        check(r#"{"type":"invented-tomorrow"}"#, Kind::Other, "untrusted");
        check(r#"{"type":7}"#, Kind::Other, "untrusted");
        check(r#"{"type":"user","message":"odd"}"#, Kind::Prompt, "");
    }

    #[test]
    fn a_snapshot_has_the_time_inside() {
        let row = r#"{"type":"file-history-snapshot","snapshot":{"timestamp":"2026-01-02T03:04:05Z"}}"#;
        assert_eq!(facts(&Fields::parse(row).unwrap()).at.as_deref(), Some("2026-01-02T03:04:05Z"));
    }

    #[test]
    fn a_turn_is_seen_with_its_tools_and_tokens() {
        let row = r#"{"type":"assistant","cwd":"/srv/app","message":{"model":"claude-x","content":[
            {"type":"text","text":"I look."},{"type":"tool_use","name":"Bash","input":{"command":"ls"}}],
            "usage":{"input_tokens":3,"cache_creation_input_tokens":10,"cache_read_input_tokens":20,"output_tokens":5}}}"#;
        let mut found = Found::default();
        look(&Fields::parse(row).unwrap(), &mut found);
        assert_eq!(found.tools, ["Bash"]);
        assert_eq!(found.cwd.as_deref(), Some("/srv/app"));
        assert_eq!(found.tokens, Some(Tokens { input: 33, cached: 20, output: 5 }));
    }
}
