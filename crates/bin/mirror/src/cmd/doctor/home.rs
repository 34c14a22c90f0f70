//! The home: who may enter it, whether this build can read it, whether effects are halted, how long the disk lasts.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use mirror_clock::{Clock as _, SystemClock};
use mirror_kit::Halt;

use super::{Finding, Look};
use crate::app::app;
use crate::jobs::disk;
use crate::text::shell_word;

pub(super) fn findings(look: &Look<'_>) -> Vec<Finding> {
    let mut findings = permissions(look);
    findings.extend(sockets(look));
    findings.push(format(look));
    findings.extend(halt(look));
    findings.push(space(look));
    findings
}

/// Every folder of the home is for its owner alone, and so is every key.
fn permissions(look: &Look<'_>) -> Vec<Finding> {
    let home = look.home;
    let folders = [
        home.root().to_owned(),
        home.bus(),
        home.blobs(),
        home.keys(),
        home.desired(),
        home.halt(),
        home.state_root(),
        home.run(),
        home.fleet(),
        home.agents(),
        home.bin(),
        home.log(),
        home.trash(),
        home.quarantine(),
    ];
    let mut findings: Vec<Finding> = folders.iter().filter_map(|path| private(path, 0o700, true)).collect();
    for entry in fs::read_dir(home.keys()).into_iter().flatten().flatten() {
        findings.extend(private(&entry.path(), 0o600, false));
    }
    if findings.is_empty() {
        findings.push(Finding::fine("home", "its folders and keys are for you alone").file(home.root()));
    }
    findings
}

/// Returns what is wrong with the owner and the mode of a path; a missing folder is made at the next start.
fn private(path: &Path, mode: u32, is_folder: bool) -> Option<Finding> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(_) if is_folder => return None,
        Err(e) => return Some(Finding::problem("keys", format!("it cannot be looked at: {e}")).file(path)),
    };
    let check = if is_folder { "home" } else { "keys" };
    let word = shell_word(&path.to_string_lossy());
    let uid = nix::unistd::geteuid().as_raw();
    if meta.uid() != uid {
        let text = format!("it belongs to uid {}, not to you (uid {uid})", meta.uid());
        return Some(Finding::problem(check, text).file(path).mend(format!("sudo chown {uid} {word}")));
    }
    let found = meta.permissions().mode() & 0o777;
    if found & 0o077 == 0 {
        return None;
    }
    let text = format!("it has mode {found:04o}, so others may read it; it must be {mode:04o}");
    Some(Finding::problem(check, text).file(path).mend(format!("chmod {mode:o} {word}")))
}

fn sockets(look: &Look<'_>) -> Option<Finding> {
    let longest = app().services.iter().max_by_key(|s| s.decl.name.len())?;
    let error = look.home.socket(longest.decl.name).err()?;
    Some(
        Finding::problem("sockets", error.to_string())
            .mend("move the home to a shorter path, and set MIRROR_HOME to it"),
    )
}

fn format(look: &Look<'_>) -> Finding {
    match mirror_kit::node(look.home) {
        Err(e) => {
            let text = mirror_errors::Chain(&e).to_string();
            let finding = Finding::problem("format", text).file(look.home.bus().join("node.json"));
            if look.home.bus().join("node.json").exists() {
                finding
            } else {
                finding.mend(look.command("init"))
            }
        }
        Ok(node) => match layout(look) {
            Ok(text) => Finding::fine("format", format!("log {}, {text}", node.origin)),
            Err(finding) => *finding,
        },
    }
}

fn layout(look: &Look<'_>) -> Result<String, Box<Finding>> {
    let path = look.home.layout();
    let known = mirror_kit::LAYOUT;
    let text = fs::read_to_string(&path).unwrap_or_else(|_| "1".to_owned());
    match text.trim().parse::<u32>() {
        Ok(found) if found > known => Err(Box::new(
            Finding::problem("format", format!("the home has layout {found} and this build knows {known}"))
                .file(path)
                .mend("update MirrorDNA; nothing was changed"),
        )),
        Ok(found) if found < known => {
            Ok(format!("layout {found}, which the next start brings up to {known}"))
        }
        Ok(found) => Ok(format!("layout {found}")),
        Err(_) => Err(Box::new(
            Finding::problem("format", "it holds no number")
                .file(path)
                .mend(format!("restore it from a backup, or write {known} to it")),
        )),
    }
}

fn halt(look: &Look<'_>) -> Vec<Finding> {
    let Ok(node) = mirror_kit::node(look.home) else { return Vec::new() };
    let halt = Halt::new(look.home, Some(node.key), Arc::new(SystemClock));
    let mut findings = Vec::new();
    match halt.view().halted {
        Some(why) => findings.push(
            Finding::problem("halt", format!("effects are refused: {why}"))
                .file(look.home.halt().join("state"))
                .mend(look.command("halt release")),
        ),
        None => findings.push(Finding::fine("halt", "effects are allowed")),
    }
    if !halt.is_releasable() {
        findings.push(
            Finding::warning("halt", "there is no recovery kit, so a halt could not be released")
                .file(look.home.halt().join("keys"))
                .mend(look.command("init")),
        );
    }
    findings
}

fn space(look: &Look<'_>) -> Finding {
    match disk::look(look.home, SystemClock.wall_ms()) {
        Err(e) => Finding::problem("disk", format!("it cannot be looked at: {e}")).file(look.home.root()),
        Ok(forecast) if forecast.is_low() => Finding::warning("disk", forecast.in_words())
            .file(look.home.root())
            .mend("make room on this disk"),
        Ok(forecast) => Finding::fine("disk", forecast.in_words()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_may_read_is_named_with_its_remedy() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("node.seed");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(private(&path, 0o600, false), None);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let finding = private(&path, 0o600, false).unwrap();
        assert!(finding.text.contains("0640"), "{finding:?}");
        assert_eq!(finding.mend, Some(format!("chmod 600 {}", path.display())));
        assert_eq!(private(&temp.path().join("none"), 0o700, true), None);
    }
}
