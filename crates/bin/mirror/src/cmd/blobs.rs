//! `mirror blobs`: content by its digest.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use mirror_contract::mirror::blobs::v1::{GetBlobRequest, PutBlobRequest};
use serde_json::json;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::args::BlobsVerb;
use crate::cmd::stdin;
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::Out;
use crate::text;

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, verb: &BlobsVerb) -> Result<(), Failure> {
    match verb {
        BlobsVerb::Put { file } => put(ctx, out, file).await,
        BlobsVerb::Get { digest, output: Some(path) } => get_file(ctx, out, digest, path).await,
        BlobsVerb::Get { digest, output: None } => get(ctx, out, digest).await,
    }
}

async fn put(ctx: &Ctx, out: &mut Out, file: &Path) -> Result<(), Failure> {
    let chunks = ReceiverStream::new(stdin::chunks(stdin::open(file)?)?);
    let (broken, failed) = tokio::sync::oneshot::channel();
    let broken = Arc::new(Mutex::new(Some(broken)));
    let requests = chunks.map_while(move |chunk| match chunk {
        Ok(chunk) => Some(PutBlobRequest { chunk, expect_digest: String::new() }),
        Err(e) => {
            let sender = broken.lock().unwrap_or_else(PoisonError::into_inner).take();
            sender.map(|s| s.send(e));
            None
        }
    });
    let mut blobs = ctx.blobs()?;
    let answer = tokio::select! {
        // A file that cannot be read to its end must not be stored as if it ended there.
        biased;
        Ok(e) = failed => return Err(Failure::file("read", file, &e)),
        answer = blobs.put_blob(requests) => answer,
    };
    let receipt = answer.map_err(|s| ctx.refused("blobs", &s))?.into_inner();
    if out.json_wanted() {
        return out.json(&json!({
            "digest": receipt.digest,
            "size_bytes": receipt.size_bytes,
            "duplicate": receipt.duplicate,
        }));
    }
    out.line(&receipt.digest)?;
    let note = if receipt.duplicate { ", was there before" } else { "" };
    crate::out::say(&format!("{}{note}", text::bytes(receipt.size_bytes)));
    Ok(())
}

async fn get(ctx: &Ctx, out: &mut Out, digest: &str) -> Result<(), Failure> {
    let request = GetBlobRequest { digest: digest.to_owned() };
    let refused = |status: &tonic::Status| ctx.refused("blobs", status);
    let mut stream = ctx.blobs()?.get_blob(request).await.map_err(|s| refused(&s))?.into_inner();
    let mut begun = false;
    loop {
        match stream.message().await {
            Ok(Some(part)) => {
                begun = true;
                out.bytes(&part.chunk)?;
            }
            Ok(None) => return Ok(()),
            Err(status) if begun => return Err(refused(&status).hint("what was printed is not to be used")),
            Err(status) => return Err(refused(&status)),
        }
    }
}

async fn get_file(ctx: &Ctx, out: &mut Out, digest: &str, path: &Path) -> Result<(), Failure> {
    use std::io::Write as _;
    let request = GetBlobRequest { digest: digest.to_owned() };
    let refused = |status: &tonic::Status| ctx.refused("blobs", status);
    let failed = |e: &std::io::Error| Failure::file("write", path, e);
    let mut stream = ctx.blobs()?.get_blob(request).await.map_err(|s| refused(&s))?.into_inner();
    let whole = std::path::absolute(path).map_err(|e| failed(&e))?;
    let folder = whole.parent().ok_or_else(|| Failure::input("--output must name a file"))?;
    let mut temp = tempfile::NamedTempFile::new_in(folder).map_err(|e| failed(&e))?;
    let mut size = 0;
    while let Some(part) = stream.message().await.map_err(|s| refused(&s))? {
        temp.write_all(&part.chunk).map_err(|e| failed(&e))?;
        size += part.chunk.len() as u64;
    }
    temp.as_file().sync_all().map_err(|e| failed(&e))?;
    temp.persist(&whole).map_err(|e| failed(&e.error))?;
    if out.json_wanted() {
        return out.json(&json!({"digest": digest, "size_bytes": size, "file": whole}));
    }
    crate::out::say(&format!("{} in {}", text::bytes(size), whole.display()));
    Ok(())
}
