//! `mirror init`: makes the home, and once its recovery kit.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use mirror_clock::{Clock as _, SystemClock};
use mirror_keeper::recovery::{self, Draft, Recovery};
use mirror_kit::Node;
use mirror_paths::Home;
use serde_json::{Value, json};

use crate::args::InitArgs;
use crate::cmd::passphrase::refused;
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::Out;

/// What became of the recovery kit.
enum Kit {
    /// None was wanted.
    Skipped,
    /// The home has one.
    There(Box<Recovery>),
    /// It was made and is in no file.
    Made(Box<Draft>),
    /// It was made and lies in a file.
    Written(Box<Draft>, PathBuf),
}

pub(crate) fn run(ctx: &Ctx, out: &mut Out, args: &InitArgs) -> Result<(), Failure> {
    let home = ctx.home()?;
    let file = args.kit_file.as_deref().map(|file| outside(&home, file)).transpose()?;
    let (node, fresh) = mirror_kit::init(&home).map_err(|e| Failure::home(&e))?;
    let kit = kit(&home, &node, args, file)?;
    if out.json_wanted() {
        out.json(&json!({
            "home": home.root(),
            "new": fresh,
            "origin": node.origin.as_str(),
            "public_key": node.key.to_hex(),
            "recovery": kit_json(&kit),
        }))?;
    } else {
        let what = if fresh { "made" } else { "found, and left as it is" };
        out.line(&format!("home    {} ({what})", home.root().display()))?;
        out.line(&format!("log     {} in {}", node.origin, home.bus().display()))?;
        out.line(&format!(
            "key     {} (public half {})",
            home.keys().join("node.seed").display(),
            node.key.to_hex()
        ))?;
        out.line(&format!("kit     {}", kit_line(&kit)))?;
        out.line(&format!("start   {}", ctx.command(&home, &ctx.exe()?, "up")))?;
        if let Kit::Made(draft) = &kit {
            out.line("")?;
            out.line(draft.text().trim_end())?;
        }
    }
    // It counts only once its owner has it.
    out.flush()?;
    let (draft, written) = match kit {
        Kit::Skipped | Kit::There(_) => return Ok(()),
        Kit::Made(draft) => (draft, None),
        Kit::Written(draft, file) => (draft, Some(file)),
    };
    draft.commit().map(|_| ()).map_err(|e| {
        if let Some(file) = written {
            let _ = fs::remove_file(file);
        }
        refused(&e).hint_first("the kit that was just made does not count; destroy it")
    })
}

/// Returns the path of the kit's file, which must not be lost with the home.
fn outside(home: &Home, file: &Path) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(file).map_err(|e| Failure::file("find", file, &e))?;
    // What does not exist yet has no real path, but its folder has.
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let inside = path.parent().is_some_and(|dir| real(dir).starts_with(real(home.root())));
    if inside || path.starts_with(home.root()) {
        return Err(Failure::input("the recovery kit must not lie in the home, whose loss it is for")
            .hint("name a file elsewhere, best on a disk that you take out"));
    }
    if path.symlink_metadata().is_ok() {
        return Err(Failure::input(format!("{} exists, and nothing is written over it", path.display())));
    }
    Ok(path)
}

fn kit(home: &Home, node: &Node, args: &InitArgs, file: Option<PathBuf>) -> Result<Kit, Failure> {
    if let Some(recovery) = recovery::read(home, node.key).map_err(|e| refused(&e))? {
        return Ok(Kit::There(Box::new(recovery)));
    }
    if args.no_recovery {
        return Ok(Kit::Skipped);
    }
    let draft = Box::new(recovery::draft(home, SystemClock.wall_ms()).map_err(|e| refused(&e))?);
    let Some(file) = file else { return Ok(Kit::Made(draft)) };
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)
        .and_then(|mut kit| kit.write_all(draft.text().as_bytes()).and_then(|()| kit.sync_all()));
    written.map_err(|e| Failure::file("write", &file, &e))?;
    Ok(Kit::Written(draft, file))
}

fn kit_line(kit: &Kit) -> String {
    match kit {
        Kit::Skipped => {
            "none; without one a lost disk ends this identity, and nobody can release the halt".to_owned()
        }
        Kit::There(recovery) => format!(
            "made before (public half {}); its passphrase is nowhere but in it",
            recovery.public().to_hex()
        ),
        Kit::Made(_) => "below; it is shown once and stored nowhere".to_owned(),
        Kit::Written(_, file) => {
            format!("{}; print it or move it away from this machine", file.display())
        }
    }
}

fn kit_json(kit: &Kit) -> Value {
    match kit {
        Kit::Skipped => Value::Null,
        Kit::There(recovery) => json!({ "new": false, "public_key": recovery.public().to_hex() }),
        Kit::Made(draft) => json!({
            "new": true,
            "public_key": draft.public().to_hex(),
            "passphrase": draft.passphrase().grouped().as_str(),
            "block": draft.block(),
        }),
        Kit::Written(draft, file) => {
            json!({ "new": true, "public_key": draft.public().to_hex(), "kit_file": file })
        }
    }
}
