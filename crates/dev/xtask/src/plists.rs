//! LaunchAgents: one template a service, and the strict reader that checks them.
//!
//! A template holds `@BIN@` and `@MIRROR_HOME@`; an install fills them in. The reader refuses an unknown key, a value
//! of the wrong type and a key given twice, because launchd ignores all three in silence.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use mirror_kit::{Criticality, Decl, Keep};
use mirror_paths::Home;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// What a service may find by name: nothing that the owner or a package manager put there.
const PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin";

/// Returns the templates by file name.
///
/// # Errors
///
/// When a service is kept in a way that has no template.
pub fn render(catalogue: &[&'static Decl]) -> Result<Vec<(String, String)>> {
    catalogue.iter().map(|decl| Ok((format!("{}.plist", decl.label()), plist(decl)?))).collect()
}

fn plist(decl: &Decl) -> Result<String> {
    if decl.keep != Keep::Always {
        bail!("{}: kept {}, which has no LaunchAgent template", decl.name, decl.keep.name());
    }
    let link = decl.link();
    let kind = match decl.criticality {
        Criticality::Vital | Criticality::Important => "Interactive",
        Criticality::Useful => "Background",
    };
    let log = format!("@MIRROR_HOME@/log/{}.err", decl.name);
    let mut body = String::new();
    let mut entry = |key: &str, value: String| {
        let _ = writeln!(body, "  <key>{key}</key>\n{value}");
    };
    entry("Label", string(1, &decl.label()));
    entry("Program", string(1, &format!("@BIN@/{link}")));
    entry("ProgramArguments", array(&[&link]));
    entry("RunAtLoad", "  <true/>".to_owned());
    entry("KeepAlive", "  <dict>\n    <key>SuccessfulExit</key>\n    <false/>\n  </dict>".to_owned());
    entry("ThrottleInterval", integer(1, 10));
    entry("ExitTimeOut", integer(1, 15));
    entry("ProcessType", string(1, kind));
    entry(
        "EnvironmentVariables",
        format!(
            "  <dict>\n    <key>MIRROR_HOME</key>\n{}\n    <key>PATH</key>\n{}\n  </dict>",
            string(2, "@MIRROR_HOME@"),
            string(2, PATH)
        ),
    );
    // launchd wants the decimal of 077.
    entry("Umask", integer(1, 0o077));
    entry("StandardOutPath", string(1, &log));
    entry("StandardErrorPath", string(1, &log));
    entry("LimitLoadToSessionType", array(&["Aqua", "Background"]));
    entry(
        "SoftResourceLimits",
        format!("  <dict>\n    <key>NumberOfFiles</key>\n{}\n  </dict>", integer(2, 4096)),
    );
    Ok(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <!-- Rendered by `cargo xtask render` from the catalogue; an edit here is refused by the tests. -->\n\
         <plist version=\"1.0\">\n<dict>\n{body}</dict>\n</plist>\n"
    ))
}

fn string(depth: usize, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("{}<string>{text}</string>", "  ".repeat(depth))
}

fn integer(depth: usize, value: u32) -> String {
    format!("{}<integer>{value}</integer>", "  ".repeat(depth))
}

fn array(items: &[&str]) -> String {
    let lines: Vec<String> = items.iter().map(|item| string(2, item)).collect();
    format!("  <array>\n{}\n  </array>", lines.join("\n"))
}

/// Returns a template with its places filled in, as an install does.
pub fn fill(template: &str, bin: &Path, home: &Path) -> String {
    let escape = |path: &Path| path.display().to_string().replace('&', "&amp;").replace('<', "&lt;");
    template.replace("@BIN@", &escape(bin)).replace("@MIRROR_HOME@", &escape(home))
}

/// Checks one filled LaunchAgent against what launchd understands and what this system promises.
///
/// # Errors
///
/// Names the first key that is unknown, doubled, of the wrong type, or has a value that does not hold.
pub fn validate(file_name: &str, text: &str) -> Result<()> {
    let value: Value = plist::from_bytes(text.as_bytes()).context("parse the property list")?;
    let Value::Dict(root) = value else { bail!("the property list is not a dictionary") };
    for (key, value) in &root {
        check_key(key, value).with_context(|| format!("key {key}"))?;
    }
    let string = |key: &str| match root.get(key) {
        Some(Value::Text(text)) => Ok(text.as_str()),
        _ => bail!("key {key} is missing"),
    };
    let label = string("Label")?;
    ensure!(
        file_name == format!("{label}.plist"),
        "the label {label:?} is not the file's name, {file_name:?}"
    );
    let service = label.strip_prefix("dev.mirrordna.").context("the label must begin with dev.mirrordna.")?;
    let program = string("Program")?;
    ensure!(program.ends_with(&format!("/mirror-{service}")), "Program {program:?} is not mirror-{service}");
    let Some(Value::List(arguments)) = root.get("ProgramArguments") else {
        bail!("ProgramArguments is missing")
    };
    ensure!(
        arguments.first() == Some(&Value::Text(format!("mirror-{service}"))),
        "ProgramArguments must begin with mirror-{service}, by which the binary knows what it is"
    );
    let Some(Value::Dict(environment)) = root.get("EnvironmentVariables") else {
        bail!("EnvironmentVariables is missing")
    };
    let Some(Value::Text(home)) = environment.get("MIRROR_HOME") else { bail!("MIRROR_HOME is missing") };
    Home::at(home)?.socket(service)?;
    ensure!(
        root.contains_key("StandardErrorPath"),
        "StandardErrorPath is missing: a panic would leave no trace"
    );
    Ok(())
}

