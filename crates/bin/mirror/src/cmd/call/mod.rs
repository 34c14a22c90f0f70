//! `mirror call`: any method of any service, known from the contract's descriptor alone.

mod codec;
mod input;
pub(crate) mod method;

use std::time::Duration;

use http::uri::PathAndQuery;
use mirror_contract::MethodSpec;
use prost_reflect::{DynamicMessage, MethodDescriptor, SerializeOptions};
use serde_json::json;
use tonic::client::Grpc;
use tonic::{GrpcMethod, Request, Status, Streaming};

use self::codec::DynamicCodec;
use self::input::{Messages, Source};
use self::method::Target;
use crate::args::CallArgs;
use crate::client::{MESSAGE_LIMIT, channel};
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::Out;

/// Deadline of calls for which the contract declares none.
const DEADLINE: Duration = Duration::from_secs(5);

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &CallArgs) -> Result<(), Failure> {
    let pool = method::pool()?;
    let target = method::target(&pool, &args.service)?;
    let Some(name) = &args.method else { return list(out, &target) };
    let method = target.method(name)?;
    Call { ctx, service: target.decl.name, method }.run(out, args.request.as_deref()).await
}

/// A call to one method.
struct Call<'a> {
    ctx: &'a Ctx,
    service: &'static str,
    method: MethodDescriptor,
}

impl Call<'_> {
    async fn run(&self, out: &mut Out, argument: Option<&str>) -> Result<(), Failure> {
        let path = format!("/{}/{}", self.method.parent_service().full_name(), self.method.name());
        let spec = mirror_contract::method(&path);
        let path: PathAndQuery = path.parse().map_err(|e| Failure::bug(format!("{path} is no path: {e}")))?;
        let codec = DynamicCodec { answer: self.method.output() };
        let (client_streams, server_streams) =
            (self.method.is_client_streaming(), self.method.is_server_streaming());
        let source = Source::of(argument, client_streams);
        let mut grpc =
            Grpc::new(channel(&self.ctx.home()?, self.service)).max_decoding_message_size(MESSAGE_LIMIT);

        if !client_streams {
            let message = input::one(&self.method.input(), &source)?;
            grpc.ready().await.map_err(|_| self.ctx.away(self.service))?;
            if !server_streams {
                let answer = grpc.unary(prepared(spec, message, true), path, codec).await;
                return self.show(out, &answer.map_err(|s| self.refused(&s))?.into_inner(), false);
            }
            let answer = grpc.server_streaming(prepared(spec, message, false), path, codec).await;
            return self.show_all(out, answer.map_err(|s| self.refused(&s))?.into_inner()).await;
        }

        let Messages { stream, failed } = input::many(&self.method.input(), source)?;
        grpc.ready().await.map_err(|_| self.ctx.away(self.service))?;
        let calling = async {
            let request = prepared(spec, stream, false);
            if !server_streams {
                let answer = grpc.client_streaming(request, path, codec).await;
                return self.show(out, &answer.map_err(|s| self.refused(&s))?.into_inner(), false);
            }
            let answer = grpc.streaming(request, path, codec).await;
            self.show_all(out, answer.map_err(|s| self.refused(&s))?.into_inner()).await
        };
        tokio::select! {
            // Half of a stream must not be taken for the whole: the call is cancelled, not ended.
            biased;
            Ok(failure) = failed => Err(failure),
            result = calling => result,
        }
    }

    fn refused(&self, status: &Status) -> Failure {
        self.ctx.refused(self.service, status)
    }

    async fn show_all(&self, out: &mut Out, mut answers: Streaming<DynamicMessage>) -> Result<(), Failure> {
        while let Some(answer) = answers.message().await.map_err(|s| self.refused(&s))? {
            self.show(out, &answer, true)?;
            out.flush()?;
        }
        Ok(())
    }

    /// Prints an answer: on one line where there are several, or where a program reads.
    fn show(&self, out: &mut Out, answer: &DynamicMessage, one_of_many: bool) -> Result<(), Failure> {
        let options = SerializeOptions::new().skip_default_fields(false).use_proto_field_name(true);
        // Straight to text, so that fields stand in the order of the contract.
        let mut text = Vec::new();
        let written = if one_of_many || out.json_wanted() {
            answer.serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options)
        } else {
            answer.serialize_with_options(&mut serde_json::Serializer::pretty(&mut text), &options)
        };
        written.map_err(|e| Failure::bug(format!("the answer is no JSON: {e}")))?;
        text.push(b'\n');
        out.bytes(&text)
    }
}

/// Returns a request that carries the method's name, from which the channel takes the contract's deadline.
fn prepared<T>(spec: Option<&'static MethodSpec>, body: T, unary: bool) -> Request<T> {
    let mut request = Request::new(body);
    match spec {
        Some(spec) => {
            request.extensions_mut().insert(GrpcMethod::new(spec.service, spec.name));
        }
        None if unary => request.set_timeout(DEADLINE),
        None => {}
    }
    request
}

fn list(out: &mut Out, target: &Target) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for method in target.methods() {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let spec = mirror_contract::method(&path);
        if out.json_wanted() {
            out.json(&method_json(&method, &path, spec))?;
            continue;
        }
        let stream = |yes: bool| if yes { "stream " } else { "" };
        rows.push(vec![
            method.name().to_owned(),
            format!("{}{}", stream(method.is_client_streaming()), method.input().name()),
            format!("{}{}", stream(method.is_server_streaming()), method.output().name()),
            spec.map_or("kit.read", |s| s.scope).to_owned(),
            spec.map_or("LOW", |s| s.risk).to_owned(),
            spec.map_or("ALLOW", |s| s.when_halted).to_owned(),
            if spec.is_none_or(|s| s.idempotent) { "yes" } else { "no" }.to_owned(),
            match spec.map_or(0, |s| s.deadline_ms) {
                0 => "-".to_owned(),
                ms => format!("{ms} ms"),
            },
        ]);
    }
    if out.json_wanted() {
        return Ok(());
    }
    let header = ["METHOD", "REQUEST", "ANSWER", "SCOPE", "RISK", "HALTED", "IDEMPOTENT", "DEADLINE"];
    out.table(&header, &rows, |_| None)
}

fn method_json(method: &MethodDescriptor, path: &str, spec: Option<&MethodSpec>) -> serde_json::Value {
    let fields: Vec<_> = method.input().fields().map(|f| f.name().to_owned()).collect();
    json!({
        "method": method.name(),
        "path": path,
        "request": method.input().full_name(),
        "request_fields": fields,
        "answer": method.output().full_name(),
        "client_streaming": method.is_client_streaming(),
        "server_streaming": method.is_server_streaming(),
        "scope": spec.map(|s| s.scope),
        "risk": spec.map(|s| s.risk),
        "when_halted": spec.map(|s| s.when_halted),
        "idempotent": spec.map(|s| s.idempotent),
        "deadline_ms": spec.map(|s| s.deadline_ms),
    })
}
