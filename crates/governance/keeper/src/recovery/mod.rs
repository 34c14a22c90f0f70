//! The recovery kit: a passphrase that the machine does not hold, and what it can do.
//!
//! Argon2id turns the passphrase into 64 bytes: half is the seed of the recovery key, which releases the halt and lets
//! keys be rotated; half encrypts the device seed, so that a dead machine does not end the identity. The public half
//! lies in `keys/recovery.json`, signed by the device key. It refuses to make a second kit for a home, and to derive
//! anything from a passphrase whose check symbols are wrong.
//! Invariant: neither the passphrase nor what is derived from it is ever written into the home.

mod kit;
mod passphrase;

use std::fs;
use std::io;
use std::path::PathBuf;

use argon2::{Algorithm, Argon2, Params, Version};
use mirror_kit::{
    HALT_KEYS_TYPE, HALT_TYPE, HaltStatement, HomeError, REDACTION_TYPE, RedactionStatement, ReleaseKey,
    ReleaseKeys,
};
use mirror_paths::{Home, write_atomic};
use mirror_seal::{Envelope, NodeKey, PublicKey, SealError, base64, unbase64};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use kit::{Draft, Sealed, draft, restore};
pub use passphrase::Passphrase;

/// Type of the envelope in `keys/recovery.json`.
pub const RECOVERY_TYPE: &str = "application/vnd.mirrordna.recovery.v1+json";
/// Type of the owner's proof that a key is to be rotated.
pub const ROTATE_TYPE: &str = "application/vnd.mirrordna.rotate.v1+json";

/// Version of `keys/recovery.json` and of the kit.
const FORMAT: u32 = 1;
/// Largest file that is read.
const FILE_LIMIT: u64 = 64 << 10;

/// Why the recovery kit cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// A symbol that no passphrase has.
    #[error(
        "group {group} of the passphrase has a sign that no passphrase has; it is made of 0-9 and A-Z without U"
    )]
    Symbol {
        /// Group, from 1.
        group: usize,
    },
    /// Too short or too long.
    #[error("the passphrase has 35 symbols in 7 groups of 5, and {found} were given")]
    Length {
        /// How many symbols were given.
        found: usize,
    },
    /// The check symbol of a group does not fit.
    #[error("group {group} of the passphrase has a typing error; compare it with the kit and type it again")]
    Typo {
        /// Group, from 1.
        group: usize,
    },
    /// Well formed, and not the one.
    #[error(
        "this is not the passphrase of this home; take the one from the kit that `mirror init` made for it"
    )]
    Wrong,
    /// No kit was made.
    #[error("this home has no recovery key; make one with: mirror init")]
    None,
    /// A kit was made before.
    #[error("this home has a recovery key; a kit is made once, and its passphrase is nowhere but in it")]
    Exists,
    /// `keys/recovery.json` or the kit is damaged.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// Which of them.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The home has another device key.
    #[error(
        "the home has the device key {found} and the kit is for {kit}; a home has one device, take another folder"
    )]
    OtherDevice {
        /// Fingerprint of the key that is there.
        found: String,
        /// Fingerprint of the key of the kit.
        kit: String,
    },
    /// The device key is missing or damaged.
    #[error("the device key cannot be used: {0}")]
    Device(SealError),
    /// The home cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A file cannot be read or written.
    #[error("cannot use {path:?}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key derivation failed, as on a machine without 64 MiB of free memory.
    #[error("the key derivation failed: {0}")]
    Derivation(String),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes: {0}")]
    Random(String),
}

impl RecoveryError {
    fn io(path: PathBuf, source: io::Error) -> Self {
        Self::Io { path, source }
    }
}

/// How keys are derived from the passphrase: Argon2id 1.3 with 64 bytes of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kdf {
    /// Always `argon2id`.
    name: String,
    /// Memory in KiB.
    m: u32,
    /// Passes.
    t: u32,
    /// Lanes.
    p: u32,
    /// 16 random bytes in base64.
    salt: String,
}

impl Kdf {
    /// Memory that a new kit needs for each guess, in KiB.
    const MEMORY: u32 = 64 << 10;

