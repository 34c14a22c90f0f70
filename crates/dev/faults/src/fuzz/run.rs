//! Runs a body on many inputs and says what they did to it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use mirror_clock::{Clock as _, SystemClock};

use super::Body;
use super::mutate::mutate;
use crate::{Rng, alloc};

/// Failures after which a body is given up.
const ENOUGH: usize = 5;

/// Which inputs are run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Number of the first.
    pub from: u64,
    /// How many.
    pub inputs: u64,
    /// What decides them.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Inputs that were run.
    pub inputs: u64,
    /// How long they took.
    pub took: Duration,
    /// Most memory that one took, in bytes.
    pub peak: usize,
    /// What went wrong: the number of the input, its bytes, and a sentence.
    pub failures: Vec<(u64, Vec<u8>, String)>,
}

/// Returns one input of a body.
pub fn input(body: &Body, seeds: &[Vec<u8>], seed: u64, number: u64, out: &mut Vec<u8>) {
    // Bodies must not all begin with the same inputs.
    let own = u64::from(crc32c::crc32c(body.name.as_bytes()));
    let mut rng = Rng::at(seed ^ (own << 32), number);
    mutate(seeds, &mut rng, out);
    (body.repair)(out, &mut rng);
}

/// Runs a body as planned, on this thread.
pub fn run(body: &Body, plan: Plan) -> Outcome {
    let seeds = (body.seeds)(body.name);
    let clock = SystemClock;
    let began = clock.boot();
    let mut bytes = Vec::new();
    let mut outcome = Outcome { inputs: 0, took: Duration::ZERO, peak: 0, failures: Vec::new() };
    // What is made once for a thread is nobody's input's.
    let _ = catch_unwind(AssertUnwindSafe(|| body.call(&[])));
    for number in plan.from..plan.from + plan.inputs {
        input(body, &seeds, plan.seed, number, &mut bytes);
        let (result, peak) = alloc::peak(|| catch_unwind(AssertUnwindSafe(|| body.call(&bytes))));
        outcome.inputs += 1;
        outcome.peak = outcome.peak.max(peak);
        let why = match result {
            Err(panic) => format!("panicked: {}", said(panic.as_ref())),
            Ok(()) if peak > body.limit(bytes.len()) => {
                format!(
                    "took {peak} bytes for an input of {} (limit {})",
                    bytes.len(),
                    body.limit(bytes.len())
                )
            }
            Ok(()) => continue,
        };
        outcome.failures.push((number, bytes.clone(), why));
        if outcome.failures.len() >= ENOUGH {
            break;
        }
    }
    outcome.took = clock.boot().saturating_sub(began);
    outcome
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without words")
}
