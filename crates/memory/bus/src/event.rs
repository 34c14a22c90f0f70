//! Events on their way in: checked, owned, encoded as far as possible before the writer sees them.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use mirror_kit::Decl;
use mirror_seal::{Hash, salted, sha256};
use mirror_types::{Cause, EventId, LIST_LIMIT, Label, Model, NameError, Subject};

use crate::error::BusError;
use crate::line::{Stored, d_line, provenance};
use crate::payload;

/// Ids that the bus makes: this and the sequence.
pub(crate) const OWN_ID: &str = "bus:";

/// Who may append under which prefix: the closed vocabulary of subjects.
#[derive(Debug, Clone)]
pub(crate) struct Vocabulary(Arc<[(&'static str, &'static str)]>);

impl Vocabulary {
    pub(crate) fn new(catalogue: &[&'static Decl]) -> Self {
        let rows = catalogue.iter().flat_map(|d| d.subjects.iter().map(|s| (*s, d.name)));
        Self(rows.collect())
    }

    fn owned_by(&self, service: Option<&str>) -> String {
        match service {
            None => "local".to_owned(),
            Some(service) => {
                let own: Vec<&str> = self.0.iter().filter(|(_, o)| *o == service).map(|(s, _)| *s).collect();
                if own.is_empty() { "no prefix".to_owned() } else { own.join(", ") }
            }
        }
    }

    /// Checks that a caller may append under a subject; `service` is nothing for local callers.
    pub(crate) fn check(&self, subject: &Subject, service: Option<&str>) -> Result<(), BusError> {
        let prefix = subject.prefix();
        if matches!(prefix, "bus" | "dead") && service != Some("bus") {
            return Err(BusError::Reserved(subject.to_string()));
        }
        let owner = match prefix {
            "bus" | "dead" => Some("bus"),
            "local" => None,
            _ => match self.0.iter().find(|(s, _)| *s == prefix) {
                Some((_, owner)) => Some(*owner),
                None => {
                    let known: Vec<&str> = self.0.iter().map(|(s, _)| *s).collect();
                    return Err(BusError::Event {
                        field: "subject".to_owned(),
                        why: format!(
                            "begins with {prefix:?}, which no service owns; the prefixes are local, {}",
                            known.join(", ")
                        ),
                    });
                }
            },
        };
        if owner == service {
            return Ok(());
        }
        Err(BusError::Owned {
            subject: subject.to_string(),
            owner: owner.unwrap_or("local callers").to_owned(),
            caller: service.unwrap_or("a local caller").to_owned(),
            allowed: self.owned_by(service),
        })
    }
}

/// An event as a caller hands it in, in types of the domain.
#[derive(Debug, Clone)]
pub(crate) struct NewEvent {
    /// Subject.
    pub(crate) subject: Subject,
    /// Id; the bus makes one when there is none.
    pub(crate) id: Option<EventId>,
    /// How the payload is stored.
    pub(crate) stored: Stored,
    /// Payload as handed in.
    pub(crate) payload: Bytes,
    /// Model that caused it.
    pub(crate) model: Option<Model>,
    /// Events that caused it.
    pub(crate) causes: Vec<Cause>,
    /// Labels.
    pub(crate) labels: Vec<Label>,
}

impl NewEvent {
    /// Returns an event with a JSON payload and nothing else.
    pub(crate) fn json(subject: Subject, payload: impl Into<Bytes>) -> Self {
        Self {
            subject,
            id: None,
            stored: Stored::Json,
            payload: payload.into(),
            model: None,
            causes: Vec::new(),
            labels: Vec::new(),
        }
    }

    /// Sets the id.
    #[must_use]
    pub(crate) fn with_id(mut self, id: EventId) -> Self {
        self.id = Some(id);
        self
    }
}

/// An event that the writer only has to place.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) subject: Subject,
    pub(crate) id: Option<EventId>,
    pub(crate) key: Option<[u8; 16]>,
    pub(crate) stored: Stored,
    pub(crate) len: usize,
    pub(crate) digest: Hash,
    pub(crate) provenance: String,
    pub(crate) d_line: Vec<u8>,
}

impl Prepared {
    /// Checks and encodes an event of an actor.
    pub(crate) fn new(event: NewEvent, actor: &str) -> Result<Self, BusError> {
        let invalid = |field: &str, why: String| BusError::Event { field: field.to_owned(), why };
        if event.id.as_ref().is_some_and(|id| id.as_str().starts_with(OWN_ID)) {
            return Err(invalid(
                "id",
                format!("begins with {OWN_ID:?}, which is how the bus names events itself"),
            ));
        }
        if event.causes.len() > LIST_LIMIT {
            return Err(invalid(
                "causes",
                format!("has {} items, at most 16 are allowed", event.causes.len()),
            ));
        }
        let mut labels = event.labels;
        labels.sort();
        labels.dedup();
        if labels.len() > LIST_LIMIT {
            return Err(invalid("labels", format!("has {} items, at most 16 are allowed", labels.len())));
        }
        let payload = payload::encode(event.stored, event.payload)?;
        let salt = salt()?;
        Ok(Self {
            key: event.id.as_ref().map(|id| key_of(id.as_str())),
            id: event.id,
            stored: event.stored,
            len: payload.len(),
            digest: salted(&salt, &payload),
            provenance: provenance(actor, event.model.as_ref(), &event.causes, &labels),
            d_line: d_line(&salt, &payload),
            subject: event.subject,
        })
    }

    /// Returns the stored payload.
    pub(crate) fn payload(&self) -> &[u8] {
        let line = &self.d_line[..self.d_line.len() - 1];
        &line[line.len() - self.len..]
    }

    /// Returns at most how many bytes the event will take on disk.
    pub(crate) fn cost(&self) -> usize {
        let id = self.id.as_ref().map_or(0, |id| id.as_str().len());
        self.d_line.len() + self.provenance.len() + self.subject.as_str().len() + id + 320
    }
}

/// Returns the key under which an id stands in the index.
pub(crate) fn key_of(id: &str) -> [u8; 16] {
    let hash = sha256(id.as_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&hash[..16]);
    key
}

/// Returns 16 random bytes; the system is asked once for 256 of them.
fn salt() -> Result<[u8; 16], BusError> {
    const POOL: usize = 4096;
    thread_local! {
        static RANDOM: RefCell<(usize, [u8; POOL])> = const { RefCell::new((POOL, [0; POOL])) };
    }
    RANDOM.with_borrow_mut(|(used, pool)| {
        if *used == POOL {
            getrandom::fill(pool).map_err(|e| BusError::Read(format!("no random bytes: {e}")))?;
            *used = 0;
        }
        let mut salt = [0; 16];
        salt.copy_from_slice(&pool[*used..*used + 16]);
        // A salt that stays in memory would undo an erasure.
        pool[*used..*used + 16].fill(0);
        *used += 16;
        Ok(salt)
    })
}

/// Turns a refused name into an error that says which field it was in.
pub(crate) fn named(field: &str) -> impl Fn(NameError) -> BusError + '_ {
    move |e| BusError::Event { field: field.to_owned(), why: e.to_string() }
}
