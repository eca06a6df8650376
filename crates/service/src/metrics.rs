//! Registration of Prometheus metrics. Names are given whole, with the prefix `caudal_`.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Upper edges in seconds; an edge lies exactly on each objective (0.25, 1, 5 s).
pub const SECONDS: [f64; 16] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
];

/// A registry with what every process exports: `caudal_build_info` and, on Linux, memory and CPU.
///
/// # Errors
/// When a name is taken twice.
pub fn registry(service: &str) -> prometheus::Result<Registry> {
    let registry = Registry::new();
    let build = gauge_vec(
        &registry,
        "caudal_build_info",
        "Always 1; the labels say what runs",
        &["service", "version"],
    )?;
    build.with_label_values(&[service, env!("CARGO_PKG_VERSION")]).set(1);
    #[cfg(target_os = "linux")]
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    Ok(registry)
}

/// A counter.
///
/// # Errors
/// When the name is taken.
pub fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    let metric = IntCounter::new(name, help)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// Counters by label.
///
/// # Errors
/// When the name is taken.
pub fn counter_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// A gauge.
///
/// # Errors
/// When the name is taken.
pub fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let metric = IntGauge::new(name, help)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// Gauges by label.
///
/// # Errors
/// When the name is taken.
pub fn gauge_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntGaugeVec> {
    let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// A histogram of seconds with the edges of [`SECONDS`].
///
/// # Errors
/// When the name is taken.
pub fn seconds(registry: &Registry, name: &str, help: &str) -> prometheus::Result<Histogram> {
    let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()))?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
