//! Signed notes, after C2SP signed-note: text, an empty line, and lines that each name a signer.

use base64::Engine as _;

use crate::{BASE64, NodeKey, PublicKey, SealError, sha256};

/// What a signature line begins with: an em dash and a space.
const PREFIX: &str = "\u{2014} ";

/// The signature type Ed25519.
const ED25519: u8 = 0x01;

/// Most signature lines of a note.
const LINES: usize = 100;

/// Returns the key id of an Ed25519 key under a name.
pub fn note_key_id(name: &str, key: PublicKey) -> [u8; 4] {
    let mut bytes = name.as_bytes().to_vec();
    bytes.extend_from_slice(&[b'\n', ED25519]);
    bytes.extend_from_slice(&key.to_bytes());
    let [a, b, c, d, ..] = sha256(&bytes);
    [a, b, c, d]
}

/// Signs a text as a note.
///
/// # Errors
///
/// [`SealError::Note`] when the name or the text is none that a note may have.
pub fn sign_note(key: &NodeKey, name: &str, text: &str) -> Result<String, SealError> {
    check_name(name)?;
    check_text(text)?;
    let mut blob = note_key_id(name, key.public()).to_vec();
    blob.extend_from_slice(&key.sign(text.as_bytes()));
    Ok(format!("{text}\n{PREFIX}{name} {}\n", BASE64.encode(blob)))
}

/// Returns the text of a note if the signer `name` signed it with `key`; lines of other signers are ignored.
///
/// # Errors
///
/// [`SealError::Note`] when it is no note, [`SealError::Signature`] when the signer's line is missing or wrong.
pub fn open_note<'a>(note: &'a str, name: &str, key: PublicKey) -> Result<&'a str, SealError> {
    let at = note.rfind("\n\n").ok_or(SealError::Note("an empty line must part text and signatures"))?;
    let (text, signatures) = note.split_at(at + 1);
    check_text(text)?;
    let signatures = signatures
        .strip_prefix('\n')
        .and_then(|lines| lines.strip_suffix('\n'))
        .ok_or(SealError::Note("it must end with a signature line"))?;
    if signatures.split('\n').count() > LINES {
        return Err(SealError::Note("it has more than 100 signature lines"));
    }
    let id = note_key_id(name, key);
    let mut found = None;
    for line in signatures.split('\n') {
        let (signer, blob) = line
            .strip_prefix(PREFIX)
            .and_then(|line| line.split_once(' '))
            .ok_or(SealError::Note("a signature line must be an em dash, a name and base64"))?;
        check_name(signer)?;
        let blob = BASE64.decode(blob).map_err(|_| SealError::Note("a signature is not base64"))?;
        let (hint, signature) =
            blob.split_first_chunk::<4>().ok_or(SealError::Note("a signature is too short"))?;
        if signer == name && *hint == id && found.is_none() {
            found = Some(<[u8; 64]>::try_from(signature).ok());
        }
    }
    match found.flatten() {
        Some(signature) if key.verify(text.as_bytes(), &signature) => Ok(text),
        _ => Err(SealError::Signature(key.fingerprint())),
    }
}

fn check_name(name: &str) -> Result<(), SealError> {
    if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+') {
        return Err(SealError::Note("a name must not be empty and must not hold spaces or a plus"));
    }
    Ok(())
}

fn check_text(text: &str) -> Result<(), SealError> {
    if !text.ends_with('\n') {
        return Err(SealError::Note("the text must end with a newline"));
    }
    if text.bytes().any(|b| b < 0x20 && b != b'\n') {
        return Err(SealError::Note("the text must not hold control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n";
    const SIGNATURE: &str =
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";

    fn keyed(text: &str) -> [u8; 32] {
        let bytes = BASE64.decode(text).unwrap();
        assert_eq!(bytes[0], ED25519);
        bytes[1..].try_into().unwrap()
    }

    #[test]
    fn the_example_of_the_reference_implementation_is_signed_byte_for_byte() {
        // From the documentation of golang.org/x/mod/sumdb/note, after which the specification was written.
        let key = NodeKey::from_seed(&keyed("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"));
        assert_eq!(key.public().to_bytes(), keyed("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"));
        assert_eq!(crate::hex(&note_key_id("PeterNeumann", key.public())), "c74f20a3");
        let note = sign_note(&key, "PeterNeumann", TEXT).unwrap();
        assert_eq!(note, format!("{TEXT}\n{PREFIX}PeterNeumann {SIGNATURE}\n"));
        assert_eq!(open_note(&note, "PeterNeumann", key.public()).unwrap(), TEXT);
    }

    #[test]
    fn every_changed_byte_of_a_note_is_noticed() {
        let key = NodeKey::generate().unwrap();
        let note = sign_note(&key, "a/b", "one\n\ntwo\n").unwrap();
        for at in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            assert!(open_note(&changed, "a/b", key.public()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn other_signers_are_ignored_and_a_wrong_line_of_the_signer_decides() {
        let (key, other) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let note = sign_note(&key, "a", "text\n").unwrap();
        let line = |note: &str| note.rsplit_once("\n\n").unwrap().1.to_owned();
        let theirs = line(&sign_note(&other, "b", "text\n").unwrap());
        let wrong = line(&sign_note(&key, "a", "other\n").unwrap());
        assert_eq!(open_note(&format!("{note}{theirs}"), "a", key.public()).unwrap(), "text\n");
        assert!(open_note(&format!("text\n\n{wrong}{}", line(&note)), "a", key.public()).is_err());
        assert!(open_note(&format!("text\n\n{theirs}"), "a", key.public()).is_err());
        assert!(open_note(&note, "b", key.public()).is_err(), "the name is part of the key id");
        assert!(open_note(&note, "a", other.public()).is_err());
    }

    #[test]
    fn names_and_texts_that_no_note_may_have_are_refused() {
        let key = NodeKey::generate().unwrap();
        for name in ["", "a b", "a+b", "a\u{2003}b", "a\n"] {
            assert!(sign_note(&key, name, "text\n").is_err(), "{name:?}");
        }
        for text in ["", "no newline", "a tab\t\n", "a return\r\n"] {
            assert!(sign_note(&key, "a", text).is_err(), "{text:?}");
        }
        for note in [
            "",
            "text\n",
            "text\n\n",
            "text\n\n\u{2014} a\n",
            "text\n\n\u{2014} a !!\n",
            "text\n\n-- a QUFBQUE=\n",
        ] {
            assert!(matches!(open_note(note, "a", key.public()), Err(SealError::Note(_))), "{note:?}");
        }
    }
}
