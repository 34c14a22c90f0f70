//! Reading a few members of JSON texts that others wrote, without building the rest.
//!
//! It refuses nothing: what is not as expected is absent. A lone surrogate becomes the replacement character, and of
//! two members of one name the later counts.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Returns the raw values of the named members of an object.
pub(crate) fn members<'a, const N: usize>(raw: &'a str, names: [&str; N]) -> [Option<&'a str>; N] {
    serde_json::Deserializer::from_str(raw).deserialize_map(Members(names)).unwrap_or([None; N])
}

/// Returns the raw values of an array.
pub(crate) fn list(raw: &str) -> Vec<&str> {
    let items: Vec<&RawValue> = serde_json::from_str(raw).unwrap_or_default();
    items.into_iter().map(RawValue::get).collect()
}

/// Returns a string.
pub(crate) fn string(raw: &str) -> Option<String> {
    if raw.starts_with('"') {
        serde_json::Deserializer::from_str(raw).deserialize_bytes(Lossy).ok()
    } else {
        None
    }
}

struct Members<'n, const N: usize>([&'n str; N]);

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [Option<&'de str>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(at) = map.next_key_seed(Name(&self.0))? {
            match at.and_then(|at: usize| found.get_mut(at)) {
                Some(slot) => *slot = Some(map.next_value::<&'de RawValue>()?.get()),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

struct Name<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        self.visit_bytes(name.as_bytes())
    }

    fn visit_bytes<E: serde::de::Error>(self, name: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|wanted| wanted.as_bytes() == name))
    }
}

struct Lossy;

impl Visitor<'_> for Lossy {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<String, E> {
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_and_the_later_of_two_counts() {
        let raw = r#" {"a":1,"\u0062":[{"a":2}],"c":{"a":3},"a":"x","\ud83d":0} "#;
        assert_eq!(members(raw, ["a", "b", "d"]), [Some(r#""x""#), Some(r#"[{"a":2}]"#), None]);
    }

    #[test]
    fn what_is_not_as_expected_is_absent() {
        for bad in ["", "[]", "7", "{", r#"{"a":1"#, "null"] {
            assert_eq!(members(bad, ["a"]), [None], "{bad}");
            assert_eq!(string(bad), None);
        }
        assert!(list("{}").is_empty());
        assert_eq!(list(r#"[1,"a",[2]]"#), ["1", r#""a""#, "[2]"]);
    }

    #[test]
    fn a_lone_surrogate_does_not_lose_the_text() {
        assert_eq!(string(r#""a\u00e9\nb""#).as_deref(), Some("aé\nb"));
        assert!(string(r#""x \ud83d y""#).unwrap().starts_with("x "));
        assert_eq!(string(r#""\ud83d\ude00""#).as_deref(), Some("😀"));
    }

    #[test]
    fn nesting_however_deep_is_passed_over() {
        let deep = format!(r#"{{"a":{}{},"b":1}}"#, "[".repeat(20_000), "]".repeat(20_000));
        assert_eq!(members(&deep, ["b"]), [Some("1")]);
    }
}
