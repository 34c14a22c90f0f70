//! The kit around a service: who gets in, what a call gets when something is wrong, and how a service ends.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

mod stage;

use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use mirror_contract::METHODS;
use mirror_contract::mirror::import::v1 as import;
use mirror_contract::mirror::kit::v1 as kit;
use mirror_contract::mirror::registry::v1 as registry;
use mirror_errors::{Kind, Remote};
use mirror_kit::{Channel, Exit, Principal, Trace, allowed};
use mirror_seal::{Envelope, NodeKey};
use mirror_testkit::{Node, Sandbox};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1 as reflection;
use tower::ServiceExt as _;

use import::import_service_client::ImportServiceClient;
use kit::kit_service_client::KitServiceClient;
use registry::registry_service_client::RegistryServiceClient;

type Registry = RegistryServiceClient<Channel>;

async fn start(config: &str) -> Node {
    Sandbox::with(&[&stage::BACK, &stage::SERVICE]).config(config).start().await
}

fn registry(node: &Node) -> Registry {
    RegistryServiceClient::new(node.channel("stage"))
}

async fn get(
    client: &Registry,
    name: &str,
    deadline: Option<Duration>,
) -> Result<registry::ServiceRecord, Remote> {
    let mut request = Request::new(registry::GetServiceRequest { name: name.to_owned() });
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    let answer = client.clone().get_service(request).await.map_err(|s| Remote::from_status(&s))?;
    Ok(answer.into_inner().service.unwrap())
}

async fn run_import(node: &Node, who: Principal, path: &str) -> Result<usize, Remote> {
    let mut client = ImportServiceClient::new(node.channel_as(who, "stage"));
    let request = import::RunImportRequest { path: path.to_owned(), ..Default::default() };
    let remote = |s: Status| Remote::from_status(&s);
    let mut stream = client.run_import(request).await.map_err(remote)?.into_inner();
    let mut messages = 0;
    while stream.message().await.map_err(remote)?.is_some() {
        messages += 1;
    }
    Ok(messages)
}

async fn state(node: &Node) -> kit::GetStateResponse {
    KitServiceClient::new(node.channel("stage"))
        .get_state(kit::GetStateRequest {})
        .await
        .unwrap()
        .into_inner()
}

async fn metrics(node: &Node) -> String {
    let mut client = KitServiceClient::new(node.channel("stage"));
    client.get_metrics(kit::GetMetricsRequest {}).await.unwrap().into_inner().text
}

#[track_caller]
fn check<T: std::fmt::Debug>(result: Result<T, Remote>, kind: Kind, reason: &str) -> Remote {
    let error = result.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (kind, reason), "{error}");
    error
}

#[tokio::test]
async fn under_halt_effects_stop_and_reading_goes_on() {
    let node = Sandbox::with(&[&stage::BACK, &stage::SERVICE]).manual_clock().start().await;
    let path = node.home().halt().join("state");
    let seed = std::fs::read_to_string(node.home().keys().join("node.seed")).unwrap();
    let key = NodeKey::from_hex(&seed).unwrap();
    let signed = |key: &NodeKey, epoch: u64, engaged: bool| {
        let payload = format!("{{\"epoch\":{epoch},\"engaged\":{engaged}}}");
        Envelope::sign(key, mirror_kit::HALT_TYPE, payload.as_bytes()).to_json()
    };
    assert_eq!(run_import(&node, Principal::Local, "").await, Ok(2));

    let stranger = NodeKey::generate().unwrap();
    let cases = [
        (None, "cannot be read"),
        (Some(signed(&key, 1, true)), "engaged"),
        (Some(signed(&key, 0, false)), "epoch 1 was seen"),
        (Some(signed(&stranger, 2, false)), "not trusted"),
        (Some("{\"payload".to_owned()), "not trusted"),
        (Some(String::new()), "not trusted"),
    ];
    for (text, part) in cases {
        match &text {
            None => std::fs::remove_file(&path).unwrap(),
            Some(text) => mirror_paths::write_atomic(&path, text.as_bytes()).unwrap(),
        }
        node.clock().advance(Duration::from_millis(100));
        let error = check(run_import(&node, Principal::Local, "").await, Kind::Precondition, "KIT_HALTED");
        assert!(error.message.contains(part), "{text:?}: {error}");
        registry(&node).list_services(registry::ListServicesRequest {}).await.unwrap();
        assert_eq!(state(&node).await.state(), kit::get_state_response::State::Serving);
    }
    let recovery = NodeKey::generate().unwrap();
    let keys =
        format!("{{\"keys\":[{{\"kind\":\"recovery\",\"public_key\":\"{}\"}}]}}", recovery.public().to_hex());
    let keys = Envelope::sign(&key, mirror_kit::HALT_KEYS_TYPE, keys.as_bytes()).to_json();
    mirror_paths::write_atomic(&node.home().halt().join("keys"), keys.as_bytes()).unwrap();
    for (by, result) in [(&key, false), (&recovery, true)] {
        mirror_paths::write_atomic(&path, signed(by, 2, false).as_bytes()).unwrap();
        node.clock().advance(Duration::from_millis(100));
        assert_eq!(run_import(&node, Principal::Local, "").await.is_ok(), result);
    }
    node.finish().await;
}

