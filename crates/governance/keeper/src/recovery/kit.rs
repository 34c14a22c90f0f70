//! The kit as text: the passphrase to keep apart from the machine, and the device seed under its lock.

use std::fmt::Write as _;
use std::io;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use mirror_kit::Node;
use mirror_paths::Home;
use mirror_seal::{NodeKey, PublicKey, base64, hex, sha256, unbase64};
use mirror_types::Origin;
use zeroize::Zeroizing;

use super::{FORMAT, Kdf, Passphrase, Recovery, RecoveryError, device_key, path, read};

const BEGIN: &str = "----- begin mirrordna recovery kit -----";
const END: &str = "----- end mirrordna recovery kit -----";
const NONCE: usize = 24;

/// A kit that was made and is not in force yet.
#[derive(Debug)]
pub struct Draft {
    home: Home,
    device: NodeKey,
    recovery: Recovery,
    passphrase: Passphrase,
    block: String,
}

/// Makes a kit for a home that has none. It is in force once it was shown and [`Draft::commit`]ted; takes about a second.
///
/// # Errors
///
/// [`RecoveryError::Exists`] when the home has a kit.
pub fn draft(home: &Home, now_ms: u64) -> Result<Draft, RecoveryError> {
    draft_with(home, now_ms, Kdf::MEMORY)
}

pub(super) fn draft_with(home: &Home, now_ms: u64, memory: u32) -> Result<Draft, RecoveryError> {
    let node = mirror_kit::node(home)?;
    if read(home, node.key)?.is_some() {
        return Err(RecoveryError::Exists);
    }
    let device = device_key(home)?;
    if device.public() != node.key {
        let (found, kit) = (device.public().fingerprint(), node.key.fingerprint());
        return Err(RecoveryError::OtherDevice { found, kit });
    }
    let passphrase = Passphrase::generate()?;
    let kdf = Kdf::generate(memory)?;
    let derived = kdf.derive(&passphrase)?;
    let recovery = Recovery { kdf, key: derived.key().public(), created_ms: now_ms };
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(|e| RecoveryError::Random(e.to_string()))?;
    let head = head(&node, &recovery);
    let seed = device.to_seed();
    let sealed = XChaCha20Poly1305::new(&Key::from(*derived.seal))
        .encrypt(&XNonce::from(nonce), Payload { msg: &*seed, aad: head.as_bytes() })
        .map_err(|_| RecoveryError::Derivation("the seed cannot be encrypted".to_owned()))?;
    let lines = format!("{head}seed: {}\n", base64(&[&nonce[..], &sealed].concat()));
    let block = format!("{BEGIN}\n{lines}check: {}\n{END}\n", check(&lines));
    Ok(Draft { home: home.clone(), device, recovery, passphrase, block })
}

impl Draft {
    /// Returns the public half of the recovery key.
    pub fn public(&self) -> PublicKey {
        self.recovery.key
    }

    /// Returns the passphrase.
    pub fn passphrase(&self) -> &Passphrase {
        &self.passphrase
    }

    /// Returns the lines that hold the device seed, encrypted.
    pub fn block(&self) -> &str {
        &self.block
    }

    /// Returns the whole kit with its instructions, to be printed.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "MirrorDNA recovery kit\n\
             \n\
             Passphrase:  {}\n\
             \n\
             It is shown once and stored nowhere. Write it down or print this page, and keep it away from this machine.\n\
             With it you release the halt, rotate keys, and bring this identity to a new machine; without it you cannot,\n\
             and whoever else has it can. Case, spaces and hyphens do not matter.\n\
             \n\
             For a new machine keep this block too. It is useless without the passphrase, so it may lie in a backup.\n\
             Restore with:  mirror recover --kit FILE\n\
             \n\
             {}",
            *self.passphrase.grouped(),
            self.block
        ))
    }

    /// Puts the kit in force: writes `keys/recovery.json` and lets the key release the halt.
    pub fn commit(self) -> Result<Recovery, RecoveryError> {
        // Two commands at once must not both show a passphrase that counts.
        if path(&self.home).exists() {
            return Err(RecoveryError::Exists);
        }
        self.recovery.write(&self.home, &self.device)?;
        Ok(self.recovery)
    }
}

/// A device seed under the lock of a passphrase, as it was read from a kit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    head: String,
    origin: Origin,
    device: PublicKey,
    recovery: Recovery,
    sealed: Vec<u8>,
}

fn head(node: &Node, recovery: &Recovery) -> String {
    let Kdf { name, m, t, p, salt } = &recovery.kdf;
    let mut head = String::new();
    // Writing into a string does not fail.
    let _ = write!(
        head,
        "format: {FORMAT}\norigin: {}\ndevice: {}\nrecovery: {}\nkdf: {name} m={m} t={t} p={p} salt={salt}\ncreated: {}\n",
        node.origin,
        node.key.to_hex(),
        recovery.key.to_hex(),
        recovery.created_ms,
    );
    head
}

fn check(lines: &str) -> String {
    hex(&sha256(lines.as_bytes())[..8])
}

