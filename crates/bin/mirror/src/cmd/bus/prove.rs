//! `mirror bus prove`: a proof as a document to keep, and the check of one without a fleet.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use mirror_contract::mirror::bus::v1::GetEventRequest;
use mirror_contract::mirror::bus::v1::get_event_request::By;
use mirror_contract::mirror::keeper::v1::{Key, ListKeysRequest};
use mirror_contract::mirror::witness::v1::{
    ListCheckpointsRequest, ProveConsistencyRequest, ProveInclusionRequest,
};
use mirror_errors::Kind;
use mirror_seal::{Envelope, PublicKey, open_note};
use serde_json::json;

use crate::args::ProveArgs;
use crate::cmd::bus::proof::{Document, Growth, Inclusion, Proven, Signed, signer};
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::{GOOD, Out, say};
use crate::text::{self, some};

/// Largest document that is read.
const LIMIT: u64 = 1 << 20;

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &ProveArgs) -> Result<(), Failure> {
    match (&args.check, args.from, args.seq) {
        (Some(file), _, _) => check(ctx, out, file, args.key.as_deref()),
        (None, Some(from), _) => growth(ctx, out, from, args.to.unwrap_or(0)).await,
        (None, None, Some(seq)) => inclusion(ctx, out, seq, args.size.unwrap_or(0)).await,
        (None, None, None) => Err(Failure::input("name an event, --from or --check")),
    }
}

async fn inclusion(ctx: &Ctx, out: &mut Out, seq: u64, size: u64) -> Result<(), Failure> {
    let answer = ctx.witness()?.prove_inclusion(ProveInclusionRequest { seq, size }).await;
    let found = answer.map_err(|s| ctx.refused("witness", &s))?.into_inner();
    let answer = ctx.bus()?.get_event(GetEventRequest { by: Some(By::Seq(seq)) }).await;
    let event = answer.map_err(|s| ctx.refused("bus", &s))?.into_inner().event;
    let event = event.ok_or_else(|| Failure::bug("the bus sent no event"))?;
    let proof = Inclusion {
        header: event.header,
        leaf: found.leaf,
        index: seq.saturating_sub(1),
        size: found.size,
        root: found.root,
        hashes: found.hashes,
        checkpoint: signed(ctx, found.size, found.note).await?,
    };
    let document = Document::Inclusion(proof.clone());
    let proven = trusted(ctx, &document)?;
    if out.json_wanted() {
        out.json(&document)?;
    } else {
        // The proof is the data, as another program would check it.
        let text = proof.text().map_err(|why| Failure::bug(format!("the proof has no text: {why}")))?;
        out.bytes(text.as_bytes())?;
    }
    say(&told(&proven));
    Ok(())
}

async fn growth(ctx: &Ctx, out: &mut Out, from_size: u64, to_size: u64) -> Result<(), Failure> {
    let answer = ctx.witness()?.prove_consistency(ProveConsistencyRequest { from_size, to_size }).await;
    let found = answer.map_err(|s| ctx.refused("witness", &s))?.into_inner();
    let document = Document::Consistency(Growth {
        from: signed(ctx, found.from_size, found.from_note).await?,
        to: signed(ctx, found.to_size, found.to_note).await?,
        hashes: found.hashes,
    });
    let proven = trusted(ctx, &document)?;
    out.json(&document)?;
    say(&told(&proven));
    Ok(())
}

/// Checks a document that was just made, so that none is printed that its reader would refuse.
fn trusted(ctx: &Ctx, document: &Document) -> Result<Proven, Failure> {
    let node = mirror_kit::node(&ctx.home()?).map_err(|e| Failure::home(&e))?;
    document.check(node.key).map_err(|why| {
        Failure::new(
            Kind::Corrupt,
            "CLI_PROOF_INVALID",
            format!("the proof that was made does not hold: {why}"),
        )
    })
}

