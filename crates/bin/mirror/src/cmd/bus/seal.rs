//! `mirror bus seal`: ends the log.

use mirror_contract::mirror::bus::v1::SealRequest;
use serde_json::json;

use crate::args::SealArgs;
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::{Out, say};

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &SealArgs) -> Result<(), Failure> {
    let request = SealRequest { origin: args.origin.clone(), reason: args.reason.clone() };
    let answer = ctx.bus()?.seal(request).await.map_err(|s| ctx.refused("bus", &s))?.into_inner();
    if out.json_wanted() {
        return out.json(&json!({ "origin": args.origin, "sealed_by": answer.seq }));
    }
    out.line(&format!("the log {} ends with event {}, and takes no more", args.origin, answer.seq))?;
    let (home, exe) = (ctx.home()?, ctx.exe()?);
    say("what is in it can be read, proven and repaired, and nothing of it can be erased any more");
    say(&format!("keep a copy: {}", ctx.command(&home, &exe, "bus export DIR")));
    say(
        "to go on, stop the fleet and take a new home; with the recovery kit it has the same device key and a new epoch:",
    );
    say("  mirror recover --kit FILE --home NEW");
    say("  mirror up --home NEW");
    Ok(())
}
