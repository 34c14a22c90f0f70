//! `mirror recover`: brings the identity of a recovery kit to this machine.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use mirror_keeper::recovery::{self, Sealed};
use serde_json::json;

use crate::args::RecoverArgs;
use crate::cmd::passphrase::{self, refused};
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::{Out, say};

/// Largest file that is read as a kit.
const KIT_LIMIT: u64 = 64 << 10;

pub(crate) fn run(ctx: &Ctx, out: &mut Out, args: &RecoverArgs) -> Result<(), Failure> {
    let home = ctx.home()?;
    let kit = Sealed::parse(&text(&args.kit)?).map_err(|e| Failure::input(e.to_string()))?;
    let phrase = passphrase::ask()?;
    say("deriving the key, which takes a moment");
    let (node, new_log) = recovery::restore(&home, &kit, &phrase).map_err(|e| refused(&e))?;
    if out.json_wanted() {
        return out.json(&json!({
            "home": home.root(),
            "new_log": new_log,
            "origin": node.origin.as_str(),
            "public_key": node.key.to_hex(),
        }));
    }
    let log = if new_log {
        format!("{} (new; the lost one was {} or later)", node.origin, kit.origin())
    } else {
        format!("{} (found, and left as it is)", node.origin)
    };
    out.line(&format!("home    {}", home.root().display()))?;
    out.line(&format!("log     {log}"))?;
    out.line(&format!("key     {} (restored)", home.keys().join("node.seed").display()))?;
    out.line(&format!("start   {}", ctx.command(&home, &ctx.exe()?, "up")))
}

fn text(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(KIT_LIMIT).read_to_string(&mut text));
    read.map_err(|e| Failure::file("read", path, &e))?;
    Ok(text)
}
