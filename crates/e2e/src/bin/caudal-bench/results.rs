//! Quantiles and result files.

use anyhow::{Context as _, Result};
use serde_json::{Value as Json, json};
use std::path::Path;
use std::process::Command;

/// The number in an environment variable.
///
/// # Errors
/// When it is none.
pub fn number(name: &str, otherwise: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("{name}={text}")),
        _ => Ok(otherwise),
    }
}

/// Quantile of sorted samples by the nearest-rank rule.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank within the samples"
    )]
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// min, p50, p90, p99 and max of samples, and the samples themselves in the order taken.
pub fn summary(unit: &str, samples: &[f64]) -> Json {
    // A hundredth is finer than any clock here can tell.
    let samples: Vec<f64> = samples.iter().map(|s| (s * 100.0).round() / 100.0).collect();
    let mut sorted = samples.clone();
    sorted.sort_by(f64::total_cmp);
    json!({
        "unit": unit,
        "count": samples.len(),
        "min": sorted.first(),
        "p50": quantile(&sorted, 0.5),
        "p90": quantile(&sorted, 0.9),
        "p99": quantile(&sorted, 0.99),
        "max": sorted.last(),
        "samples": samples,
    })
}

/// `p50 …, p99 …, max …` of a summary, in whole units.
pub fn headline(summary: &Json) -> String {
    let of = |name: &str| summary[name].as_f64().unwrap_or(f64::NAN);
    let unit = summary["unit"].as_str().unwrap_or_default();
    format!("p50 {:.0} {unit}, p99 {:.0} {unit}, max {:.0} {unit}", of("p50"), of("p99"), of("max"))
}

/// CPU seconds of a process, of its ended children, and of its children that live.
///
/// # Errors
/// When the process is gone.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut ticks = ticks(pid, 4)?;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(child) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if caudal_stack::process::parent(child) == Some(pid) {
            ticks += self::ticks(child, 2).unwrap_or(0.0);
        }
    }
    Ok(ticks / 100.0)
}

/// utime and stime, and with `fields` = 4 those of ended children. Linux counts in 1/100 s.
fn ticks(pid: u32, fields: usize) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = text.rsplit(") ").next().context("stat")?;
    let values = after_name.split(' ').skip(11).take(fields);
    Ok(values.filter_map(|v| v.parse::<f64>().ok()).sum())
}

/// Writes a result with its environment, and says where.
///
/// # Errors
/// When the file cannot be written.
pub fn write(name: &str, result: &Json) -> Result<()> {
    let output = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let date = output("date", &["-u", "+%F"]).context("date")?;
    let folder = root.join("bench/results").join(date);
    std::fs::create_dir_all(&folder)?;
    let environment = json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": output("uname", &["-srm"]),
        "cpu": output("sh", &["-c", "grep -m1 'model name' /proc/cpuinfo | cut -d: -f2"]),
        "memory": output("sh", &["-c", "grep MemTotal /proc/meminfo | tr -s ' '"]),
        "load_before": output("cat", &["/proc/loadavg"]),
        "commit": output("git", &["rev-parse", "--short", "HEAD"]),
        "kafka": "4.3.1, three combined brokers on this machine",
    });
    let path = folder.join(format!("{name}.json"));
    let text = serde_json::to_string(&json!({"environment": environment, "result": result}))?;
    std::fs::write(&path, text + "\n")?;
    println!("  samples: {}", path.canonicalize().unwrap_or(path).display());
    Ok(())
}
