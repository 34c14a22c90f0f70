//! What a row says, in the same few fields for every vendor.

use crate::json::{self, Fields};
use crate::kind::{Kind, Vendor};
use crate::{claude, codex, gemini};

/// Most characters of text in a view, and in the excerpt of a blob.
pub const EXCERPT_CHARS: usize = 2_000;
/// Most tool names in a view.
const TOOLS_LIMIT: usize = 32;

/// A small view of an imported row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowView {
    /// Whose transcript.
    pub vendor: Vendor,
    /// What it is.
    pub kind: Kind,
    /// Session; empty when none is known.
    pub session: String,
    /// Sub-agent, if one wrote it.
    pub agent: Option<String>,
    /// When, RFC 3339.
    pub at: Option<String>,
    /// The readable text, at most [`EXCERPT_CHARS`] characters.
    pub text: String,
    /// Tools that the row calls.
    pub tools: Vec<String>,
    /// Working directory, where the row names it.
    pub cwd: Option<String>,
    /// Tokens, where the row counts them.
    pub tokens: Option<Tokens>,
}

/// Tokens of one model call.
///
/// Claude Code repeats them in each row of one message; a sum must count a message once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tokens {
    /// Read by the model, with the cached ones.
    pub input: u64,
    /// Of these, read from a cache.
    pub cached: u64,
    /// Written by the model.
    pub output: u64,
}

/// Returns the view of an event's payload; `None` when it is not one of an imported row.
pub fn summary_fields(payload: &[u8]) -> Option<RowView> {
    let fields = Fields::parse(std::str::from_utf8(payload).ok()?).ok()?;
    let vendor = Vendor::from_source(&fields.text("source")?)?;
    let kind = Kind::from_name(&fields.text("kind")?)?;
    let mut found = match fields.raw("row") {
        Some(row) => look(vendor, row),
        None => Found { text: Excerpt::of(&fields.text("excerpt")?), ..Found::default() },
    };
    found.tools.dedup();
    Some(RowView {
        vendor,
        kind,
        session: fields.text("session").unwrap_or_default(),
        agent: fields.text("agent"),
        at: fields.text("at"),
        text: found.text.out,
        tools: found.tools,
        cwd: found.cwd,
        tokens: found.tokens,
    })
}

/// Returns the beginning of a row's readable text.
pub(crate) fn excerpt(vendor: Vendor, row: &str) -> String {
    look(vendor, row).text.out
}

fn look(vendor: Vendor, row: &str) -> Found {
    let mut found = Found::default();
    if let Ok(fields) = Fields::parse(row) {
        match vendor {
            Vendor::Claude => claude::look(&fields, &mut found),
            Vendor::Codex => codex::look(&fields, &mut found),
            Vendor::Gemini => gemini::look(&fields, &mut found),
        }
    }
    found
}

/// What a vendor's rules find in a row.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) text: Excerpt,
    pub(crate) tools: Vec<String>,
    pub(crate) cwd: Option<String>,
    pub(crate) tokens: Option<Tokens>,
}

impl Found {
    /// Notes a call: its name, and its arguments as text.
    pub(crate) fn tool(&mut self, name: Option<String>, arguments: Option<&str>) {
        let Some(name) = name else { return };
        self.text.push(&name);
        if let Some(arguments) = arguments {
            self.text.push(&json::string(arguments).unwrap_or_else(|| arguments.to_owned()));
        }
        if self.tools.len() < TOOLS_LIMIT {
            self.tools.push(name);
        }
    }

    /// Notes the first of these members that is a string.
    pub(crate) fn first_of(&mut self, fields: &Fields<'_>, names: &[&str]) {
        if let Some(text) = names.iter().find_map(|name| fields.text(name)) {
            self.text.push(&text);
        }
    }
}

/// Text up to a bound, one piece a line.
#[derive(Debug, Default)]
pub(crate) struct Excerpt {
    out: String,
    chars: usize,
}

impl Excerpt {
    fn of(text: &str) -> Self {
        let mut excerpt = Self::default();
        excerpt.push(text);
        excerpt
    }

    /// Adds a piece of text, as far as there is room.
    pub(crate) fn push(&mut self, text: &str) {
        let text = text.trim();
        if text.is_empty() || self.chars >= EXCERPT_CHARS {
            return;
        }
        if !self.out.is_empty() {
            self.out.push('\n');
            self.chars += 1;
        }
        for c in text.chars().take(EXCERPT_CHARS.saturating_sub(self.chars)) {
            self.out.push(c);
            self.chars += 1;
        }
    }
}

/// Notes the text of content that is a string, or an array of strings and of blocks with a `text`.
pub(crate) fn content(raw: Option<&str>, found: &mut Found) {
    let Some(raw) = raw else { return };
    if let Some(text) = json::string(raw) {
        found.text.push(&text);
        return;
    }
    for item in json::list(raw) {
        if let Some(text) = json::string(item) {
            found.text.push(&text);
        } else if let Ok(block) = Fields::parse(item) {
            found.first_of(&block, &["text", "thinking"]);
        }
    }
}

/// Returns the first string of content that is a string, or an array of blocks with a `text`.
pub(crate) fn opening(raw: Option<&str>) -> Option<String> {
    let raw = raw?;
    json::string(raw).or_else(|| {
        json::list(raw).into_iter().find_map(|item| {
            json::string(item).or_else(|| Fields::parse(item).ok().and_then(|block| block.text("text")))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_cut_at_its_bound_between_characters() {
        let mut excerpt = Excerpt::default();
        excerpt.push(" \u{e9}");
        excerpt.push("  ");
        excerpt.push(&"\u{1f600}".repeat(EXCERPT_CHARS));
        excerpt.push("more");
        assert_eq!(excerpt.out.chars().count(), EXCERPT_CHARS);
        assert!(excerpt.out.starts_with("\u{e9}\n\u{1f600}"));
    }

    #[test]
    fn what_is_not_our_payload_has_no_view() {
        for bad in [
            &b""[..],
            b"{}",
            b"\xff",
            br#"{"source":"claude-code"}"#,
            br#"{"source":"someone","kind":"turn","row":{}}"#,
            br#"{"source":"codex","kind":"turn"}"#,
        ] {
            assert_eq!(summary_fields(bad), None, "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_blob_is_viewed_by_its_excerpt() {
        let payload = br#"{"source":"codex","kind":"turn","session":"s","blob":{"blake3":"00","bytes":9},"excerpt":"hello"}"#;
        let view = summary_fields(payload).unwrap();
        assert_eq!((view.text.as_str(), view.session.as_str(), view.kind), ("hello", "s", Kind::Turn));
    }
}
