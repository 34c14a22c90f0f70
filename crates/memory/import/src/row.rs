//! Rows as events: vendor, kind, labels, idempotency id and payload.
//!
//! Invariant: id and payload follow from the row's text, its session and how often that text stood before it in its
//! file; never from a path, a position or the time of the import. So a file that moved or grew yields the same events.

use std::collections::HashMap;

use mirror_types::{Model, PAYLOAD_LIMIT};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::json;
use crate::kind::{Kind, Vendor};
use crate::view;

/// One row of a transcript, ready to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedRow {
    /// Whose transcript.
    pub vendor: Vendor,
    /// What it is.
    pub kind: Kind,
    /// Session; empty when neither the row nor its file names one.
    pub session: String,
    /// Sub-agent, if one wrote it.
    pub agent: Option<String>,
    /// When, RFC 3339 as in the row; the previous row's when it has none.
    pub at: Option<String>,
    /// Model that caused it.
    pub model: Option<Model>,
    /// Labels, sorted.
    pub labels: Vec<&'static str>,
    /// Idempotency id.
    pub id: String,
    /// Payload, one JSON object on one line.
    pub payload: Vec<u8>,
    /// The row itself, when it does not fit into the payload; the payload then names it.
    pub blob: Option<Blob>,
    /// Line in the file, from 1; for messages only, it is not part of the event.
    pub line: u64,
}

impl ImportedRow {
    /// Returns the subject, `import.<vendor>.<kind>`.
    pub fn subject(&self) -> String {
        format!("import.{}.{}", self.vendor.token(), self.kind)
    }
}

/// Content that is stored beside the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// BLAKE3 of the bytes, lower-case hex.
    pub blake3: String,
    /// The row's text, byte for byte.
    pub bytes: Vec<u8>,
}

/// What a vendor's rules found out about a row.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) kind: Kind,
    pub(crate) session: Option<String>,
    pub(crate) agent: Option<String>,
    pub(crate) at: Option<String>,
    pub(crate) model: Option<String>,
    /// It holds text of tools, of the web or of hooks.
    pub(crate) untrusted: bool,
    /// It belongs to a sub-agent.
    pub(crate) sidechain: bool,
    /// It is the summary that replaced earlier rows.
    pub(crate) summary: bool,
}

/// Longest session or agent id that is believed to be one.
const NAME_LIMIT: usize = 256;
/// Deepest nesting that is put into a payload; the bus takes 128 levels.
const DEPTH_LIMIT: usize = 100;
/// Different rows of one file whose repeats are counted; later repeats count as one row.
const SEEN_LIMIT: usize = 2_000_000;

/// Makes rows of one file, in order.
#[derive(Debug)]
pub(crate) struct Maker {
    vendor: Vendor,
    session: String,
    payload_limit: usize,
    last_at: Option<String>,
    seen: HashMap<[u8; 16], u32>,
}

impl Maker {
    /// Returns a maker for a file; `session` stands in where a row names none.
    pub(crate) fn new(vendor: Vendor, session: Option<String>, payload_limit: usize) -> Self {
        let session = session.and_then(name).unwrap_or_default();
        Self {
            vendor,
            session,
            payload_limit: payload_limit.min(PAYLOAD_LIMIT),
            last_at: None,
            seen: HashMap::new(),
        }
    }

    /// Makes the next row from its text, which must be one valid JSON object.
    pub(crate) fn make(
        &mut self,
        facts: Facts,
        text: &str,
        line: u64,
    ) -> Result<ImportedRow, serde_json::Error> {
        let tight = json::compact(text);
        let session = facts.session.and_then(name).unwrap_or_else(|| self.session.clone());
        let at = facts.at.filter(|at| is_moment(at)).or_else(|| self.last_at.clone());
        self.last_at.clone_from(&at);
        let id = self.id(&session, &tight);
        let agent = facts.agent.and_then(name);

        let mut labels = vec!["imported"];
        labels.extend(facts.sidechain.then_some("sidechain"));
        labels.extend(facts.summary.then_some("summary"));
        labels.extend(facts.untrusted.then_some("untrusted"));

        let line_text = if text.contains(['\n', '\r', '\t']) { tight.as_str() } else { text };
        let mut payload = Payload {
            source: self.vendor.source(),
            kind: facts.kind.name(),
            session: Some(session.as_str()).filter(|s| !s.is_empty()),
            agent: agent.as_deref(),
            at: at.as_deref(),
            blob: None,
            excerpt: None,
            row: Some(serde_json::from_str::<&RawValue>(line_text)?),
        };
        let mut bytes = serde_json::to_vec(&payload)?;
        let mut blob = None;
        if bytes.len() > self.payload_limit || json::depth(&tight) > DEPTH_LIMIT {
            let hash = blake3::hash(text.as_bytes()).to_hex().to_string();
            payload.row = None;
            payload.excerpt = Some(view::excerpt(self.vendor, text));
            payload.blob = Some(BlobRef { blake3: &hash, bytes: text.len() });
            bytes = serde_json::to_vec(&payload)?;
            blob = Some(Blob { blake3: hash, bytes: text.as_bytes().to_vec() });
        }
        Ok(ImportedRow {
            vendor: self.vendor,
            kind: facts.kind,
            session,
            agent,
            at,
            model: facts.model.and_then(|model| Model::parse(&model).ok()),
            labels,
            id,
            payload: bytes,
            blob,
            line,
        })
    }

