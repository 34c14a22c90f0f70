//! The kit from its making to a new machine, with every way to get it wrong.

use super::kit::draft_with;
use super::*;

/// Little memory, so that a test takes milliseconds.
const LITTLE: u32 = 64;

struct Place {
    temp: tempfile::TempDir,
    home: Home,
}

fn place() -> Place {
    let temp = tempfile::tempdir().unwrap();
    let home = Home::at(temp.path().join("m")).unwrap();
    mirror_kit::init(&home).unwrap();
    Place { temp, home }
}

impl Place {
    fn other(&self, name: &str) -> Home {
        Home::at(self.temp.path().join(name)).unwrap()
    }
}

fn files(home: &Home) -> Vec<(PathBuf, Vec<u8>)> {
    fn walk(dir: &std::path::Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.push((path.clone(), fs::read(path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(home.root(), &mut found);
    found.sort();
    found
}

#[test]
fn a_kit_is_made_once_and_its_passphrase_is_nowhere_in_the_home() {
    let place = place();
    assert!(read(&place.home, mirror_kit::node(&place.home).unwrap().key).unwrap().is_none());
    let draft = draft_with(&place.home, 7, LITTLE).unwrap();
    let second = draft_with(&place.home, 8, LITTLE).unwrap();
    let (passphrase, public) = (draft.passphrase().clone(), draft.public());
    draft.commit().unwrap();
    assert!(matches!(second.commit(), Err(RecoveryError::Exists)));
    assert!(matches!(draft_with(&place.home, 9, LITTLE), Err(RecoveryError::Exists)));

    let key = unlock(&place.home, &passphrase).unwrap();
    assert_eq!(key.public(), public);
    let grouped = passphrase.grouped();
    let seed = hex_of(&place.home);
    for (path, bytes) in files(&place.home) {
        let text = String::from_utf8_lossy(&bytes).to_uppercase();
        assert!(!text.contains(grouped.as_str()) && !text.contains(&grouped.replace('-', "")), "{path:?}");
        assert!(path.ends_with("node.seed") || !text.contains(&seed), "{path:?}");
    }
}

fn hex_of(home: &Home) -> String {
    fs::read_to_string(home.keys().join("node.seed")).unwrap().trim().to_uppercase()
}

#[test]
fn another_passphrase_opens_nothing() {
    let place = place();
    let draft = draft_with(&place.home, 7, LITTLE).unwrap();
    let kit = Sealed::parse(&draft.text()).unwrap();
    draft.commit().unwrap();
    let wrong = Passphrase::generate().unwrap();
    assert!(matches!(unlock(&place.home, &wrong), Err(RecoveryError::Wrong)));
    let fresh = place.other("n");
    assert!(matches!(restore(&fresh, &kit, &wrong), Err(RecoveryError::Wrong)));
    assert!(!fresh.root().exists(), "nothing was made");
}

#[test]
fn a_new_machine_gets_the_identity_under_a_new_epoch() {
    let place = place();
    let draft = draft_with(&place.home, 7, LITTLE).unwrap();
    let (text, passphrase) = (draft.text(), draft.passphrase().clone());
    let recovery = draft.commit().unwrap();

    let fresh = place.other("n");
    let typed = text.replace('\n', "\r\n  ");
    let kit = Sealed::parse(&typed).unwrap();
    let (node, new_log) = restore(&fresh, &kit, &passphrase).unwrap();
    let old = mirror_kit::node(&place.home).unwrap();
    assert!(new_log);
    assert_eq!((node.key, node.origin.epoch()), (old.key, old.origin.epoch() + 1));
    let seed = |home: &Home| fs::read(home.keys().join("node.seed")).unwrap();
    assert_eq!(seed(&fresh), seed(&place.home));
    assert_eq!(read(&fresh, node.key).unwrap().unwrap(), recovery);
    assert_eq!(unlock(&fresh, &passphrase).unwrap().public(), recovery.public());

    let before = files(&fresh);
    let (again, new_log) = restore(&fresh, &kit, &passphrase).unwrap();
    assert_eq!((again, new_log), (node, false), "what is there is left alone");
    assert_eq!(files(&fresh), before);
}

#[test]
fn a_log_that_was_saved_goes_on_under_its_name() {
    let place = place();
    let draft = draft_with(&place.home, 7, LITTLE).unwrap();
    let kit = Sealed::parse(draft.block()).unwrap();
    let passphrase = draft.passphrase().clone();
    draft.commit().unwrap();
    let fresh = place.other("n");
    fresh.prepare().unwrap();
    fs::copy(place.home.bus().join("node.json"), fresh.bus().join("node.json")).unwrap();
    let (node, new_log) = restore(&fresh, &kit, &passphrase).unwrap();
    assert_eq!((node, new_log), (mirror_kit::node(&place.home).unwrap(), false));
}

#[test]
fn the_key_of_another_device_is_not_replaced() {
    let place = place();
    let draft = draft_with(&place.home, 7, LITTLE).unwrap();
    let kit = Sealed::parse(draft.block()).unwrap();
    let other = place.other("n");
    mirror_kit::init(&other).unwrap();
    let before = files(&other);
    assert!(matches!(restore(&other, &kit, draft.passphrase()), Err(RecoveryError::OtherDevice { .. })));
    assert_eq!(files(&other), before);
    fs::remove_file(other.keys().join("node.seed")).unwrap();
    assert!(matches!(restore(&other, &kit, draft.passphrase()), Err(RecoveryError::OtherDevice { .. })));
    assert!(!other.keys().join("node.seed").exists());
}

#[test]
fn every_changed_character_of_the_block_is_noticed() {
    let place = place();
    let draft = draft_with(&place.home, 7, LITTLE).unwrap();
    let block = draft.block();
    let kit = Sealed::parse(block).unwrap();
    for at in 0..block.len() {
        let mut bytes = block.as_bytes().to_vec();
        bytes[at] ^= 1;
        let Ok(changed) = String::from_utf8(bytes) else { continue };
        // What stands after the check line does not matter.
        if let Ok(read) = Sealed::parse(&changed) {
            assert_eq!(read, kit, "byte {at}");
        }
    }
    for at in 0..block.find("check").unwrap() {
        assert!(Sealed::parse(&block[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn a_file_that_the_device_did_not_sign_counts_for_nothing() {
    let place = place();
    let thief = place.other("t");
    mirror_kit::init(&thief).unwrap();
    draft_with(&thief, 7, LITTLE).unwrap().commit().unwrap();
    fs::copy(path(&thief), path(&place.home)).unwrap();
    let key = mirror_kit::node(&place.home).unwrap().key;
    assert!(matches!(read(&place.home, key), Err(RecoveryError::Malformed { .. })));
    assert!(matches!(draft_with(&place.home, 7, LITTLE), Err(RecoveryError::Malformed { .. })));
}

#[test]
fn the_key_may_release_the_halt_at_once_and_keeps_the_others() {
    let place = place();
    let device = device_key(&place.home).unwrap();
    let keeper =
        ReleaseKey { kind: "keeper".to_owned(), public_key: NodeKey::generate().unwrap().public().to_hex() };
    let keys = serde_json::to_vec(&ReleaseKeys { keys: vec![keeper.clone()] }).unwrap();
    let file = place.home.halt().join("keys");
    write_atomic(&file, Envelope::sign(&device, HALT_KEYS_TYPE, &keys).to_json().as_bytes()).unwrap();
    let recovery = draft_with(&place.home, 7, LITTLE).unwrap().commit().unwrap();
    let envelope = Envelope::from_json(&fs::read(&file).unwrap()).unwrap();
    let keys = ReleaseKeys::open(&envelope, device.public()).unwrap();
    assert_eq!(keys.keys, [keeper, recovery.release_key()]);
}

#[test]
fn a_new_kit_costs_an_attacker_64_mib_a_guess() {
    let kdf = Kdf::generate(Kdf::MEMORY).unwrap();
    assert_eq!((kdf.name.as_str(), kdf.m, kdf.t, kdf.p), ("argon2id", 65_536, 3, 1));
    let greedy = Kdf { m: u32::MAX, ..kdf };
    let passphrase = Passphrase::generate().unwrap();
    assert!(matches!(greedy.derive(&passphrase), Err(RecoveryError::Malformed { .. })));
}
