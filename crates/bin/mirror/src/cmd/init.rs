//! `mirror init`: makes the home.

use serde_json::json;

use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::Out;

pub(crate) fn run(ctx: &Ctx, out: &mut Out) -> Result<(), Failure> {
    let home = ctx.home()?;
    let (node, fresh) = mirror_kit::init(&home).map_err(|e| Failure::home(&e))?;
    if out.json_wanted() {
        return out.json(&json!({
            "home": home.root(),
            "new": fresh,
            "origin": node.origin.as_str(),
            "public_key": node.key.to_hex(),
        }));
    }
    let what = if fresh { "made" } else { "found, and left as it is" };
    out.line(&format!("home    {} ({what})", home.root().display()))?;
    out.line(&format!("log     {} in {}", node.origin, home.bus().display()))?;
    out.line(&format!(
        "key     {} (public half {})",
        home.keys().join("node.seed").display(),
        node.key.to_hex()
    ))?;
    out.line(&format!("start   {}", ctx.command(&home, &ctx.exe()?, "up")))
}
