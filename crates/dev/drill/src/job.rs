//! What a property list says, as far as the model needs it; read apart from the product's own reader.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mirror_agents::machine::{KeepAlive, Rules};
use plist::{Dictionary, Value};

/// A property list that launchd would take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Label.
    pub label: String,
    /// The file.
    pub path: PathBuf,
    /// The file's text when it was read.
    pub text: String,
    /// When it is started and ended.
    pub rules: Rules,
    /// Executable.
    pub program: PathBuf,
    /// Arguments, the name it is started by first.
    pub arguments: Vec<String>,
    /// Environment.
    pub environment: BTreeMap<String, String>,
    /// File for its output.
    pub output: Option<PathBuf>,
}

impl Job {
    /// Reads a file as launchd does: what is not understood is ignored.
    ///
    /// # Errors
    ///
    /// Says why launchd would answer with an input/output error.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let value =
            Value::from_reader_xml(text.as_bytes()).map_err(|e| format!("{}: {e}", path.display()))?;
        let root = value.as_dictionary().ok_or("the property list is no dictionary")?;
        let string = |key: &str| root.get(key).and_then(Value::as_string).map(str::to_owned);
        let arguments: Vec<String> = root
            .get("ProgramArguments")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|v| v.as_string().map(str::to_owned))
            .collect();
        let program =
            string("Program").or_else(|| arguments.first().cloned()).ok_or("there is no Program")?;
        let environment = root.get("EnvironmentVariables").and_then(Value::as_dictionary);
        let environment = environment.into_iter().flatten();
        Ok(Self {
            label: string("Label").ok_or("there is no Label")?,
            path: path.to_owned(),
            rules: rules(root),
            program: program.into(),
            arguments,
            environment: environment
                .filter_map(|(k, v)| Some((k.clone(), v.as_string()?.to_owned())))
                .collect(),
            output: string("StandardErrorPath").map(PathBuf::from),
            text,
        })
    }
}

fn rules(root: &Dictionary) -> Rules {
    let flag = |key: &str| root.get(key).and_then(Value::as_boolean).unwrap_or(false);
    let seconds = |key: &str| root.get(key).and_then(Value::as_unsigned_integer).map(Duration::from_secs);
    let keep_alive = match root.get("KeepAlive") {
        Some(Value::Boolean(true)) => KeepAlive::Always,
        Some(Value::Dictionary(rules)) => match rules.get("SuccessfulExit").and_then(Value::as_boolean) {
            Some(true) => KeepAlive::AfterSuccess,
            Some(false) => KeepAlive::AfterFailure,
            None => KeepAlive::Never,
        },
        _ => KeepAlive::Never,
    };
    Rules {
        run_at_load: flag("RunAtLoad"),
        keep_alive,
        throttle: seconds("ThrottleInterval").unwrap_or(Duration::from_secs(10)),
        exit_time_out: Some(seconds("ExitTimeOut").unwrap_or(Duration::from_secs(20)))
            .filter(|d| !d.is_zero()),
        interval: seconds("StartInterval"),
    }
}
