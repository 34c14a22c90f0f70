//! `mirror completions` and `mirror man`: generated from the same definition as the parser.

use std::path::Path;

use clap_complete::Shell;

use crate::args::command;
use crate::failure::Failure;
use crate::out::{Out, say};

pub(crate) fn completions(out: &mut Out, shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "mirror", &mut script);
    out.bytes(&script)
}

pub(crate) fn man(out: &mut Out, dir: Option<&Path>) -> Result<(), Failure> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command())
            .render(&mut page)
            .map_err(|e| Failure::bug(format!("the page cannot be made: {e}")))?;
        return out.bytes(&page);
    };
    std::fs::create_dir_all(dir).map_err(|e| Failure::file("make", dir, &e))?;
    clap_mangen::generate_to(command(), dir).map_err(|e| Failure::file("write pages to", dir, &e))?;
    let pages = std::fs::read_dir(dir).map_err(|e| Failure::file("read", dir, &e))?;
    let mut names: Vec<_> = pages.flatten().map(|entry| entry.path()).collect();
    names.retain(|path| path.extension().is_some_and(|e| e == "1"));
    names.sort();
    for path in &names {
        if out.json_wanted() {
            out.json(&serde_json::json!({"page": path}))?;
        } else {
            out.line(&path.display().to_string())?;
        }
    }
    say(&format!("read them with: man -l {}", dir.join("mirror.1").display()));
    Ok(())
}
