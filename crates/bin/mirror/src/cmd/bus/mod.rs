//! `mirror bus`: looks after the log.

mod compress;
mod consume;
mod consumers;
mod copy;
pub(crate) mod export;
pub(crate) mod import;
mod index;
mod proof;
pub(crate) mod prove;
mod redact;
mod repair;
mod seal;
pub(crate) mod verify;

use crate::args::BusVerb;
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::Out;

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, verb: &BusVerb) -> Result<(), Failure> {
    match verb {
        BusVerb::Verify(args) => verify::run(ctx, out, args),
        BusVerb::Prove(args) => prove::run(ctx, out, args).await,
        BusVerb::Export(args) => export::run(ctx, out, args).await,
        BusVerb::Import(args) => import::run(ctx, out, args),
        BusVerb::Repair(args) => repair::run(ctx, out, args).await,
        BusVerb::Compress(args) => compress::run(ctx, out, args).await,
        BusVerb::Redact(args) => redact::run(ctx, out, args).await,
        BusVerb::Seal(args) => seal::run(ctx, out, args).await,
        BusVerb::Consumers { verb } => consumers::run(ctx, out, verb.as_ref()).await,
        BusVerb::Consume(args) => consume::run(ctx, out, args).await,
        BusVerb::Index { verb } => index::run(ctx, out, verb).await,
    }
}