impl Sealed {
    /// Reads the block from a kit, whatever stands around it.
    ///
    /// # Errors
    ///
    /// [`RecoveryError::Malformed`] with what is wrong; a mistyped block is found by its check line.
    pub fn parse(text: &str) -> Result<Self, RecoveryError> {
        let malformed = |why: &str| RecoveryError::Malformed { what: "the kit", why: why.to_owned() };
        let mut lines = text.lines().map(str::trim).skip_while(|line| *line != BEGIN);
        lines.next().ok_or_else(|| malformed("the line that begins it is missing"))?;
        let lines: Vec<&str> =
            lines.take_while(|line| *line != END).filter(|line| !line.is_empty()).collect();
        let [format, origin, device, recovery, kdf, created, seed, sum] = lines[..] else {
            return Err(malformed("it must have eight lines between the first and the last"));
        };
        let value = |line: &str, key: &str| {
            let value = line.strip_prefix(key).and_then(|rest| rest.strip_prefix(':')).map(str::trim);
            value.map(str::to_owned).ok_or_else(|| malformed(&format!("a line {key:?} was expected")))
        };
        let number = value(format, "format")?;
        if number != FORMAT.to_string() {
            return Err(malformed(&format!("it has format {number} and this build knows {FORMAT}")));
        }
        let head = format!("{}\n", [format, origin, device, recovery, kdf, created].join("\n"));
        if value(sum, "check")? != check(&format!("{head}{seed}\n")) {
            return Err(malformed("its check line does not fit; compare each line with the printed kit"));
        }
        let key = |line, name| {
            PublicKey::from_hex(&value(line, name)?).map_err(|e| malformed(&format!("{name}: {e}")))
        };
        let origin =
            Origin::parse(&value(origin, "origin")?).map_err(|e| malformed(&format!("origin: {e}")))?;
        let created_ms =
            value(created, "created")?.parse().map_err(|_| malformed("created: not a number"))?;
        let kdf = parse_kdf(&value(kdf, "kdf")?).ok_or_else(|| malformed("kdf: not as it was written"))?;
        let sealed = unbase64(&value(seed, "seed")?).filter(|bytes| bytes.len() == NONCE + 48);
        let sealed = sealed.ok_or_else(|| malformed("seed: not base64 of 72 bytes"))?;
        let recovery = Recovery { kdf, key: key(recovery, "recovery")?, created_ms };
        Ok(Self { head, origin, device: key(device, "device")?, recovery, sealed })
    }

    /// Returns the log that the device had when the kit was made.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    fn open(&self, passphrase: &Passphrase) -> Result<NodeKey, RecoveryError> {
        let derived = self.recovery.kdf.derive(passphrase)?;
        let (nonce, sealed) = self.sealed.split_first_chunk::<NONCE>().ok_or(RecoveryError::Wrong)?;
        let seed = XChaCha20Poly1305::new(&Key::from(*derived.seal))
            .decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: self.head.as_bytes() })
            .map(Zeroizing::new)
            .map_err(|_| RecoveryError::Wrong)?;
        let seed = Zeroizing::new(<[u8; 32]>::try_from(seed.as_slice()).map_err(|_| RecoveryError::Wrong)?);
        let key = NodeKey::from_seed(&seed);
        if key.public() != self.device || derived.key().public() != self.recovery.key {
            return Err(RecoveryError::Wrong);
        }
        Ok(key)
    }
}

fn parse_kdf(text: &str) -> Option<Kdf> {
    let mut words = text.split(' ');
    let name = words.next()?.to_owned();
    let mut named = |key: &str| words.next()?.strip_prefix(key)?.strip_prefix('=').map(str::to_owned);
    let (m, t, p) = (named("m")?.parse().ok()?, named("t")?.parse().ok()?, named("p")?.parse().ok()?);
    Some(Kdf { name, m, t, p, salt: named("salt")? })
}

/// Brings the identity of a kit into a home without one: the device seed, and the public half of the recovery key.
///
/// A log that is in the home goes on; a home without one gets a log under a new epoch. Returns the node, and whether
/// the log is new. Restoring what is there changes nothing.
///
/// # Errors
///
/// [`RecoveryError::Wrong`] for another's passphrase; [`RecoveryError::OtherDevice`] when the home has a device key or a
/// log of another device, and then nothing was changed.
pub fn restore(home: &Home, kit: &Sealed, passphrase: &Passphrase) -> Result<(Node, bool), RecoveryError> {
    let other = |found: PublicKey| {
        Err(RecoveryError::OtherDevice { found: found.fingerprint(), kit: kit.device.fingerprint() })
    };
    match device_key(home) {
        Ok(key) if key.public() != kit.device => return other(key.public()),
        Ok(_) => {}
        Err(RecoveryError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let has_log = home.bus().join("node.json").is_file();
    if has_log {
        let node = mirror_kit::node(home)?;
        if node.key != kit.device {
            return other(node.key);
        }
    }
    let device = kit.open(passphrase)?;
    let epoch = kit.origin.epoch().checked_add(1).ok_or_else(|| RecoveryError::Malformed {
        what: "the kit",
        why: "its log has the last epoch that there is".to_owned(),
    })?;
    let node = mirror_kit::restore(home, &device, epoch)?;
    if read(home, node.key)?.is_none() {
        kit.recovery.write(home, &device)?;
    }
    Ok((node, !has_log))
}