#[tokio::test]
async fn a_scope_that_a_principal_does_not_hold_is_denied() {
    let mut node = start("").await;
    node.expect_log("refused a caller");
    let error = check(
        run_import(&node, Principal::Service("changelog".into()), "").await,
        Kind::Denied,
        "KIT_SCOPE_DENIED",
    );
    assert_eq!(error.values.get("scope").map(String::as_str), Some("import.run"));
    assert_eq!(run_import(&node, Principal::Local, "").await, Ok(2));
    let logged = node.logged();
    assert_eq!(logged.len(), 1, "one line a minute: {logged:?}");
    assert!(logged[0].contains("RunImport"), "{logged:?}");
    node.finish().await;
}

#[tokio::test]
async fn every_method_answers_each_principal_as_the_table_says() {
    let mut node = start("").await;
    node.expect_log("refused a caller");
    // Reaches the guard, which stands before the routes: a method that is not served here is UNIMPLEMENTED.
    async fn call(channel: Channel, path: &'static str) -> Option<String> {
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let answer = grpc.server_streaming(Request::new(()), PathAndQuery::from_static(path), codec).await;
        answer.err().filter(|s| s.code() == Code::PermissionDenied).map(|s| Remote::from_status(&s).reason)
    }
    let principals =
        [Principal::Local, Principal::Service("changelog".into()), Principal::Stranger { uid: 65_534 }];
    for principal in principals {
        let channel = node.channel_as(principal.clone(), "stage");
        for method in METHODS {
            let denied = call(channel.clone(), method.path).await;
            let expected = match &principal {
                Principal::Stranger { .. } => Some("KIT_PEER_UID".to_owned()),
                known => (!allowed(method.scope, known)).then(|| "KIT_SCOPE_DENIED".to_owned()),
            };
            assert_eq!(denied, expected, "{} for {principal:?}", method.path);
        }
        for path in
            ["/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"]
        {
            let expected = matches!(principal, Principal::Stranger { .. }).then(|| "KIT_PEER_UID".to_owned());
            assert_eq!(call(channel.clone(), path).await, expected, "{path} for {principal:?}");
        }
    }
    node.finish().await;
}

