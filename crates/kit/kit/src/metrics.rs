//! Counters of calls, in the Prometheus text format 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use mirror_contract::METHODS;
use tonic::Code;

const BUCKETS_MICROS: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_500_000, 10_000_000];

const CODES: usize = 17;

#[derive(Debug, Default)]
struct Method {
    codes: [AtomicU64; CODES],
    buckets: [AtomicU64; BUCKETS_MICROS.len()],
    micros: AtomicU64,
}

/// Counters of one service process.
#[derive(Debug)]
pub(crate) struct Metrics {
    service: &'static str,
    methods: BTreeMap<&'static str, Method>,
    pub(crate) in_flight: AtomicU64,
    pub(crate) refused_connections: AtomicU64,
}

impl Metrics {
    pub(crate) fn new(service: &'static str, serves: &[&str]) -> Self {
        let methods = METHODS
            .iter()
            .filter(|m| serves.contains(&m.service))
            .map(|m| (m.path, Method::default()))
            .collect();
        Self { service, methods, in_flight: AtomicU64::new(0), refused_connections: AtomicU64::new(0) }
    }

    pub(crate) fn record(&self, path: &str, code: Code, took: Duration) {
        let Some(method) = self.methods.get(path) else { return };
        method.codes[code as usize % CODES].fetch_add(1, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        method.micros.fetch_add(micros, Relaxed);
        if let Some(i) = BUCKETS_MICROS.iter().position(|b| micros <= *b) {
            method.buckets[i].fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        let service = self.service;
        text.push_str("# TYPE mirror_rpc_server_handled_total counter\n");
        for (path, method) in &self.methods {
            for (code, count) in method.codes.iter().enumerate() {
                let count = count.load(Relaxed);
                if count > 0 {
                    let code = Code::from_i32(i32::try_from(code).unwrap_or_default());
                    let _ = writeln!(
                        text,
                        "mirror_rpc_server_handled_total{{service=\"{service}\",method=\"{path}\",code=\"{code:?}\"}} {count}"
                    );
                }
            }
        }
        text.push_str("# TYPE mirror_rpc_server_duration_seconds histogram\n");
        for (path, method) in &self.methods {
            let total: u64 = method.codes.iter().map(|c| c.load(Relaxed)).sum();
            if total == 0 {
                continue;
            }
            let mut sum = 0;
            for (bound, count) in BUCKETS_MICROS.iter().zip(&method.buckets) {
                sum += count.load(Relaxed);
                let seconds = *bound as f64 / 1e6;
                let _ = writeln!(
                    text,
                    "mirror_rpc_server_duration_seconds_bucket{{service=\"{service}\",method=\"{path}\",le=\"{seconds}\"}} {sum}"
                );
            }
            let seconds = method.micros.load(Relaxed) as f64 / 1e6;
            let labels = format!("service=\"{service}\",method=\"{path}\"");
            let _ =
                writeln!(text, "mirror_rpc_server_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {total}");
            let _ = writeln!(text, "mirror_rpc_server_duration_seconds_sum{{{labels}}} {seconds}");
            let _ = writeln!(text, "mirror_rpc_server_duration_seconds_count{{{labels}}} {total}");
        }
        let _ = writeln!(text, "# TYPE mirror_rpc_server_in_flight gauge");
        let _ = writeln!(
            text,
            "mirror_rpc_server_in_flight{{service=\"{service}\"}} {}",
            self.in_flight.load(Relaxed)
        );
        let _ = writeln!(text, "# TYPE mirror_connections_refused_total counter");
        let _ = writeln!(
            text,
            "mirror_connections_refused_total{{service=\"{service}\"}} {}",
            self.refused_connections.load(Relaxed)
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_shows_in_its_counter_and_histogram() {
        let metrics = Metrics::new("bus", &["mirror.bus.v1.BusService"]);
        let path = "/mirror.bus.v1.BusService/Append";
        metrics.record(path, Code::Ok, Duration::from_micros(400));
        metrics.record(path, Code::Aborted, Duration::from_secs(60));
        metrics.record("/unknown/Method", Code::Ok, Duration::ZERO);
        let text = metrics.render();
        for line in [
            "handled_total{service=\"bus\",method=\"/mirror.bus.v1.BusService/Append\",code=\"Ok\"} 1",
            "code=\"Aborted\"} 1",
            "le=\"0.0005\"} 1",
            "le=\"10\"} 1",
            "le=\"+Inf\"} 2",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(!text.contains("unknown"));
    }
}
