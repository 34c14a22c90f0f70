//! Codex rollouts: one JSON row a line with `timestamp`, `type` and `payload`; the first is `session_meta`.
//!
//! Rollouts of 2025 have bare items instead: a header without a type, then messages and calls by themselves. A
//! rollout that was forked repeats its parent's rows, headers included; the first header names the session.

use crate::json::Fields;
use crate::kind::Kind;
use crate::row::Facts;
use crate::view::{self, Found, Tokens};

/// Types of rows that have a payload.
const TYPES: [&str; 9] = [
    "session_meta",
    "response_item",
    "event_msg",
    "turn_context",
    "world_state",
    "compacted",
    "token_usage_record",
    "inter_agent_communication",
    "inter_agent_communication_metadata",
];

/// Beginnings of user messages that the program wrote.
const INJECTED: [&str; 6] = [
    "<environment_context>",
    "<user_instructions>",
    "<permissions instructions>",
    "<skills_instructions>",
    "<turn_aborted>",
    "# AGENTS.md instructions",
];

/// Events that hold only what the person, the model or the program said.
const OWN_EVENTS: [&str; 15] = [
    "user_message",
    "agent_message",
    "agent_reasoning",
    "agent_reasoning_raw_content",
    "agent_reasoning_section_break",
    "token_count",
    "task_started",
    "task_complete",
    "turn_started",
    "turn_complete",
    "turn_aborted",
    "thread_rolled_back",
    "thread_goal_updated",
    "context_compacted",
    "entered_review_mode",
];

/// What earlier rows of a file say about later ones.
#[derive(Debug, Default)]
pub(crate) struct State {
    session: Option<String>,
    agent: Option<String>,
    model: Option<String>,
}

impl State {
    /// Returns what a row is.
    pub(crate) fn facts(&mut self, row: &Fields<'_>) -> Facts {
        let payload = row.object("payload");
        let (kind, untrusted) = match (row.text("type").as_deref(), &payload) {
            (Some("session_meta"), Some(payload)) => {
                self.header(payload);
                (Kind::Meta, false)
            }
            (Some("response_item"), Some(payload)) => item(payload),
            (Some("event_msg"), Some(payload)) => event(payload),
            (Some("turn_context"), Some(payload)) => {
                self.model = payload.text("model").or_else(|| self.model.take());
                (Kind::Context, false)
            }
            (Some("world_state"), Some(_)) => (Kind::Context, true),
            (Some("compacted"), Some(payload)) => (Kind::Compaction, payload.has("replacement_history")),
            (Some("token_usage_record"), Some(_)) => (Kind::Usage, false),
            (Some(_), Some(_)) => (Kind::Other, true),
            (Some(_), None) => item(row),
            (None, _) if row.has("record_type") => (Kind::System, false),
            (None, _) if is_bare_header(|name| row.has(name)) => {
                self.header(row);
                (Kind::Meta, false)
            }
            (None, _) => (Kind::Other, true),
        };
        Facts {
            kind,
            session: self.session.clone(),
            agent: self.agent.clone(),
            at: row.text("timestamp"),
            model: if kind == Kind::Turn { self.model.clone() } else { None },
            untrusted,
            sidechain: self.agent.is_some(),
            summary: row.text("type").as_deref() == Some("compacted"),
        }
    }

    fn header(&mut self, meta: &Fields<'_>) {
        if self.session.is_some() {
            return;
        }
        self.session = meta.text("id").or_else(|| meta.text("session_id"));
        let spawned = meta.object("source").is_some_and(|source| source.has("subagent"))
            || meta.text("thread_source").as_deref() == Some("subagent")
            || meta.has("parent_thread_id");
        if spawned {
            self.agent.clone_from(&self.session);
        }
    }
}

