//! Between the contract and the domain; all validation of requests is here.

use mirror_contract::mirror::changelog::v1 as pb;

use crate::error::Error;
use crate::fact::WRITER_CHARS;
use crate::fold::{Page, Query};
use crate::moment::parse_day;
use crate::page::Entry;

/// Days that a request without a number of days gets, and the pages with which a watch begins.
pub(crate) const DAYS_DEFAULT: usize = 30;
/// Most bytes of pages in one answer, well under the 4 MiB that clients take; the days that do not fit are left out,
/// the oldest first.
const ANSWER_BYTES: usize = 2 << 20;

impl TryFrom<pb::GetChangelogRequest> for Query {
    type Error = Error;

    fn try_from(request: pb::GetChangelogRequest) -> Result<Self, Error> {
        let from = day("from_day", &request.from_day)?;
        let to = day("to_day", &request.to_day)?;
        if let (Some(first), Some(last)) = (from, to)
            && first > last
        {
            let why = format!("{} is after to_day {}; swap them", request.from_day, request.to_day);
            return Err(Error::Day { field: "from_day", why });
        }
        let days = match request.days {
            0 => DAYS_DEFAULT,
            days => usize::try_from(days).unwrap_or(usize::MAX),
        };
        Ok(Self { from, to, writer: writer(request.writer)?, days })
    }
}

fn day(field: &'static str, text: &str) -> Result<Option<i32>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    match parse_day(text) {
        Some(day) => Ok(Some(day)),
        None => {
            let shown: String = text.chars().take(40).collect();
            let why = format!("{shown:?} is not a day from 1970 on; write it as YYYY-MM-DD");
            Err(Error::Day { field, why })
        }
    }
}

/// Checks a writer; empty is all.
pub(crate) fn writer(text: String) -> Result<Option<String>, Error> {
    if text.chars().count() > WRITER_CHARS {
        return Err(Error::Writer("has more than 128 characters; take it from an entry"));
    }
    if text.chars().any(char::is_control) {
        return Err(Error::Writer("has control characters; take it from an entry"));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

impl From<Entry> for pb::Entry {
    fn from(entry: Entry) -> Self {
        let Entry { writer, text, start, end, events, first_seq, last_seq, session } = entry;
        Self { writer, text, start, end, events, first_seq, last_seq, session }
    }
}

impl From<Page> for pb::Day {
    fn from(page: Page) -> Self {
        Self { day: page.day, entries: page.entries.into_iter().map(Into::into).collect() }
    }
}

/// Returns the answer with as many of the pages as fit, newest first and at least one.
pub(crate) fn answer(pages: impl Iterator<Item = Page>, upto: u64) -> pb::GetChangelogResponse {
    let mut bytes = 0;
    let mut days = Vec::new();
    for page in pages {
        bytes +=
            page.entries.iter().map(|e| e.text.len() + e.writer.len() + e.session.len() + 64).sum::<usize>();
        if bytes > ANSWER_BYTES && !days.is_empty() {
            break;
        }
        days.push(page.into());
    }
    pb::GetChangelogResponse { days, upto }
}

/// Runs every check of a request on bytes that nobody wrote, for fuzzing.
#[doc(hidden)]
pub fn fuzz_wire(bytes: &[u8]) {
    if let Some(request) = mirror_contract::decode::<pb::GetChangelogRequest>(bytes) {
        let _ = Query::try_from(request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(from: &str, to: &str, writer: &str) -> pb::GetChangelogRequest {
        pb::GetChangelogRequest { from_day: from.into(), to_day: to.into(), writer: writer.into(), days: 0 }
    }

    #[test]
    fn an_empty_request_is_the_newest_thirty_days() {
        let query = Query::try_from(request("", "", "")).unwrap();
        assert_eq!(query, Query { days: 30, ..Query::default() });
        let query = Query::try_from(request("2026-02-10", "2026-02-10", "svc:bus")).unwrap();
        assert_eq!((query.from, query.writer.as_deref()), (query.to, Some("svc:bus")));
    }

    #[test]
    fn what_is_no_day_or_writer_is_refused_by_name() {
        let refused = |from: &str, to: &str, writer: &str| {
            Query::try_from(request(from, to, writer)).unwrap_err().to_string()
        };
        assert!(refused("today", "", "").starts_with("from_day: \"today\" is not a day"));
        assert!(refused("", "2026-02-30", "").starts_with("to_day: "));
        assert!(refused("2026-02-11", "2026-02-10", "").contains("is after to_day"));
        assert!(refused("", "", "a\u{1b}b").starts_with("writer: has control"));
        assert!(refused("", "", &"x".repeat(129)).starts_with("writer: has more"));
        assert!(refused(&"9".repeat(9_999), "", "").len() < 120);
    }

    #[test]
    fn an_answer_leaves_out_the_oldest_days_that_do_not_fit() {
        let entry = Entry {
            writer: "local".into(),
            text: "x".repeat(ANSWER_BYTES / 3),
            start: String::new(),
            end: String::new(),
            events: 1,
            first_seq: 1,
            last_seq: 1,
            session: String::new(),
        };
        let page = |n: usize| Page { day: n.to_string(), entries: vec![entry.clone()] };
        let days: Vec<_> = answer((0..9).map(page), 7).days.into_iter().map(|day| day.day).collect();
        assert_eq!(days, ["0", "1"]);
    }
}
