//! Standard input and files as bounded chunks, read on a thread of their own.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::failure::Failure;

/// Size of a chunk.
const CHUNK: usize = 256 << 10;

/// Opens a file, or standard input for "-".
pub(crate) fn open(path: &Path) -> Result<Box<dyn io::Read + Send>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path).map_err(|e| Failure::file("open", path, &e))?;
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        return Err(Failure::file("read", path, &io::Error::from(io::ErrorKind::IsADirectory)));
    }
    Ok(Box::new(file))
}

/// Reads all of standard input, at most `limit` bytes.
pub(crate) fn read_all(limit: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX);
    io::stdin()
        .lock()
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::file("read", Path::new("standard input"), &e))?;
    if bytes.len() > limit {
        let size = crate::text::bytes(most);
        return Err(Failure::input(format!("standard input has more than {size}, which is the limit here")));
    }
    Ok(bytes)
}

/// Reads chunks until the end, or until an error, which is the last item.
pub(crate) fn chunks(
    mut from: Box<dyn io::Read + Send>,
) -> Result<mpsc::Receiver<io::Result<Bytes>>, Failure> {
    let (to, chunks) = mpsc::channel(4);
    let read = move || {
        loop {
            let mut chunk = vec![0; CHUNK];
            let item = match from.read(&mut chunk) {
                Ok(0) => return,
                Ok(n) => {
                    chunk.truncate(n);
                    Ok(Bytes::from(chunk))
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => Err(e),
            };
            let last = item.is_err();
            if to.blocking_send(item).is_err() || last {
                return;
            }
        }
    };
    mirror_kit::spawn_thread("input", read)
        .map_err(|e| Failure::bug(format!("no thread can be made: {e}")))?;
    Ok(chunks)
}
