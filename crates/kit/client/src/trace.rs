//! Trace context, after the W3C Trace Context recommendation: one id through every hop of a request.

use std::fmt;
use std::future::Future;

tokio::task_local! {
    static CURRENT: Trace;
}

/// A trace id and the id of one hop in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    trace: u128,
    span: u64,
}

impl Trace {
    /// Returns a trace with a random id.
    pub fn fresh() -> Self {
        let mut bytes = [0_u8; 24];
        // Without randomness an id is only less unique; a trace is no secret.
        let _ = getrandom::fill(&mut bytes);
        let (trace, span) = bytes.split_at(16);
        Self {
            trace: trace.iter().fold(0, |n, b| (n << 8) | u128::from(*b)).max(1),
            span: span.iter().fold(0, |n, b| (n << 8) | u64::from(*b)).max(1),
        }
    }

    /// Returns the trace of the task that runs, or a fresh one.
    pub fn current() -> Self {
        CURRENT.try_with(|t| *t).unwrap_or_else(|_| Self::fresh())
    }

    /// Returns the same trace with a new hop.
    #[must_use]
    pub fn child(self) -> Self {
        Self { trace: self.trace, ..Self::fresh() }
    }

    /// Runs a future inside the trace.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }

    /// Returns the value of a `traceparent` header.
    pub fn to_header(self) -> String {
        format!("00-{:032x}-{:016x}-01", self.trace, self.span)
    }

    /// Reads a `traceparent` header; anything malformed is nothing.
    pub fn from_header(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex =
            |t: &str, len: usize| t.len() == len && t.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !hex(version, 2) || version == "ff" || !hex(trace, 32) || !hex(span, 16) || !hex(flags, 2) {
            return None;
        }
        let value =
            Self { trace: u128::from_str_radix(trace, 16).ok()?, span: u64::from_str_radix(span, 16).ok()? };
        (value.trace != 0 && value.span != 0).then_some(value)
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.trace)
    }
}

/// Returns a random number in 0..1, for jitter.
pub(crate) fn unit_random() -> f64 {
    f64::from((Trace::fresh().span & 0xffff) as u16) / 65_536.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_and_garbage_does_not() {
        let trace = Trace::fresh();
        assert_eq!(Trace::from_header(&trace.to_header()), Some(trace));
        assert_eq!(Trace::from_header("00-0-0-01"), None);
        assert_eq!(Trace::from_header(""), None);
        let zero = format!("00-{}-{}-01", "0".repeat(32), "1".repeat(16));
        assert_eq!(Trace::from_header(&zero), None);
    }

    #[tokio::test]
    async fn a_child_keeps_the_trace() {
        let trace = Trace::fresh();
        trace
            .scope(async {
                assert_eq!(Trace::current(), trace);
                let child = Trace::current().child();
                assert_eq!(child.to_string(), trace.to_string());
                assert_ne!(child, trace);
            })
            .await;
    }
}
