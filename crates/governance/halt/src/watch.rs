//! Watches the files: there is no notice of a change that is the same everywhere, so three stamps are compared.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mirror_kit::Context;
use tokio::sync::watch;

use crate::follow::Told;
use crate::warden::Warden;

/// Time between two looks: three calls to the system.
const EVERY: Duration = Duration::from_millis(400);

/// Looks after the files until the service is to stop.
pub(crate) async fn run(cx: Context, warden: Arc<Warden>, mut told: watch::Receiver<Told>) {
    let (shutdown, clock, dir) = (cx.shutdown(), cx.clock(), cx.home().halt());
    let mut before = None;
    loop {
        let now = ["state", "seen", "keys"].map(|name| stamp(&dir.join(name)));
        if before != Some(now) || warden.is_due() {
            before = Some(now);
            warden.check().await;
        }
        tokio::select! {
            () = shutdown.requested() => return,
            () = clock.sleep(EVERY) => {}
            () = warden.woken() => before = None,
            changed = told.changed() => {
                if changed.is_err() {
                    return;
                }
                before = None;
            }
        }
    }
}

fn stamp(path: &Path) -> Option<(u64, i64, i64)> {
    fs::metadata(path).ok().map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec()))
}
