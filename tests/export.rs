//! Copies of a log: exported while the fleet runs, imported elsewhere, and exported again without a byte of difference.

#![expect(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use mirror_contract::mirror::bus::v1::CompressRequest;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::witness::v1::RunCheckpointRequest;
use mirror_contract::mirror::witness::v1::witness_service_client::WitnessServiceClient;
use mirror_testkit::fleet::Fleet;
use mirror_testkit::wait;

const MIRROR: &str = env!("CARGO_BIN_EXE_mirror");

fn fleet() -> Fleet {
    Fleet::new(MIRROR)
}

/// Returns every file of a folder with its bytes.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                all.insert(name, fs::read(path).unwrap());
            }
        }
    }
    all
}

fn same(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(b[name] == *bytes, "{name} differs");
    }
}

fn said(fleet: &Fleet, args: &[&str]) -> (Option<i32>, String) {
    let output = fleet.run(args);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn origin(fleet: &Fleet) -> String {
    let node = fs::read_to_string(fleet.home().bus().join("node.json")).unwrap();
    node.split("\"origin\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

/// Fills a fleet's log, so that it has compressed segments and a checkpoint, and appends on while it is exported.
async fn exported(fleet: &mut Fleet, copy: &str) {
    let config = "[bus]\nsegment_first_kib = 64\nsegment_max_kib = 64\n";
    fleet.text(&["init", "--no-recovery"]);
    fs::write(fleet.home().config(), config).unwrap();
    fs::set_permissions(fleet.home().config(), fs::Permissions::from_mode(0o600)).unwrap();
    fleet.up().await;
    let text = "a word and another ".repeat(400);
    for n in 0..40 {
        fleet.text(&["append", "local.note", &text, "--id", &format!("note-{n}")]);
    }
    let mut bus = BusServiceClient::new(fleet.channel("bus"));
    let done = bus.compress(CompressRequest { older_than_days: 0 }).await.unwrap().into_inner();
    assert!(done.segments > 0, "{done:?}");
    let mut witness = WitnessServiceClient::new(fleet.channel("witness"));
    wait("there is a checkpoint", async || {
        witness.run_checkpoint(RunCheckpointRequest {}).await.map(|_| ()).map_err(|e| e.to_string())
    })
    .await;
    fleet.text(&["bus", "export", copy]);
}

#[tokio::test]
async fn an_export_is_verified_and_imported_without_a_byte_of_difference() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
    let (copy, again) = (path("copy"), path("again"));
    let mut ours = fleet();
    exported(&mut ours, &copy).await;
    let names: Vec<String> = files(Path::new(&copy)).into_keys().collect();
    for part in ["node.json", "keys/keys.json", "halt/keys", ".seg.zst", "/latest"] {
        assert!(names.iter().any(|name| name.ends_with(part)), "{part} is missing in {names:?}");
    }
    assert!(names.iter().all(|name| !name.contains("seed")), "{names:?}");
    let shown = ours.text(&["bus", "verify", &copy]);
    assert!(shown.contains("verdict: intact\n") && shown.contains("checkpoint"), "{shown}");
    let (code, why) = said(&ours, &["bus", "export", &copy]);
    assert!(code == Some(73) && why.contains("CLI_COPY_REFUSED"), "{why}");
    // The own log goes on after the copy, which is all there.
    let shown = ours.text(&["bus", "import", &copy]);
    assert!(shown.contains("no change"), "{shown}");
    ours.down().await;

    // Another device keeps it beside its own.
    let theirs = fleet();
    theirs.text(&["init", "--no-recovery"]);
    let origin = origin(&ours);
    assert!(theirs.text(&["bus", "import", &copy]).contains("stored"));
    theirs.text(&["bus", "export", &again, "--origin", &origin]);
    same(Path::new(&copy), Path::new(&again));
    let before = files(&theirs.home().bus());
    assert!(theirs.text(&["bus", "import", &copy]).contains("no change"));
    assert_eq!(files(&theirs.home().bus()), before, "importing twice changes nothing");
    let shown = theirs.text(&["bus", "verify"]);
    assert!(shown.contains(&origin) && shown.contains("verdict: intact\n"), "{shown}");

    // The same device begins anew, with its key and nothing else.
    let restored = fleet();
    let (from, to) = (ours.home(), restored.home());
    to.prepare().unwrap();
    for name in ["bus/node.json", "keys/node.seed"] {
        fs::copy(from.root().join(name), to.root().join(name)).unwrap();
    }
    assert!(restored.text(&["bus", "import", &copy]).contains("restored"));
    let third = path("third");
    restored.text(&["bus", "export", &third]);
    same(Path::new(&copy), Path::new(&third));
}

#[tokio::test]
async fn a_copy_that_contradicts_what_is_here_is_refused_and_both_are_kept() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
    let (copy, longer) = (path("copy"), path("longer"));
    let mut ours = fleet();
    exported(&mut ours, &copy).await;
    for n in 0..3 {
        ours.text(&["append", "local.more", &format!("more {n}")]);
    }
    ours.text(&["bus", "export", &longer]);
    ours.down().await;
    let restore = |copy: &str| {
        let fleet = fleet();
        fleet.home().prepare().unwrap();
        for name in ["bus/node.json", "keys/node.seed"] {
            fs::copy(ours.home().root().join(name), fleet.home().root().join(name)).unwrap();
        }
        fleet.text(&["bus", "import", copy]);
        fleet
    };
    // A log that the copy goes on after is not overwritten.
    let mut old = restore(&copy);
    let (code, why) = said(&old, &["bus", "import", &longer]);
    assert!(code == Some(73) && why.contains("more events"), "{why}");
    // It goes on by itself, and is a fork from there.
    old.up().await;
    old.text(&["append", "local.other", "another continuation"]);
    old.down().await;
    let before = files(&old.home().bus().join("log"));
    let (code, why) = said(&old, &["bus", "import", &longer]);
    assert!(code == Some(73) && why.contains("CLI_COPY_FORKED"), "{why}");
    assert_eq!(files(&old.home().bus().join("log")), before);
    // Whoever keeps the log for another takes the longer copy, and no damaged one.
    let peer = fleet();
    peer.text(&["init", "--no-recovery"]);
    peer.text(&["bus", "import", &copy]);
    assert!(peer.text(&["bus", "import", &longer]).contains("extended"));
    assert!(peer.text(&["bus", "import", &copy]).contains("no change"));
    let log = Path::new(&longer).join("log").join(origin(&ours));
    let last = fs::read_dir(&log).unwrap().map(|e| e.unwrap().path()).max().unwrap();
    let mut bytes = fs::read(&last).unwrap();
    bytes[40] ^= 1;
    fs::write(&last, bytes).unwrap();
    let (code, why) = said(&peer, &["bus", "import", &longer]);
    assert!(code == Some(74) && why.contains("CLI_COPY_DAMAGED"), "{why}");
}
