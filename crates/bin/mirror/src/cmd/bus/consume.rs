//! `mirror bus consume`: the next events of a consumer, each once.

use mirror_contract::mirror::bus::v1::settlement::Outcome;
use mirror_contract::mirror::bus::v1::{FetchRequest, SettleRequest, Settlement};

use crate::args::ConsumeArgs;
use crate::cmd::event::Lines;
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::{Out, say};

/// Events of one call.
const PAGE: u32 = 256;

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &ConsumeArgs) -> Result<(), Failure> {
    let mut consumers = ctx.consumers()?;
    let mut lines = Lines::default();
    let mut left = args.max;
    while left > 0 {
        let request = FetchRequest { name: args.name.clone(), max: left.min(PAGE), wait: None };
        let answer = consumers.fetch(request).await.map_err(|s| ctx.refused("bus", &s))?;
        let deliveries = answer.into_inner().deliveries;
        if deliveries.is_empty() {
            break;
        }
        left = left.saturating_sub(u32::try_from(deliveries.len()).unwrap_or(u32::MAX));
        for event in deliveries.iter().filter_map(|delivery| delivery.event.as_ref()) {
            lines.print(out, event)?;
        }
        // What was not printed must not be acknowledged.
        out.flush()?;
        if args.ack {
            let ack = |token| Settlement { token, outcome: Outcome::Ack.into(), ..Settlement::default() };
            let settlements = deliveries.into_iter().map(|delivery| ack(delivery.token)).collect();
            let request = SettleRequest { name: args.name.clone(), settlements };
            let answer = consumers.settle(request).await.map_err(|s| ctx.refused("bus", &s))?;
            let stale = answer.into_inner().stale.len();
            if stale > 0 {
                say(&format!("{stale} of them came too late to be acknowledged, and come again"));
            }
        }
    }
    Ok(())
}
