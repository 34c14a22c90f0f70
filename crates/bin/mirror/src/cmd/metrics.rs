//! `mirror metrics SERVICE`: the counters of one process.

use mirror_contract::mirror::kit::v1::GetMetricsRequest;
use serde_json::json;

use crate::cmd::call::method::known_service;
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::Out;

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, service: &str) -> Result<(), Failure> {
    let decl = known_service(service)?;
    let answer = ctx.kit(decl.name)?.get_metrics(GetMetricsRequest {}).await;
    let text = answer.map_err(|s| ctx.refused(decl.name, &s))?.into_inner().text;
    if out.json_wanted() {
        return out.json(&json!({"service": decl.name, "text": text}));
    }
    out.bytes(text.as_bytes())
}
