//! The events of the comparisons.

/// A JSON text of 256 bytes.
pub(crate) const PAYLOAD: &[u8; 256] = &[b'1'; 256];

/// What an append is to do beside being durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Keep the event in order.
    Plain,
    /// Also refuse a second event with the caller's id, and find events by id and by subject.
    Ids,
}

/// Subjects that the events take in turn.
const SUBJECTS: u64 = 64;

/// Returns the subject of an event.
pub(crate) fn subject(n: u64) -> &'static str {
    static ALL: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    let all = ALL.get_or_init(|| (0..SUBJECTS).map(|n| format!("local.bench.s{n}")).collect());
    &all[(n % SUBJECTS) as usize]
}

/// Returns the id of an event: without order, as random ids are.
pub(crate) fn id(n: u64) -> String {
    // The finalizer of SplitMix64, a bijection.
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    format!("bench-{:016x}", z ^ (z >> 31))
}
