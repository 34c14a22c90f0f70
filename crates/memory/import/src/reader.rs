//! Reads all files of an import on a thread of its own, and hands rows out in chunks.
//!
//! Invariant: a chunk is small enough for one batch of the bus; at most a few are held at a time.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::Error;
use crate::kind::Vendor;
use crate::quarantine::Folder;
use crate::report::Kept;
use crate::row::ImportedRow;
use crate::transcript::{BadRow, Item, Limits, Transcript, Want};
use crate::walk::{Found, walk};

/// Most rows of a chunk.
const ROWS: usize = 500;
/// Payload bytes at which a chunk is full; with one more payload it is still below the 1 MiB of a batch.
const WEIGHT: usize = 768 << 10;

/// A row and where it stood.
#[derive(Debug)]
pub(crate) struct ReadRow {
    pub(crate) row: ImportedRow,
    pub(crate) file: Arc<str>,
}

/// What was read since the chunk before.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) rows: Vec<ReadRow>,
    pub(crate) bad: Vec<Kept>,
    pub(crate) files: u64,
    pub(crate) ignored: u64,
    /// Bytes read since the start.
    pub(crate) bytes_done: u64,
    /// Bytes to read in all.
    pub(crate) bytes_total: u64,
    /// File being read, relative to the root.
    pub(crate) file: Option<Arc<str>>,
}

/// What to read.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) vendor: Option<Vendor>,
    pub(crate) limits: Limits,
    /// Folder that is never read: the home itself.
    pub(crate) except: PathBuf,
    /// Where bad rows are kept; `None` in a dry run.
    pub(crate) quarantine: Option<Folder>,
}

/// Why a reading ended early.
enum End {
    /// Nobody wants more.
    Unwanted,
    Failed(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Reads a source to its end; `send` takes each chunk, and returns false when no more is wanted.
pub(crate) fn read_all(source: &Source, send: &mut dyn FnMut(Chunk) -> bool) -> Result<(), Error> {
    let mut reader = Reader { source, send, chunk: Chunk::default(), weight: 0 };
    match reader.run() {
        Ok(()) | Err(End::Unwanted) => Ok(()),
        Err(End::Failed(error)) => Err(error),
    }
}

struct Reader<'a> {
    source: &'a Source,
    send: &'a mut dyn FnMut(Chunk) -> bool,
    chunk: Chunk,
    weight: usize,
}

impl Reader<'_> {
    fn run(&mut self) -> Result<(), End> {
        let root = &self.source.path;
        let found =
            walk(root, &self.source.except).map_err(|error| Error::walk(error, &root.to_string_lossy()))?;
        let single = found.files.len() == 1 && found.files.first().is_some_and(|file| file.path == *root);
        self.chunk.bytes_total = found.files.iter().map(|file| file.bytes).sum();
        self.chunk.ignored += found.passed;
        for (file, why) in found.unreadable {
            let bad = unreadable(format!("the folder cannot be read: {why}"));
            self.keep_one(&file, bad)?;
        }
        for file in found.files {
            let after = self.chunk.bytes_done.saturating_add(file.bytes);
            self.file(&file, single)?;
            self.chunk.bytes_done = after;
            self.room()?;
        }
        self.flush()
    }

    fn file(&mut self, file: &Found, single: bool) -> Result<(), End> {
        let want = match self.source.vendor {
            None => Want::Any,
            Some(vendor) if single => Want::Insist(vendor),
            Some(vendor) => Want::Only(vendor),
        };
        let transcript = match Transcript::open(&file.path, want, self.source.limits) {
            Ok(Some(transcript)) => transcript,
            Ok(None) if single => {
                let why = "the file is no transcript that this build knows; name its format if it is one";
                return Err(Error::FormatUnknown(why.into()).into());
            }
            Ok(None) => {
                self.chunk.ignored += 1;
                return Ok(());
            }
            Err(source) if single => return Err(Error::read("cannot read the file", source).into()),
            Err(error) => {
                return self.keep_one(&file.name, unreadable(format!("the file cannot be read: {error}")));
            }
        };
        self.chunk.files += 1;
        self.rows(transcript, file, single)
    }

    fn rows(&mut self, mut transcript: Transcript, file: &Found, single: bool) -> Result<(), End> {
        let name: Arc<str> = file.name.as_str().into();
        self.chunk.file = Some(Arc::clone(&name));
        let before = self.chunk.bytes_done;
        let mut sheet = self.source.quarantine.as_ref().map(Folder::sheet);
        while let Some(item) = transcript.next() {
            self.chunk.bytes_done = before.saturating_add(transcript.bytes_done().min(file.bytes));
            let bad = match item {
                Ok(Item::Row(row)) => {
                    self.weight += row.payload.len() + row.blob.as_ref().map_or(0, |blob| blob.bytes.len());
                    self.chunk.rows.push(ReadRow { row: *row, file: Arc::clone(&name) });
                    self.room()?;
                    continue;
                }
                Ok(Item::Bad(bad)) => bad,
                Err(source) if single => return Err(Error::read("cannot read the file on", source).into()),
                Err(error) => unreadable(format!("the file cannot be read on: {error}")),
            };
            if let Some(sheet) = &mut sheet {
                sheet.add(&name, &bad).map_err(unkept)?;
            }
            self.chunk.bad.push(Kept { file: name.to_string(), line: bad.line, why: bad.why });
            self.room()?;
        }
        if let Some(sheet) = sheet {
            sheet.finish().map_err(unkept)?;
        }
        Ok(())
    }

