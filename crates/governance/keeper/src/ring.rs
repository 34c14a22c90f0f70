//! The keys on disk: one seed for each purpose, and `keys.json` with all public halves.
//!
//! It refuses a folder or a seed that others may read, that belongs to somebody else, or that is a symbolic link, and
//! it says with which command to mend it. Invariant: each key that it hands out was certified by the device key.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use mirror_kit::{HALT_KEYS_TYPE, ReleaseKey, ReleaseKeys};
use mirror_paths::{Home, write_atomic};
use mirror_seal::{Envelope, NodeKey, PublicKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::CERTIFICATE_TYPE;
use crate::keeper::Purpose;
use crate::recovery::{self, Recovery};

/// Version of `keys.json`.
const FORMAT: u32 = 1;

/// A key as `keys.json` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyRow {
    pub(crate) purpose: String,
    /// From 1 within the purpose.
    pub(crate) serial: u32,
    pub(crate) public_key: String,
    pub(crate) created_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retired_ms: Option<u64>,
    /// DSSE envelope by the device key.
    pub(crate) certificate: String,
}

#[derive(Serialize, Deserialize)]
struct KeysFile {
    format: u32,
    keys: Vec<KeyRow>,
}

#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Certificate {
    purpose: String,
    serial: u32,
    public_key: String,
    created_ms: u64,
}

/// The keys.
#[derive(Debug)]
pub(crate) struct Ring {
    home: Home,
    device: NodeKey,
    rows: Vec<KeyRow>,
    live: BTreeMap<Purpose, NodeKey>,
    recovery: Option<Recovery>,
}

impl Ring {
    /// Opens the keys of a home whose device key must be `device`.
    ///
    /// # Errors
    ///
    /// One sentence with what is wrong and the command that mends it.
    pub(crate) fn open(home: &Home, device: PublicKey) -> Result<Self, String> {
        let dir = home.keys();
        private(&dir, 0o700)?;
        for entry in fs::read_dir(&dir).map_err(|e| format!("cannot read {dir:?}: {e}"))? {
            let path = entry.map_err(|e| format!("cannot read {dir:?}: {e}"))?.path();
            if path.extension().is_some_and(|extension| extension == "seed") {
                private(&path, 0o600)?;
            }
        }
        let path = dir.join("node.seed");
        let key = read_seed(&path).map_err(|why| {
            format!("{why}; restore it from your recovery kit with: mirror recover --kit FILE")
        })?;
        if key.public() != device {
            return Err(format!(
                "{path:?} holds the key {} and bus/node.json names {}; restore the seed from your recovery kit",
                key.public().fingerprint(),
                device.fingerprint()
            ));
        }
        let recovery = recovery::read(home, device).map_err(|e| e.to_string())?;
        let mut ring =
            Self { home: home.clone(), device: key, rows: Vec::new(), live: BTreeMap::new(), recovery };
        ring.rows = ring.read_rows()?;
        for row in &ring.rows {
            let Some(purpose) = Purpose::parse(&row.purpose) else { continue };
            let path = ring.seed(purpose, row.serial);
            if row.retired_ms.is_some() {
                // A kill may have come between the retirement and this.
                erase(&path).map_err(|e| format!("cannot erase the retired seed {path:?}: {e}"))?;
            } else if let Ok(key) = read_seed(&path)
                && key.public().to_hex() == row.public_key
            {
                ring.live.insert(purpose, key);
            }
        }
        Ok(ring)
    }

    fn file(&self) -> PathBuf {
        self.home.keys().join("keys.json")
    }

    fn seed(&self, purpose: Purpose, serial: u32) -> PathBuf {
        self.home.keys().join(format!("{}.{serial}.seed", purpose.name()))
    }

