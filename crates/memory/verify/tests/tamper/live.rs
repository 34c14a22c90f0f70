//! A log that a real bus appends to, redacts, compresses and rolls, while it is verified again and again.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use mirror_types::Subject;
use mirror_verify::{Severity, verify};

use crate::{Place, found};

#[test]
fn a_log_under_change_never_looks_damaged() {
    let place = Place::whole();
    let engine = place.open();
    let (done, subject) = (AtomicBool::new(false), Subject::parse("local.note").unwrap());
    let rounds = std::env::var("MIRROR_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut verified = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for n in 0..30 * rounds {
                for i in 0..8 {
                    let payload = format!("{{\"text\":\"{}\"}}", "dolor sit ".repeat(100));
                    let id = format!("live-{n}-{i}");
                    runtime.block_on(engine.append(&subject, Some(&id), payload.into())).unwrap();
                }
                // Long payloads in sealed, compressed and active segments.
                let head = engine.state().0;
                engine.redact(&[n + 1, head - 2]).unwrap();
                if n % 3 == 0 {
                    engine.compress().unwrap();
                }
            }
            done.store(true, Relaxed);
        });
        while !done.load(Relaxed) {
            let report = verify(&place.bus(), &mut |_| {}).unwrap();
            assert!(report.severity() < Severity::TornTail, "{:?} {report:#?}", found(&report));
            verified += 1;
        }
    });
    assert!(verified > 0);
    engine.close();
    let report = verify(&place.bus(), &mut |_| {}).unwrap();
    assert!(report.is_intact(), "{report:#?}");
    assert_eq!(report.origins[0].redacted_count, 60 * rounds);
}