    fn keep_one(&mut self, file: &str, bad: BadRow) -> Result<(), End> {
        if let Some(folder) = &self.source.quarantine {
            folder.keep(file, &bad).map_err(unkept)?;
        }
        self.chunk.bad.push(Kept { file: file.to_owned(), line: bad.line, why: bad.why });
        self.room()
    }

    /// Sends the chunk if another row might not fit.
    fn room(&mut self) -> Result<(), End> {
        let full = self.weight >= WEIGHT || self.chunk.rows.len() + self.chunk.bad.len() >= ROWS;
        if full { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), End> {
        let next = Chunk {
            bytes_done: self.chunk.bytes_done,
            bytes_total: self.chunk.bytes_total,
            file: self.chunk.file.clone(),
            ..Chunk::default()
        };
        self.weight = 0;
        let chunk = std::mem::replace(&mut self.chunk, next);
        if (self.send)(chunk) { Ok(()) } else { Err(End::Unwanted) }
    }
}

fn unreadable(why: String) -> BadRow {
    BadRow { line: 1, why, bytes: Vec::new(), length: 0 }
}

fn unkept(error: io::Error) -> Error {
    Error::read("cannot keep what could not be read in the quarantine folder", error)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn read(path: &Path) -> (Vec<Chunk>, Result<(), Error>) {
        let source = Source {
            path: path.to_owned(),
            vendor: None,
            limits: Limits::default(),
            except: path.join("home"),
            quarantine: None,
        };
        let mut chunks = Vec::new();
        let end = read_all(&source, &mut |chunk| {
            chunks.push(chunk);
            true
        });
        (chunks, end)
    }

    fn row(n: usize, text: &str) -> String {
        format!(
            "{{\"type\":\"user\",\"sessionId\":\"s\",\"uuid\":\"{n}\",\"message\":{{\"content\":\"{text}\"}}}}\n"
        )
    }

    #[test]
    fn chunks_span_files_and_fit_into_a_batch() {
        let home = tempfile::tempdir().unwrap();
        for (name, rows, text) in [("a", 3, 10), ("b", 1_200, 10), ("c", 60, 60_000)] {
            let text = "x".repeat(text);
            let rows: String = (0..rows).map(|n| row(n, &format!("{name}{text}"))).collect();
            fs::write(home.path().join(name), rows).unwrap();
        }
        fs::create_dir(home.path().join("home")).unwrap();
        fs::write(home.path().join("home/d"), row(1, "of the home itself")).unwrap();
        let (chunks, end) = read(home.path());
        end.unwrap();
        assert_eq!(chunks.iter().map(|chunk| chunk.rows.len()).sum::<usize>(), 1_263);
        assert_eq!(chunks.iter().map(|chunk| chunk.files).sum::<u64>(), 3);
        for chunk in &chunks {
            let bytes: usize = chunk.rows.iter().map(|read| read.row.payload.len()).sum();
            assert!(chunk.rows.len() <= ROWS && bytes <= 1 << 20, "{} rows, {bytes} bytes", chunk.rows.len());
        }
        assert!(chunks.windows(2).all(|pair| pair[0].bytes_done <= pair[1].bytes_done));
        let last = chunks.last().unwrap();
        assert_eq!((last.bytes_done, last.bytes_done), (last.bytes_total, last.bytes_total));
        assert_eq!(&*chunks[0].rows[3].file, "b");
    }

    #[test]
    fn a_reading_that_nobody_wants_ends() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("a"), (0..2_000).map(|n| row(n, "x")).collect::<String>()).unwrap();
        let source = Source {
            path: home.path().to_owned(),
            vendor: None,
            limits: Limits::default(),
            except: PathBuf::new(),
            quarantine: None,
        };
        let mut sent = 0;
        read_all(&source, &mut |_| {
            sent += 1;
            false
        })
        .unwrap();
        assert_eq!(sent, 1);
    }

    #[test]
    fn a_file_by_itself_must_be_a_transcript() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("notes.md");
        fs::write(&path, "# Notes\n").unwrap();
        assert!(matches!(read(&path).1, Err(Error::FormatUnknown(_))));
        assert!(matches!(read(&home.path().join("none")).1, Err(Error::PathMissing(_))));
        let (chunks, end) = read(home.path());
        end.unwrap();
        assert_eq!((chunks[0].files, chunks[0].ignored), (0, 1));
    }
}