    fn generate(m: u32) -> Result<Self, RecoveryError> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|e| RecoveryError::Random(e.to_string()))?;
        Ok(Self { name: "argon2id".to_owned(), m, t: 3, p: 1, salt: base64(&salt) })
    }

    /// Derives the keys; takes about a second.
    fn derive(&self, passphrase: &Passphrase) -> Result<Derived, RecoveryError> {
        let malformed =
            |why: &str| RecoveryError::Malformed { what: "the key derivation", why: why.to_owned() };
        // The bounds keep a file that somebody else wrote from taking all memory or all day.
        if self.name != "argon2id" || self.m > 1 << 20 || self.t > 16 || self.p > 4 {
            return Err(malformed("argon2id with at most 1 GiB, 16 passes and 4 lanes is known"));
        }
        let salt = unbase64(&self.salt).filter(|salt| salt.len() == 16);
        let salt = salt.ok_or_else(|| malformed("the salt is not base64 of 16 bytes"))?;
        let failed = |e: argon2::Error| RecoveryError::Derivation(e.to_string());
        let params = Params::new(self.m, self.t, self.p, Some(64)).map_err(failed)?;
        let mut out = Zeroizing::new([0; 64]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.bytes(), &salt, &mut *out)
            .map_err(failed)?;
        let mut derived = Derived { sign: Zeroizing::new([0; 32]), seal: Zeroizing::new([0; 32]) };
        derived.sign.copy_from_slice(&out[..32]);
        derived.seal.copy_from_slice(&out[32..]);
        Ok(derived)
    }
}

/// What a passphrase becomes.
struct Derived {
    sign: Zeroizing<[u8; 32]>,
    seal: Zeroizing<[u8; 32]>,
}

impl Derived {
    fn key(&self) -> RecoveryKey {
        RecoveryKey(NodeKey::from_seed(&self.sign))
    }
}

/// The recovery key's public half, as `keys/recovery.json` says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    kdf: Kdf,
    key: PublicKey,
    created_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct RecoveryFile {
    format: u32,
    kdf: Kdf,
    public_key: String,
    created_ms: u64,
}

impl Recovery {
    /// Returns the public half.
    pub fn public(&self) -> PublicKey {
        self.key
    }

    /// Returns when the kit was made, in milliseconds since 1970.
    pub fn created_ms(&self) -> u64 {
        self.created_ms
    }

    /// Derives the recovery key; takes about a second and 64 MiB.
    ///
    /// # Errors
    ///
    /// [`RecoveryError::Wrong`] when it is not the passphrase of this key.
    pub fn unlock(&self, passphrase: &Passphrase) -> Result<RecoveryKey, RecoveryError> {
        let key = self.kdf.derive(passphrase)?.key();
        if key.public() == self.key { Ok(key) } else { Err(RecoveryError::Wrong) }
    }

    fn write(&self, home: &Home, device: &NodeKey) -> Result<(), RecoveryError> {
        let file = RecoveryFile {
            format: FORMAT,
            kdf: self.kdf.clone(),
            public_key: self.key.to_hex(),
            created_ms: self.created_ms,
        };
        let payload = serde_json::to_vec(&file).unwrap_or_default();
        let path = path(home);
        let text = Envelope::sign(device, RECOVERY_TYPE, &payload).to_json();
        write_atomic(&path, text.as_bytes()).map_err(|e| RecoveryError::io(path, e))?;
        self.enlist(home, device)
    }

    /// Adds the key to `halt/keys`, so that it may release the halt at once.
    fn enlist(&self, home: &Home, device: &NodeKey) -> Result<(), RecoveryError> {
        let path = home.halt().join("keys");
        let known = fs::read(&path)
            .ok()
            .and_then(|bytes| ReleaseKeys::open(&Envelope::from_json(&bytes).ok()?, device.public()));
        let mut keys = known.unwrap_or_default();
        keys.keys.retain(|key| key.kind != "recovery");
        keys.keys.push(self.release_key());
        let payload = serde_json::to_vec(&keys).unwrap_or_default();
        let text = Envelope::sign(device, HALT_KEYS_TYPE, &payload).to_json();
        write_atomic(&path, text.as_bytes()).map_err(|e| RecoveryError::io(path, e))
    }

