//! What strace wrote: when which file was written and synced.

use std::collections::HashMap;

/// The calls that are traced.
pub(crate) const CALLS: &str = "trace=openat,write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync";

/// Options with which [`read`] can read the trace: time stamps, durations, names of files, no contents.
pub(crate) const OPTIONS: [&str; 6] = ["-f", "-ttt", "-T", "-y", "-s", "0"];

/// Writes and syncs of the files with one ending, in seconds since the Unix epoch.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Trace {
    /// When each write had ended.
    pub(crate) writes: Vec<f64>,
    /// When each sync had ended before which something was written, in order.
    pub(crate) syncs: Vec<f64>,
}

impl Trace {
    /// Returns the trace from a moment on.
    pub(crate) fn since(mut self, from: f64) -> Self {
        self.writes.retain(|at| *at > from);
        self.syncs.retain(|at| *at > from);
        self
    }

    /// Returns how many acknowledgements came before the syncs that they need: with `window` appends in flight, the n-th
    /// needs n / window.
    pub(crate) fn early(&self, acknowledged: &[f64], window: usize) -> usize {
        let is_early = |(n, at): (usize, &f64)| {
            let done = self.syncs.partition_point(|end| end <= at);
            done < (n + 1).div_ceil(window)
        };
        acknowledged.iter().enumerate().filter(|ack| is_early(*ack)).count()
    }
}

struct Call<'a> {
    name: &'a str,
    path: &'a str,
    start: f64,
}

/// Reads a trace. A file that is opened with O_SYNC or O_DSYNC is synced by each write.
pub(crate) fn read(text: &str, ending: &str) -> Trace {
    let mut trace = Trace::default();
    let mut unfinished: HashMap<&str, Call<'_>> = HashMap::new();
    let mut dirty: HashMap<&str, Vec<f64>> = HashMap::new();
    let mut direct: Vec<&str> = Vec::new();
    for line in text.lines() {
        let Some((pid, rest)) = line.trim_start().split_once(' ') else { continue };
        let Some((at, rest)) = rest.trim_start().split_once(' ') else { continue };
        let Ok(at) = at.parse::<f64>() else { continue };
        if rest.starts_with("openat(") {
            // The name stands once as the result, with -y.
            let path = rest.rsplit_once('<').filter(|_| rest.contains(" = ")).map(|_| opened(rest));
            if let Some(path) = path.filter(|p| p.ends_with(ending))
                && rest.contains("SYNC")
            {
                direct.push(path);
            }
            continue;
        }
        let (call, end) = if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some(call) = unfinished.remove(pid) else { continue };
            if !resumed.starts_with(call.name) {
                continue;
            }
            (call, at)
        } else {
            let Some((name, args)) = rest.split_once('(') else { continue };
            let path = args.split_once('<').and_then(|(_, p)| p.split_once('>')).map_or("", |(p, _)| p);
            let call = Call { name, path, start: at };
            if rest.ends_with("<unfinished ...>") {
                unfinished.insert(pid, call);
                continue;
            }
            let took = rest.rsplit_once('<').and_then(|(_, t)| t.trim_end_matches('>').parse::<f64>().ok());
            (call, at + took.unwrap_or_default())
        };
        if !call.path.ends_with(ending) {
            continue;
        }
        let waiting = dirty.entry(call.path).or_default();
        if call.name.contains("write") {
            trace.writes.push(end);
            if direct.contains(&call.path) {
                trace.syncs.push(end);
            } else {
                waiting.push(end);
            }
        } else if call.name.contains("sync") {
            let before = waiting.len();
            waiting.retain(|written| *written > call.start);
            if waiting.len() < before {
                trace.syncs.push(end);
            }
        }
    }
    trace.syncs.sort_by(f64::total_cmp);
    trace
}

/// Returns the path in a finished `openat`, which stands in its result.
fn opened(rest: &str) -> &str {
    let result = rest.rsplit_once(" = ").map_or("", |(_, result)| result);
    result.split_once('<').and_then(|(_, p)| p.split_once('>')).map_or("", |(p, _)| p)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
7 100.000000 openat(AT_FDCWD</x>, \"\"..., O_RDWR|O_CREAT, 0600) = 5</x/1.seg> <0.000010>
7 100.000100 pwrite64(5</x/1.seg>, \"\"..., 300, 0) = 300 <0.000050>
8 100.000120 write(9<socket:[3]>, \"\"..., 17) = 17 <0.000005>
7 100.000200 fdatasync(5</x/1.seg> <unfinished ...>
8 100.000250 write(9<socket:[3]>, \"\"..., 17) = 17 <0.000005>
7 100.000900 <... fdatasync resumed>)       = 0 <0.000700>
7 100.001000 fdatasync(5</x/1.seg>)         = 0 <0.000100>
7 100.002000 pwrite64(5</x/1.seg>, \"\"..., 300, 300) = 300 <0.000050>
7 100.002100 fdatasync(5</x/1.seg>)         = 0 <0.000400>
";

    fn near(have: &[f64], want: &[f64]) -> bool {
        have.len() == want.len() && have.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6)
    }

    #[test]
    fn a_sync_counts_when_something_was_written_before_it_began() {
        let trace = read(TEXT, ".seg");
        assert!(near(&trace.writes, &[100.000_15, 100.002_05]), "{trace:?}");
        assert!(near(&trace.syncs, &[100.000_9, 100.002_5]), "{trace:?}");
        assert_eq!(read(TEXT, ".aof"), Trace::default());
        assert!(near(&read(TEXT, ".seg").since(100.001).syncs, &[100.002_5]));
    }

    #[test]
    fn a_write_to_a_file_that_syncs_itself_is_a_sync() {
        let text = TEXT.replace("O_RDWR", "O_RDWR|O_DSYNC").replace("fdatasync", "other");
        assert!(near(&read(&text, ".seg").syncs, &[100.000_15, 100.002_05]));
    }

    #[test]
    fn an_acknowledgement_before_its_sync_is_early() {
        let trace = read(TEXT, ".seg");
        assert_eq!(trace.early(&[100.001, 100.003], 1), 0);
        assert_eq!(trace.early(&[100.000_8, 100.003], 1), 1);
        assert_eq!(trace.early(&[100.001, 100.002], 1), 1);
        assert_eq!(trace.early(&[100.001, 100.002], 2), 0, "one sync may acknowledge both");
        assert_eq!(trace.early(&[100.001, 100.002, 100.002], 2), 1);
    }
}