    fn read_rows(&self) -> Result<Vec<KeyRow>, String> {
        let path = self.file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(format!("cannot read {path:?}: {e}")),
        };
        let damaged = |why: &str| format!("{path:?} is damaged ({why}); restore it from a backup");
        let file: KeysFile = serde_json::from_str(&text).map_err(|e| damaged(&e.to_string()))?;
        if file.format != FORMAT {
            return Err(damaged(&format!("it has format {} and this build knows {FORMAT}", file.format)));
        }
        for row in &file.keys {
            let said = Envelope::from_json(row.certificate.as_bytes())
                .and_then(|envelope| envelope.open(self.device.public(), CERTIFICATE_TYPE))
                .map_err(|e| damaged(&format!("the certificate of {} {}: {e}", row.purpose, row.serial)))?;
            if serde_json::from_slice::<Certificate>(&said).ok().as_ref() != Some(&certificate(row)) {
                return Err(damaged(&format!(
                    "{} {} is not what its certificate says",
                    row.purpose, row.serial
                )));
            }
        }
        Ok(file.keys)
    }

    /// Returns the public half of the device key.
    pub(crate) fn device(&self) -> PublicKey {
        self.device.public()
    }

    /// Returns all keys but the device key, in order of purpose and serial.
    pub(crate) fn rows(&self) -> &[KeyRow] {
        &self.rows
    }

    /// Returns the recovery key's public half.
    pub(crate) fn recovery(&self) -> Option<&Recovery> {
        self.recovery.as_ref()
    }

    /// Looks again whether the home has a recovery key; a kit may be made while the keeper runs.
    pub(crate) fn refresh_recovery(&mut self) -> Result<Option<&Recovery>, recovery::RecoveryError> {
        self.recovery = recovery::read(&self.home, self.device.public())?;
        Ok(self.recovery.as_ref())
    }

    /// Returns the key in use.
    pub(crate) fn key(&self, purpose: Purpose) -> Option<&NodeKey> {
        self.live.get(&purpose)
    }

    /// Returns the row of the key in use, whether its seed is there or not.
    pub(crate) fn row(&self, purpose: Purpose) -> Option<&KeyRow> {
        self.rows.iter().find(|row| row.purpose == purpose.name() && row.retired_ms.is_none())
    }

    /// Makes the next key of a purpose, which is not in use before [`Ring::put`].
    pub(crate) fn make(
        &self,
        purpose: Purpose,
        now_ms: u64,
    ) -> Result<(NodeKey, KeyRow), mirror_seal::SealError> {
        let key = NodeKey::generate()?;
        let last = self.rows.iter().filter(|row| row.purpose == purpose.name()).map(|row| row.serial).max();
        let mut row = KeyRow {
            purpose: purpose.name().to_owned(),
            serial: last.unwrap_or(0) + 1,
            public_key: key.public().to_hex(),
            created_ms: now_ms,
            retired_ms: None,
            certificate: String::new(),
        };
        let said = serde_json::to_vec(&certificate(&row)).unwrap_or_default();
        row.certificate = Envelope::sign(&self.device, CERTIFICATE_TYPE, &said).to_json();
        Ok((key, row))
    }

    /// Puts a key in use: its seed is durable before `keys.json` names it, and the one before is retired with it and
    /// then erased.
    pub(crate) fn put(&mut self, purpose: Purpose, key: NodeKey, row: KeyRow) -> io::Result<()> {
        let text = Zeroizing::new(format!("{}\n", *key.to_hex()));
        write_atomic(&self.seed(purpose, row.serial), text.as_bytes())?;
        let mut rows = self.rows.clone();
        let old = rows.iter_mut().find(|old| old.purpose == row.purpose && old.retired_ms.is_none());
        let old = old.map(|old| {
            old.retired_ms = Some(row.created_ms);
            old.serial
        });
        rows.push(row);
        rows.sort_by(|a, b| (&a.purpose, a.serial).cmp(&(&b.purpose, b.serial)));
        let file = KeysFile { format: FORMAT, keys: rows };
        write_atomic(&self.file(), &serde_json::to_vec_pretty(&file)?)?;
        self.rows = file.keys;
        self.live.insert(purpose, key);
        old.map_or(Ok(()), |serial| erase(&self.seed(purpose, serial)))
    }

    /// Writes `halt/keys` when it does not name exactly the keys that there are.
    pub(crate) fn write_halt_keys(&self) -> io::Result<()> {
        let keeper = self
            .key(Purpose::Halt)
            .map(|key| ReleaseKey { kind: "keeper".to_owned(), public_key: key.public().to_hex() });
        let recovery = self.recovery.as_ref().map(Recovery::release_key);
        let keys = ReleaseKeys { keys: keeper.into_iter().chain(recovery).collect() };
        let text = Envelope::sign(&self.device, HALT_KEYS_TYPE, &serde_json::to_vec(&keys)?).to_json();
        let path = self.home.halt().join("keys");
        if fs::read(&path).is_ok_and(|found| found == text.as_bytes()) {
            return Ok(());
        }
        write_atomic(&path, text.as_bytes())
    }
}

fn certificate(row: &KeyRow) -> Certificate {
    Certificate {
        purpose: row.purpose.clone(),
        serial: row.serial,
        public_key: row.public_key.clone(),
        created_ms: row.created_ms,
    }
}

fn read_seed(path: &Path) -> Result<NodeKey, String> {
    let text = fs::read_to_string(path).map(Zeroizing::new).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => format!("{path:?} is missing"),
        _ => format!("{path:?} cannot be read: {e}"),
    })?;
    NodeKey::from_hex(&text).map_err(|e| format!("{path:?} holds no seed: {e}"))
}

/// Overwrites a seed and removes it. A disk that writes elsewhere, as an SSD or a copying filesystem does, may keep the
/// old bytes; what is certain is that no program finds them under the name.
fn erase(path: &Path) -> io::Result<()> {
    let file = match fs::OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let len = usize::try_from(file.metadata()?.len().min(4096)).unwrap_or(4096);
    io::Write::write_all(&mut &file, &vec![b'0'; len])?;
    file.sync_all()?;
    fs::remove_file(path)?;
    path.parent().map_or(Ok(()), mirror_paths::sync_dir)
}

/// Checks that only the owner may enter a folder or read a file, and that it is no link to another.
fn private(path: &Path, wanted: u32) -> Result<(), String> {
    let meta = fs::symlink_metadata(path).map_err(|e| format!("cannot use {path:?}: {e}"))?;
    if meta.file_type().is_symlink() {
        return Err(format!(
            "{path:?} is a symbolic link, and keys must lie where they are looked for; put the original in its place"
        ));
    }
    let uid = nix::unistd::geteuid().as_raw();
    if meta.uid() != uid {
        let owner = meta.uid();
        return Err(format!(
            "{path:?} belongs to uid {owner}, not to you (uid {uid}); run: sudo chown {uid} {path:?}"
        ));
    }
    let mode = meta.permissions().mode() & 0o7777;
    if mode & !wanted != 0 {
        return Err(format!(
            "{path:?} has mode {mode:04o} and must be {wanted:04o}; somebody may have read it: run: chmod {wanted:o} {path:?}"
        ));
    }
    Ok(())
}