#[tokio::test]
async fn a_method_without_options_is_refused() {
    let node = start("").await;
    let mut grpc = tonic::client::Grpc::new(node.channel("stage"));
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static("/mirror.registry.v1.RegistryService/Invented");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let status = grpc.unary(Request::new(()), path, codec).await.unwrap_err();
    check(Err::<(), _>(Remote::from_status(&status)), Kind::Unsupported, "KIT_UNDECLARED");
    node.finish().await;
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_the_callers_or_the_contracts() {
    let node = start("").await;
    let client = registry(&node);
    let asked = get(&client, "forever", Some(Duration::from_secs(1))).await;
    let error = check(asked, Kind::Timeout, "KIT_DEADLINE");
    assert!(error.message.contains("1000 ms"), "{error}");
    // The client adds the contract's deadline, and the service holds to it when a foreign client adds none.
    let contract = mirror_contract::method("/mirror.registry.v1.RegistryService/GetService").unwrap();
    let mut grpc = tonic::client::Grpc::new(node.channel("stage"));
    grpc.ready().await.unwrap();
    let codec =
        tonic_prost::ProstCodec::<registry::GetServiceRequest, registry::GetServiceResponse>::default();
    let bare = Request::new(registry::GetServiceRequest { name: "forever".to_owned() });
    let bare = grpc.unary(bare, PathAndQuery::from_static(contract.path), codec);
    let (with_header, bare) = tokio::join!(get(&client, "forever", None), bare);
    for result in [with_header, bare.map(|_| Default::default()).map_err(|s| Remote::from_status(&s))] {
        let error = check(result, Kind::Timeout, "KIT_DEADLINE");
        assert!(error.message.contains(&format!("{} ms", contract.deadline_ms)), "{error}");
    }
    node.finish().await;
}

#[tokio::test]
async fn a_service_takes_as_many_calls_as_it_declares_and_as_many_again_wait() {
    let node = start("").await;
    let client = registry(&node);
    // More calls than fit give up while they wait; each must leave its place.
    for _ in 0..5 {
        let short = Some(Duration::from_millis(50));
        let results = join_all((0..4).map(|_| get(&client, "gate", short))).await;
        for result in results {
            assert_eq!(result.unwrap_err().kind, Kind::Timeout);
        }
    }
    // And so must those whose caller is gone.
    for _ in 0..5 {
        let calls = join_all((0..4).map(|_| get(&client, "gate", None)));
        assert!(tokio::time::timeout(Duration::from_millis(20), calls).await.is_err());
    }
    node.wait("the calls that were given up are gone", async || {
        let text = metrics(&node).await;
        // The one that asks is in flight itself.
        let line = "mirror_rpc_server_in_flight{service=\"stage\"} 1\n";
        if text.contains(line) { Ok(()) } else { Err(text) }
    })
    .await;

    let gate = node.home().root().join("gate");
    let opened = async {
        let calls = async {
            // Whoever asks how a busy service is gets an answer, and then the gate opens.
            node.wait("the service is busy", async || {
                let answer = get(&client, "gate", Some(Duration::from_millis(200))).await.unwrap_err();
                if answer.reason == "KIT_BUSY" { Ok(()) } else { Err(answer.to_string()) }
            })
            .await;
            assert_eq!(state(&node).await.state(), kit::get_state_response::State::Serving);
            std::fs::write(&gate, "").unwrap();
        };
        let (results, ()) = tokio::join!(join_all((0..12).map(|_| get(&client, "gate", None))), calls);
        results
    };
    let results = opened.await;
    let busy: Vec<_> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    assert_eq!(results.len() - busy.len(), 2 * stage::IN_FLIGHT, "{results:?}");
    for error in busy {
        assert_eq!((error.kind, error.reason.as_str()), (Kind::Exhausted, "KIT_BUSY"));
        assert!(error.retry_after.is_some());
    }
    get(&client, "", None).await.unwrap();
    node.finish().await;
}

#[tokio::test]
async fn a_panic_ends_its_own_call_only() {
    let mut node = start("").await;
    node.expect_log("KIT_PANIC");
    let client = registry(&node);
    let mut watch =
        client.clone().watch_services(registry::WatchServicesRequest {}).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());

    let error = check(get(&client, "panic", None).await, Kind::Bug, "KIT_PANIC");
    assert!(!error.message.contains("as asked"), "a bug tells its caller nothing: {error}");
    check(run_import(&node, Principal::Local, "panic").await, Kind::Bug, "KIT_PANIC");

    // A panic in a stream on this very connection leaves the watch on it alone.
    let mut imports = ImportServiceClient::new(node.channel("stage"));
    let mut both =
        imports.run_import(import::RunImportRequest { path: "panic".into(), ..Default::default() }).await;
    let stream = both.as_mut().unwrap().get_mut();
    assert!(stream.message().await.unwrap().is_some());
    assert_eq!(stream.message().await.unwrap_err().code(), Code::Internal);
    assert_eq!(
        imports.run_import(import::RunImportRequest::default()).await.unwrap().into_inner().count().await,
        2
    );

    get(&client, "", None).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(20), watch.message()).await.is_err(),
        "the watch goes on"
    );
    node.finish().await;
}

