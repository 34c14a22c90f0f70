//! The first start of a home: folders, the device key, the log's name, the halt state.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mirror_paths::{Home, PathError, write_atomic};
use mirror_seal::{Envelope, NodeKey, PublicKey, SealError};
use mirror_types::{NameError, Origin};
use serde::{Deserialize, Serialize};

use crate::halt::{HALT_TYPE, HaltStatement};

/// Why a home cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// A folder cannot be used.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A file cannot be read or written.
    #[error("cannot use {path:?}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key is damaged or cannot be made.
    #[error("the key in {path:?} cannot be used: {source}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SealError,
    },
    /// `node.json` is damaged.
    #[error("{path:?} is malformed ({why}); restore it from a backup, it names the log of this device")]
    Node {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The home was made by a newer build.
    #[error(
        "{path:?} has format {found} and this build knows format {known}; update MirrorDNA, nothing was changed"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that this build knows.
        known: u32,
    },
}

/// What `bus/node.json` says: which log is this device's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name of the log.
    pub origin: Origin,
    /// Public half of the device key.
    pub key: PublicKey,
}

#[derive(Debug, Serialize, Deserialize)]
struct NodeFile {
    format: u32,
    origin: String,
    public_key: String,
}

/// Layout of the home that this build writes. 1: as it was before there was this file. 2: `halt/seen` exists.
pub const LAYOUT: u32 = 2;

/// Makes a home ready for use; what exists is kept, an older layout is brought up to date. Returns the node, and
/// whether the home is new.
///
/// Seeds are made here once, with the home; from then on only the keeper reads them.
pub fn init(home: &Home) -> Result<(Node, bool), HomeError> {
    let layout = layout(home)?;
    home.prepare()?;
    let node_path = home.bus().join("node.json");
    let fresh = !node_path.is_file();
    if fresh {
        found(home, &node_path, 1)?;
    }
    // Only a home of the old layout may lack the file: to write it again elsewhere would forget what was seen.
    if layout < LAYOUT {
        let seen = home.halt().join("seen");
        if !seen.is_file() {
            write(&seen, "0\n")?;
        }
        write(&home.layout(), &format!("{LAYOUT}\n"))?;
    }
    Ok((node(home)?, fresh))
}

/// Gives a home the device key that its owner restored. A home without a log gets one under the epoch that is given,
/// which must never have been in use: whoever has seen the lost log would take a second one of its name for a forgery.
///
/// Whoever calls this has made sure that the home has no other device key.
pub fn restore(home: &Home, key: &NodeKey, epoch: u32) -> Result<Node, HomeError> {
    layout(home)?;
    home.prepare()?;
    write(&home.keys().join("node.seed"), &format!("{}\n", *key.to_hex()))?;
    let node_path = home.bus().join("node.json");
    if !node_path.is_file() {
        found(home, &node_path, epoch)?;
    }
    Ok(init(home)?.0)
}

/// Makes the device key, the name of the log and the halt state of a new home.
fn found(home: &Home, node_path: &Path, epoch: u32) -> Result<(), HomeError> {
    let seed_path = home.keys().join("node.seed");
    let key = match fs::read_to_string(&seed_path) {
        Ok(text) => NodeKey::from_hex(&text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => NodeKey::generate(),
        Err(source) => return Err(HomeError::Io { path: seed_path, source }),
    }
    .map_err(|source| HomeError::Key { path: seed_path.clone(), source })?;
    write(&seed_path, &format!("{}\n", *key.to_hex()))?;
    let state = home.halt().join("state");
    // A halt that is there outlives the name of the log.
    if !state.exists() {
        let statement = HaltStatement { epoch: 0, engaged: false, reason: String::new(), since_ms: 0 };
        let statement = serde_json::to_vec(&statement).unwrap_or_default();
        write(&state, &Envelope::sign(&key, HALT_TYPE, &statement).to_json())?;
    }
    // Last, because a home is one from here on.
    let file = NodeFile {
        format: 1,
        origin: format!("{}.{epoch}", key.public().fingerprint()),
        public_key: key.public().to_hex(),
    };
    write(node_path, &format!("{}\n", serde_json::to_string(&file).unwrap_or_default()))
}

fn write(path: &Path, text: &str) -> Result<(), HomeError> {
    write_atomic(path, text.as_bytes()).map_err(|source| HomeError::Io { path: path.to_owned(), source })
}

/// Returns the layout of a home; 1 where no file says so.
fn layout(home: &Home) -> Result<u32, HomeError> {
    let path = home.layout();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(1),
        Err(source) => return Err(HomeError::Io { path, source }),
    };
    match text.trim().parse() {
        Ok(found) if found > LAYOUT => Err(HomeError::Newer { path, found, known: LAYOUT }),
        Ok(found) => Ok(found),
        Err(e) => Err(HomeError::Node { path, why: format!("a number was expected: {e}") }),
    }
}

/// Reads `bus/node.json`.
pub fn node(home: &Home) -> Result<Node, HomeError> {
    let path = home.bus().join("node.json");
    let text = fs::read_to_string(&path).map_err(|source| HomeError::Io { path: path.clone(), source })?;
    let malformed = |why: String| HomeError::Node { path: path.clone(), why };
    let file: NodeFile = serde_json::from_str(&text).map_err(|e| malformed(e.to_string()))?;
    if file.format > 1 {
        return Err(HomeError::Newer { path, found: file.format, known: 1 });
    }
    let origin = Origin::parse(&file.origin).map_err(|e: NameError| malformed(format!("origin {e}")))?;
    let key = PublicKey::from_hex(&file.public_key).map_err(|e| malformed(e.to_string()))?;
    if !origin.as_str().starts_with(&key.fingerprint()) {
        return Err(malformed("the origin is not that of the key".to_owned()));
    }
    Ok(Node { origin, key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_second_init_changes_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        let (first, fresh) = init(&home).unwrap();
        assert!(fresh);
        let seed = fs::read(home.keys().join("node.seed")).unwrap();
        let (second, fresh) = init(&home).unwrap();
        assert!(!fresh);
        assert_eq!(first, second);
        assert_eq!(fs::read(home.keys().join("node.seed")).unwrap(), seed);
        let mode = fs::metadata(home.keys().join("node.seed")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_lost_key_is_not_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        init(&home).unwrap();
        fs::remove_file(home.keys().join("node.seed")).unwrap();
        init(&home).unwrap();
        assert!(!home.keys().join("node.seed").exists());
    }

    #[test]
    fn an_older_layout_is_brought_up_to_date_once() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        init(&home).unwrap();
        let seen = home.halt().join("seen");
        fs::remove_file(&seen).unwrap();
        init(&home).unwrap();
        assert!(!seen.exists(), "what was seen is not forgotten by a restart");
        fs::remove_file(home.layout()).unwrap();
        init(&home).unwrap();
        assert_eq!(fs::read_to_string(&seen).unwrap(), "0\n");
        fs::write(home.layout(), "3\n").unwrap();
        fs::remove_file(&seen).unwrap();
        let error = init(&home).unwrap_err().to_string();
        assert!(error.contains("format 3") && !seen.exists(), "{error}");
    }

    #[test]
    fn a_newer_home_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        init(&home).unwrap();
        let path = home.bus().join("node.json");
        let text = fs::read_to_string(&path).unwrap().replace("\"format\":1", "\"format\":2");
        fs::write(&path, text).unwrap();
        let error = init(&home).unwrap_err().to_string();
        assert!(error.contains("format 2") && error.contains("nothing was changed"), "{error}");
    }
}
