//! Which program wrote a file: recognised by its content, never by its name alone.

use std::path::Path;

use crate::json::Peek;
use crate::kind::Vendor;
use crate::{claude, codex, gemini};

/// Bytes of a file's beginning that are looked at.
pub(crate) const HEAD: usize = 1 << 20;
/// Lines that are looked at before a file is held for no transcript.
const LINES: usize = 64;

/// How a file holds its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One JSON object a line.
    Lines,
    /// One JSON document with an array of messages.
    Document,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) vendor: Vendor,
    pub(crate) form: Form,
    /// Session for rows that name none.
    pub(crate) session: Option<String>,
}

/// Recognises a file by its beginning; `None` when it is no transcript.
pub(crate) fn probe(head: &[u8], path: &Path) -> Option<Probe> {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    if let Some(first) = Peek::at(head)
        && gemini::is_header(first.text("type"), |name| first.has(name))
    {
        return Some(Probe { vendor: Vendor::Gemini, form: form(&first, head), session: None });
    }
    let vendor = lines(head).take(LINES).find_map(|line| vendor(&Peek::at(line)?))?;
    Some(Probe { vendor, form: Form::Lines, session: session(vendor, head, path) })
}

/// Returns what a file is when its reader says whose it is, and its content does not.
pub(crate) fn assume(vendor: Vendor, head: &[u8], path: &Path) -> Probe {
    let form = match Peek::at(head) {
        Some(first) if vendor == Vendor::Gemini => form(&first, head),
        _ => Form::Lines,
    };
    Probe { vendor, form, session: session(vendor, head, path) }
}

fn form(first: &Peek, head: &[u8]) -> Form {
    let Some(end) = first.end else { return Form::Document };
    let alone = head[end..].iter().all(u8::is_ascii_whitespace);
    let one_line = !head[..end].trim_ascii_start().contains(&b'\n');
    if one_line && !(alone && first.has("messages")) { Form::Lines } else { Form::Document }
}

fn vendor(row: &Peek) -> Option<Vendor> {
    let kind = row.text("type");
    let has = |name: &str| row.has(name);
    if codex::is_row(kind, has) {
        Some(Vendor::Codex)
    } else if claude::is_row(kind, has) {
        Some(Vendor::Claude)
    } else if gemini::is_header(kind, has) || gemini::is_row(kind, has) {
        Some(Vendor::Gemini)
    } else {
        None
    }
}

fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty())
}

/// Returns the session of rows that name none: the first that the file's rows name, else the one that the vendor
/// puts into the file's name. Headers of Codex and Gemini are read in order, with the rows.
fn session(vendor: Vendor, head: &[u8], path: &Path) -> Option<String> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let stem = stem.strip_suffix(".jsonl").unwrap_or(stem);
    match vendor {
        Vendor::Claude => lines(head)
            .find_map(|line| Some(Peek::at(line)?.text("sessionId")?.to_owned()))
            .or_else(|| uuid_at_end(stem).filter(|uuid| uuid.len() == stem.len())),
        Vendor::Codex => uuid_at_end(stem),
        Vendor::Gemini => None,
    }
}