#[tokio::test]
async fn an_error_in_place_of_a_stream_is_headers_only() {
    let node = start("").await;
    // Clients built on grpc-core lose an error that is followed by an empty data frame.
    let message = b"\0\0\0\0\x08\x0a\x06refuse".to_vec();
    let request =
        tonic::codegen::http::Request::post("http://localhost/mirror.import.v1.ImportService/RunImport")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::new(Once(Some(message.into()))))
            .unwrap();
    let response = node.channel("stage").oneshot(request).await.unwrap();
    assert_eq!(response.headers().get("grpc-status").unwrap(), "3");
    assert!(http_body::Body::is_end_stream(response.body()), "a data frame follows the error");
    check(run_import(&node, Principal::Local, "refuse").await, Kind::Invalid, "STAGE_REFUSED");
    node.finish().await;
}

/// A body of one frame.
struct Once(Option<bytes::Bytes>);

impl http_body::Body for Once {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Status>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}

#[tokio::test]
async fn a_bad_value_keeps_a_service_from_serving_and_it_says_why() {
    let mut node = start("# a comment\n[stage]\nlimit = \"many\"\n").await;
    node.expect_log("not serving");
    let said = state(&node).await;
    assert_eq!(said.state(), kit::get_state_response::State::NotServing);
    assert!(said.detail.contains("line 3") && said.detail.contains("mend mirror.toml"), "{}", said.detail);

    let error = check(get(&registry(&node), "", None).await, Kind::Unavailable, "KIT_NOT_SERVING");
    assert!(error.message.contains("line 3") && error.retry_after.is_some(), "{error}");
    let health = HealthClient::new(node.channel("stage")).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(health.into_inner().status(), ServingStatus::NotServing);
    assert!(listed(&node).await.contains(&"mirror.registry.v1.RegistryService".to_owned()));
    // Its neighbour is as well as ever.
    let health = HealthClient::new(node.channel("back")).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(health.into_inner().status(), ServingStatus::Serving);
    node.finish().await;
}

#[tokio::test]
async fn an_unknown_key_is_a_warning_in_the_state() {
    let node = start("[stage]\nlimt = 3\n").await;
    let said = state(&node).await;
    assert_eq!(said.state(), kit::get_state_response::State::Serving);
    assert_eq!(said.config_warnings, ["mirror.toml: unknown key stage.limt; did you mean limit?"]);
    node.finish().await;
}

#[tokio::test]
async fn a_drain_ends_streams_and_finishes_calls() {
    let mut node = start("").await;
    let client = registry(&node);
    let gate = node.home().root().join("gate");
    let mut watch =
        client.clone().watch_services(registry::WatchServicesRequest {}).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let mut health = HealthClient::new(node.channel("stage"))
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let mut open = reflect(&node, futures::stream::pending().boxed()).await;
    let mut state = KitServiceClient::new(node.channel("stage"));

    let call = get(&client, "gate", None);
    let ends = async {
        // The signal is sent when the call is under way, and the gate opens when the drain is.
        while watch.message().await.unwrap().is_some() {}
        let end = loop {
            match health.message().await {
                Ok(told) => assert_eq!(told.unwrap().status(), ServingStatus::NotServing),
                Err(end) => break Remote::from_status(&end),
            }
        };
        assert_eq!(end.reason, "KIT_NOT_SERVING", "{end}");
        assert!(open.message().await.is_err());
        std::fs::write(&gate, "").unwrap();
    };
    let began = tokio::time::Instant::now();
    let stop = async {
        mirror_testkit::wait("the call is in progress", async || {
            let text = state.get_metrics(kit::GetMetricsRequest {}).await.unwrap().into_inner().text;
            let line = text.lines().find(|l| l.starts_with("mirror_rpc_server_in_flight")).unwrap();
            if line.ends_with(" 2") { Ok(()) } else { Err(line.to_owned()) }
        })
        .await;
        node.stop("stage").await
    };
    let (result, (), exit) = tokio::join!(call, ends, stop);
    result.unwrap();
    assert_eq!(exit, Exit::Drained);
    assert!(began.elapsed() < mirror_kit::DRAIN_LIMIT / 2, "{:?}", began.elapsed());
    node.finish().await;
}

