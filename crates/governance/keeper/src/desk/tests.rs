//! The desk over real files: who is refused, what is remembered across a kill, and what a rotation leaves.

use super::*;
use mirror_clock::ManualClock;
use mirror_kit::{HALT_KEYS_TYPE, HALT_TYPE, ReleaseKeys};
use mirror_paths::write_atomic;
use mirror_seal::{NodeKey, base64, open_note};

struct Place {
    _temp: tempfile::TempDir,
    home: Home,
    node: Node,
    clock: ManualClock,
}

fn place() -> Place {
    let temp = tempfile::tempdir().unwrap();
    let home = Home::at(temp.path().join("m")).unwrap();
    let (node, _) = mirror_kit::init(&home).unwrap();
    Place { _temp: temp, home, node, clock: ManualClock::new(1_000) }
}

impl Place {
    fn try_open(&self) -> Result<Desk, String> {
        Desk::open(&self.home, &self.node, Arc::new(self.clock.clone()))
    }

    fn open(&self) -> Desk {
        self.try_open().unwrap()
    }

    fn text(&self, size: u64, root: u8) -> String {
        format!("mirrordna/{}\n{size}\n{}\n", self.node.origin, base64(&[root; 32]))
    }

    /// Makes a recovery key without the time that a passphrase takes.
    fn recovery(&self) -> NodeKey {
        let key = NodeKey::generate().unwrap();
        let device =
            NodeKey::from_hex(&fs::read_to_string(self.home.keys().join("node.seed")).unwrap()).unwrap();
        let salt = base64(&[0; 16]);
        let said = format!(
            r#"{{"format":1,"kdf":{{"name":"argon2id","m":64,"t":1,"p":1,"salt":"{salt}"}},"public_key":"{}","created_ms":1}}"#,
            key.public().to_hex()
        );
        let text = Envelope::sign(&device, crate::recovery::RECOVERY_TYPE, said.as_bytes()).to_json();
        write_atomic(&self.home.keys().join("recovery.json"), text.as_bytes()).unwrap();
        key
    }

    fn acts(&self) -> Vec<String> {
        let (records, head) = self.open().records(0, 1_000).unwrap();
        assert_eq!(records.len() as u64, head);
        records
            .into_iter()
            .map(|r| format!("{} {} {}", r.entry.act.name(), r.entry.caller, r.entry.kind))
            .collect()
    }
}

