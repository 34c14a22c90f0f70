//! The keeper as others meet it: over its socket's stand-in, with real files, restarts and kills.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use mirror_contract::mirror::keeper::v1 as pb;
use mirror_contract::mirror::keeper::v1::keeper_service_client::KeeperServiceClient;
use mirror_contract::mirror::kit::v1::GetStateRequest;
use mirror_contract::mirror::kit::v1::get_state_response::State;
use mirror_contract::mirror::kit::v1::kit_service_client::KitServiceClient;
use mirror_errors::Remote;
use mirror_kit::{Channel, HALT_TYPE, Principal};
use mirror_seal::{PublicKey, base64, open_note};
use mirror_testkit::{Node, Sandbox};

const SERVICES: &[&str] = &["bus", "witness", "halt", "keeper", "pulse", "registry"];

async fn start() -> Node {
    Sandbox::with(&[&mirror_keeper::SERVICE]).start().await
}

fn client(node: &Node, principal: Principal) -> KeeperServiceClient<Channel> {
    KeeperServiceClient::new(node.channel_as(principal, "keeper"))
}

fn service(node: &Node, name: &str) -> KeeperServiceClient<Channel> {
    client(node, Principal::Service(name.into()))
}

fn text(node: &Node, size: u64, root: u8) -> String {
    let origin = mirror_kit::node(node.home()).unwrap().origin;
    format!("mirrordna/{origin}\n{size}\n{}\n", base64(&[root; 32]))
}

async fn note(node: &Node, caller: &str, text: String) -> Result<String, Remote> {
    let answer = service(node, caller).sign_note(pb::SignNoteRequest { text }).await;
    answer.map(|a| a.into_inner().note).map_err(|s| Remote::from_status(&s))
}