#[tokio::test]
async fn one_trace_goes_through_two_services() {
    let node = start("").await;
    let trace = Trace::fresh();
    let seen = trace.scope(get(&registry(&node), "trace", None)).await.unwrap();
    assert_eq!(seen.name, trace.to_string());
    assert_eq!(seen.summary, trace.to_string(), "the second service is in another trace");
    node.finish().await;
}

type Asked = futures::stream::BoxStream<'static, reflection::ServerReflectionRequest>;

async fn reflect(node: &Node, asked: Asked) -> tonic::Streaming<reflection::ServerReflectionResponse> {
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(node.channel("stage"));
    client.server_reflection_info(asked).await.unwrap().into_inner()
}

async fn ask(
    node: &Node,
    what: reflection::server_reflection_request::MessageRequest,
) -> reflection::server_reflection_response::MessageResponse {
    let request = reflection::ServerReflectionRequest { host: String::new(), message_request: Some(what) };
    let mut answers = reflect(node, futures::stream::iter([request]).boxed()).await;
    answers.message().await.unwrap().unwrap().message_response.unwrap()
}

async fn listed(node: &Node) -> Vec<String> {
    use reflection::server_reflection_request::MessageRequest;
    use reflection::server_reflection_response::MessageResponse;
    match ask(node, MessageRequest::ListServices("*".into())).await {
        MessageResponse::ListServicesResponse(list) => list.service.into_iter().map(|s| s.name).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn reflection_shows_what_is_served_with_its_options() {
    use reflection::server_reflection_request::MessageRequest;
    use reflection::server_reflection_response::MessageResponse;
    let node = start("").await;
    let mut names = listed(&node).await;
    names.sort();
    assert_eq!(
        names,
        [
            "grpc.health.v1.Health",
            "mirror.import.v1.ImportService",
            "mirror.kit.v1.KitService",
            "mirror.registry.v1.RegistryService"
        ]
    );

    // Built from what reflection returned and from nothing else.
    let mut pool = prost_reflect::DescriptorPool::global();
    let mut files = Vec::new();
    for name in ["mirror/options/v1/options.proto", "mirror/import/v1/import.proto"] {
        match ask(&node, MessageRequest::FileByFilename(name.to_owned())).await {
            MessageResponse::FileDescriptorResponse(found) => files.extend(found.file_descriptor_proto),
            other => panic!("{other:?}"),
        }
    }
    for file in &files {
        pool.decode_file_descriptor_proto(file.as_slice()).unwrap();
    }
    let extension = pool.get_extension_by_name("mirror.options.v1.method").unwrap();
    let service = pool.get_service_by_name("mirror.import.v1.ImportService").unwrap();
    let method = service.methods().next().unwrap();
    let options = method.options();
    let value = options.get_extension(&extension);
    let fields = value.as_message().unwrap();
    assert_eq!(fields.get_field_by_name("scope").unwrap().as_str(), Some("import.run"));
    assert_eq!(fields.get_field_by_name("when_halted").unwrap().as_enum_number(), Some(2));
    assert_eq!(fields.get_field_by_name("idempotent").unwrap().as_bool(), Some(true));
    node.finish().await;
}
