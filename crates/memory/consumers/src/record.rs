//! Records: what stands in the log about consumers, as JSON payloads of events of the bus's own.

use serde::{Deserialize, Serialize};

/// Subject of the event that makes a consumer.
pub const CREATED: &str = "bus.consumer.created";
/// Subject of the event that removes a consumer.
pub const DELETED: &str = "bus.consumer.deleted";
/// Subject of the events that say what is settled.
pub const SETTLED: &str = "bus.consumer.settled";
/// Subject of dead letters.
pub const DEAD: &str = "dead.letter";

/// Form of the records.
const FORM: u32 = 1;

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON of the form.
    #[error("the record is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Of a later form.
    #[error("the record has the form {0}, and this program knows only 1")]
    Form(u32),
}

/// Which events a consumer wants; the fields are those of the contract's `Filter`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterSpec {
    /// Filters of subjects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<String>,
    /// Actors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actors: Vec<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Only events since then, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Only events before then, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// How a consumer reads, with all defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Name.
    pub name: String,
    /// Which events.
    #[serde(default)]
    pub filter: FilterSpec,
    /// First position; 0: the one after the event that makes the consumer.
    pub from: u64,
    /// Time in which a delivery must be settled, in milliseconds.
    pub settle_within_ms: u64,
    /// Attempts after which an event becomes a dead letter.
    pub max_attempts: u32,
    /// Waits before the second and each later attempt, in milliseconds; the last is for all later ones.
    pub backoff_ms: Vec<u64>,
    /// Events that are delivered and not settled, over all who pull.
    pub max_in_hands: u32,
}

impl Config {
    /// Returns the wait after the attempt `attempt`, from 1, failed.
    pub fn backoff(&self, attempt: u32) -> u64 {
        let at = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
        self.backoff_ms.get(at).or(self.backoff_ms.last()).copied().unwrap_or(0)
    }
}

/// A consumer was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    v: u32,
    /// How it reads.
    pub config: Config,
    /// Who made it.
    pub owner: String,
    /// When, in milliseconds since 1970.
    pub created_ms: u64,
}

/// A consumer is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    v: u32,
    /// Its name.
    pub consumer: String,
}

/// An event whose attempts so far failed: position, attempts, and when the next one is due in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed(pub u64, pub u32, pub u64);

/// What is settled since the record before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    v: u32,
    /// Whose.
    pub consumer: String,
    /// Everything up to here is settled or does not match.
    pub upto: u64,
    /// Ranges above that are settled or do not match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<(u64, u64)>,
    /// Events that are to be tried again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<Failed>,
    /// Dead letters of this consumer so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dead: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// An event that is given up; by itself it settles the event, and what it says is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    v: u32,
    /// Which consumer gave up.
    pub consumer: String,
    /// Position of the event.
    pub seq: u64,
    /// Attempts that were made.
    pub attempts: u32,
    /// Why the last one failed.
    pub reason: String,
    /// Subject of the event; empty when it could not be read.
    #[serde(default)]
    pub subject: String,
}

impl Created {
    /// Returns the record.
    pub fn new(config: Config, owner: String, created_ms: u64) -> Self {
        Self { v: FORM, config, owner, created_ms }
    }
}

impl Deleted {
    /// Returns the record.
    pub fn new(consumer: String) -> Self {
        Self { v: FORM, consumer }
    }
}

impl Settled {
    /// Returns a record that says only how far the consumer is.
    pub fn new(consumer: String, upto: u64, dead: u64) -> Self {
        Self { v: FORM, consumer, upto, done: Vec::new(), failed: Vec::new(), dead }
    }
}

impl DeadLetter {
    /// Returns the record.
    pub fn new(consumer: String, seq: u64, attempts: u32, reason: String) -> Self {
        Self { v: FORM, consumer, seq, attempts, reason, subject: String::new() }
    }
}

