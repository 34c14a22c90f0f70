//! Gemini chats: one JSON document, or a header line, message lines and patch lines (`$set`, `$rewindTo`).
//!
//! A message is written again when its tokens or tool calls become known, so one message may be several rows. A
//! document becomes the rows that the line format would have had: header, patch, messages.

use crate::json::{Fields, string};
use crate::kind::Kind;
use crate::row::Facts;
use crate::view::{self, Found, Tokens};

/// Members of a document that name the session and never change.
const HEADER: [&str; 3] = ["sessionId", "projectHash", "startTime"];

/// What earlier rows of a file say about later ones.
#[derive(Debug, Default)]
pub(crate) struct State {
    session: Option<String>,
    sidechain: bool,
}

impl State {
    /// Returns what a row is.
    pub(crate) fn facts(&mut self, row: &Fields<'_>) -> Facts {
        let set = row.object("$set");
        let kind = row.text("type");
        let (what, untrusted) = match kind.as_deref() {
            _ if set.is_some() || row.has("$rewindTo") => (
                Kind::Patch,
                set.as_ref().is_some_and(|set| set.has("messages") || set.has("memoryScratchpad")),
            ),
            Some("user") if holds_answer(row) => (Kind::ToolResult, true),
            Some("user") => (Kind::Prompt, false),
            Some("gemini") => (Kind::Turn, !row.list("toolCalls").is_empty()),
            Some("info" | "error" | "warning") => (Kind::System, true),
            None if row.has("sessionId") => (Kind::Meta, false),
            _ => (Kind::Other, true),
        };
        let header = if what == Kind::Meta { Some(row) } else { set.as_ref() };
        if let Some(header) = header {
            self.session = self.session.take().or_else(|| header.text("sessionId"));
            self.sidechain |= header.text("kind").as_deref() == Some("subagent");
        }
        Facts {
            kind: what,
            session: self.session.clone(),
            agent: if self.sidechain { self.session.clone() } else { None },
            at: row
                .text("timestamp")
                .or_else(|| row.text("startTime"))
                .or_else(|| set.as_ref().and_then(|set| set.text("lastUpdated"))),
            model: if what == Kind::Turn { row.text("model") } else { None },
            untrusted,
            sidechain: self.sidechain,
            summary: false,
        }
    }
}

