//! What one event tells the changelog: everything that is read from a payload is read here.
//!
//! It refuses text from payloads that are erased, withheld or labelled private: such an event counts, and says nothing.
//! Invariant: a fact depends on its event alone, and every text in it is clean and bounded.

use bytes::Bytes;
use mirror_contract::mirror::bus::v1::{Event, PayloadState, PayloadType};
use serde::{Deserialize, Serialize};

use crate::json::{members, string};
use crate::moment::Moment;
use crate::rows;
use crate::text::clean;

/// Most characters of a prompt.
pub(crate) const PROMPT_CHARS: usize = 80;
/// Most characters of a text that a group quotes.
const QUOTE_CHARS: usize = 60;
/// Most characters of a session's id.
const SESSION_CHARS: usize = 128;
/// Most characters of a subject; the bus allows no more.
const SUBJECT_CHARS: usize = 255;
/// Most characters of a writer.
pub(crate) const WRITER_CHARS: usize = 128;

/// Whose transcript a row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Vendor {
    /// Claude Code.
    #[serde(rename = "claude-code")]
    Claude,
    /// Codex.
    #[serde(rename = "codex")]
    Codex,
    /// Gemini CLI.
    #[serde(rename = "gemini")]
    Gemini,
}

impl Vendor {
    /// Returns the name as a writer.
    pub(crate) fn writer(self) -> &'static str {
        match self {
            Self::Claude => "claude-code",
            Self::Codex => "codex",
            Self::Gemini => "gemini",
        }
    }

    fn of_token(token: &str) -> Option<Self> {
        match token {
            "claude" => Some(Self::Claude),
            "codex" => Some(Self::Codex),
            "gemini" => Some(Self::Gemini),
            _ => None,
        }
    }
}

/// What a row is, as far as the changelog tells rows apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What the person, or a parent agent, asked.
    Prompt,
    /// What the model said or called.
    Turn,
    /// A mark or a summary that a compaction left.
    Compaction,
    /// All others.
    Other,
}

/// One event as the changelog sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fact {
    /// Position in the log.
    pub(crate) seq: u64,
    /// When it happened.
    pub(crate) when: Moment,
    /// What it was.
    pub(crate) what: What,
}

/// What an event was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// A row of a session.
    Row(Box<Row>),
    /// Anything else.
    Plain(Plain),
}

/// A row of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) vendor: Vendor,
    pub(crate) kind: Kind,
    pub(crate) session: String,
    /// Digest of the sub-agent's id.
    pub(crate) agent: Option<u64>,
    /// Whether a sub-agent, or the program itself, was asked or answered.
    pub(crate) side: bool,
    /// Whether it is the summary of a compaction.
    pub(crate) summary: bool,
    /// What the row itself says.
    pub(crate) seen: Seen,
}

/// What a row itself says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// Last part of the working directory; empty when unknown.
    pub(crate) project: String,
    /// Beginning of a prompt; empty when there is none.
    pub(crate) prompt: String,
    /// Whether it begins or goes on with an answer of the model, rather than only accompanying one.
    pub(crate) turn: bool,
    /// Digest of the answer's id: several rows may belong to one answer.
    pub(crate) answer: Option<u64>,
    /// Whether a later row of an answer repeats the tools of the earlier ones.
    pub(crate) repeats_tools: bool,
    /// Names of the tools called.
    pub(crate) tools: Vec<String>,
    /// Digests of the paths that the tools write.
    pub(crate) files: Vec<u64>,
}

/// An event that is no row of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plain {
    pub(crate) writer: String,
    pub(crate) subject: String,
    /// Beginning of its text; empty when it has none.
    pub(crate) text: String,
    /// Whether its payload was erased.
    pub(crate) erased: bool,
}

/// Returns a short digest, by which things are told apart without keeping them.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    let mut short = [0; 8];
    short.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(short)
}

/// Returns what an event tells.
pub(crate) fn read(event: &Event) -> Fact {
    let wall = event.wall_time.as_ref().map_or(0, |t| t.seconds);
    let (when, what) = match imported(event) {
        Some((vendor, kind)) => match row(event, vendor, kind) {
            Some((at, row)) => (Moment::told(at.as_deref(), wall), What::Row(Box::new(row))),
            None => (Moment::at(wall), plain(event, vendor.writer())),
        },
        None => (Moment::at(wall), plain(event, &event.actor)),
    };
    Fact { seq: event.seq, when, what }
}

/// Returns what an event tells whose payload counts as erased, even if it is still there.
pub(crate) fn read_erased(event: &Event) -> Fact {
    let payload_state = PayloadState::Redacted.into();
    read(&Event { payload: Bytes::new(), payload_state, ..event.clone() })
}

fn imported(event: &Event) -> Option<(Vendor, Kind)> {
    let mut tokens = event.subject.split('.');
    let (Some("import"), Some(vendor), Some(kind), None) =
        (tokens.next(), tokens.next(), tokens.next(), tokens.next())
    else {
        return None;
    };
    let kind = match kind {
        "prompt" => Kind::Prompt,
        "turn" => Kind::Turn,
        "compaction" => Kind::Compaction,
        _ => Kind::Other,
    };
    Some((Vendor::of_token(vendor)?, kind))
}

