//! systemd user units: one template a service, with the meaning of the LaunchAgents.

use anyhow::{Result, bail};
use mirror_kit::{Decl, Keep};

/// Returns the templates by file name.
///
/// # Errors
///
/// When a service is kept in a way that has no template.
pub fn render(catalogue: &[&'static Decl]) -> Result<Vec<(String, String)>> {
    catalogue.iter().map(|decl| Ok((format!("{}.service", decl.link()), unit(decl)?))).collect()
}

/// Exit code 75 is a drain that nobody declared final: systemd starts the service again, unless it was told to stop it.
fn unit(decl: &Decl) -> Result<String> {
    if decl.keep != Keep::Always {
        bail!("{}: kept {}, which has no systemd template", decl.name, decl.keep.name());
    }
    let (name, link, summary) = (decl.name, decl.link(), decl.summary.replace('%', "%%"));
    Ok(format!(
        "# Rendered by `cargo xtask render` from the catalogue; an edit here is refused by the tests.\n\
         [Unit]\n\
         Description=MirrorDNA {name}: {summary}\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=exec\n\
         ExecStart=@BIN@/{link}\n\
         Environment=\"MIRROR_HOME=@MIRROR_HOME@\" PATH=/usr/bin:/bin\n\
         Restart=on-failure\n\
         RestartForceExitStatus=75\n\
         SuccessExitStatus=75\n\
         RestartSec=10\n\
         TimeoutStopSec=15\n\
         UMask=0077\n\
         LimitNOFILE=4096\n\
         NoNewPrivileges=yes\n\
         StandardOutput=append:@MIRROR_HOME@/log/{name}.err\n\
         StandardError=append:@MIRROR_HOME@/log/{name}.err\n\
         \n\
         [Install]\n\
         WantedBy=default.target\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_starts_its_link_and_escapes_its_summary() {
        let decl = Decl { name: "sample", summary: "Keeps 5 % free.", ..Decl::DEFAULT };
        let text = unit(&decl).unwrap();
        assert!(text.contains("\nExecStart=@BIN@/mirror-sample\n"), "{text}");
        assert!(text.contains("Keeps 5 %% free."), "{text}");
        for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            assert!(line.starts_with('[') || line.contains('='), "{line:?}");
        }
        assert!(unit(&Decl { keep: Keep::Calendar, ..decl }).is_err());
    }
}
