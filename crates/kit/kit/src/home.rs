//! The first start of a home: folders, the device key, the log's name, the halt state.

use std::fs;
use std::io;
use std::path::PathBuf;

use mirror_paths::{Home, PathError, write_atomic};
use mirror_seal::{Envelope, NodeKey, PublicKey, SealError};
use mirror_types::{NameError, Origin};
use serde::{Deserialize, Serialize};

use crate::halt::{HALT_TYPE, HaltState};

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
        "{path:?} has format {found} and this build knows format 1; update MirrorDNA, nothing was changed"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
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

/// Makes a home ready for use; what exists is kept. Returns the node, and whether the home is new.
pub fn init(home: &Home) -> Result<(Node, bool), HomeError> {
    home.prepare()?;
    let seed_path = home.keys().join("node.seed");
    let node_path = home.bus().join("node.json");
    let io = |path: &PathBuf| {
        let path = path.clone();
        move |source| HomeError::Io { path, source }
    };
    let key = match fs::read_to_string(&seed_path) {
        Ok(text) => NodeKey::from_hex(&text),
        Err(e) if e.kind() == io::ErrorKind::NotFound && !node_path.is_file() => NodeKey::generate()
            .and_then(|key| {
                let text = format!("{}\n", key.to_hex());
                write_atomic(&seed_path, text.as_bytes())
                    .map(|()| key)
                    .map_err(|e| SealError::Random(format!("the key could not be stored: {e}")))
            }),
        // The key is gone but its log is here: a new key would silently start another identity.
        Err(source) => return Err(HomeError::Io { path: seed_path, source }),
    }
    .map_err(|source| HomeError::Key { path: seed_path.clone(), source })?;

    let fresh = !node_path.is_file();
    if fresh {
        let file = NodeFile {
            format: 1,
            origin: format!("{}.1", key.public().fingerprint()),
            public_key: key.public().to_hex(),
        };
        let text = serde_json::to_string(&file).unwrap_or_default();
        write_atomic(&node_path, format!("{text}\n").as_bytes()).map_err(io(&node_path))?;
        let halt_path = home.halt().join("state");
        let state = serde_json::to_vec(&HaltState { epoch: 0, engaged: false }).unwrap_or_default();
        let envelope = Envelope::sign(&key, HALT_TYPE, &state).to_json();
        write_atomic(&halt_path, envelope.as_bytes()).map_err(io(&halt_path))?;
    }
    Ok((node(home)?, fresh))
}

/// Reads `bus/node.json`.
pub fn node(home: &Home) -> Result<Node, HomeError> {
    let path = home.bus().join("node.json");
    let text = fs::read_to_string(&path).map_err(|source| HomeError::Io { path: path.clone(), source })?;
    let malformed = |why: String| HomeError::Node { path: path.clone(), why };
    let file: NodeFile = serde_json::from_str(&text).map_err(|e| malformed(e.to_string()))?;
    if file.format > 1 {
        return Err(HomeError::Newer { path, found: file.format });
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
        assert!(matches!(init(&home), Err(HomeError::Io { .. })));
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
