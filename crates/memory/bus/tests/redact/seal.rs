//! The end of a log.

use mirror_bus::BusError;

use crate::{Place, append, verified};

fn seal(engine: &mirror_bus::bench::Engine) -> Result<u64, BusError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(engine.seal())
}

#[test]
fn a_sealed_log_takes_nothing_for_ever_and_is_read_as_before() {
    // With its last event in the middle of a segment, and as the first of one.
    for events in [5, 10, 11, 12, 13] {
        let place = Place::new();
        let engine = place.open();
        for n in 1..=events {
            append(&engine, n).unwrap();
        }
        let last = events + 1;
        assert_eq!(seal(&engine), Ok(last));
        for start in 0..3 {
            let engine = if start == 0 { engine.clone() } else { place.open() };
            let refused = BusError::Sealed { seq: last };
            assert_eq!(append(&engine, 500), Err(refused.clone()), "{events} events, start {start}");
            assert_eq!(engine.redact(&[1]), Err(refused), "an erasure begins with an event");
            assert!(append(&engine, 1).is_err(), "not even what is there already");
            assert_eq!(seal(&engine), Ok(last), "it is sealed once");
            assert_eq!(engine.state().0, last);
            assert_eq!(engine.get(1).unwrap().0, "id-1");
            assert_eq!(engine.all().unwrap().len() as u64, last);
            engine.close();
        }
        assert_eq!(verified(&place.bus(), "sealed"), 0);
    }
}
