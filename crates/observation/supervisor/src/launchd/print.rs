//! What `launchctl print` and `launchctl list` say of services, read leniently: what is not understood is left out, never guessed.

use crate::manager::Shown;

/// Reads the entries of the outermost block; a service that is printed is loaded.
pub(super) fn parse(text: &str) -> Shown {
    let mut shown = Shown { loaded: true, ..Shown::default() };
    let mut depth = 0_i32;
    let mut signal = String::new();
    for line in text.lines().take(4096) {
        let line = line.trim();
        if line.ends_with('{') {
            depth += 1;
            continue;
        }
        if line == "}" {
            depth -= 1;
            continue;
        }
        let Some((key, value)) = line.split_once(" = ").filter(|_| depth == 1) else { continue };
        match key {
            "pid" => shown.pid = value.parse().ok().filter(|pid| *pid != 0),
            "state" => {
                shown.waiting = matches!(value, "spawn scheduled" | "throttled");
                shown.draining = value.contains("SIGTERM") || value.contains("SIGKILL");
            }
            "last exit code" => shown.last_exit = exit(value),
            "last terminating signal" => signal = ended_by(value),
            _ => {}
        }
    }
    if !signal.is_empty() {
        shown.last_exit = signal;
    }
    shown
}

/// Reads the lines "pid status label" of a list; a status below 0 is a signal.
pub(super) fn list(text: &str, units: &[&str]) -> Vec<Shown> {
    let mut rows = std::collections::HashMap::new();
    for line in text.lines().take(65_536) {
        let mut words = line.split_whitespace();
        if let (Some(pid), Some(status), Some(label)) = (words.next(), words.next(), words.next()) {
            rows.insert(label, (pid, status));
        }
    }
    let shown = |unit: &&str| match rows.get(*unit) {
        None => Shown::default(),
        Some((pid, status)) => Shown {
            loaded: true,
            pid: pid.parse().ok().filter(|pid| *pid != 0),
            last_exit: match status.parse::<i32>() {
                Ok(n) if n < 0 => signal_name(-n),
                Ok(n) => format!("exit code {n}"),
                Err(_) => String::new(),
            },
            ..Shown::default()
        },
    };
    units.iter().map(shown).collect()
}

/// Reads "0", "78: EX_CONFIG" or "(never exited)".
fn exit(value: &str) -> String {
    let code = value.split(':').next().unwrap_or_default();
    code.parse::<i32>().map_or_else(|_| String::new(), |code| format!("exit code {code}"))
}

/// Reads "Killed: 9".
fn ended_by(value: &str) -> String {
    value.rsplit(' ').next().and_then(|n| n.parse().ok()).map_or_else(String::new, signal_name)
}

fn signal_name(n: i32) -> String {
    nix::sys::signal::Signal::try_from(n).map_or_else(|_| format!("signal {n}"), |s| s.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: &str = "gui/501/dev.mirrordna.bus = {\n\tactive count = 1\n\tpath = /Users/me/Library/LaunchAgents/\
        dev.mirrordna.bus.plist\n\ttype = LaunchAgent\n\tstate = running\n\n\tprogram = /x\n\targuments = {\n\t\tmirror-bus\n\t}\n\
        \n\tenvironment = {\n\t\tpid = 9\n\t\tstate = SIGTERMed\n\t}\n\tpid = 4711\n\tlast exit code = 75: EX_TEMPFAIL\n}\n";

    #[test]
    fn the_outermost_entries_count() {
        let shown = parse(RUNNING);
        assert_eq!(
            (shown.loaded, shown.pid, shown.draining, shown.waiting),
            (true, Some(4711), false, false)
        );
        assert_eq!(shown.last_exit, "exit code 75");
    }

    #[test]
    fn other_states_and_ends_are_read() {
        let check = |from: &str, to: &str, expected: Shown| {
            assert_eq!(parse(&RUNNING.replace(from, to)), expected, "{to}");
        };
        let base = parse(RUNNING);
        check("state = running\n", "state = spawn scheduled\n", Shown { waiting: true, ..base.clone() });
        check("state = running\n", "state = SIGTERMed\n", Shown { draining: true, ..base.clone() });
        check("75: EX_TEMPFAIL", "(never exited)", Shown { last_exit: String::new(), ..base });
        let killed = "last terminating signal = Killed: 9\n}";
        check("last exit code = 75: EX_TEMPFAIL\n}", killed, Shown { last_exit: "SIGKILL".into(), ..base });
    }

    #[test]
    fn any_other_text_is_a_loaded_service_of_which_nothing_is_known() {
        for text in ["", "}}}}", "= {\n\tpid = many\n}", "x = {\n\tpid = 99999999999999\n\tstate = ?\n"] {
            assert_eq!(parse(text), Shown { loaded: true, ..Shown::default() }, "{text:?}");
        }
    }

    #[test]
    fn a_list_gives_each_unit_its_line() {
        let text = "PID\tStatus\tLabel\n4711\t0\tdev.mirrordna.bus\n-\t-9\tdev.mirrordna.halt\n-\t78\tx\n";
        let shown = list(text, &["dev.mirrordna.halt", "dev.mirrordna.none", "dev.mirrordna.bus"]);
        assert_eq!((shown[0].loaded, shown[0].pid, shown[0].last_exit.as_str()), (true, None, "SIGKILL"));
        assert_eq!(shown[1], Shown::default());
        assert_eq!((shown[2].pid, shown[2].last_exit.as_str()), (Some(4711), "exit code 0"));
        assert_eq!(list("", &["a"]), [Shown::default()]);
    }
}
