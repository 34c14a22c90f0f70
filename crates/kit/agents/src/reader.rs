//! Reads a property list without overlooking anything: a key given twice is refused, and each key knows its line.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// A value; the kinds that launchd's lists of this system need.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Flag(bool),
    Number(i64),
    List(Vec<Value>),
    Dict(BTreeMap<String, Value>),
}

impl Value {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Flag(_) => "a boolean",
            Self::Number(_) => "an integer",
            Self::List(_) => "an array",
            Self::Dict(_) => "a dictionary",
        }
    }
}

/// What a doubled key's message begins with; the plist crate keeps the last of two.
const TWICE: &str = "is given twice: ";
/// What it ends with.
const END: &str = " <<";

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, boolean, integer, array or dictionary")
            }
            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }
            fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
                Ok(Value::Flag(flag))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
                Ok(Value::Number(number))
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Value, E> {
                i64::try_from(number).map(Value::Number).map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Value::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
                let mut dict = BTreeMap::new();
                while let Some((key, value)) = entries.next_entry::<String, Value>()? {
                    if dict.insert(key.clone(), value).is_some() {
                        return Err(A::Error::custom(format!("{TWICE}{key}{END}")));
                    }
                }
                Ok(Value::Dict(dict))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// Reads a text whose outermost value is a dictionary; the error has its line where one is known.
pub(crate) fn read(text: &str) -> Result<BTreeMap<String, Value>, (Option<usize>, String)> {
    match plist::from_bytes(text.as_bytes()) {
        Ok(Value::Dict(root)) => Ok(root),
        Ok(other) => Err((None, format!("the outermost value is {} and must be a dictionary", other.kind()))),
        Err(e) => Err(explain(text, &e.to_string())),
    }
}

/// Makes a sentence and a line of what the plist crate says, which is the debug form of its error and an offset.
fn explain(text: &str, error: &str) -> (Option<usize>, String) {
    if let Some((_, rest)) = error.split_once(TWICE) {
        let key = rest.split(END).next().unwrap_or_default();
        return (line_of(text, key, 1), format!("the key {key} is given twice"));
    }
    let (what, offset) = error.rsplit_once(" (offset ").unwrap_or((error, ""));
    let offset = offset.trim_end_matches(')').parse().ok();
    let line = offset.and_then(|at| text.get(..at)).map(|before| before.matches('\n').count() + 1);
    (line, format!("it is no property list: {what}"))
}

/// Returns the line, from 1, of the occurrence `nth`, from 0, of a key.
pub(crate) fn line_of(text: &str, key: &str, nth: usize) -> Option<usize> {
    let tag = format!("<key>{}</key>", crate::plist::escape(key));
    text.match_indices(&tag).nth(nth).map(|(at, _)| text[..at].matches('\n').count() + 1)
}
