//! Requests inward, with all validation; answers outward.

use mirror_contract::mirror::notify::v1 as pb;
use mirror_contract::timestamp;
use mirror_types::Subject;

use crate::courier::Standing;
use crate::error::Error;
use crate::notify::{Card, Content, Urgency};

/// Longest title, in bytes.
const TITLE_BYTES: usize = 100;
/// Longest text, in bytes.
const BODY_BYTES: usize = 1000;

/// Checks a subject.
pub(crate) fn subject(text: String) -> Result<String, Error> {
    Subject::parse(&text).map_err(|e| Error::invalid("subject", e.to_string()))?;
    Ok(text)
}

/// Checks a card; returns its subject and what it says.
pub(crate) fn card(card: Option<pb::Card>) -> Result<(String, Content), Error> {
    let card = card.ok_or_else(|| Error::invalid("card", "is missing"))?;
    let urgency = urgency(card.urgency())?;
    let subject = subject(card.subject)?;
    if card.title.is_empty() || card.title.len() > TITLE_BYTES || card.title.chars().any(char::is_control) {
        return Err(Error::invalid("title", "must be one line of 1 to 100 bytes without control characters"));
    }
    let odd = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if card.body.len() > BODY_BYTES || card.body.chars().any(odd) {
        let why = "must be at most 1,000 bytes without control characters other than line breaks and tabs";
        return Err(Error::invalid("body", why));
    }
    Ok((subject, Content { title: card.title, body: card.body, urgency }))
}

fn urgency(urgency: pb::Urgency) -> Result<Urgency, Error> {
    match urgency {
        pb::Urgency::Unspecified => {
            Err(Error::invalid("urgency", "must be MIN, LOW, DEFAULT, HIGH or URGENT"))
        }
        pb::Urgency::Min => Ok(Urgency::Min),
        pb::Urgency::Low => Ok(Urgency::Low),
        pb::Urgency::Default => Ok(Urgency::Default),
        pb::Urgency::High => Ok(Urgency::High),
        pb::Urgency::Urgent => Ok(Urgency::Urgent),
    }
}

/// Returns a card as it is shown to callers, with what the channels beside the log do with it.
pub(crate) fn shown(subject: &str, card: &Card, channels: Vec<Standing>) -> pb::CardStatus {
    let at = Some(timestamp(card.at_ms));
    let log = pb::Delivery { channel: "log".into(), state: "sent".into(), detail: String::new(), at };
    let others = channels.into_iter().map(|standing| {
        let (channel, state) = (standing.channel.name().to_owned(), standing.state.to_owned());
        let at = (standing.state == "sent").then(|| timestamp(standing.at_ms));
        pb::Delivery { channel, state, detail: standing.detail, at }
    });
    pb::CardStatus {
        card: Some(pb::Card {
            subject: subject.to_owned(),
            title: card.content.title.clone(),
            body: card.content.body.clone(),
            urgency: match card.content.urgency {
                Urgency::Min => pb::Urgency::Min,
                Urgency::Low => pb::Urgency::Low,
                Urgency::Default => pb::Urgency::Default,
                Urgency::High => pb::Urgency::High,
                Urgency::Urgent => pb::Urgency::Urgent,
            }
            .into(),
        }),
        by: card.by.clone(),
        at,
        replaced: card.replaced,
        deliveries: std::iter::once(log).chain(others).collect(),
    }
}

/// Runs every check of a request on bytes that nobody wrote, for fuzzing.
#[doc(hidden)]
pub fn fuzz_wire(bytes: &[u8]) {
    if let Some(request) = mirror_contract::decode::<pb::PutCardRequest>(bytes) {
        let _ = card(request.card);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_errors::{Classify as _, Detail};

    /// Checks which field of a card is refused; an empty one means that it is taken.
    #[track_caller]
    fn check(subject: &str, title: &str, body: &str, urgency: i32, field: &str) {
        let given = pb::Card { subject: subject.into(), title: title.into(), body: body.into(), urgency };
        match card(Some(given)).err().map(|error| error.details()).as_deref() {
            None => assert_eq!(field, "", "{subject:?} {title:?} was taken"),
            Some([Detail::Field(found, _)]) => assert_eq!(found, field, "{subject:?} {title:?}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_bounds_are_taken_and_what_is_beyond_is_named() {
        check("a", "x", "", 1, "");
        check("pulse.bus.down-1", &"x".repeat(100), &"x".repeat(1000), 5, "");
        check("a", "x", "one\n\ttwo", 3, "");
        for subject in ["", "A", "a b", "a..b", ".a", "a\n", "a.b.c.d.e.f.g.h.i", &"x".repeat(256)] {
            check(subject, "x", "", 3, "subject");
        }
        for title in ["", "two\nlines", "esc\u{1b}[1m", &"x".repeat(101)] {
            check("a", title, "", 3, "title");
        }
        for body in ["bell\u{7}", &"x".repeat(1001)] {
            check("a", "x", body, 3, "body");
        }
        for urgency in [0, 6, -1] {
            check("a", "x", "", urgency, "urgency");
        }
        assert!(matches!(card(None), Err(Error::Invalid { field: "card", .. })));
    }
}
