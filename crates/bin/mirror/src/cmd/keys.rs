//! `mirror keys`: the public halves of the keys, and their rotation.

use mirror_contract::mirror::keeper::v1::{Key, ListKeysRequest, RotateKeyRequest};
use mirror_errors::Kind;
use serde_json::json;

use crate::args::{KeysArgs, KeysVerb};
use crate::cmd::passphrase;
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::{DIM, Out, say};
use crate::text;

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &KeysArgs) -> Result<(), Failure> {
    let keys = list(ctx).await?;
    match &args.verb {
        None | Some(KeysVerb::List) => show(out, &keys),
        Some(KeysVerb::Rotate { purpose }) => rotate(ctx, out, &keys, purpose).await,
    }
}

async fn list(ctx: &Ctx) -> Result<Vec<Key>, Failure> {
    let answer = ctx.keeper()?.list_keys(ListKeysRequest {}).await;
    Ok(answer.map_err(|s| ctx.refused("keeper", &s))?.into_inner().keys)
}

fn show(out: &mut Out, keys: &[Key]) -> Result<(), Failure> {
    if out.json_wanted() {
        return keys.iter().try_for_each(|key| out.json(&key_json(key)));
    }
    let rows: Vec<Vec<String>> = keys.iter().map(row).collect();
    let header = ["PURPOSE", "SERIAL", "FINGERPRINT", "MADE", "RETIRED", "PUBLIC KEY"];
    out.table(&header, &rows, |i| keys.get(i).and_then(|key| key.retired.as_ref().map(|_| DIM)))
}

async fn rotate(ctx: &Ctx, out: &mut Out, keys: &[Key], purpose: &str) -> Result<(), Failure> {
    let serial = in_use(keys, purpose)?;
    let phrase = passphrase::ask()?;
    say("deriving the key, which takes a moment");
    let key = mirror_keeper::recovery::unlock(&ctx.home()?, &phrase).map_err(|e| passphrase::refused(&e))?;
    let proof = key.rotation(purpose, serial).to_json();
    let request = RotateKeyRequest { purpose: purpose.to_owned(), proof };
    let answer = ctx.keeper()?.rotate_key(request).await.map_err(|s| ctx.refused("keeper", &s))?;
    let key = answer.into_inner().key.ok_or_else(|| Failure::bug("the keeper sent no key"))?;
    show(out, &[key])
}

/// Returns the serial of the key in use.
fn in_use(keys: &[Key], purpose: &str) -> Result<u32, Failure> {
    let used = || keys.iter().filter(|key| key.retired.is_none());
    match used().find(|key| key.purpose == purpose) {
        Some(key) => Ok(key.serial),
        None => {
            let known: Vec<&str> = used().map(|key| key.purpose.as_str()).collect();
            let message = format!("there is no key for {purpose:?}");
            Err(Failure::new(Kind::NotFound, "KEEPER_PURPOSE_UNKNOWN", message)
                .hint(format!("purposes: {}", known.join(", "))))
        }
    }
}

fn row(key: &Key) -> Vec<String> {
    let time = |at: &Option<prost_types::Timestamp>| {
        at.as_ref().map_or_else(|| "-".to_owned(), |at| text::local_time(text::millis(at)))
    };
    vec![
        key.purpose.clone(),
        key.serial.to_string(),
        key.fingerprint.clone(),
        time(&key.created),
        time(&key.retired),
        key.public_key.clone(),
    ]
}

fn key_json(key: &Key) -> serde_json::Value {
    json!({
        "purpose": key.purpose,
        "serial": key.serial,
        "public_key": key.public_key,
        "fingerprint": key.fingerprint,
        "created": key.created.as_ref().and_then(text::rfc3339),
        "retired": key.retired.as_ref().and_then(text::rfc3339),
        "certificate": key.certificate,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_in_use_is_the_one_that_is_not_retired() {
        let key = |purpose: &str, serial, retired| Key {
            purpose: purpose.into(),
            serial,
            retired: Some(prost_types::Timestamp::default()).filter(|_| retired),
            ..Key::default()
        };
        let keys = [key("checkpoint", 1, true), key("checkpoint", 2, false), key("halt", 1, false)];
        assert_eq!(in_use(&keys, "checkpoint").ok(), Some(2));
        assert_eq!(in_use(&keys, "halt").ok(), Some(1));
        let Err(Failure::Error(report)) = in_use(&keys, "device") else { panic!("there is none") };
        assert_eq!(
            (report.kind.exit_code(), report.hints.as_slice()),
            (66, &["purposes: checkpoint, halt".into()][..])
        );
        assert_eq!(row(&keys[1])[4], "-");
    }
}
