//! The wire: every decoder of the contract, and what each service does with a request that was decoded.

use super::message::{requests, seeds};
use super::{Body, Run};

/// The smallest element of a list takes two bytes on the wire and its whole struct in memory, and a vector that grows
/// holds up to three times its content while it moves. The largest struct of the contract has about 600 bytes.
const ELEMENT: usize = 1024;

const CHECKS: Body = Body { seeds: asked, factor: ELEMENT, ..Body::PLAIN };

pub(super) const BODIES: [Body; 11] = [
    Body { name: "check:bus", run: Run::Plain(mirror_bus::fuzz::wire), ..CHECKS },
    Body { name: "check:witness", run: Run::Plain(mirror_witness::fuzz_wire), ..CHECKS },
    Body { name: "check:keeper", run: Run::Plain(mirror_keeper::fuzz_wire), ..CHECKS },
    Body { name: "check:halt", run: Run::Plain(mirror_halt::fuzz_wire), ..CHECKS },
    Body { name: "check:schedule", run: Run::Plain(mirror_schedule::fuzz_wire), ..CHECKS },
    Body { name: "check:notify", run: Run::Plain(mirror_notify::fuzz_wire), ..CHECKS },
    Body { name: "check:blobs", run: Run::Plain(mirror_blobs::fuzz_wire), ..CHECKS },
    Body { name: "check:changelog", run: Run::Plain(mirror_changelog::fuzz_wire), ..CHECKS },
    Body { name: "check:import", run: Run::Plain(mirror_import::fuzz_wire), ..CHECKS },
    Body { name: "check:pulse", run: Run::Plain(mirror_pulse::fuzz_wire), ..CHECKS },
    Body { name: "check:remedy", run: Run::Plain(mirror_remedy::fuzz_wire), ..CHECKS },
];

/// Returns one body for each message that is a request or an answer.
pub(super) fn decoders() -> impl Iterator<Item = Body> {
    mirror_contract::DECODERS.iter().map(|(name, decode)| Body {
        name,
        run: Run::Decoder(*decode),
        seeds,
        factor: ELEMENT,
        ..Body::PLAIN
    })
}

/// Returns valid requests of a service.
fn asked(name: &str) -> Vec<Vec<u8>> {
    let service = name.strip_prefix("check:").unwrap_or(name);
    let mut names = requests(&format!("mirror.{service}.v1"));
    match service {
        // What it takes from others.
        "pulse" => names.push("mirror.supervisor.v1.Agent".to_owned()),
        "witness" => names.push("mirror.bus.v1.Event".to_owned()),
        _ => {}
    }
    names.iter().flat_map(|name| seeds(name)).collect()
}