fn uuid_at_end(stem: &str) -> Option<String> {
    let uuid = stem.get(stem.len().checked_sub(36)?..)?;
    let valid = uuid.char_indices().all(|(at, c)| match at {
        8 | 13 | 18 | 23 => c == '-',
        _ => c.is_ascii_hexdigit(),
    });
    valid.then(|| uuid.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(head: &str, want: Option<(Vendor, Form)>) {
        let found = probe(head.as_bytes(), Path::new("any.name")).map(|probe| (probe.vendor, probe.form));
        assert_eq!(found, want, "{head}");
    }

    #[test]
    fn claude() {
        let want = Some((Vendor::Claude, Form::Lines));
        check(r#"{"parentUuid":null,"sessionId":"s","type":"user","message":{}}"#, want);
        check("{\"type\":\"file-history-snapshot\",\"messageId\":\"m\",\"snapshot\":{}}\n", want);
        check(r#"{"type":"summary","summary":"x","leafUuid":"u"}"#, want);
        check(r#"{"type":"new-type","sessionId":"s","uuid":"u","parentUuid":"p"}"#, want);
        check("\u{feff}{\"type\":\"assistant\",\"sessionId\":\"s\"}", want);
        check("{\"type\":\"assis\n\n{\"type\":\"assistant\",\"sessionId\":\"s\"}\n", want);
        check(r#"{"sessionId":"s","type":"user","message":{"content":"cut in the mid"#, want);
    }

    #[test]
    fn codex() {
        let want = Some((Vendor::Codex, Form::Lines));
        check(r#"{"timestamp":"t","type":"session_meta","payload":{"id":"x","cwd":"/"}}"#, want);
        check(
            r#"{"timestamp":"t","ordinal":0,"type":"session_meta","payload":{"base_instructions":"cut"#,
            want,
        );
        check("{\"id\":\"x\",\"timestamp\":\"t\",\"instructions\":null}\n{\"record_type\":\"state\"}", want);
    }

    #[test]
    fn gemini() {
        let document = Some((Vendor::Gemini, Form::Document));
        let lines = Some((Vendor::Gemini, Form::Lines));
        check(
            "{\n  \"sessionId\": \"s\",\n  \"projectHash\": \"p\",\n  \"messages\": [\n    {\"id\"",
            document,
        );
        check(r#"{"sessionId":"s","projectHash":"p","messages":[{"type":"user"}]}"#, document);
        check("{\n \"sessionId\":\"s\",\n \"projectHash\":\"p\"\n}\n", document);
        check("{\"sessionId\":\"s\",\"projectHash\":\"p\"}\n", lines);
        check("{\"sessionId\":\"s\",\"projectHash\":\"p\",\"messages\":[]}\n{\"$set\":{}}\n", lines);
        check("{\"sessi\n{\"id\":\"1\",\"timestamp\":\"t\",\"type\":\"gemini\",\"content\":\"x\"}\n", lines);
        check("{\"sessi\n{\"$set\":{\"lastUpdated\":\"t\"}}\n", lines);
    }

    #[test]
    fn what_is_no_transcript() {
        for text in [
            "",
            "\n\n",
            "# Notes\n",
            "[{\"sessionId\":\"s\",\"messageId\":0,\"type\":\"user\",\"message\":\"x\"}]",
            r#"{"name":"x","version":"1.0.0"}"#,
            "{\"display\":\"x\",\"timestamp\":1,\"project\":\"p\"}\n",
            r#"{"type":"click","sessionId":"s"}"#,
            r#"{"version":1,"entries":[{"sessionId":"s"}]}"#,
            "\u{0}\u{1}\u{2}",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn rows_without_a_session_get_the_one_of_their_file() {
        let uuid = "0a1b2c3d-0000-4000-8000-00000000000f";
        let session = |head: &str, path: &str| probe(head.as_bytes(), Path::new(path)).unwrap().session;
        let snapshot = r#"{"type":"file-history-snapshot","messageId":"m"}"#;
        let named = format!("{snapshot}\n{{\"type\":\"user\",\"sessionId\":\"s-7\"}}\n");
        assert_eq!(session(&named, &format!("/a/{uuid}.jsonl")).as_deref(), Some("s-7"));
        assert_eq!(session(snapshot, &format!("/a/{uuid}.jsonl")).as_deref(), Some(uuid));
        assert_eq!(session(snapshot, &format!("/a/copy-{uuid}.jsonl")), None);
        assert_eq!(session(snapshot, "/a/b.jsonl"), None);
        let rollout = r#"{"timestamp":"t","type":"event_msg","payload":{}}"#;
        let path = format!("/a/rollout-2026-03-01T10-00-00-{uuid}.jsonl.zst");
        assert_eq!(session(rollout, &path).as_deref(), Some(uuid));
    }
}