/// A record about a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// One was made.
    Created(Created),
    /// One is gone.
    Deleted(Deleted),
    /// Events were settled.
    Settled(Settled),
    /// An event was given up.
    Dead(DeadLetter),
}

impl Record {
    /// Reads the record of an event; nothing when events of this subject are none.
    ///
    /// # Errors
    ///
    /// When the payload is not of the form.
    pub fn parse(subject: &str, payload: &[u8]) -> Result<Option<Self>, RecordError> {
        let record = match subject {
            CREATED => Self::Created(serde_json::from_slice(payload)?),
            DELETED => Self::Deleted(serde_json::from_slice(payload)?),
            SETTLED => Self::Settled(serde_json::from_slice(payload)?),
            DEAD => Self::Dead(serde_json::from_slice(payload)?),
            _ => return Ok(None),
        };
        match record.form() {
            FORM => Ok(Some(record)),
            other => Err(RecordError::Form(other)),
        }
    }

    fn form(&self) -> u32 {
        match self {
            Self::Created(r) => r.v,
            Self::Deleted(r) => r.v,
            Self::Settled(r) => r.v,
            Self::Dead(r) => r.v,
        }
    }

    /// Returns the subject of the event.
    pub fn subject(&self) -> &'static str {
        match self {
            Self::Created(_) => CREATED,
            Self::Deleted(_) => DELETED,
            Self::Settled(_) => SETTLED,
            Self::Dead(_) => DEAD,
        }
    }

    /// Returns the payload of the event.
    ///
    /// # Errors
    ///
    /// Never, as the types are.
    pub fn payload(&self) -> Result<String, RecordError> {
        let text = match self {
            Self::Created(r) => serde_json::to_string(r),
            Self::Deleted(r) => serde_json::to_string(r),
            Self::Settled(r) => serde_json::to_string(r),
            Self::Dead(r) => serde_json::to_string(r),
        };
        Ok(text?)
    }

    /// Returns the name of the consumer.
    pub fn consumer(&self) -> &str {
        match self {
            Self::Created(r) => &r.config.name,
            Self::Deleted(r) => &r.consumer,
            Self::Settled(r) => &r.consumer,
            Self::Dead(r) => &r.consumer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_an_acknowledgement_is_short() {
        let mut settled = Settled::new("a".into(), 17, 0);
        let text = Record::Settled(settled.clone()).payload().unwrap();
        assert_eq!(text, r#"{"v":1,"consumer":"a","upto":17}"#);
        settled.done.push((19, 20));
        settled.failed.push(Failed(18, 2, 5_000));
        settled.dead = 1;
        let text = Record::Settled(settled.clone()).payload().unwrap();
        assert_eq!(
            text,
            r#"{"v":1,"consumer":"a","upto":17,"done":[[19,20]],"failed":[[18,2,5000]],"dead":1}"#
        );
        assert_eq!(Record::parse(SETTLED, text.as_bytes()).unwrap(), Some(Record::Settled(settled)));
    }

    #[test]
    fn what_is_no_record_is_told_from_one_that_cannot_be_read() {
        assert_eq!(Record::parse("bus.consumer.other", b"{}").unwrap(), None);
        for (payload, part) in
            [("{}", "missing field"), ("nonsense", "expected"), (r#"{"v":2,"consumer":"a"}"#, "form 2")]
        {
            let why = Record::parse(DELETED, payload.as_bytes()).unwrap_err().to_string();
            assert!(why.contains(part), "{part:?} in {why}");
        }
    }

    #[test]
    fn the_last_wait_is_for_all_later_attempts() {
        let mut config = Config {
            name: "a".into(),
            filter: FilterSpec::default(),
            from: 0,
            settle_within_ms: 1,
            max_attempts: 9,
            backoff_ms: vec![10, 20],
            max_in_hands: 1,
        };
        assert_eq!([1, 2, 3, u32::MAX].map(|n| config.backoff(n)), [10, 20, 20, 20]);
        config.backoff_ms.clear();
        assert_eq!(config.backoff(1), 0);
    }
}