async fn envelope(node: &Node, caller: Principal, kind: &str, payload: &[u8]) -> Result<String, Remote> {
    let request = pb::SignEnvelopeRequest { r#type: kind.to_owned(), payload: payload.to_vec() };
    let answer = client(node, caller).sign_envelope(request).await;
    answer.map(|a| a.into_inner().envelope).map_err(|s| Remote::from_status(&s))
}

async fn records(node: &Node) -> Vec<pb::KeeperRecord> {
    let answer = service(node, "witness").list_records(pb::ListRecordsRequest { from: 0 }).await.unwrap();
    answer.into_inner().records
}

async fn state(node: &Node) -> (State, String) {
    let mut kit = KitServiceClient::new(node.channel("keeper"));
    let state = kit.get_state(GetStateRequest {}).await.unwrap().into_inner();
    (state.state(), state.detail)
}

/// Checks that the keeper does not serve, says why, and serves again once `mend` was done.
async fn check_refusal(node: &mut Node, what: &str, parts: &[&str], mend: impl FnOnce()) {
    node.expect_log("not serving");
    node.launch("keeper").await;
    let (found, detail) = state(node).await;
    assert_eq!(found, State::NotServing, "{what}: {detail}");
    for part in parts {
        assert!(detail.contains(part), "{what}: {part:?} in {detail}");
    }
    let refused = note(node, "witness", text(node, 1, 1)).await.unwrap_err();
    assert_eq!(refused.reason, "KIT_NOT_SERVING", "{what}");
    node.stop("keeper").await;
    mend();
    node.launch("keeper").await;
    assert_eq!(state(node).await.0, State::Serving, "{what}: mended");
    node.stop("keeper").await;
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn keys_that_others_could_read_are_refused_with_the_command_that_mends_it() {
    let mut node = start().await;
    node.stop("keeper").await;
    let keys = node.home().keys();
    let seeds = ["node.seed", "checkpoint.1.seed", "halt.1.seed"].map(|name| keys.join(name));
    let loose: Vec<(PathBuf, u32, u32)> = seeds
        .iter()
        .flat_map(|seed| [0o640, 0o604, 0o644, 0o620, 0o602, 0o700].map(|bad| (seed.clone(), bad, 0o600)))
        .chain([0o750, 0o701, 0o705, 0o777, 0o1700].map(|bad| (keys.clone(), bad, 0o700)))
        .collect();
    for (path, bad, good) in loose {
        mode(&path, bad);
        let command = format!("chmod {good:o} {path:?}");
        let parts = [path.to_str().unwrap(), &format!("{bad:04o}"), &command];
        check_refusal(&mut node, &format!("{path:?} {bad:o}"), &parts, || mode(&path, good)).await;
    }
    for seed in seeds {
        let moved = keys.join("elsewhere");
        fs::rename(&seed, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, &seed).unwrap();
        let parts = [seed.to_str().unwrap(), "symbolic link"];
        check_refusal(&mut node, "a link", &parts, || fs::rename(&moved, &seed).unwrap()).await;
    }
    let moved = node.home().root().join("keys-elsewhere");
    fs::rename(&keys, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &keys).unwrap();
    check_refusal(&mut node, "a linked folder", &["symbolic link", "keys"], || {
        fs::remove_file(&keys).unwrap();
        fs::rename(&moved, &keys).unwrap();
    })
    .await;
    node.finish().await;
}

#[tokio::test]
async fn a_device_key_that_is_missing_or_another_is_refused() {
    let mut node = start().await;
    node.stop("keeper").await;
    let seed = node.home().keys().join("node.seed");
    let good = fs::read(&seed).unwrap();
    let back = || fs::write(&seed, &good).unwrap();
    fs::write(&seed, format!("{}\n", "7".repeat(64))).unwrap();
    check_refusal(&mut node, "another", &["node.json names", "recovery kit"], back).await;
    fs::write(&seed, "no seed\n").unwrap();
    check_refusal(&mut node, "malformed", &["holds no seed", "mirror recover --kit"], back).await;
    fs::remove_file(&seed).unwrap();
    check_refusal(&mut node, "missing", &["is missing", "mirror recover --kit"], || {
        fs::write(&seed, &good).unwrap();
        mode(&seed, 0o600);
    })
    .await;
    node.finish().await;
}

#[tokio::test]
async fn the_table_of_callers_and_types_denies_by_default() {
    let mut node = start().await;
    node.expect_log("refused to sign");
    node.expect_log("refused a caller");
    let payload = br#"{"epoch":1,"engaged":true}"#;
    let types = [
        HALT_TYPE,
        mirror_kit::HALT_KEYS_TYPE,
        mirror_keeper::CERTIFICATE_TYPE,
        mirror_keeper::recovery::ROTATE_TYPE,
        "text/plain",
        "",
    ];
    for caller in SERVICES {
        for kind in types {
            let answer = envelope(&node, Principal::Service((*caller).into()), kind, payload).await;
            match (*caller, kind) {
                ("halt", HALT_TYPE) => assert!(answer.is_ok(), "{answer:?}"),
                _ => assert_eq!(answer.unwrap_err().reason, "KEEPER_CALLER_DENIED", "{caller} {kind}"),
            }
        }
        let answer = note(&node, caller, text(&node, 1, 1)).await;
        match *caller {
            "witness" => assert!(answer.is_ok(), "{answer:?}"),
            _ => assert_eq!(answer.unwrap_err().reason, "KEEPER_CALLER_DENIED", "{caller}"),
        }
    }
    for local in [Principal::Local, Principal::Stranger { uid: 99 }] {
        let reason = envelope(&node, local.clone(), HALT_TYPE, payload).await.unwrap_err().reason;
        let expected = if local == Principal::Local { "KIT_SCOPE_DENIED" } else { "KIT_PEER_UID" };
        assert_eq!(reason, expected);
    }
    node.wait("the refusals are in the log", async || {
        let records = records(&node).await;
        let told = |caller: &str, reason: &str| {
            records
                .iter()
                .any(|r| (r.act.as_str(), r.caller.as_str(), r.reason.as_str()) == ("refuse", caller, reason))
        };
        let all = SERVICES.iter().all(|caller| told(&format!("svc:{caller}"), "KEEPER_CALLER_DENIED"))
            && told("local", "KIT_SCOPE_DENIED")
            && told("uid:99", "KIT_PEER_UID");
        if all { Ok(()) } else { Err(format!("{records:#?}")) }
    })
    .await;
    let signed = records(&node).await.into_iter().filter(|r| r.act == "sign").count();
    assert_eq!(signed, 2, "one note and one envelope");
    node.finish().await;
}

#[tokio::test]
async fn a_release_and_an_epoch_far_ahead_are_never_signed() {
    let mut node = start().await;
    node.expect_log("refused to sign");
    let halt = || Principal::Service("halt".into());
    for (payload, ok) in [
        (r#"{"epoch":1,"engaged":false}"#, false),
        (r#"{"epoch":2,"engaged":true}"#, false),
        (r#"{"epoch":1,"engaged":true,"reason":"stop"}"#, true),
    ] {
        let answer = envelope(&node, halt(), HALT_TYPE, payload.as_bytes()).await;
        assert_eq!(answer.is_ok(), ok, "{payload}");
    }
    fs::write(node.home().halt().join("seen"), "41\n").unwrap();
    envelope(&node, halt(), HALT_TYPE, br#"{"epoch":42,"engaged":true}"#).await.unwrap();
    let large = vec![b'x'; (64 << 10) + 1];
    assert_eq!(
        envelope(&node, halt(), HALT_TYPE, &large).await.unwrap_err().reason,
        "KEEPER_PAYLOAD_INVALID"
    );
    node.finish().await;
}

#[tokio::test]
async fn notes_verify_with_the_listed_key_and_never_fork_across_a_kill() {
    let mut node = start().await;
    node.expect_log("refused to sign");
    let text_of = |node: &Node, size, root| text(node, size, root);
    let first = note(&node, "witness", text_of(&node, 4, 1)).await.unwrap();
    let keys = service(&node, "pulse").list_keys(pb::ListKeysRequest {}).await.unwrap().into_inner().keys;
    let purposes: Vec<_> = keys.iter().map(|k| (k.purpose.as_str(), k.serial)).collect();
    assert_eq!(purposes, [("checkpoint", 1), ("device", 1), ("halt", 1)]);
    let key = PublicKey::from_hex(&keys[0].public_key).unwrap();
    let device = mirror_kit::node(node.home()).unwrap().key;
    let name = format!("mirrordna/{}", device.fingerprint());
    assert_eq!(open_note(&first, &name, key).unwrap(), text_of(&node, 4, 1));

    let before = records(&node).await;
    node.kill("keeper").await;
    node.launch("keeper").await;
    assert_eq!(note(&node, "witness", text_of(&node, 4, 1)).await.unwrap(), first);
    assert_eq!(records(&node).await, before, "a request that is repeated after a kill adds no record");
    for (size, root) in [(4, 2), (3, 1)] {
        let refused = note(&node, "witness", text_of(&node, size, root)).await.unwrap_err();
        assert_eq!(refused.reason, "KEEPER_NOTE_FORKED");
        assert_eq!(refused.values.get("signed").map(String::as_str), Some("4"));
    }
    let other = text_of(&node, 5, 1).replace("mirrordna/", "mirrordna/0");
    for bad in [other, "x".repeat(9_000), String::new()] {
        assert_eq!(note(&node, "witness", bad).await.unwrap_err().reason, "KEEPER_NOTE_INVALID");
    }
    let last = records(&node).await.into_iter().rfind(|r| r.act == "sign").unwrap();
    assert_eq!(
        (last.size, last.root.as_str(), last.caller.as_str()),
        (4, "01".repeat(32).as_str(), "svc:witness")
    );
    node.finish().await;
}

#[tokio::test]
async fn a_log_that_is_damaged_stops_the_keeper_and_names_the_line() {
    let mut node = start().await;
    note(&node, "witness", text(&node, 4, 1)).await.unwrap();
    node.stop("keeper").await;
    let path = node.home().keys().join("keeper.log");
    let good = fs::read_to_string(&path).unwrap();
    assert_eq!(good.lines().count(), 3);
    let second = good.find('\n').unwrap() + 20;
    let mut bad = good.clone().into_bytes();
    bad[second] ^= 1;
    fs::write(&path, bad).unwrap();
    check_refusal(&mut node, "a flipped bit", &["keeper.log", "line 2", "backup"], || {
        fs::write(&path, &good).unwrap()
    })
    .await;
    fs::remove_file(&path).unwrap();
    check_refusal(&mut node, "a deleted log", &["keeper.log", "no record"], || {
        fs::write(&path, &good).unwrap()
    })
    .await;
    node.finish().await;
}

#[tokio::test]
async fn nobody_learns_a_seed_from_what_the_keeper_says_or_writes() {
    let node = start().await;
    note(&node, "witness", text(&node, 4, 1)).await.unwrap();
    let keys = node.home().keys();
    let seed = |name: &str| fs::read_to_string(keys.join(name)).unwrap().trim().to_owned();
    let seeds = ["node.seed", "checkpoint.1.seed", "halt.1.seed"].map(seed);
    let listed = format!("{:?}", service(&node, "pulse").list_keys(pb::ListKeysRequest {}).await.unwrap());
    let mut said = vec![listed, format!("{:?}", records(&node).await), format!("{:?}", node.logged())];
    for name in ["keys.json", "keeper.log"] {
        said.push(fs::read_to_string(keys.join(name)).unwrap());
    }
    said.push(fs::read_to_string(node.home().halt().join("keys")).unwrap());
    for seed in seeds {
        assert_eq!(seed.len(), 64);
        assert!(said.iter().all(|text| !text.contains(&seed)));
    }
    for entry in fs::read_dir(keys).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
    }
    node.finish().await;
}
