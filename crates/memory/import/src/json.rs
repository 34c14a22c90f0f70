//! A look into JSON texts without rewriting them.
//!
//! Values stay the slices of the source they are; a string with a lone surrogate, which some writers cut out of
//! longer text, is read with a replacement character instead of being refused.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of one JSON object, each value as its source text.
#[derive(Debug, Default)]
pub(crate) struct Fields<'a>(Vec<(String, &'a str)>);

impl<'a> Fields<'a> {
    /// Reads one object; anything else is an error.
    pub(crate) fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Returns the source text of a member; of the last one, where a name is repeated.
    pub(crate) fn raw(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// Returns whether a member is there and not null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.raw(name).is_some_and(|value| value != "null")
    }

    /// Returns a member that is a string.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        string(self.raw(name)?)
    }

    /// Returns whether a member is the boolean true.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.raw(name) == Some("true")
    }

    /// Returns a member that is a whole number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.raw(name)?.parse().ok()
    }

    /// Returns a member that is an object.
    pub(crate) fn object(&self, name: &str) -> Option<Fields<'a>> {
        Self::parse(self.raw(name)?).ok()
    }

    /// Returns the elements of a member that is an array; none, where it is not.
    pub(crate) fn list(&self, name: &str) -> Vec<&'a str> {
        self.raw(name).map(list).unwrap_or_default()
    }

    /// Returns all members in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), *value))
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Lossy(key), value)) = map.next_entry::<Lossy, &'de RawValue>()? {
                    members.push((key, value.get()));
                }
                Ok(Fields(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// A string in which a lone surrogate becomes a replacement character.
struct Lossy(String);

impl<'de> Deserialize<'de> for Lossy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Lossy;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON string")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Lossy, E> {
                Ok(Lossy(String::from_utf8_lossy(bytes).into_owned()))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Lossy, E> {
                Ok(Lossy(text.to_owned()))
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Lossy, E> {
                Err(E::custom("null is not a string"))
            }
        }

        deserializer.deserialize_bytes(Bytes).map_err(D::Error::custom)
    }
}

/// Returns the string that a source text is, if it is one.
pub(crate) fn string(raw: &str) -> Option<String> {
    if !raw.starts_with('"') {
        return None;
    }
    serde_json::from_str::<Lossy>(raw).ok().map(|Lossy(text)| text)
}

/// Returns the elements of the array that a source text is; none, if it is not one.
pub(crate) fn list(raw: &str) -> Vec<&str> {
    if !raw.starts_with('[') {
        return Vec::new();
    }
    let items: Vec<&RawValue> = serde_json::from_str(raw).unwrap_or_default();
    items.into_iter().map(RawValue::get).collect()
}

/// Calls `visit` for each byte outside strings.
fn outside_strings(text: &str, mut visit: impl FnMut(usize, u8)) {
    let mut inside = false;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        if inside {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => inside = false,
                _ => {}
            }
        } else {
            inside = byte == b'"';
            visit(at, byte);
        }
    }
}

/// Returns how deeply a valid JSON text is nested: 1 for a flat object.
pub(crate) fn depth(text: &str) -> usize {
    let (mut now, mut most) = (0_usize, 0_usize);
    outside_strings(text, |_, byte| match byte {
        b'{' | b'[' => {
            now += 1;
            most = most.max(now);
        }
        b'}' | b']' => now = now.saturating_sub(1),
        _ => {}
    });
    most
}

/// Returns a valid JSON text without the white space between its tokens.
pub(crate) fn compact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut kept = 0;
    outside_strings(text, |at, byte| {
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            out.push_str(&text[kept..at]);
            kept = at + 1;
        }
    });
    out.push_str(&text[kept..]);
    out
}

/// The members of an object of which perhaps only the beginning is known.
#[derive(Debug, Default)]
pub(crate) struct Peek {
    /// Names, each with its value where that is a short string.
    pub(crate) members: Vec<(String, Option<String>)>,
    /// Where the object ended; `None` when it goes on past what is known.
    pub(crate) end: Option<usize>,
}

/// Most members that are looked at.
const PEEK_MEMBERS: usize = 128;
/// Longest string value that is kept.
const PEEK_STRING: usize = 512;

impl Peek {
    /// Looks at an object from its first byte; `None` when there is no object, or a damaged one.
    pub(crate) fn at(bytes: &[u8]) -> Option<Self> {
        let mut scan = Scan { bytes, at: 0 };
        scan.space();
        if scan.next() != Some(b'{') {
            return None;
        }
        let mut peek = Self::default();
        match scan.members(&mut peek) {
            Ok(()) => peek.end = Some(scan.at),
            Err(Stop::Ended) => {}
            Err(Stop::Damaged) => return None,
        }
        Some(peek)
    }

    /// Returns whether there is a member of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(key, _)| key == name)
    }

    /// Returns the member of this name, if it is a short string.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.members.iter().rev().find(|(key, _)| key == name)?.1.as_deref()
    }
}