    /// Returns the key's line in `halt/keys`.
    pub(crate) fn release_key(&self) -> ReleaseKey {
        ReleaseKey { kind: "recovery".to_owned(), public_key: self.key.to_hex() }
    }
}

fn path(home: &Home) -> PathBuf {
    home.keys().join("recovery.json")
}

/// Returns the recovery key's public half; nothing when the home has no kit.
///
/// # Errors
///
/// [`RecoveryError::Malformed`] when the file is damaged or the device key did not sign it.
pub fn read(home: &Home, device: PublicKey) -> Result<Option<Recovery>, RecoveryError> {
    let path = path(home);
    let bytes = match fs::metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(RecoveryError::io(path, e)),
        Ok(meta) if meta.len() > FILE_LIMIT => Vec::new(),
        Ok(_) => fs::read(&path).map_err(|e| RecoveryError::io(path, e))?,
    };
    let malformed = |why: String| RecoveryError::Malformed { what: "keys/recovery.json", why };
    let payload = Envelope::from_json(&bytes)
        .and_then(|envelope| envelope.open(device, RECOVERY_TYPE))
        .map_err(|e| malformed(e.to_string()))?;
    let file: RecoveryFile = serde_json::from_slice(&payload).map_err(|e| malformed(e.to_string()))?;
    if file.format != FORMAT {
        return Err(malformed(format!("it has format {} and this build knows {FORMAT}", file.format)));
    }
    let key = PublicKey::from_hex(&file.public_key).map_err(|e| malformed(e.to_string()))?;
    Ok(Some(Recovery { kdf: file.kdf, key, created_ms: file.created_ms }))
}

/// Derives the recovery key of a home from its passphrase; takes about a second and 64 MiB.
///
/// # Errors
///
/// [`RecoveryError::None`] when the home has no kit, [`RecoveryError::Wrong`] when it is another's passphrase.
pub fn unlock(home: &Home, passphrase: &Passphrase) -> Result<RecoveryKey, RecoveryError> {
    let node = mirror_kit::node(home)?;
    read(home, node.key)?.ok_or(RecoveryError::None)?.unlock(passphrase)
}

/// The recovery key: the owner's word, for as long as one command runs.
#[derive(Debug)]
pub struct RecoveryKey(NodeKey);

impl RecoveryKey {
    /// Returns the public half.
    pub fn public(&self) -> PublicKey {
        self.0.public()
    }

    /// Returns the envelope that releases the halt: `epoch` is `release_epoch` of the halt's state.
    pub fn release(&self, epoch: u64) -> Envelope {
        let statement = HaltStatement { epoch, engaged: false, reason: String::new(), since_ms: 0 };
        Envelope::sign(&self.0, HALT_TYPE, &serde_json::to_vec(&statement).unwrap_or_default())
    }

    /// Returns the envelope that has payloads erased.
    pub fn redaction(&self, statement: &RedactionStatement) -> Envelope {
        Envelope::sign(&self.0, REDACTION_TYPE, &serde_json::to_vec(statement).unwrap_or_default())
    }

    /// Returns the proof that the key of a purpose is to be rotated; `serial` is that of the key in use.
    pub fn rotation(&self, purpose: &str, serial: u32) -> Envelope {
        let payload = serde_json::json!({ "purpose": purpose, "serial": serial });
        Envelope::sign(&self.0, ROTATE_TYPE, payload.to_string().as_bytes())
    }
}

/// Reads the device key of a home.
fn device_key(home: &Home) -> Result<NodeKey, RecoveryError> {
    let path = home.keys().join("node.seed");
    let text = fs::read_to_string(&path).map(Zeroizing::new).map_err(|e| RecoveryError::io(path, e))?;
    NodeKey::from_hex(&text).map_err(RecoveryError::Device)
}

#[cfg(test)]
mod tests;