/// Returns the rows for the members of a document besides its messages: header, and patch if there is more.
///
/// `lastUpdated` is left out: it changes at each writing and says nothing that the messages do not.
pub(crate) fn head_rows(document: &Fields<'_>) -> Vec<String> {
    let object = |wanted: &dyn Fn(&str) -> bool| {
        let members: Vec<String> = document
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, value)| format!("{}:{value}", serde_json::Value::from(name)))
            .collect();
        (!members.is_empty()).then(|| format!("{{{}}}", members.join(",")))
    };
    let known = |name: &str| HEADER.contains(&name);
    let rest = |name: &str| !known(name) && name != "messages" && name != "lastUpdated";
    let patch = object(&rest).map(|set| format!(r#"{{"$set":{set}}}"#));
    object(&known).into_iter().chain(patch).collect()
}

fn holds_answer(row: &Fields<'_>) -> bool {
    row.list("content")
        .into_iter()
        .filter_map(|part| Fields::parse(part).ok())
        .any(|part| part.has("functionResponse"))
}

/// Finds the readable text, tools and tokens of a row.
pub(crate) fn look(row: &Fields<'_>, found: &mut Found) {
    view::content(row.raw("content"), found);
    for thought in row.list("thoughts") {
        if let Ok(thought) = Fields::parse(thought) {
            found.first_of(&thought, &["subject"]);
            found.first_of(&thought, &["description"]);
        }
    }
    for call in row.list("toolCalls") {
        if let Ok(call) = Fields::parse(call) {
            found.tool(call.text("name"), call.raw("args"));
            found.first_of(&call, &["resultDisplay"]);
        }
    }
    if let Some(set) = row.object("$set") {
        found.first_of(&set, &["summary"]);
        found.cwd = set.list("directories").into_iter().find_map(string);
    }
    if let Some(tokens) = row.object("tokens") {
        let count = |name| tokens.number(name).unwrap_or(0);
        found.tokens =
            Some(Tokens { input: count("input"), cached: count("cached"), output: count("output") });
    }
}

/// Returns whether an object's member names are those of a header.
pub(crate) fn is_header(kind: Option<&str>, has: impl Fn(&str) -> bool) -> bool {
    kind.is_none() && has("sessionId") && has("projectHash")
}

/// Returns whether an object's member names are those of a message or patch.
pub(crate) fn is_row(kind: Option<&str>, has: impl Fn(&str) -> bool) -> bool {
    match kind {
        Some("user" | "gemini" | "info" | "error" | "warning") => {
            has("id") && has("timestamp") && has("content")
        }
        Some(_) => false,
        None => has("$set") || has("$rewindTo"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(row: &str, kind: Kind, labels: &str) {
        let facts = State::default().facts(&Fields::parse(row).unwrap());
        let mut found = Vec::new();
        found.extend(facts.sidechain.then_some("sidechain"));
        found.extend(facts.untrusted.then_some("untrusted"));
        assert_eq!((facts.kind, found.join(" ").as_str()), (kind, labels), "{row}");
    }

    #[test]
    fn messages_header_and_patches() {
        check(r#"{"id":"1","timestamp":"t","type":"user","content":"hello"}"#, Kind::Prompt, "");
        check(r#"{"type":"user","content":[{"functionResponse":{}}]}"#, Kind::ToolResult, "untrusted");
        check(r#"{"type":"gemini","content":"hi","toolCalls":[]}"#, Kind::Turn, "");
        check(r#"{"type":"gemini","content":"","toolCalls":[{"name":"x"}]}"#, Kind::Turn, "untrusted");
        check(r#"{"type":"error","content":"no"}"#, Kind::System, "untrusted");
        check(r#"{"sessionId":"s","projectHash":"p"}"#, Kind::Meta, "");
        check(r#"{"sessionId":"s","projectHash":"p","kind":"subagent"}"#, Kind::Meta, "sidechain");
        check(r#"{"$set":{"summary":"x"}}"#, Kind::Patch, "");
        check(r#"{"$set":{"messages":[]}}"#, Kind::Patch, "untrusted");
        check(r#"{"$rewindTo":"m"}"#, Kind::Patch, "");
        check(r#"{"type":"invented"}"#, Kind::Other, "untrusted");
    }

    #[test]
    fn a_document_begins_with_a_header_that_does_not_change() {
        let rows = |updated: &str| {
            let document = format!(
                r#"{{"sessionId":"s","projectHash":"p","startTime":"a","lastUpdated":"{updated}","messages":[1],"summary":"x"}}"#
            );
            head_rows(&Fields::parse(&document).unwrap())
        };
        assert_eq!(
            rows("b"),
            [r#"{"sessionId":"s","projectHash":"p","startTime":"a"}"#, r#"{"$set":{"summary":"x"}}"#]
        );
        assert_eq!(rows("b"), rows("c"));
        assert!(head_rows(&Fields::parse("{}").unwrap()).is_empty());
    }

    #[test]
    fn a_turn_is_seen_with_its_calls_and_tokens() {
        let row = r#"{"type":"gemini","content":[{"text":"done"}],"model":"gemini-x",
            "toolCalls":[{"name":"read_file","args":{"path":"a"}}],
            "tokens":{"input":7,"output":2,"cached":1,"total":9}}"#;
        let mut found = Found::default();
        look(&Fields::parse(row).unwrap(), &mut found);
        assert_eq!(found.tools, ["read_file"]);
        assert_eq!(found.tokens, Some(Tokens { input: 7, cached: 1, output: 2 }));
    }
}