/// Why a scan stopped early.
enum Stop {
    /// The known bytes ended.
    Ended,
    /// This is not JSON.
    Damaged,
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn next(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied();
        self.at += usize::from(byte.is_some());
        byte
    }

    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn want(&mut self, byte: u8) -> Result<(), Stop> {
        self.space();
        match self.next() {
            Some(found) if found == byte => Ok(()),
            Some(_) => Err(Stop::Damaged),
            None => Err(Stop::Ended),
        }
    }

    fn members(&mut self, peek: &mut Peek) -> Result<(), Stop> {
        loop {
            self.space();
            match self.bytes.get(self.at) {
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b',') => self.at += 1,
                Some(b'"') => {
                    let name = self.string()?.unwrap_or_default();
                    self.want(b':')?;
                    let value = self.value()?;
                    if peek.members.len() < PEEK_MEMBERS {
                        peek.members.push((name, value));
                    }
                }
                Some(_) => return Err(Stop::Damaged),
                None => return Err(Stop::Ended),
            }
        }
    }

    /// Passes a string, and returns it if it is short.
    fn string(&mut self) -> Result<Option<String>, Stop> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.next() {
                Some(b'\\') => self.at += 1,
                Some(b'"') => break,
                Some(_) => {}
                None => return Err(Stop::Ended),
            }
        }
        let source = self.bytes.get(start..self.at).ok_or(Stop::Ended)?;
        if source.len() > PEEK_STRING {
            return Ok(None);
        }
        Ok(std::str::from_utf8(source).ok().and_then(string))
    }

    fn value(&mut self) -> Result<Option<String>, Stop> {
        self.space();
        match self.bytes.get(self.at) {
            Some(b'"') => self.string(),
            Some(b'{' | b'[') => self.nested().map(|()| None),
            Some(_) => {
                while let Some(byte) = self.bytes.get(self.at) {
                    if matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n') {
                        return Ok(None);
                    }
                    self.at += 1;
                }
                Err(Stop::Ended)
            }
            None => Err(Stop::Ended),
        }
    }

    fn nested(&mut self) -> Result<(), Stop> {
        let mut open = 0_usize;
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.string()?;
                    continue;
                }
                Some(b'{' | b'[') => open += 1,
                Some(b'}' | b']') => open -= 1,
                Some(_) => {}
                None => return Err(Stop::Ended),
            }
            self.at += 1;
            if open == 0 {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_slices_and_the_last_of_a_name_counts() {
        let fields = Fields::parse(r#"{"a": [1, 2], "b":"x\n", "b":"y", "c":null, "n":7}"#).unwrap();
        assert_eq!(fields.raw("a"), Some("[1, 2]"));
        assert_eq!(fields.list("a"), ["1", "2"]);
        assert_eq!(fields.text("b").as_deref(), Some("y"));
        assert_eq!(fields.number("n"), Some(7));
        assert!(!fields.has("c"));
        assert!(Fields::parse("[1]").is_err());
        assert!(Fields::parse("null").is_err());
    }

    #[test]
    fn a_lone_surrogate_is_read_with_a_replacement() {
        let fields = Fields::parse(r#"{"t":"cut \ud83d","k\udc00":"pair \ud83d\ude00"}"#).unwrap();
        assert!(fields.text("t").unwrap().starts_with("cut \u{fffd}"));
        assert_eq!(fields.iter().nth(1).map(|(_, v)| string(v).unwrap()).as_deref(), Some("pair \u{1f600}"));
    }

    #[test]
    fn depth_and_white_space_are_counted_outside_strings() {
        assert_eq!(depth(r#"{"a":"[[[["}"#), 1);
        assert_eq!(depth(r#"{"a":[{"b":"\"}"}]}"#), 3);
        assert_eq!(compact("{ \"a b\" :\n\t[ 1,\r\n 2 ] }"), r#"{"a b":[1,2]}"#);
        assert_eq!(compact(r#"{"a":" \" "}"#), r#"{"a":" \" "}"#);
    }

    #[test]
    fn the_beginning_of_an_object_tells_its_members() {
        let whole = Peek::at(b"\n{\"a\":\"x\",\"b\":{\"c\":\"}\"},\"d\":3}\n{").unwrap();
        assert_eq!(whole.text("a"), Some("x"));
        assert!(whole.has("b") && whole.has("d") && !whole.has("c"));
        assert_eq!(whole.end, Some(30));
        let cut = Peek::at(br#"{"a":"x","b":[{"c":"#).unwrap();
        assert_eq!((cut.text("a"), cut.has("b"), cut.end), (Some("x"), false, None));
        for bad in [&b"[1]"[..], b"text", b"", b"{a:1}", b"{\"a\" 1}"] {
            assert!(Peek::at(bad).is_none(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