/// Returns a checkpoint with the certificate of the key that signed it.
async fn signed(ctx: &Ctx, size: u64, note: String) -> Result<Signed, Failure> {
    if note.is_empty() {
        let message = format!("no checkpoint of exactly {} is kept", some(size, "event"));
        let failure = Failure::new(Kind::NotFound, "WITNESS_NO_CHECKPOINT", message);
        return Err(near(ctx, size).await.into_iter().fold(failure, Failure::hint));
    }
    let answer = ctx.keeper()?.list_keys(ListKeysRequest {}).await;
    let keys = answer.map_err(|s| ctx.refused("keeper", &s))?.into_inner().keys;
    let origin = mirror_kit::node(&ctx.home()?).map_err(|e| Failure::home(&e))?.origin;
    let name = signer(origin.as_str());
    let has_signed = |key: &&Key| {
        PublicKey::from_hex(&key.public_key).is_ok_and(|public| open_note(&note, &name, public).is_ok())
    };
    let key = keys.iter().filter(|key| key.purpose == "checkpoint").find(has_signed);
    let certificate = key.and_then(|key| Envelope::from_json(key.certificate.as_bytes()).ok());
    match certificate {
        Some(certificate) => Ok(Signed { note, certificate }),
        None => {
            let message =
                format!("no key of the keeper has signed the checkpoint of {}", some(size, "event"));
            Err(Failure::new(Kind::Corrupt, "CLI_PROOF_INVALID", message))
        }
    }
}

/// Returns a hint at the checkpoints around a size.
async fn near(ctx: &Ctx, size: u64) -> Option<String> {
    let mut witness = ctx.witness().ok()?;
    let request = ListCheckpointsRequest { before_size: 0, limit: 256 };
    let mut sizes: Vec<u64> = witness
        .list_checkpoints(request)
        .await
        .ok()?
        .into_inner()
        .checkpoints
        .iter()
        .map(|c| c.size)
        .collect();
    sizes.sort_by_key(|other| other.abs_diff(size));
    sizes.truncate(4);
    sizes.sort_unstable();
    let sizes: Vec<String> = sizes.iter().map(u64::to_string).collect();
    (!sizes.is_empty()).then(|| format!("checkpoints near it: {}", sizes.join(", ")))
}

fn check(ctx: &Ctx, out: &mut Out, path: &Path, key: Option<&str>) -> Result<(), Failure> {
    let mut text = String::new();
    let file = File::open(path).map_err(|e| Failure::file("read", path, &e))?;
    file.take(LIMIT).read_to_string(&mut text).map_err(|e| Failure::file("read", path, &e))?;
    let trusted = match key {
        Some(key) => PublicKey::from_hex(key).map_err(|e| Failure::input(format!("--key: {e}")))?,
        None => {
            mirror_kit::node(&ctx.home()?)
                .map_err(|e| {
                    Failure::home(&e).hint("name the public key of the device that signed it, with --key")
                })?
                .key
        }
    };
    let checked = Document::parse(&text).and_then(|document| document.check(trusted));
    let proven = checked.map_err(|why| {
        let message = format!("{} proves nothing: {why}", path.display());
        Failure::new(Kind::Invalid, "CLI_PROOF_INVALID", message)
    })?;
    if out.json_wanted() {
        let mut value =
            serde_json::to_value(&proven).map_err(|e| Failure::bug(format!("the answer is no JSON: {e}")))?;
        value["key"] = json!(trusted.to_hex());
        return out.json(&value);
    }
    let line = out.paint(GOOD, "proven");
    out.line(&format!("{line}: {}", told(&proven)))
}

fn told(proven: &Proven) -> String {
    match proven {
        Proven::Inclusion { origin, seq, subject, leaf, size, .. } => {
            let subject = text::one_line(subject, 255);
            let tree = some(*size, "event");
            format!("event {seq} ({subject}) with the leaf {leaf} is in the log {origin} of {tree}")
        }
        Proven::Consistency { origin, from, to, .. } => {
            format!(
                "the log {origin} of {} begins with the log of {}",
                some(*to, "event"),
                some(*from, "event")
            )
        }
    }
}
