//! The keys of a property list, one by one.

use super::{BIN, HOME, KeepAlive, Moment, Plist, Value};

/// Longest interval, in seconds: 31 days.
const INTERVAL_LIMIT: i64 = 31 * 86_400;
/// Most moments of a calendar.
const MOMENTS_LIMIT: usize = 64;

const PROCESS_TYPES: [&str; 4] = ["Background", "Standard", "Adaptive", "Interactive"];
const SESSION_TYPES: [&str; 4] = ["Aqua", "Background", "LoginWindow", "StandardIO"];

impl Plist {
    /// Takes one key; the error says what is wrong with it.
    pub(super) fn set(&mut self, key: &str, value: &Value) -> Result<(), String> {
        match (key, value) {
            ("Label", Value::Text(text)) => self.label.clone_from(text),
            ("Program", Value::Text(text)) => self.program = path(text)?,
            ("WorkingDirectory", Value::Text(text)) => self.working_directory = Some(path(text)?),
            ("StandardOutPath", Value::Text(text)) => self.stdout = Some(path(text)?),
            ("StandardErrorPath", Value::Text(text)) => self.stderr = Some(path(text)?),
            ("ProgramArguments", Value::List(items)) => self.arguments = texts(items)?,
            ("RunAtLoad", Value::Flag(flag)) => self.run_at_load = *flag,
            ("KeepAlive", value) => self.keep_alive = keep_alive(value)?,
            ("ThrottleInterval", Value::Number(n)) => self.throttle_secs = within(*n, 1, 600, "s")?,
            ("ExitTimeOut", Value::Number(n)) => self.exit_time_out_secs = within(*n, 0, 600, "s")?,
            ("StartInterval", Value::Number(n)) => {
                self.interval_secs = Some(within(*n, 1, INTERVAL_LIMIT, "s")?);
            }
            ("StartCalendarInterval", value) => self.calendar = calendar(value)?,
            ("Umask", Value::Number(n)) => self.umask = Some(umask(*n)?),
            ("ProcessType", Value::Text(kind)) => self.process_type = Some(known(kind, &PROCESS_TYPES)?),
            ("LimitLoadToSessionType", Value::List(items)) if !items.is_empty() => {
                self.session_types =
                    texts(items)?.iter().map(|kind| known(kind, &SESSION_TYPES)).collect::<Result<_, _>>()?;
            }
            ("EnvironmentVariables", Value::Dict(variables)) => {
                for (name, value) in variables {
                    let Value::Text(text) = value else { return Err(format!("{name} is not a string")) };
                    let bad = name.is_empty() || name.contains(['=', '\0']) || text.contains('\0');
                    if bad {
                        return Err(format!("{name:?} cannot be a variable"));
                    }
                    self.environment.insert(name.clone(), filled(text)?);
                }
            }
            ("SoftResourceLimits", Value::Dict(limits)) => {
                for (name, limit) in limits {
                    match limit {
                        Value::Number(n) if name == "NumberOfFiles" => {
                            self.files = Some(within(*n, 64, 1 << 20, "open files")?);
                        }
                        _ => return Err(format!("the limit {name} is unknown here")),
                    }
                }
            }
            (_, value) => return Err(format!("is unknown, or {} is not what it takes", value.kind())),
        }
        Ok(())
    }
}

/// Returns a text whose places are filled in.
fn filled(text: &str) -> Result<String, String> {
    if text.contains(BIN) || text.contains(HOME) {
        return Err(format!("{text:?} has a place that was not filled in"));
    }
    Ok(text.to_owned())
}

fn path(text: &str) -> Result<String, String> {
    let text = filled(text)?;
    if !text.starts_with('/') || text.contains('\0') {
        return Err(format!("{text:?} is not absolute; launchd expands neither ~ nor variables"));
    }
    Ok(text)
}

fn texts(items: &[Value]) -> Result<Vec<String>, String> {
    let text = |item: &Value| match item {
        Value::Text(text) if !text.contains('\0') => filled(text),
        other => Err(format!("every item is a string, and one is {}", other.kind())),
    };
    items.iter().map(text).collect()
}

fn known(kind: &str, kinds: &[&str]) -> Result<String, String> {
    if kinds.contains(&kind) { Ok(kind.to_owned()) } else { Err(format!("{kind:?} is none of {kinds:?}")) }
}

fn within(n: i64, from: i64, to: i64, unit: &str) -> Result<u32, String> {
    u32::try_from(n)
        .ok()
        .filter(|_| (from..=to).contains(&n))
        .ok_or_else(|| format!("{n} {unit} is not within {from} to {to}"))
}

fn umask(n: i64) -> Result<u32, String> {
    u32::try_from(n)
        .ok()
        .filter(|n| *n <= 0o777 && n & 0o077 == 0o077)
        .ok_or_else(|| format!("{n} leaves something to others; it is decimal, and 63 is the decimal of 077"))
}

fn keep_alive(value: &Value) -> Result<KeepAlive, String> {
    match value {
        Value::Flag(true) => Ok(KeepAlive::Always),
        Value::Flag(false) => Ok(KeepAlive::Never),
        Value::Dict(rules) if rules.len() == 1 => match rules.get("SuccessfulExit") {
            Some(Value::Flag(false)) => Ok(KeepAlive::AfterFailure),
            Some(Value::Flag(true)) => Ok(KeepAlive::AfterSuccess),
            _ => Err("the only rule here is SuccessfulExit, a boolean".to_owned()),
        },
        Value::Dict(_) => Err("the only rule here is SuccessfulExit, a boolean".to_owned()),
        other => Err(format!("takes a boolean or a dictionary, and is {}", other.kind())),
    }
}

fn calendar(value: &Value) -> Result<Vec<Moment>, String> {
    match value {
        Value::Dict(_) => Ok(vec![moment(value)?]),
        Value::List(items) if (1..=MOMENTS_LIMIT).contains(&items.len()) => {
            items.iter().map(moment).collect()
        }
        Value::List(items) => Err(format!("{} moments are not within 1 to {MOMENTS_LIMIT}", items.len())),
        other => Err(format!("takes a dictionary or an array of them, and is {}", other.kind())),
    }
}

fn moment(value: &Value) -> Result<Moment, String> {
    let Value::Dict(fields) = value else {
        return Err(format!("a moment is a dictionary, and one is {}", value.kind()));
    };
    let mut moment = Moment::default();
    for (name, value) in fields {
        let Value::Number(n) = value else { return Err(format!("{name} is not an integer")) };
        let (field, from, to) = match name.as_str() {
            "Minute" => (&mut moment.minute, 0, 59),
            "Hour" => (&mut moment.hour, 0, 23),
            "Day" => (&mut moment.day, 1, 31),
            "Weekday" => (&mut moment.weekday, 0, 7),
            "Month" => (&mut moment.month, 1, 12),
            _ => return Err(format!("a moment has no {name}")),
        };
        let n = u8::try_from(*n).ok().filter(|n| (from..=to).contains(n));
        *field = Some(n.ok_or_else(|| format!("{name} is {value:?} and must be {from} to {to}"))?);
    }
    Ok(moment)
}
