//! Redactions among the appends: what was acknowledged as erased is nowhere, what was not is erased as a whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use mirror_bus::bench::Engine;

use crate::disk::{Rng, World};

/// Acknowledged events for each redaction of a process.
const EVERY: usize = 24;

/// Returns the events that a process before this one stored and did not try to erase.
pub(crate) fn known(world: &World) -> Vec<u64> {
    let text = fs::read_to_string(world.part("known")).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// Erases some events now and then, old ones and new ones, and says so before and after.
pub(crate) fn redact(engine: &Engine, pipe: &Mutex<UnixStream>, known: &Mutex<Vec<u64>>) {
    let mut rng = Rng(known.lock().unwrap().len() as u64);
    let mut next = known.lock().unwrap().len().min(EVERY);
    loop {
        let mut some = BTreeSet::new();
        {
            let mut known = known.lock().unwrap();
            if known.len() < next.max(1) {
                drop(known);
                std::thread::park_timeout(Duration::from_millis(1));
                continue;
            }
            for _ in 0..=rng.below(3).min(known.len() as u64 - 1) {
                let at = usize::try_from(rng.below(known.len() as u64)).unwrap();
                some.insert(known.swap_remove(at));
            }
            next = known.len() + EVERY;
        }
        let some: Vec<u64> = some.into_iter().collect();
        let say = |what: &str| {
            let seqs: Vec<String> = some.iter().map(u64::to_string).collect();
            pipe.lock().unwrap().write_all(format!("{what} {}\n", seqs.join(" ")).as_bytes()).unwrap();
        };
        say("ask");
        let (_, erased) = engine.redact(&some).unwrap();
        assert_eq!(erased, some);
        say("erased");
    }
}

/// What the second process knows of redactions.
#[derive(Debug, Default)]
pub(crate) struct Erased {
    /// Asked for, and not acknowledged.
    asked: Vec<Vec<u64>>,
    done: BTreeSet<u64>,
    /// How many were acknowledged, and how many were done without.
    pub(crate) acked: u64,
    pub(crate) finished: u64,
}

impl Erased {
    /// Leaves a list of what may be erased to the next process.
    pub(crate) fn offer<'a>(&self, world: &World, acked: impl Iterator<Item = &'a u64>) {
        let asked: BTreeSet<u64> = self.asked.iter().flatten().copied().collect();
        let left = acked.filter(|seq| !self.done.contains(seq) && !asked.contains(seq));
        let text: String = left.map(|seq| format!("{seq}\n")).collect();
        fs::write(world.part("known"), text).unwrap();
    }

    /// Takes a line of the writing process; returns whether it was about redactions.
    pub(crate) fn note(&mut self, line: &str) -> bool {
        let mut fields = line.split(' ');
        let what = fields.next().unwrap_or_default();
        let seqs = || fields.clone().map_while(|f| f.parse().ok()).collect::<Vec<u64>>();
        match what {
            "ask" => self.asked.push(seqs()),
            "erased" => {
                let seqs = seqs();
                self.asked.retain(|asked| *asked != seqs);
                self.done.extend(seqs);
                self.acked += 1;
            }
            _ => return false,
        }
        true
    }

    pub(crate) fn holds(&self, seq: u64) -> bool {
        self.done.contains(&seq)
    }

    /// Decides what became of the redactions whose outcome is unknown, and checks the others.
    pub(crate) fn settle(&mut self, engine: &Engine) -> Result<(), String> {
        let by = |seq: u64| engine.redacted_by(seq).map_err(|e| format!("event {seq} is lost: {e}"));
        for seq in &self.done {
            if by(*seq)?.is_none() {
                return Err(format!("event {seq} was acknowledged as erased and is not"));
            }
        }
        for seqs in std::mem::take(&mut self.asked) {
            let by = seqs.iter().map(|seq| by(*seq)).collect::<Result<Vec<_>, _>>()?;
            match by.iter().flatten().count() {
                0 => {}
                n if n == by.len() => {
                    self.finished += 1;
                    self.done.extend(seqs);
                }
                _ => return Err(format!("of the events {seqs:?} some are erased and some are not: {by:?}")),
            }
        }
        Ok(())
    }

    /// Looks for what was erased in the bytes of every file.
    pub(crate) fn is_nowhere(&self, bus: &Path, acked: &BTreeMap<u64, String>) -> Result<(), String> {
        let erased: BTreeSet<&str> =
            acked.iter().filter(|(seq, _)| self.holds(**seq)).map(|(_, id)| id.as_str()).collect();
        let mut folders = vec![bus.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let bytes = fs::read(&path).unwrap();
                for at in memchr::memmem::find_iter(&bytes, b"{\"id\":\"") {
                    let id: Vec<u8> = bytes[at + 7..].iter().copied().take_while(|b| *b != b'"').collect();
                    let id = String::from_utf8_lossy(&id).into_owned();
                    if erased.contains(id.as_str()) {
                        return Err(format!(
                            "the payload of {id} is erased and stands in {}",
                            path.display()
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}