fn item(payload: &Fields<'_>) -> (Kind, bool) {
    match payload.text("type").unwrap_or_default().as_str() {
        "message" => match payload.text("role").as_deref() {
            Some("assistant") => (Kind::Turn, false),
            Some("user") => {
                let opening = view::opening(payload.raw("content")).unwrap_or_default();
                let injected = INJECTED.iter().any(|start| opening.trim_start().starts_with(start));
                if injected { (Kind::Context, true) } else { (Kind::Prompt, false) }
            }
            _ => (Kind::Context, true),
        },
        "reasoning"
        | "function_call"
        | "custom_tool_call"
        | "local_shell_call"
        | "tool_search_call"
        | "web_search_call"
        | "image_generation_call" => (Kind::Turn, false),
        "compaction" | "context_compaction" | "compaction_summary" => (Kind::Compaction, false),
        "ghost_snapshot" => (Kind::Snapshot, false),
        "additional_tools" => (Kind::Context, true),
        kind if kind.ends_with("_output") => (Kind::ToolResult, true),
        _ => (Kind::Other, true),
    }
}

fn event(payload: &Fields<'_>) -> (Kind, bool) {
    let name = payload.text("type").unwrap_or_default();
    let kind = match name.as_str() {
        "token_count" => Kind::Usage,
        "context_compacted" => Kind::Compaction,
        "error" | "warning" | "stream_error" | "turn_aborted" | "thread_rolled_back" => Kind::System,
        _ => Kind::Progress,
    };
    (kind, !OWN_EVENTS.contains(&name.as_str()))
}

/// Finds the readable text, tools and tokens of a row.
pub(crate) fn look(row: &Fields<'_>, found: &mut Found) {
    let payload = row.object("payload");
    let item = payload.as_ref().unwrap_or(row);
    found.cwd = item.text("cwd");
    let arguments = item.raw("arguments").or_else(|| item.raw("input")).or_else(|| {
        item.object("action").and_then(|action| action.raw("command").or_else(|| action.raw("query")))
    });
    match item.text("type").unwrap_or_default().as_str() {
        "local_shell_call" => found.tool(Some("shell".into()), arguments),
        "web_search_call" => found.tool(Some("web_search".into()), arguments),
        "function_call" | "custom_tool_call" | "tool_search_call" => found.tool(item.text("name"), arguments),
        _ => {}
    }
    view::content(item.raw("content"), found);
    view::content(item.raw("summary"), found);
    match item.object("output") {
        Some(output) => view::content(output.raw("content").or_else(|| output.raw("output")), found),
        None => view::content(item.raw("output"), found),
    }
    found.first_of(
        item,
        &["message", "text", "aggregated_output", "stdout", "last_agent_message", "instructions", "reason"],
    );
    let info = item.object("info").unwrap_or_default();
    if let Some(usage) = info.object("last_token_usage").or_else(|| item.object("usage")) {
        let count = |name| usage.number(name).unwrap_or(0);
        found.tokens = Some(Tokens {
            input: count("input_tokens"),
            cached: count("cached_input_tokens"),
            output: count("output_tokens"),
        });
    }
}

/// Returns whether an object's member names are those of a row.
pub(crate) fn is_row(kind: Option<&str>, has: impl Fn(&str) -> bool) -> bool {
    match kind {
        Some(kind) => TYPES.contains(&kind) && (has("payload") || has("timestamp")),
        None => is_bare_header(has),
    }
}