fn check_key(key: &str, value: &Value) -> Result<()> {
    match (key, value) {
        ("Label", Value::Text(_)) | ("RunAtLoad", Value::Flag(_)) => {}
        ("Program" | "StandardOutPath" | "StandardErrorPath", Value::Text(path)) => {
            ensure!(path.starts_with('/'), "{path:?} is not absolute");
            ensure!(!path.contains('@'), "{path:?} has a place that was not filled in");
        }
        ("ProgramArguments", Value::List(items)) => {
            ensure!(items.iter().all(|i| matches!(i, Value::Text(_))), "every argument is a string");
        }
        ("LimitLoadToSessionType", Value::List(items)) => {
            let known = ["Aqua", "Background", "LoginWindow", "StandardIO"];
            let all = items.iter().all(|i| matches!(i, Value::Text(t) if known.contains(&t.as_str())));
            ensure!(all && !items.is_empty(), "the session types are {known:?}");
        }
        ("KeepAlive", Value::Dict(rules)) => {
            let only = rules.len() == 1 && rules.get("SuccessfulExit") == Some(&Value::Flag(false));
            ensure!(only, "the rule of this system is {{SuccessfulExit: false}}: an exit with 0 is final");
        }
        ("ThrottleInterval" | "ExitTimeOut", Value::Number(n)) => {
            ensure!((1..=600).contains(n), "{n} s is not within 1 to 600");
        }
        ("Umask", Value::Number(n)) => ensure!(*n == 0o077, "{n} is not 63, the decimal of 077"),
        ("ProcessType", Value::Text(kind)) => {
            let known = ["Background", "Standard", "Adaptive", "Interactive"];
            ensure!(known.contains(&kind.as_str()), "{kind:?} is none of {known:?}");
        }
        ("EnvironmentVariables", Value::Dict(variables)) => {
            for (name, value) in variables {
                let Value::Text(text) = value else { bail!("{name} is not a string") };
                ensure!(!text.contains('@'), "{name} has a place that was not filled in");
            }
        }
        ("SoftResourceLimits", Value::Dict(limits)) => {
            for (name, limit) in limits {
                ensure!(name == "NumberOfFiles", "the limit {name} is unknown here");
                ensure!(matches!(limit, Value::Number(n) if *n >= 256), "NumberOfFiles is at least 256");
            }
        }
        (_, value) => bail!("is unknown, or {} is not what it takes", value.kind()),
    }
    Ok(())
}

/// A property list that refuses a key given twice; the plist crate keeps the last.
#[derive(Debug, PartialEq)]
enum Value {
    Text(String),
    Flag(bool),
    Number(i64),
    List(Vec<Value>),
    Dict(BTreeMap<String, Value>),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Flag(_) => "a boolean",
            Self::Number(_) => "an integer",
            Self::List(_) => "an array",
            Self::Dict(_) => "a dictionary",
        }
    }
}

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
                        return Err(A::Error::custom(format!("the key {key} is given twice")));
                    }
                }
                Ok(Value::Dict(dict))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECL: Decl = Decl { name: "sample", summary: "Is a sample & more.", ..Decl::DEFAULT };

    fn sample() -> String {
        fill(&plist(&DECL).unwrap(), Path::new("/opt/m&m/bin"), Path::new("/opt/mirror"))
    }

    #[track_caller]
    fn check(text: &str, part: &str) {
        let error = format!("{:#}", validate("dev.mirrordna.sample.plist", text).unwrap_err());
        assert!(error.contains(part), "{part:?} in {error:?}");
    }

    #[test]
    fn a_rendered_plist_is_valid_once_filled() {
        validate("dev.mirrordna.sample.plist", &sample()).unwrap();
        check(&plist(&DECL).unwrap(), "was not filled in");
    }

    #[test]
    fn what_launchd_would_ignore_is_refused() {
        let text = sample();
        let twice =
            text.replace("<key>Umask</key>", "<key>Label</key>\n<string>x</string>\n<key>Umask</key>");
        check(&twice, "given twice");
        check(&text.replace("RunAtLoad", "RunAtload"), "RunAtload");
        check(
            &text.replace("<integer>63</integer>", "<string>077</string>"),
            "a string is not what it takes",
        );
        check(&text.replace("<integer>63</integer>", "<integer>77</integer>"), "the decimal of 077");
        check(
            &text.replace("<string>Background</string>\n  <key>Env", "<string>Fast</string>\n  <key>Env"),
            "Fast",
        );
        check(&text.replace("    <false/>", "    <true/>"), "SuccessfulExit");
    }

    #[test]
    fn names_and_paths_must_fit() {
        let text = sample();
        let error = validate("dev.mirrordna.other.plist", &text).unwrap_err().to_string();
        assert!(error.contains("not the file's name"), "{error}");
        check(&text.replace("m&amp;m/bin/mirror-sample", "bin/mirror-bus"), "not mirror-sample");
        check(&text.replace("<string>mirror-sample</string>", "<string>mirror</string>"), "must begin with");
        let long = format!("/opt/{}", "m".repeat(90));
        check(&text.replace("/opt/mirror", &long), "the limit is 103");
    }

    #[test]
    fn a_service_that_has_no_template_is_refused() {
        let error = plist(&Decl { keep: Keep::OnDemand, ..DECL }).unwrap_err().to_string();
        assert!(error.contains("on demand"), "{error}");
    }
}