    /// Returns the id of the next row with this text.
    ///
    /// The digest is over the text without white space between tokens. Every known writer writes rows so, which makes
    /// it the digest of the row as it stands; and a document that was re-indented keeps its ids.
    fn id(&mut self, session: &str, tight: &str) -> String {
        let digest: [u8; 32] = Sha256::digest(tight.as_bytes()).into();
        let occurrence = self.occurrence(&digest);
        row_id(self.vendor, session, &digest, occurrence)
    }

    fn occurrence(&mut self, digest: &[u8; 32]) -> u32 {
        let mut key = [0_u8; 16];
        key.copy_from_slice(&digest[..16]);
        if let Some(count) = self.seen.get_mut(&key) {
            *count = count.saturating_add(1);
            return *count;
        }
        if self.seen.len() < SEEN_LIMIT {
            self.seen.insert(key, 0);
        }
        0
    }
}

/// Returns the idempotency id: `imp-` and 32 hex digits.
fn row_id(vendor: Vendor, session: &str, digest: &[u8; 32], occurrence: u32) -> String {
    let mut hash = Sha256::new();
    hash.update(b"mirror import row 1\n");
    hash.update(vendor.source().as_bytes());
    hash.update(b"\n");
    hash.update((session.len() as u64).to_be_bytes());
    hash.update(session.as_bytes());
    hash.update(digest);
    hash.update(occurrence.to_be_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    let mut id = String::with_capacity(36);
    id.push_str("imp-");
    for byte in &hash[..16] {
        for nibble in [byte >> 4, byte & 15] {
            id.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    id
}

fn name(text: String) -> Option<String> {
    (!text.is_empty() && text.len() <= NAME_LIMIT).then_some(text)
}

fn is_moment(text: &str) -> bool {
    text.len() <= 40 && text.parse::<jiff::Timestamp>().is_ok()
}

#[derive(Serialize)]
struct Payload<'a> {
    source: &'a str,
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blob: Option<BlobRef<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    excerpt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct BlobRef<'a> {
    blake3: &'a str,
    bytes: usize,
}

#[cfg(test)]
mod tests {
    use mirror_types::{EventId, Label, Subject};

    use super::*;

    fn maker() -> Maker {
        Maker::new(Vendor::Claude, Some("s-1".into()), PAYLOAD_LIMIT)
    }

    fn row(maker: &mut Maker, text: &str) -> ImportedRow {
        maker.make(Facts { kind: Kind::Prompt, ..Facts::default() }, text, 1).unwrap()
    }

    #[test]
    fn every_kind_has_its_own_valid_subject() {
        for vendor in Vendor::ALL {
            assert_eq!(Vendor::from_source(vendor.source()), Some(vendor));
            for kind in Kind::ALL {
                assert_eq!(Kind::from_name(kind.name()), Some(kind));
                let mut row = row(&mut maker(), "{}");
                (row.vendor, row.kind) = (vendor, kind);
                Subject::parse(&row.subject()).unwrap();
            }
        }
    }

    #[test]
    fn repeats_in_one_file_have_ids_of_their_own_and_a_second_reading_finds_them() {
        let read = || {
            let mut maker = maker();
            [r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":1}"#].map(|text| row(&mut maker, text).id)
        };
        let ids = read();
        assert_eq!(ids, read());
        assert_eq!(std::collections::BTreeSet::from(ids.clone()).len(), 3);
        for id in ids {
            assert!(id.starts_with("imp-") && id.len() == 36);
            EventId::parse(&id).unwrap();
        }
    }

    #[test]
    fn ids_tell_vendors_sessions_and_repeats_apart() {
        let digest = [7; 32];
        let base = row_id(Vendor::Claude, "a", &digest, 0);
        assert_ne!(base, row_id(Vendor::Codex, "a", &digest, 0));
        assert_ne!(base, row_id(Vendor::Claude, "b", &digest, 0));
        assert_ne!(base, row_id(Vendor::Claude, "a", &digest, 1));
        assert_ne!(base, row_id(Vendor::Claude, "a", &[8; 32], 0));
    }

    #[test]
    fn the_id_is_a_format_and_does_not_change() {
        assert_eq!(row(&mut maker(), r#"{"a":1}"#).id, "imp-fa35df6ddf60dea4ff933f45869ddf90");
    }

    #[test]
    fn the_payload_holds_the_row_byte_for_byte() {
        let text = r#"{"z":1.50, "a":"\u00e9 \ud83d","b":{"k":[]}}"#;
        let made = row(&mut maker(), text);
        let payload = String::from_utf8(made.payload).unwrap();
        assert_eq!(
            payload,
            format!(r#"{{"source":"claude-code","kind":"prompt","session":"s-1","row":{text}}}"#)
        );
    }

    #[test]
    fn a_row_over_several_lines_is_joined_and_keeps_its_id() {
        let mut first = maker();
        let mut second = maker();
        let wide = row(&mut first, "{\n  \"a\": \"x  y\"\n}");
        let tight = row(&mut second, r#"{"a":"x  y"}"#);
        assert_eq!((wide.id, wide.payload), (tight.id, tight.payload));
    }

    #[test]
    fn a_row_too_large_or_too_deep_becomes_a_blob() {
        let large = format!(r#"{{"type":"user","message":{{"content":"{}"}}}}"#, "x".repeat(PAYLOAD_LIMIT));
        let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(DEPTH_LIMIT), "]".repeat(DEPTH_LIMIT));
        for text in [large, deep] {
            let made = row(&mut maker(), &text);
            let blob = made.blob.unwrap();
            assert_eq!(blob.bytes, text.as_bytes());
            assert!(made.payload.len() < 4_000);
            let payload: serde_json::Value = serde_json::from_slice(&made.payload).unwrap();
            assert_eq!(payload["blob"]["blake3"], blob.blake3.as_str());
            assert_eq!(payload["blob"]["bytes"], text.len());
            assert!(payload["excerpt"].is_string() && payload.get("row").is_none());
        }
    }

    #[test]
    fn the_largest_payload_that_fits_stays_in_the_log() {
        let text = |n: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(n));
        let overhead = row(&mut maker(), &text(0)).payload.len();
        let fits = row(&mut maker(), &text(PAYLOAD_LIMIT - overhead));
        assert_eq!((fits.payload.len(), fits.blob), (PAYLOAD_LIMIT, None));
        assert!(row(&mut maker(), &text(PAYLOAD_LIMIT - overhead + 1)).blob.is_some());
    }

    #[test]
    fn labels_are_sorted_and_valid() {
        let facts = Facts { untrusted: true, sidechain: true, summary: true, ..Facts::default() };
        let made = maker().make(facts, "{}", 1).unwrap();
        assert_eq!(made.labels, ["imported", "sidechain", "summary", "untrusted"]);
        assert!(made.labels.iter().all(|label| Label::parse(label).is_ok()));
    }

    #[test]
    fn a_missing_or_bad_time_is_the_row_before() {
        let mut maker = maker();
        let mut at = |text: Option<&str>| {
            let facts = Facts { at: text.map(str::to_owned), ..Facts::default() };
            maker.make(facts, "{}", 1).unwrap().at
        };
        assert_eq!(at(None), None);
        assert_eq!(at(Some("2026-02-11T20:31:53.375Z")).as_deref(), Some("2026-02-11T20:31:53.375Z"));
        assert_eq!(at(None).as_deref(), Some("2026-02-11T20:31:53.375Z"));
        assert_eq!(at(Some("yesterday")).as_deref(), Some("2026-02-11T20:31:53.375Z"));
        assert_eq!(at(Some("2026-02-11T21:00:00+01:00")).as_deref(), Some("2026-02-11T21:00:00+01:00"));
    }

    #[test]
    fn names_that_cannot_be_names_are_left_out() {
        let long = "x".repeat(NAME_LIMIT + 1);
        let facts = Facts { session: Some(long.clone()), agent: Some(long), ..Facts::default() };
        let made = maker().make(facts, "{}", 1).unwrap();
        assert_eq!((made.session.as_str(), made.agent), ("s-1", None));
        let facts = Facts { model: Some("<synthetic>".into()), ..Facts::default() };
        assert_eq!(maker().make(facts, "{}", 1).unwrap().model, None);
    }
}
