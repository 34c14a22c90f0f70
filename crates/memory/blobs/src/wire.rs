//! Messages inward and outward; all validation is here.

use bytes::Bytes;
use mirror_contract::mirror::blobs::v1 as pb;

use crate::blob::{Content, Digest};
use crate::error::BlobsError;
use crate::store::Receipt;

/// Largest chunk in bytes.
pub(crate) const CHUNK_LIMIT: usize = 1 << 20;

/// The first message of an upload, which may say what is expected and may have no bytes.
#[derive(Debug, Default)]
pub(crate) struct First {
    /// Digest that the content must have.
    pub(crate) expected: Option<Digest>,
    /// First bytes.
    pub(crate) chunk: Bytes,
}

impl TryFrom<pb::PutBlobRequest> for First {
    type Error = BlobsError;

    fn try_from(message: pb::PutBlobRequest) -> Result<Self, BlobsError> {
        let expected = match message.expect_digest.as_str() {
            "" => None,
            text => Some(digest("expect_digest", text)?),
        };
        Ok(Self { expected, chunk: bounded(message.chunk)? })
    }
}

/// A later message of an upload.
#[derive(Debug)]
pub(crate) struct Next(pub(crate) Bytes);

impl TryFrom<pb::PutBlobRequest> for Next {
    type Error = BlobsError;

    fn try_from(message: pb::PutBlobRequest) -> Result<Self, BlobsError> {
        if message.chunk.is_empty() {
            return Err(BlobsError::Chunk("is empty; only the first message may have no bytes".to_owned()));
        }
        bounded(message.chunk).map(Self)
    }
}

fn bounded(chunk: Bytes) -> Result<Bytes, BlobsError> {
    match chunk.len() {
        0..=CHUNK_LIMIT => Ok(chunk),
        len => Err(BlobsError::Chunk(format!(
            "has {len} bytes and the limit is {CHUNK_LIMIT}; send smaller ones"
        ))),
    }
}

fn digest(field: &'static str, text: &str) -> Result<Digest, BlobsError> {
    Digest::parse(text).map_err(|why| BlobsError::Digest { field, why })
}

impl TryFrom<pb::GetBlobRequest> for Digest {
    type Error = BlobsError;

    fn try_from(message: pb::GetBlobRequest) -> Result<Self, BlobsError> {
        digest("digest", &message.digest)
    }
}

impl TryFrom<pb::GetBlobInfoRequest> for Digest {
    type Error = BlobsError;

    fn try_from(message: pb::GetBlobInfoRequest) -> Result<Self, BlobsError> {
        digest("digest", &message.digest)
    }
}

impl TryFrom<pb::CheckBlobRequest> for Digest {
    type Error = BlobsError;

    fn try_from(message: pb::CheckBlobRequest) -> Result<Self, BlobsError> {
        digest("digest", &message.digest)
    }
}

impl From<Receipt> for pb::PutBlobResponse {
    fn from(receipt: Receipt) -> Self {
        let Content { digest, size } = receipt.content;
        Self { digest: digest.to_string(), size_bytes: size, duplicate: receipt.duplicate }
    }
}

impl From<Content> for pb::GetBlobInfoResponse {
    fn from(content: Content) -> Self {
        Self { digest: content.digest.to_string(), size_bytes: content.size }
    }
}

impl From<Content> for pb::CheckBlobResponse {
    fn from(content: Content) -> Self {
        Self { digest: content.digest.to_string(), size_bytes: content.size }
    }
}

/// Runs every check of a request on bytes that nobody wrote, for fuzzing.
#[doc(hidden)]
pub fn fuzz_wire(bytes: &[u8]) {
    if let Some(message) = mirror_contract::decode::<pb::PutBlobRequest>(bytes) {
        let _ = (First::try_from(message.clone()), Next::try_from(message));
    }
    if let Some(request) = mirror_contract::decode::<pb::GetBlobRequest>(bytes) {
        let _ = Digest::try_from(request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_errors::Classify as _;

    fn message(len: usize, expect: &str) -> pb::PutBlobRequest {
        pb::PutBlobRequest { chunk: vec![0; len].into(), expect_digest: expect.to_owned() }
    }

    #[test]
    fn only_the_first_message_may_be_empty() {
        assert!(First::try_from(message(0, "")).is_ok());
        let error = Next::try_from(message(0, "")).unwrap_err();
        assert_eq!(error.reason(), "BLOBS_CHUNK_INVALID");
    }

    #[test]
    fn a_chunk_over_one_mebibyte_is_refused() {
        assert!(First::try_from(message(CHUNK_LIMIT, "")).is_ok());
        assert!(Next::try_from(message(CHUNK_LIMIT, "")).is_ok());
        for error in [
            First::try_from(message(CHUNK_LIMIT + 1, "")).unwrap_err(),
            Next::try_from(message(CHUNK_LIMIT + 1, "")).unwrap_err(),
        ] {
            assert_eq!(error.reason(), "BLOBS_CHUNK_INVALID");
            assert!(error.to_string().contains("1048577 bytes"), "{error}");
        }
    }

    #[test]
    fn an_expected_digest_is_read_in_the_first_message_only() {
        let error = First::try_from(message(1, "abc")).unwrap_err();
        assert_eq!(error.reason(), "BLOBS_DIGEST_INVALID");
        assert!(error.to_string().contains("expect_digest"), "{error}");
        assert!(Next::try_from(message(1, "abc")).is_ok());
    }
}
