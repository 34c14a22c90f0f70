//! The text of a checkpoint, after C2SP tlog-checkpoint (<https://c2sp.org/tlog-checkpoint>).
//!
//! It refuses any other form of the same statement. Invariant: one claim has one text.

use mirror_seal::{base64, unbase64};

use crate::witness::Claim;

/// Returns the name that the signature lines of a log's checkpoints bear: that of the device, whatever the epoch.
pub(crate) fn signer(origin: &str) -> String {
    let device = origin.split_once('.').map_or(origin, |(device, _)| device);
    format!("mirrordna/{device}")
}

/// Returns the text that is signed.
pub(crate) fn text(origin: &str, claim: &Claim) -> String {
    format!("mirrordna/{origin}\n{}\n{}\n", claim.size, base64(&claim.root))
}

/// Reads the claim of a text about a log; none when it is not one.
pub(crate) fn parse(origin: &str, given: &str) -> Option<Claim> {
    let mut lines = given.lines();
    let (_, size, root) = (lines.next()?, lines.next()?, lines.next()?);
    let claim = Claim { size: size.parse().ok()?, root: unbase64(root)?.try_into().ok()? };
    (text(origin, &claim) == given).then_some(claim)
}

/// Reads the claim of a note, without looking at its signature.
pub(crate) fn peek(origin: &str, note: &str) -> Option<Claim> {
    let at = note.rfind("\n\n")?;
    parse(origin, note.get(..=at)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "0123456789abcdef.1";

    #[test]
    fn a_text_has_three_lines_and_is_read_back() {
        let claim = Claim { size: 7, root: [0xff; 32] };
        let given = text(ORIGIN, &claim);
        assert_eq!(given, "mirrordna/0123456789abcdef.1\n7\n//////////////////////////////////////////8=\n");
        assert_eq!(parse(ORIGIN, &given), Some(claim));
        assert_eq!(peek(ORIGIN, &format!("{given}\n\u{2014} x AAAA\n")), Some(claim));
    }

    #[test]
    fn any_other_form_is_refused() {
        let good = text(ORIGIN, &Claim { size: 7, root: [0xff; 32] });
        for bad in [
            "",
            "\n\n\n",
            good.trim_end(),
            &good.replace("\n7\n", "\n07\n"),
            &good.replace("\n7\n", "\n+7\n"),
            &good.replace("\n7\n", "\n99999999999999999999\n"),
            &good.replace('8', "9"),
            &good.replace(".1\n", ".2\n"),
            &format!("{good}more\n"),
        ] {
            assert_eq!(parse(ORIGIN, bad), None, "{bad:?}");
        }
    }
}
