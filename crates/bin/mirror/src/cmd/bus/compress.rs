//! `mirror bus compress`: compresses sealed segments now.

use mirror_contract::mirror::bus::v1::CompressRequest;
use serde_json::json;

use crate::args::CompressArgs;
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::Out;
use crate::text::{bytes, some};

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &CompressArgs) -> Result<(), Failure> {
    let request = CompressRequest { older_than_days: args.older_than };
    let answer = ctx.bus()?.compress(request).await.map_err(|s| ctx.refused("bus", &s))?.into_inner();
    if out.json_wanted() {
        return out.json(&json!({
            "segments": answer.segments,
            "bytes_before": answer.bytes_before,
            "bytes_after": answer.bytes_after,
        }));
    }
    if answer.segments == 0 {
        return out.line("nothing to compress");
    }
    out.line(&format!(
        "compressed {}: {} became {}",
        some(u64::from(answer.segments), "segment"),
        bytes(answer.bytes_before),
        bytes(answer.bytes_after)
    ))
}
