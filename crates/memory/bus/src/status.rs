//! The state of the log, for people and for pulse.

use std::sync::atomic::Ordering::Relaxed;

use mirror_contract::mirror::bus::v1 as pb;

use crate::bus::Bus;
use crate::segments::list;

impl Bus {
    /// Returns the state of the log. Blocks on the folder's listing.
    pub(crate) fn status(&self) -> pb::GetStatusResponse {
        use pb::get_status_response::Writer;
        let head = self.head();
        let gauges = &self.writer.gauges;
        let damage = self.segments.damage();
        let (free, reserve) = (gauges.free_bytes.load(Relaxed), gauges.reserve_bytes.load(Relaxed));
        let writer = if gauges.poisoned.load(Relaxed) {
            Writer::Poisoned
        } else if !damage.is_empty() {
            Writer::Damaged
        } else if gauges.sealed.load(Relaxed) > 0 {
            Writer::Sealed
        } else if free < reserve {
            Writer::DiskReserve
        } else {
            Writer::Open
        };
        let sizes = list(&self.segments.dir).unwrap_or_default();
        let sealed: u64 = sizes.iter().rev().skip(1).map(|segment| segment.size).sum();
        let compressed = sizes.iter().filter(|segment| segment.packed).count();
        let mut text = damage.first().map(crate::segments::Damage::describe).unwrap_or_default();
        if damage.len() > 1 {
            text.push_str(&format!("; and {} more ranges", damage.len() - 1));
        }
        pb::GetStatusResponse {
            origin: self.origin.to_string(),
            head: head.seq,
            head_leaf: if head.seq == 0 { String::new() } else { mirror_seal::hex(&head.leaf) },
            index_upto: self.index.state().0,
            index_lag_limit: self.lag_limit,
            writer: writer.into(),
            damage: text,
            segments: u32::try_from(self.segments.count()).unwrap_or(u32::MAX),
            log_bytes: sealed + gauges.active_bytes.load(Relaxed),
            free_bytes: free,
            reserve_bytes: reserve,
            last_sync_micros: gauges.last_sync_micros.load(Relaxed),
            syncs: gauges.syncs.load(Relaxed),
            clock_suspect: gauges.clock_suspect.load(Relaxed),
            queued: self.writer.queued(),
            compressed_segments: u32::try_from(compressed).unwrap_or(u32::MAX),
            redacted: self.index.erased(),
        }
    }
}
