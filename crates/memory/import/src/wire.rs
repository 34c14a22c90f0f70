//! Between the contract and the domain; all validation of requests.

use std::path::PathBuf;

use mirror_contract::mirror::import::v1 as pb;

use crate::error::Error;
use crate::kind::Vendor;
use crate::report::Report;

/// Longest path in bytes.
const PATH_LIMIT: usize = 4_096;

/// A valid request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) path: PathBuf,
    pub(crate) vendor: Option<Vendor>,
    pub(crate) dry_run: bool,
}

impl TryFrom<pb::RunImportRequest> for Order {
    type Error = Error;

    fn try_from(request: pb::RunImportRequest) -> Result<Self, Error> {
        let vendor = match pb::Format::try_from(request.format) {
            Ok(pb::Format::Unspecified) => None,
            Ok(pb::Format::Claude) => Some(Vendor::Claude),
            Ok(pb::Format::Codex) => Some(Vendor::Codex),
            Ok(pb::Format::Gemini) => Some(Vendor::Gemini),
            Err(_) => {
                let why = format!("{} is not a format that this build knows; leave it out", request.format);
                return Err(Error::FormatUnknown(why));
            }
        };
        let refuse = |why: &str| Err(Error::PathInvalid(why.to_owned()));
        let path = PathBuf::from(&request.path);
        match request.path.as_str() {
            "" => refuse("is empty; give the absolute path of a file or folder"),
            text if text.len() > PATH_LIMIT => refuse("has over 4096 bytes"),
            text if text.contains('\0') => refuse("has a zero byte"),
            _ if !path.is_absolute() => {
                refuse("is relative, and the service has no folder of its own; give an absolute path")
            }
            _ => Ok(Self { path, vendor, dry_run: request.dry_run }),
        }
    }
}

impl From<Report> for pb::RunImportResponse {
    fn from(report: Report) -> Self {
        let report = pb::Report {
            files: report.files,
            files_ignored: report.files_ignored,
            rows: report.rows,
            taken: report.taken,
            skipped: report.skipped,
            quarantined: report.quarantined,
            blobs: report.blobs,
            sessions: report.sessions,
            quarantine: report
                .quarantine
                .into_iter()
                .map(|kept| pb::Quarantined { file: kept.file, line: kept.line, why: kept.why })
                .collect(),
            taken_by_kind: report
                .taken_by_kind
                .into_iter()
                .map(|(kind, count)| (kind.to_owned(), count))
                .collect(),
            last_seq: report.last_seq,
        };
        Self { message: Some(pb::run_import_response::Message::Report(report)) }
    }
}

/// Returns progress as an answer.
pub(crate) fn progress(progress: pb::Progress) -> pb::RunImportResponse {
    pb::RunImportResponse { message: Some(pb::run_import_response::Message::Progress(progress)) }
}

/// Runs every check of a request on bytes that nobody wrote, for fuzzing.
#[doc(hidden)]
pub fn fuzz_wire(bytes: &[u8]) {
    if let Some(request) = mirror_contract::decode::<pb::RunImportRequest>(bytes) {
        let _ = Order::try_from(request);
    }
}

#[cfg(test)]
mod tests {
    use mirror_errors::Classify as _;

    use super::*;

    #[track_caller]
    fn check(path: &str, format: i32, want: Result<Option<Vendor>, &str>) {
        let request = pb::RunImportRequest { path: path.into(), format, dry_run: false };
        let found = Order::try_from(request).map(|order| order.vendor).map_err(|error| error.reason());
        assert_eq!(found, want, "{path:?} {format}");
    }

    #[test]
    fn requests_are_checked() {
        check("/a/b", 0, Ok(None));
        check("/a/b", 1, Ok(Some(Vendor::Claude)));
        check("/a/b", 2, Ok(Some(Vendor::Codex)));
        check("/a/b", 3, Ok(Some(Vendor::Gemini)));
        check("/a/b", 4, Err("IMPORT_FORMAT_UNKNOWN"));
        check("/a/b", -1, Err("IMPORT_FORMAT_UNKNOWN"));
        for path in ["", "a/b", "./a", "~/.claude", "/a\0b"] {
            check(path, 0, Err("IMPORT_PATH_INVALID"));
        }
        check(&format!("/{}", "x".repeat(PATH_LIMIT)), 0, Err("IMPORT_PATH_INVALID"));
    }
}
