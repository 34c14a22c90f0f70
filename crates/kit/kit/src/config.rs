//! Configuration: one TOML file, one table a service.
//!
//! An unknown key is a warning with a suggestion; a bad value keeps the service from serving, with the line in its
//! state. Nothing crash-loops on configuration.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A service's configuration; every field has a documented default.
pub trait Config: DeserializeOwned + Serialize + Default {}
impl<T: DeserializeOwned + Serialize + Default> Config for T {}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration: {0}")]
    Read(#[from] io::Error),
    /// The file is not TOML, or a value is not what it must be.
    #[error("the configuration is wrong at line {line}: {message}; mend mirror.toml and restart the service")]
    Value {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

/// A configuration and what was odd about it.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The configuration.
    pub value: T,
    /// One sentence for each unknown key.
    pub warnings: Vec<String>,
}

/// Reads the table `section` of a file; a missing file or table is the default.
pub fn load<T: Config>(path: &Path, section: &str) -> Result<Loaded<T>, ConfigError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e.into()),
    };
    parse(&text, section)
}

fn parse<T: Config>(text: &str, section: &str) -> Result<Loaded<T>, ConfigError> {
    let table: toml::Table = text.parse().map_err(|e| located(text, &e))?;
    if !table.contains_key(section) {
        return Ok(Loaded { value: T::default(), warnings: Vec::new() });
    }
    let mut unknown = Vec::new();
    // From the text and not from the table, so that an error knows its line.
    let wrapper = toml::Deserializer::parse(text).map_err(|e| located(text, &e))?;
    let seed = Section { name: section, unknown: &mut unknown, marker: std::marker::PhantomData };
    let value = serde::de::DeserializeSeed::deserialize(seed, wrapper).map_err(|e| located(text, &e))?;
    let known: Vec<String> =
        toml::Table::try_from(T::default()).map(|t| t.keys().cloned().collect()).unwrap_or_default();
    let mut warnings: Vec<String> = unknown
        .into_iter()
        .map(|key| match nearest(&key, &known) {
            Some(near) => format!("mirror.toml: unknown key {section}.{key}; did you mean {near}?"),
            None => format!("mirror.toml: unknown key {section}.{key}; it is ignored"),
        })
        .collect();
    warnings.sort();
    Ok(Loaded { value, warnings })
}

fn located(text: &str, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |s| s.start).min(text.len());
    let line = text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
    ConfigError::Value { line, message: error.message().replace('\n', " ") }
}

fn nearest<'a>(key: &str, known: &'a [String]) -> Option<&'a str> {
    known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(key, k), k.as_str()))
        .filter(|(distance, k)| *distance <= 1 + k.len() / 4)
        .min()
        .map(|(_, k)| k)
}

struct Section<'a, T> {
    name: &'a str,
    unknown: &'a mut Vec<String>,
    marker: std::marker::PhantomData<T>,
}

impl<'de, T: Config> serde::de::DeserializeSeed<'de> for Section<'_, T> {
    type Value = T;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: Config> serde::de::Visitor<'de> for Section<'_, T> {
    type Value = T;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a table with one table for each service")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == self.name {
                found = Some(map.next_value_seed(Fields::<T> {
                    unknown: self.unknown,
                    marker: std::marker::PhantomData,
                })?);
            } else {
                map.next_value::<serde::de::IgnoredAny>()?;
            }
        }
        Ok(found.unwrap_or_default())
    }
}

struct Fields<'a, T> {
    unknown: &'a mut Vec<String>,
    marker: std::marker::PhantomData<T>,
}

impl<'de, T: Config> serde::de::DeserializeSeed<'de> for Fields<'_, T> {
    type Value = T;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        let unknown = self.unknown;
        serde_ignored::deserialize(deserializer, |path| unknown.push(path.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Sample {
        segment_mib: u32,
        reserve: String,
    }

    impl Default for Sample {
        fn default() -> Self {
            Self { segment_mib: 64, reserve: "256MiB".into() }
        }
    }

    #[test]
    fn a_missing_table_is_the_default() {
        let loaded = parse::<Sample>("[other]\nx = 1\n", "bus").unwrap();
        assert_eq!(loaded.value, Sample::default());
        assert!(loaded.warnings.is_empty());
    }

    #[test]
    fn an_unknown_key_is_a_warning_with_a_suggestion() {
        let loaded = parse::<Sample>("[bus]\nsegment_mb = 8\nsegment_mib = 16\ncolour = 1\n", "bus").unwrap();
        assert_eq!(loaded.value.segment_mib, 16);
        assert_eq!(
            loaded.warnings,
            [
                "mirror.toml: unknown key bus.colour; it is ignored",
                "mirror.toml: unknown key bus.segment_mb; did you mean segment_mib?"
            ]
        );
    }

    #[test]
    fn a_bad_value_names_its_line() {
        let text = "# a comment\n[bus]\nsegment_mib = \"many\"\n";
        let error = parse::<Sample>(text, "bus").unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("restart the service"), "{error}");
        let error = parse::<Sample>("[bus\n", "bus").unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}
