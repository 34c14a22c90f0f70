//! The service as its callers see it, in a Sandbox where no service holds a lease.

use std::time::Duration;

use mirror_contract::mirror::registry::v1 as pb;
use mirror_contract::mirror::registry::v1::registry_service_client::RegistryServiceClient;
use mirror_errors::{Kind, Remote};
use mirror_kit::{Away, Built, Channel, Decl, Need, Principal, Service};
use mirror_registry::SERVICE;
use mirror_testkit::{Node, Sandbox};
use tonic::{Status, Streaming};

const APPLE: Decl = Decl {
    name: "apple",
    summary: "Needs the registry.",
    tier: 2,
    needs: &[Need { service: "registry", away: Away::Degrade }],
    ..Decl::DEFAULT
};
static APPLE_SERVICE: Service = Service {
    decl: &APPLE,
    build: |cx| Box::pin(async move { Ok(Built::new().on_drain(move || drop(cx))) }),
};

fn sandbox() -> Sandbox {
    Sandbox::with(&[&APPLE_SERVICE, &SERVICE]).manual_clock()
}

fn client(node: &Node) -> RegistryServiceClient<Channel> {
    RegistryServiceClient::new(node.channel("registry"))
}

async fn start() -> (Node, RegistryServiceClient<Channel>) {
    let node = sandbox().start().await;
    let client = client(&node);
    (node, client)
}

fn desire(node: &Node, text: &str) {
    let path = node.home().desired().join("apple");
    mirror_paths::write_atomic(&path, text.as_bytes()).expect("the desired state can be written");
}

type Watch = Streaming<pb::WatchServicesResponse>;

async fn watch(client: &mut RegistryServiceClient<Channel>) -> Watch {
    client.watch_services(pb::WatchServicesRequest {}).await.expect("anybody may watch").into_inner()
}

/// Returns the next record, moving the clock until it comes.
async fn next(node: &Node, watch: &mut Watch) -> pb::ServiceRecord {
    let mut found = None;
    node.wait("a record comes", async || {
        node.clock().advance(Duration::from_millis(500));
        match tokio::time::timeout(Duration::from_millis(5), watch.message()).await {
            Ok(message) => {
                found = message.expect("the stream goes on").expect("the stream has not ended").service;
                Ok(())
            }
            Err(_) => Err("nothing has come".to_owned()),
        }
    })
    .await;
    found.expect("a message has a record")
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, kind: Kind, reason: &str) -> Remote {
    let remote = Remote::from_status(&answer.expect_err("it is refused"));
    assert_eq!((remote.kind, remote.reason.as_str()), (kind, reason), "{remote}");
    remote
}

#[tokio::test]
async fn the_catalogue_is_listed_with_the_state_of_the_machine() {
    let (node, mut client) = start().await;
    desire(&node, "stopped for a backup\n");
    let services = client.list_services(pb::ListServicesRequest {}).await.unwrap().into_inner().services;
    assert_eq!(services.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["registry", "apple"]);

    let apple = &services[1];
    assert_eq!((apple.desired(), apple.actual()), (pb::Desired::Stopped, pb::Actual::Down));
    assert_eq!(
        (apple.detail.as_str(), apple.needs.as_slice()),
        ("for a backup", &["registry".to_owned()][..])
    );
    assert_eq!((apple.pid, apple.build.as_str(), apple.started), (0, "", None));
    assert_eq!(apple.socket, node.home().socket("apple").unwrap().to_string_lossy());

    let registry = &services[0];
    assert_eq!(registry.serves, ["mirror.registry.v1.RegistryService"]);
    assert_eq!((registry.desired(), registry.primitive.as_str()), (pb::Desired::Running, "observation"));

    let request = pb::GetServiceRequest { name: "apple".into() };
    let got = client.get_service(request).await.unwrap().into_inner().service;
    assert_eq!(got.as_ref(), Some(apple));
    node.finish().await;
}

#[tokio::test]
async fn an_unknown_service_is_refused() {
    let (node, mut client) = start().await;
    for name in ["plum".to_owned(), String::new(), "../keys/node.seed".to_owned(), "x".repeat(100_000)] {
        let answer = client.get_service(pb::GetServiceRequest { name }).await;
        refused(answer, Kind::NotFound, "REGISTRY_SERVICE_UNKNOWN");
    }
    node.finish().await;
}

#[tokio::test]
async fn a_watcher_gets_all_services_and_then_the_changed_one() {
    let (node, mut client) = start().await;
    let mut first = watch(&mut client).await;
    let mut service = watch(&mut RegistryServiceClient::new(
        node.channel_as(Principal::Service("apple".into()), "registry"),
    ))
    .await;
    for watch in [&mut first, &mut service] {
        assert_eq!(next(&node, watch).await.name, "registry");
        assert_eq!(next(&node, watch).await.name, "apple");
    }
    desire(&node, "quarantined failed 5 times\n");
    for watch in [&mut first, &mut service] {
        let apple = next(&node, watch).await;
        assert_eq!((apple.name.as_str(), apple.desired()), ("apple", pb::Desired::Quarantined));
        assert_eq!(apple.detail, "failed 5 times");
    }
    drop(first);
    desire(&node, "running\n");
    let apple = next(&node, &mut service).await;
    assert_eq!((apple.name.as_str(), apple.desired()), ("apple", pb::Desired::Running));
    node.finish().await;
}

#[tokio::test]
async fn a_watch_ends_when_the_service_stops_and_can_be_opened_again() {
    let mut node = sandbox().start().await;
    let mut stream = watch(&mut client(&node)).await;
    next(&node, &mut stream).await;
    next(&node, &mut stream).await;
    node.stop("registry").await;
    assert!(matches!(stream.message().await, Ok(None)));

    node.launch("registry").await;
    let mut stream = watch(&mut client(&node)).await;
    assert_eq!(next(&node, &mut stream).await.name, "registry");
    node.finish().await;
}

#[tokio::test]
async fn a_lease_that_cannot_be_read_is_an_error_and_not_a_guess() {
    let (mut node, mut client) = start().await;
    node.expect_log("REGISTRY_STORAGE");
    let mut stream = watch(&mut client).await;
    next(&node, &mut stream).await;
    next(&node, &mut stream).await;
    let lease = node.home().lease("apple");
    std::os::unix::fs::symlink(&lease, &lease).unwrap();

    refused(client.list_services(pb::ListServicesRequest {}).await, Kind::Unavailable, "REGISTRY_STORAGE");
    refused(stream.message().await, Kind::Unavailable, "REGISTRY_STORAGE");
    std::fs::remove_file(&lease).unwrap();
    assert_eq!(client.list_services(pb::ListServicesRequest {}).await.unwrap().get_ref().services.len(), 2);
    node.finish().await;
}

#[tokio::test]
async fn a_value_out_of_bounds_keeps_it_from_serving_and_it_says_why() {
    let mut node = sandbox().config("[registry]\npoll_ms = 0\n").start().await;
    node.expect_log("not serving");
    let answer = client(&node).list_services(pb::ListServicesRequest {}).await;
    let error = refused(answer, Kind::Unavailable, "KIT_NOT_SERVING");
    assert!(error.message.contains("registry.poll_ms"), "{error}");
    node.finish().await;
}
