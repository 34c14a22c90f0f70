//! Measures how many events a second verification reads, beside the bare hashes and CRCs of the same bytes.

use std::error::Error;
use std::io::Write as _;
use std::time::Duration;

use mirror_clock::{Clock as _, SystemClock};
use sha2::{Digest as _, Sha256};

#[path = "../src/testlog.rs"]
#[expect(dead_code, reason = "the measurement needs a part of what the tests need")]
mod testlog;

const EVENTS: u64 = 100_000;
const ROUNDS: u32 = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let mut log = testlog::Log::new();
    let payload = format!("{{\"text\":\"{}\"}}", "x".repeat(256 - 11));
    let draft = testlog::Draft::new("import.claude.turn", "json", payload);
    while log.next() <= EVENTS {
        log.write(&vec![draft.clone(); 10]);
    }
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join(&log.origin);
    std::fs::create_dir(&folder)?;
    for part in log.spans.chunks(25_000) {
        if let [first, .., last] = part {
            let path = folder.join(format!("{:020}.seg", first.seq));
            std::fs::write(path, &log.bytes[first.start..last.end])?;
        }
    }
    let (mut best, mut bare) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let begin = SystemClock.boot();
        let report = mirror_verify::verify(&folder, &mut |_| {})?;
        best = best.min(SystemClock.boot() - begin);
        if report.origins.first().is_none_or(|log| log.events != EVENTS) || !report.is_intact() {
            return Err(format!("the log is not whole: {report:?}").into());
        }
        bare = bare.min(hashes(&log));
    }
    let rate = |time: Duration| EVENTS as f64 / time.as_secs_f64();
    let mut out = std::io::stdout().lock();
    writeln!(out, "bytes an event        {:>10}", log.bytes.len() as u64 / EVENTS)?;
    writeln!(out, "verify, events/s      {:>10.0}", rate(best))?;
    writeln!(out, "hashes and CRCs alone {:>10.0}", rate(bare))?;
    writeln!(out, "verify / bare         {:>10.2}", best.as_secs_f64() / bare.as_secs_f64())?;
    Ok(())
}

/// Returns the time that the leaf, the digest, one node and the CRCs of each event take.
fn hashes(log: &testlog::Log) -> Duration {
    let begin = SystemClock.boot();
    let mut root = [0_u8; 32];
    for span in &log.spans {
        let (head, body) = (&log.bytes[span.start..span.body], &log.bytes[span.body..span.end]);
        let leaf: [u8; 32] = Sha256::new().chain_update([0]).chain_update(&head[15..]).finalize().into();
        let digest = Sha256::new().chain_update([0; 16]).chain_update(&body[38..]).finalize();
        root = Sha256::new().chain_update([1]).chain_update(root).chain_update(leaf).finalize().into();
        std::hint::black_box((digest, crc32c::crc32c(&head[11..]), crc32c::crc32c(&body[11..]), root));
    }
    SystemClock.boot() - begin
}