fn proof(key: &NodeKey, purpose: &str, serial: u32) -> Vec<u8> {
    let said = format!(r#"{{"purpose":"{purpose}","serial":{serial}}}"#);
    Envelope::sign(key, ROTATE_TYPE, said.as_bytes()).to_json().into_bytes()
}

fn public(desk: &Desk, purpose: Purpose) -> PublicKey {
    PublicKey::from_hex(&desk.ring.row(purpose).unwrap().public_key).unwrap()
}

#[test]
fn a_first_start_makes_one_certified_key_for_each_purpose() {
    let place = place();
    let desk = place.open();
    assert_eq!(
        desk.keys().iter().map(|row| (row.purpose.as_str(), row.serial)).collect::<Vec<_>>(),
        [("checkpoint", 1), ("halt", 1)]
    );
    for row in desk.keys() {
        let certificate = Envelope::from_json(row.certificate.as_bytes()).unwrap();
        let said = certificate.open(place.node.key, crate::CERTIFICATE_TYPE).unwrap();
        assert!(String::from_utf8(said).unwrap().contains(&row.public_key));
    }
    let keys = fs::read(place.home.halt().join("keys")).unwrap();
    let keys = ReleaseKeys::open(&Envelope::from_json(&keys).unwrap(), place.node.key).unwrap();
    assert_eq!(keys.keys[0].public_key, public(&desk, Purpose::Halt).to_hex());
    assert_eq!((keys.keys.len(), keys.keys[0].kind.as_str()), (1, "keeper"));
    drop(desk);
    assert_eq!(place.acts(), ["make keeper checkpoint", "make keeper halt"], "a second start makes nothing");
}

#[test]
fn a_note_is_signed_under_the_name_of_the_device() {
    let place = place();
    let mut desk = place.open();
    let text = place.text(3, 1);
    let note = desk.sign_note("svc:witness", &text).unwrap();
    let name = format!("mirrordna/{}", place.node.key.fingerprint());
    assert_eq!(open_note(&note, &name, public(&desk, Purpose::Checkpoint)).unwrap(), text);
    assert!(open_note(&note, &name, place.node.key).is_err(), "each purpose has a key of its own");
}

#[test]
fn a_fork_and_a_rollback_are_refused_also_after_a_restart() {
    let place = place();
    let mut desk = place.open();
    for (size, root) in [(0, 0), (3, 1), (3, 1), (9, 2)] {
        desk.sign_note("svc:witness", &place.text(size, root)).unwrap();
    }
    for _ in 0..2 {
        for (size, root) in [(9, 3), (8, 2), (3, 1), (0, 0)] {
            let error = desk.sign_note("svc:witness", &place.text(size, root)).unwrap_err();
            assert_eq!(error.reason(), "KEEPER_NOTE_FORKED", "{size} {root}");
        }
        desk = place.open();
    }
    desk.sign_note("svc:witness", &place.text(10, 4)).unwrap();
}

#[test]
fn a_request_that_is_repeated_gets_the_same_signature_and_no_second_record() {
    let place = place();
    let mut desk = place.open();
    let text = place.text(3, 1);
    let payload = br#"{"epoch":1,"engaged":true}"#;
    let note = desk.sign_note("svc:witness", &text).unwrap();
    let envelope = desk.sign_envelope("svc:halt", HALT_TYPE, payload).unwrap();
    let head = desk.log.head();
    // The kill comes after the record and before the answer.
    for mut desk in [desk, place.open()] {
        assert_eq!(desk.sign_note("svc:witness", &text).unwrap(), note);
        assert_eq!(desk.sign_envelope("svc:halt", HALT_TYPE, payload).unwrap(), envelope);
        assert_eq!(desk.log.head(), head);
    }
    let mut desk = place.open();
    desk.sign_envelope("svc:halt", HALT_TYPE, br#"{"epoch":0,"engaged":true}"#).unwrap();
    assert_eq!(desk.log.head(), head + 1);
}

#[test]
fn refusals_are_recorded_once_a_minute_for_each_caller_and_reason() {
    let place = place();
    let mut desk = place.open();
    let head = desk.log.head();
    for _ in 0..5 {
        assert!(desk.sign_note("svc:bus", &place.text(1, 1)).is_err());
        assert!(desk.sign_envelope("svc:halt", "text/plain", b"x").is_err());
        assert!(desk.sign_envelope("svc:halt", HALT_TYPE, br#"{"epoch":1,"engaged":false}"#).is_err());
        assert!(desk.sign_envelope("svc:halt", HALT_TYPE, br#"{"epoch":2,"engaged":true}"#).is_err());
    }
    assert_eq!(desk.log.head(), head + 3);
    place.clock.advance(QUIET);
    assert!(desk.sign_note("svc:bus", &"x".repeat(9_000)).is_err());
    assert!(desk.sign_envelope("svc:pulse", &"\u{1b}x".repeat(9_000), b"x").is_err());
    let (records, _) = desk.records(head + 1, 9).unwrap();
    let reasons: Vec<_> =
        records.iter().map(|r| (r.entry.caller.as_str(), r.entry.reason.as_str())).collect();
    let denied = "KEEPER_CALLER_DENIED";
    assert_eq!(
        reasons,
        [
            ("svc:bus", denied),
            ("svc:halt", denied),
            ("svc:halt", "KEEPER_PAYLOAD_INVALID"),
            ("svc:bus", denied),
            ("svc:pulse", denied)
        ]
    );
    assert_eq!(records[4].entry.kind, "x".repeat(SHOWN));
}

#[test]
fn a_rotation_takes_the_owners_proof_for_the_key_in_use() {
    let place = place();
    let mut desk = place.open();
    let (thief, device) = (NodeKey::generate().unwrap(), place.node.key);
    let reason = |desk: &mut Desk, purpose: &str, proof: &[u8]| {
        desk.rotate("local", purpose, proof).unwrap_err().reason()
    };
    assert_eq!(
        reason(&mut desk, "halt", &proof(&thief, "halt", 1)),
        "KEEPER_PROOF_INVALID",
        "no recovery key yet"
    );
    let owner = place.recovery();
    for (purpose, bytes, expected) in [
        ("halt", proof(&thief, "halt", 1), "KEEPER_PROOF_INVALID"),
        ("halt", proof(&owner, "halt", 2), "KEEPER_PROOF_INVALID"),
        ("halt", proof(&owner, "checkpoint", 1), "KEEPER_PROOF_INVALID"),
        ("halt", b"no envelope".to_vec(), "KEEPER_PROOF_INVALID"),
        ("device", proof(&owner, "device", 1), "KEEPER_PURPOSE_UNKNOWN"),
        ("", proof(&owner, "", 1), "KEEPER_PURPOSE_UNKNOWN"),
    ] {
        assert_eq!(reason(&mut desk, purpose, &bytes), expected, "{purpose}");
    }
    let old = public(&desk, Purpose::Halt);
    let good = proof(&owner, "halt", 1);
    let row = desk.rotate("local", "halt", &good).unwrap();
    assert_eq!((row.serial, row.retired_ms), (2, None));
    assert_ne!(row.public_key, old.to_hex());
    assert_eq!(reason(&mut desk, "halt", &good), "KEEPER_PROOF_INVALID", "a proof is good once");
    assert!(!place.home.keys().join("halt.1.seed").exists());
    assert!(desk.keys().iter().any(|key| key.public_key == old.to_hex() && key.retired_ms.is_some()));

    let keys = fs::read(place.home.halt().join("keys")).unwrap();
    let keys = Envelope::from_json(&keys).unwrap().open(device, HALT_KEYS_TYPE).unwrap();
    let keys = String::from_utf8(keys).unwrap();
    assert!(
        keys.contains(&row.public_key)
            && keys.contains(&owner.public().to_hex())
            && !keys.contains(&old.to_hex())
    );
    let signed = desk.sign_envelope("svc:halt", HALT_TYPE, br#"{"epoch":1,"engaged":true}"#).unwrap();
    let signed = Envelope::from_json(signed.as_bytes()).unwrap();
    assert!(
        signed.open(public(&desk, Purpose::Halt), HALT_TYPE).is_ok() && signed.open(old, HALT_TYPE).is_err()
    );
    drop(desk);
    let acts = place.acts();
    assert!(
        acts.contains(&"retire keeper halt".to_owned()) && acts.contains(&"make keeper recovery".to_owned()),
        "{acts:?}"
    );
}

#[test]
fn a_kill_in_the_middle_of_a_rotation_is_made_good() {
    let place = place();
    let owner = place.recovery();
    let mut desk = place.open();
    let seed = fs::read(place.home.keys().join("halt.1.seed")).unwrap();
    desk.rotate("local", "halt", &proof(&owner, "halt", 1)).unwrap();
    let head = desk.log.head();
    drop(desk);
    // As if the kill had come before the record of the retirement and before the erasure.
    write_atomic(&place.home.keys().join("halt.1.seed"), &seed).unwrap();
    let path = place.home.keys().join("keeper.log");
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    assert!(lines.last().unwrap().contains("retire"));
    fs::write(&path, lines[..lines.len() - 1].concat()).unwrap();
    let desk = place.open();
    assert!(!place.home.keys().join("halt.1.seed").exists());
    assert_eq!(desk.log.head(), head);
    assert_eq!(desk.keys().len(), 3);
}

#[test]
fn a_log_that_was_deleted_or_cut_behind_a_key_is_not_begun_anew() {
    let place = place();
    drop(place.open());
    let path = place.home.keys().join("keeper.log");
    let text = fs::read_to_string(&path).unwrap();
    let first = text.find('\n').unwrap() + 1;
    for (left, purpose) in [("", "checkpoint"), (&text[..first], "halt")] {
        fs::write(&path, left).unwrap();
        let why = place.try_open().unwrap_err();
        assert!(why.contains("keeper.log") && why.contains(purpose) && why.contains("backup"), "{why}");
    }
    fs::write(&path, &text).unwrap();
    place.open();
}

#[test]
fn a_torn_line_is_set_aside_and_said_so_in_the_log() {
    let place = place();
    drop(place.open());
    let path = place.home.keys().join("keeper.log");
    fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"v\":1,\"numb").unwrap();
    assert_eq!(place.acts(), ["make keeper checkpoint", "make keeper halt", "repair keeper torn"]);
    assert_eq!(fs::read_dir(place.home.quarantine()).unwrap().count(), 1);
}

#[test]
fn a_seed_that_is_gone_is_told_and_can_be_rotated() {
    let place = place();
    let owner = place.recovery();
    drop(place.open());
    fs::remove_file(place.home.keys().join("checkpoint.1.seed")).unwrap();
    let mut desk = place.open();
    assert_eq!(desk.missing(), ["checkpoint"]);
    assert_eq!(desk.sign_note("svc:witness", &place.text(1, 1)).unwrap_err().reason(), "KEEPER_KEY_MISSING");
    desk.rotate("local", "checkpoint", &proof(&owner, "checkpoint", 1)).unwrap();
    desk.sign_note("svc:witness", &place.text(1, 1)).unwrap();
    assert!(desk.missing().is_empty());
}

#[test]
fn keys_that_the_device_did_not_certify_are_refused() {
    let place = place();
    drop(place.open());
    let path = place.home.keys().join("keys.json");
    let good = fs::read_to_string(&path).unwrap();
    let theirs = NodeKey::generate().unwrap().public().to_hex();
    let row = place.open().keys()[0].public_key.clone();
    for bad in [
        good.replace(&row, &theirs),
        good.replace("\"serial\": 1", "\"serial\": 2"),
        "[]".into(),
        good.replace("\"format\": 1", "\"format\": 2"),
    ] {
        fs::write(&path, bad).unwrap();
        let why = place.try_open().unwrap_err();
        assert!(why.contains("keys.json") && why.contains("damaged"), "{why}");
    }
}
