//! Tells a change that old clients survive from one that they do not.
//!
//! Fields and enum values of a stable package keep their name, number, type and presence for ever; RPCs keep their
//! messages and streaming, and one that was idempotent stays so, because clients repeat it.
//! Scopes, risks, deadlines and rules may change: the lock shows them to the reviewer.

use std::collections::BTreeMap;

/// Returns why `new` breaks clients of `old`, one line each; nothing when it does not.
pub fn breaks(old: &str, new: &str) -> Vec<String> {
    let now = lines(new);
    let mut problems = Vec::new();
    for (key, line) in lines(old) {
        if !line.stable {
            continue;
        }
        match now.get(key) {
            None => problems.push(format!(
                "{key} was removed from a stable package; keep it, or serve a new package (v2) beside this one"
            )),
            Some(found) if found.shape != line.shape => problems.push(format!(
                "{key} was {:?} and is {:?}; a stable package only grows: add a new name with a new number",
                line.shape, found.shape
            )),
            Some(found) if line.idempotent && !found.idempotent => {
                problems.push(format!("{key} was idempotent and is not; clients repeat it after a lost answer"));
            }
            Some(_) => {}
        }
    }
    let mut numbers = BTreeMap::new();
    for (key, line) in &now {
        // Extensions of different messages may share a number.
        let numbered = line.number.is_some() && !key.starts_with("extension ");
        let Some((owner, _)) = key.rsplit_once('.').filter(|_| numbered) else { continue };
        if let Some(other) = numbers.insert((owner, line.number), key) {
            problems.push(format!("{key} has the number of {other}"));
        }
    }
    problems
}

struct Line<'a> {
    shape: &'a str,
    number: Option<&'a str>,
    idempotent: bool,
    stable: bool,
}

fn lines(text: &str) -> BTreeMap<&str, Line<'_>> {
    text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).map(line).collect()
}

fn line(text: &str) -> (&str, Line<'_>) {
    let options = [" scope=", " undeclared", " when_away="];
    let fixed = options.iter().filter_map(|o| text.find(o)).min().unwrap_or(text.len());
    let (fixed, rest) = text.split_at(fixed);
    let (key, shape, number) = match (fixed.split_once(" = "), fixed.split_once(" (")) {
        (Some((key, shape)), _) => (key, shape, Some(shape.split(' ').next().unwrap_or(shape))),
        (None, Some((key, shape))) => (key, shape, None),
        (None, None) => (fixed, "", None),
    };
    // A field and a message of one name are different things; so are their keys, by the word in front.
    let name = key.rsplit(' ').next().unwrap_or(key);
    let stable = name.split(['.', '/']).any(is_stable_version);
    let idempotent = rest.split(' ').any(|word| word == "idempotent");
    (key, Line { shape, number, idempotent, stable })
}

fn is_stable_version(segment: &str) -> bool {
    segment.strip_prefix('v').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "\
# a comment
enum mirror.x.v1.Kind.KIND_A = 1
message mirror.x.v1.GetXRequest
mirror.x.v1.GetXRequest.id = 1 implicit string
mirror.x.v1.GetXRequest.page = 2 optional uint32
rpc mirror.x.v1.XService/GetX (mirror.x.v1.GetXRequest) -> (mirror.x.v1.GetXResponse) scope=x.read risk=LOW idempotent deadline=10ms
service mirror.x.v1.XService when_away=HOLD
";

    #[track_caller]
    fn check(from: &str, to: &str, expected: &[&str]) {
        let new = OLD.replace(from, to);
        assert!(from.is_empty() || new != OLD, "the change changes nothing");
        let problems = breaks(OLD, &new);
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, part) in problems.iter().zip(expected) {
            assert!(problem.contains(part), "{part:?} in {problem:?}");
        }
    }

    #[test]
    fn growth_and_governance_are_compatible() {
        check("# a comment", "# another", &[]);
        check("# a comment", "mirror.x.v1.GetXRequest.size = 3 implicit uint32", &[]);
        check("# a comment", "enum mirror.x.v1.Kind.KIND_B = 2", &[]);
        check("# a comment", "rpc mirror.x.v1.XService/PutX (a) -> (b) scope=x.put risk=LOW", &[]);
        check("deadline=10ms", "deadline=20ms", &[]);
        check("scope=x.read", "scope=x.look", &[]);
        check("when_away=HOLD", "when_away=DENY", &[]);
    }

    #[test]
    fn what_old_clients_send_and_read_stays() {
        check("mirror.x.v1.GetXRequest.id = 1 implicit string\n", "", &["GetXRequest.id was removed"]);
        check(
            "id = 1 implicit",
            "id = 3 implicit",
            &["was \"1 implicit string\" and is \"3 implicit string\""],
        );
        check("implicit string", "implicit bytes", &["and is \"1 implicit bytes\""]);
        check("2 optional uint32", "2 implicit uint32", &["and is \"2 implicit uint32\""]);
        check("KIND_A = 1", "KIND_A = 2", &["Kind.KIND_A was \"1\""]);
        check("enum mirror.x.v1.Kind.KIND_A = 1\n", "", &["KIND_A was removed"]);
        check("message mirror.x.v1.GetXRequest\n", "", &["message mirror.x.v1.GetXRequest was removed"]);
        check("(mirror.x.v1.GetXRequest)", "(stream mirror.x.v1.GetXRequest)", &["XService/GetX was"]);
        check(" idempotent", "", &["was idempotent and is not"]);
        check(
            "service mirror.x.v1.XService when_away=HOLD\n",
            "",
            &["service mirror.x.v1.XService was removed"],
        );
    }

    #[test]
    fn a_rename_is_a_removal_and_a_number_has_one_owner() {
        check("GetXRequest.id = 1", "GetXRequest.name = 1", &["GetXRequest.id was removed"]);
        check("# a comment", "mirror.x.v1.GetXRequest.other = 2 implicit bool", &["has the number of"]);
    }

    #[test]
    fn an_unstable_package_may_change() {
        let old = OLD.replace("mirror.x.v1.", "mirror.x.v1alpha1.");
        assert!(breaks(&old, "").is_empty());
        assert!(!breaks(OLD, "").is_empty());
    }
}
