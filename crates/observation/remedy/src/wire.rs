//! Requests inward, with all validation; answers outward.

use mirror_contract::mirror::remedy::v1 as pb;

use crate::error::Error;
use crate::remedy::{Entry, Put};

/// Longest name, in bytes.
const NAME_BYTES: usize = 64;

/// Longest text, in bytes: far below the bus's limit for a payload, also when it is escaped.
const TEXT_BYTES: usize = 4096;

/// Checks a name.
pub(crate) fn name(name: String) -> Result<String, Error> {
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > NAME_BYTES || !name.bytes().all(known) {
        return Err(Error::Invalid { field: "name", why: "must be 1 to 64 of [a-z0-9-]" });
    }
    Ok(name)
}

impl TryFrom<pb::PutEntryRequest> for Put {
    type Error = Error;

    fn try_from(request: pb::PutEntryRequest) -> Result<Self, Error> {
        if request.text.is_empty() || request.text.len() > TEXT_BYTES {
            return Err(Error::Invalid { field: "text", why: "must be 1 to 4,096 bytes" });
        }
        Ok(Self { name: name(request.name)?, text: request.text })
    }
}

/// Returns the answer that shows an entry.
pub(crate) fn shown(name: String, entry: &Entry) -> pb::GetEntryResponse {
    pb::GetEntryResponse { name, text: entry.text.clone(), seq: entry.seq }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_errors::{Classify as _, Detail};

    /// Checks which field of a request is refused; an empty one means that it is taken.
    #[track_caller]
    fn check(name: &str, text: &str, field: &str) {
        let request = pb::PutEntryRequest { name: name.to_owned(), text: text.to_owned() };
        let refused = Put::try_from(request).err().map(|error| error.details());
        match refused.as_deref() {
            None => assert_eq!(field, "", "{name:?} was taken"),
            Some([Detail::Field(found, _)]) => assert_eq!(found, field, "{name:?}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_bounds_are_taken_and_what_is_beyond_is_named() {
        check("a", "x", "");
        check(&"a-0".repeat(21), "x", "");
        check(&"z".repeat(64), &"x".repeat(4096), "");
        check("", "x", "name");
        check(&"z".repeat(65), "x", "name");
        check("a", "", "text");
        check("a", &"x".repeat(4097), "text");
        for name in ["A", "a b", "a.b", "a\n", "../a", "\u{e9}"] {
            check(name, "x", "name");
        }
    }
}