/// Returns the payload, if it is here and may be shown to anybody.
fn open(event: &Event) -> Option<&str> {
    let here = event.payload_state == i32::from(PayloadState::Present)
        || event.payload_state == i32::from(PayloadState::Unspecified);
    let private = event.labels.iter().any(|label| label == "private");
    if here && !private { std::str::from_utf8(&event.payload).ok() } else { None }
}

/// Returns a row and the time that it tells; `None` when its session is not to be known.
fn row(event: &Event, vendor: Vendor, kind: Kind) -> Option<(Option<String>, Row)> {
    let [session, agent, at, inner, excerpt] =
        members(open(event)?, ["session", "agent", "at", "row", "excerpt"]);
    let session = clean(&session.and_then(string)?, SESSION_CHARS);
    if session.is_empty() {
        return None;
    }
    // A sub-agent with a session of its own is that session.
    let own = |agent: &String| clean(agent, SESSION_CHARS) == session;
    let agent = agent.and_then(string);
    let alone = agent.as_ref().is_some_and(own);
    let agent = agent.filter(|_| !alone);
    let internal = agent.as_deref().is_some_and(rows::is_internal_agent);
    // What the program does for itself is no answer to anybody.
    let kind = if internal { Kind::Other } else { kind };
    let labelled = |name| event.labels.iter().any(|label| label == name);
    let seen = match inner {
        Some(inner) => rows::look(vendor, kind, inner),
        None => rows::excerpt(kind, &excerpt.and_then(string).unwrap_or_default()),
    };
    let row = Row {
        vendor,
        kind,
        session,
        side: agent.is_some() || (labelled("sidechain") && !alone),
        agent: agent.filter(|_| !internal).map(|agent| digest(agent.as_bytes())),
        summary: labelled("summary"),
        seen,
    };
    Some((at.and_then(string), row))
}

fn plain(event: &Event, writer: &str) -> What {
    let text = open(event).and_then(|payload| {
        if event.r#type == i32::from(PayloadType::Text) {
            return Some(payload.to_owned());
        }
        if event.r#type != i32::from(PayloadType::Json) || imported(event).is_some() {
            return None;
        }
        members(payload, ["text", "summary", "message"])
            .into_iter()
            .flatten()
            .filter_map(string)
            .find(|text| !text.trim().is_empty())
    });
    What::Plain(Plain {
        writer: clean(writer, WRITER_CHARS),
        subject: clean(&event.subject, SUBJECT_CHARS),
        text: text.map(|text| clean(&text, QUOTE_CHARS)).unwrap_or_default(),
        erased: event.payload_state() == PayloadState::Redacted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{event, import_row};

    #[test]
    fn text_is_found_in_json_members_and_in_text_payloads() {
        let text = |kind: PayloadType, payload: &str| {
            let mut event = event(1, "local.note", payload);
            event.r#type = kind.into();
            match read(&event).what {
                What::Plain(plain) => plain.text,
                What::Row(_) => panic!("no row"),
            }
        };
        assert_eq!(text(PayloadType::Json, r#"{"message":"m","text":"t"}"#), "t");
        assert_eq!(text(PayloadType::Json, r#"{"text":{"a":1},"summary":"s"}"#), "s");
        assert_eq!(text(PayloadType::Json, r#"{"other":"o"}"#), "");
        assert_eq!(text(PayloadType::Json, "[1]"), "");
        assert_eq!(text(PayloadType::Text, "plain \u{1b}[1mwords"), "plain words");
        assert_eq!(text(PayloadType::Binary, "bytes"), "");
        assert_eq!(text(PayloadType::Blob, r#"{"blake3":"00","text":"x"}"#), "");
    }

    #[test]
    fn payloads_that_are_hidden_say_nothing() {
        let mut erased = event(1, "local.note", r#"{"text":"secret"}"#);
        erased.payload_state = PayloadState::Redacted.into();
        let mut withheld = erased.clone();
        withheld.payload_state = PayloadState::Withheld.into();
        let mut private = event(1, "local.note", r#"{"text":"secret"}"#);
        private.labels = vec!["private".into()];
        let mut row = import_row(1, "claude", "prompt", r#"{"message":{"content":"secret"}}"#);
        row.labels = vec!["imported".into(), "private".into()];
        for event in [erased, withheld, private, row] {
            let What::Plain(plain) = read(&event).what else { panic!("no row") };
            assert_eq!(plain.text, "");
            assert_eq!(plain.subject, event.subject);
        }
    }

    #[test]
    fn a_row_that_cannot_be_placed_counts_for_its_writer() {
        for payload in ["", "{", "[]", r#"{"source":"claude-code"}"#, r#"{"session":""}"#, r#"{"session":7}"#]
        {
            let event = event(1, "import.claude.turn", payload);
            let What::Plain(plain) = read(&event).what else { panic!("no row") };
            assert_eq!((plain.writer.as_str(), plain.text.as_str()), ("claude-code", ""));
        }
        let unknown = event(1, "import.someone.turn", "{}");
        assert!(matches!(read(&unknown).what, What::Plain(plain) if plain.writer == "local"));
    }

    #[test]
    fn an_erased_payload_says_nothing_even_while_it_is_there() {
        for event in [event(1, "local.note", r#"{"text":"secret"}"#), import_row(1, "claude", "prompt", "{}")]
        {
            let mut gone = event.clone();
            gone.payload_state = PayloadState::Redacted.into();
            gone.payload.clear();
            assert_eq!(read_erased(&event), read(&gone));
            assert!(matches!(read_erased(&event).what, What::Plain(plain) if plain.erased));
        }
    }
}
