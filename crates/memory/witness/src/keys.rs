//! Which keys may sign checkpoints: those that the device key certifies for it.
//!
//! The keeper's word alone is not taken: a key counts by its certificate. Invariant: a checkpoint that is kept is signed
//! by a key that leads to the device key, whose fingerprint is in the name of the log.

use mirror_contract::mirror::keeper::v1::Key;
use mirror_seal::{Envelope, PublicKey, open_note};
use serde::Deserialize;

use crate::checkpoint;
use crate::witness::Claim;

/// What a certificate is.
const CERTIFICATE: &str = "application/vnd.mirrordna.key.v1+json";

/// What keys for checkpoints are for.
const PURPOSE: &str = "checkpoint";

#[derive(Deserialize)]
struct Certified {
    purpose: String,
    serial: u32,
    public_key: String,
}

/// Returns the public half of a key that may sign checkpoints; none of any other.
fn checked(key: &Key, device: PublicKey) -> Option<PublicKey> {
    if key.purpose != PURPOSE {
        return None;
    }
    let payload = Envelope::from_json(key.certificate.as_bytes()).ok()?.open(device, CERTIFICATE).ok()?;
    let certified: Certified = serde_json::from_slice(&payload).ok()?;
    let same = certified.purpose == PURPOSE
        && certified.serial == key.serial
        && certified.public_key == key.public_key;
    same.then(|| PublicKey::from_hex(&key.public_key).ok()).flatten()
}

/// Returns the keys that may sign checkpoints, or that might once.
pub(crate) fn signers(keys: &[Key], device: PublicKey) -> Vec<PublicKey> {
    keys.iter().filter_map(|key| checked(key, device)).collect()
}

/// Returns the keys that may sign checkpoints.
pub(crate) fn in_use(keys: &[Key], device: PublicKey) -> Vec<PublicKey> {
    keys.iter().filter(|key| key.retired.is_none()).filter_map(|key| checked(key, device)).collect()
}

/// Returns whether one of the keys signed a note that claims this of a log, and nothing else.
pub(crate) fn is_signed(note: &str, origin: &str, claim: &Claim, keys: &[PublicKey]) -> bool {
    let (name, text) = (checkpoint::signer(origin), checkpoint::text(origin, claim));
    keys.iter().any(|key| open_note(note, &name, *key).is_ok_and(|signed| signed == text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_seal::{NodeKey, sign_note};

    const ORIGIN: &str = "0123456789abcdef.1";

    fn certified(device: &NodeKey, key: &NodeKey, purpose: &str, serial: u32) -> Key {
        let public_key = key.public().to_hex();
        let payload =
            format!("{{\"purpose\":\"{purpose}\",\"serial\":{serial},\"public_key\":\"{public_key}\"}}");
        let certificate = Envelope::sign(device, CERTIFICATE, payload.as_bytes()).to_json();
        Key { purpose: purpose.to_owned(), serial, public_key, certificate, ..Key::default() }
    }

    #[test]
    fn only_a_key_that_the_device_key_certifies_for_checkpoints_counts() {
        let [device, key, other] = std::array::from_fn(|_| NodeKey::generate().unwrap());
        let signers = |key: &Key| signers(std::slice::from_ref(key), device.public());
        let good = certified(&device, &key, PURPOSE, 1);
        assert_eq!(signers(&good), [key.public()]);
        assert_eq!(signers(&certified(&other, &key, PURPOSE, 1)), []);
        assert_eq!(signers(&certified(&device, &key, "halt", 1)), []);
        assert_eq!(signers(&Key { purpose: PURPOSE.to_owned(), ..certified(&device, &key, "halt", 1) }), []);
        assert_eq!(signers(&Key { serial: 2, ..good.clone() }), []);
        assert_eq!(signers(&Key { public_key: other.public().to_hex(), ..good.clone() }), []);
        assert_eq!(signers(&Key { certificate: String::new(), ..good.clone() }), []);

        let retired = Key { retired: Some(mirror_contract::timestamp(1)), ..good };
        assert_eq!(signers(&retired), [key.public()]);
        assert_eq!(in_use(&[retired], device.public()), []);
    }

    #[test]
    fn a_note_must_say_exactly_what_was_asked_for() {
        let key = NodeKey::generate().unwrap();
        let (claim, other) = (Claim { size: 7, root: [7; 32] }, Claim { size: 8, root: [7; 32] });
        let name = checkpoint::signer(ORIGIN);
        let note = sign_note(&key, &name, &checkpoint::text(ORIGIN, &claim)).unwrap();
        assert!(is_signed(&note, ORIGIN, &claim, &[key.public()]));
        assert!(!is_signed(&note, ORIGIN, &other, &[key.public()]));
        assert!(!is_signed(&note, "0123456789abcdef.2", &claim, &[key.public()]));
        assert!(!is_signed(&note, ORIGIN, &claim, &[NodeKey::generate().unwrap().public()]));
        let renamed = sign_note(&key, "other", &checkpoint::text(ORIGIN, &claim)).unwrap();
        assert!(!is_signed(&renamed, ORIGIN, &claim, &[key.public()]));
    }
}