fn is_bare_header(has: impl Fn(&str) -> bool) -> bool {
    has("id") && has("timestamp") && (has("instructions") || has("git")) && !has("content")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(row: &str, kind: Kind, labels: &str) {
        let facts = State::default().facts(&Fields::parse(row).unwrap());
        let mut found = Vec::new();
        found.extend(facts.sidechain.then_some("sidechain"));
        found.extend(facts.summary.then_some("summary"));
        found.extend(facts.untrusted.then_some("untrusted"));
        assert_eq!((facts.kind, found.join(" ").as_str()), (kind, labels), "{row}");
    }

    fn wrap(kind: &str, payload: &str) -> String {
        format!(r#"{{"timestamp":"2026-03-01T10:00:00Z","ordinal":3,"type":"{kind}","payload":{payload}}}"#)
    }

    #[test]
    fn response_items() {
        for (payload, kind, labels) in [
            (
                r#"{"type":"message","role":"user","content":[{"type":"input_text","text":"fix it"}]}"#,
                Kind::Prompt,
                "",
            ),
            (
                r#"{"type":"message","role":"user","content":[{"type":"input_text","text":"<environment_context>"}]}"#,
                Kind::Context,
                "untrusted",
            ),
            (r#"{"type":"message","role":"developer","content":[]}"#, Kind::Context, "untrusted"),
            (r#"{"type":"message","role":"assistant","content":[]}"#, Kind::Turn, ""),
            (r#"{"type":"reasoning","summary":[]}"#, Kind::Turn, ""),
            (r#"{"type":"function_call","name":"shell","arguments":"{}"}"#, Kind::Turn, ""),
            (r#"{"type":"function_call_output","output":"x"}"#, Kind::ToolResult, "untrusted"),
            (r#"{"type":"custom_tool_call_output","output":"x"}"#, Kind::ToolResult, "untrusted"),
            (r#"{"type":"ghost_snapshot"}"#, Kind::Snapshot, ""),
            (r#"{"type":"invented"}"#, Kind::Other, "untrusted"),
        ] {
            check(&wrap("response_item", payload), kind, labels);
            check(payload, kind, labels);
        }
    }

    #[test]
    fn events_and_the_rest() {
        check(&wrap("event_msg", r#"{"type":"user_message","message":"x"}"#), Kind::Progress, "");
        check(&wrap("event_msg", r#"{"type":"exec_command_end","stdout":"x"}"#), Kind::Progress, "untrusted");
        check(&wrap("event_msg", r#"{"type":"token_count","info":{}}"#), Kind::Usage, "");
        check(&wrap("event_msg", r#"{"type":"turn_aborted"}"#), Kind::System, "");
        check(&wrap("turn_context", r#"{"cwd":"/srv/app","model":"m"}"#), Kind::Context, "");
        check(&wrap("world_state", "{}"), Kind::Context, "untrusted");
        check(&wrap("compacted", r#"{"message":"so far"}"#), Kind::Compaction, "summary");
        check(
            &wrap("compacted", r#"{"message":"","replacement_history":[{}]}"#),
            Kind::Compaction,
            "summary untrusted",
        );
        check(&wrap("token_usage_record", "{}"), Kind::Usage, "");
        check(&wrap("invented", "{}"), Kind::Other, "untrusted");
        check(r#"{"record_type":"state"}"#, Kind::System, "");
    }

    #[test]
    fn the_first_header_names_the_session_and_a_turn_has_the_model_of_its_context() {
        let mut state = State::default();
        let mut read = |kind: &str, payload: &str| {
            let row = wrap(kind, payload);
            state.facts(&Fields::parse(&row).unwrap())
        };
        read("session_meta", r#"{"id":"child","source":{"subagent":{"thread_spawn":{"depth":1}}}}"#);
        read("session_meta", r#"{"id":"parent","source":"cli"}"#);
        read("turn_context", r#"{"model":"gpt-x"}"#);
        read("turn_context", "{}");
        let turn = read("response_item", r#"{"type":"message","role":"assistant","content":[]}"#);
        assert_eq!(turn.session.as_deref(), Some("child"));
        assert_eq!(turn.agent.as_deref(), Some("child"));
        assert!(turn.sidechain);
        assert_eq!(turn.model.as_deref(), Some("gpt-x"));
        let result = read("response_item", r#"{"type":"function_call_output","output":"x"}"#);
        assert_eq!(result.model, None);
    }

    #[test]
    fn a_header_of_2025_names_the_session() {
        let mut state = State::default();
        let header = r#"{"id":"old","timestamp":"2025-05-07T17:24:21.597Z","instructions":null,"git":{}}"#;
        let facts = state.facts(&Fields::parse(header).unwrap());
        assert_eq!((facts.kind, facts.session.as_deref()), (Kind::Meta, Some("old")));
        assert!(!facts.sidechain);
    }

    #[test]
    fn calls_outputs_and_tokens_are_seen() {
        let look = |row: &str| {
            let mut found = Found::default();
            super::look(&Fields::parse(row).unwrap(), &mut found);
            found
        };
        let call = wrap(
            "response_item",
            r#"{"type":"function_call","name":"shell","arguments":"{\"cmd\":\"ls\"}"}"#,
        );
        assert_eq!(look(&call).tools, ["shell"]);
        let usage = wrap(
            "event_msg",
            r#"{"type":"token_count","info":{"last_token_usage":{"input_tokens":9,"cached_input_tokens":4,"output_tokens":2}}}"#,
        );
        assert_eq!(look(&usage).tokens, Some(Tokens { input: 9, cached: 4, output: 2 }));
    }
}
