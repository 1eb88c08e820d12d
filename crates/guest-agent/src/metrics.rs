//! `/metrics`: what the sandbox uses of its CPU, memory and disk.

use std::{
    cell::Cell,
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use crate::error::{Error, Result};

/// One measurement, with the names E2B's clients read.
#[derive(Debug, Serialize)]
pub struct Metrics {
    /// Unix time in seconds.
    pub ts: u64,
    /// CPUs online.
    pub cpu_count: usize,
    /// Share of all CPUs used since the last look, in percent.
    pub cpu_used_pct: f64,
    /// Memory in bytes.
    pub mem_total: u64,
    /// Memory that programs hold, in bytes.
    pub mem_used: u64,
    /// Memory the kernel uses as file cache, in bytes.
    pub mem_cache: u64,
    /// Size of the root file system in bytes.
    pub disk_total: u64,
    /// Bytes used of it.
    pub disk_used: u64,
}

/// Remembers the CPU counters of the last look.
#[derive(Default)]
pub struct Sampler {
    last: Cell<(u64, u64)>,
}

/// Measures now.
///
/// # Errors
/// `internal` when `/proc` cannot be read.
pub fn read(sampler: &Sampler) -> Result<Metrics> {
    let file = |path: &str| fs::read_to_string(path).map_err(|error| Error::from_io(&error, path));
    let (busy, total) = cpu(&file("/proc/stat")?);
    let (last_busy, last_total) = sampler.last.replace((busy, total));
    let memory = file("/proc/meminfo")?;
    let kib = |name: &str| field(&memory, name) * 1024;
    let disk = rustix::fs::statvfs("/").map_err(|error| Error::from_io(&error.into(), "/"))?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "clock ticks of one interval are far below 2^52"
    )]
    let share = |part: u64, whole: u64| {
        if whole == 0 {
            0.0
        } else {
            part as f64 * 100.0 / whole as f64
        }
    };
    Ok(Metrics {
        ts: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
        cpu_count: std::thread::available_parallelism().map_or(1, usize::from),
        cpu_used_pct: share(
            busy.saturating_sub(last_busy),
            total.saturating_sub(last_total),
        ),
        mem_total: kib("MemTotal:"),
        mem_used: kib("MemTotal:").saturating_sub(kib("MemAvailable:")),
        mem_cache: kib("Cached:"),
        disk_total: disk.f_blocks * disk.f_frsize,
        disk_used: (disk.f_blocks - disk.f_bfree) * disk.f_frsize,
    })
}

/// Busy and total ticks of all CPUs together.
fn cpu(stat: &str) -> (u64, u64) {
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .take(8)
        .map(|tick| tick.parse().unwrap_or(0))
        .collect();
    let total: u64 = ticks.iter().sum();
    // The fourth and fifth columns are idle and waiting for a disk.
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    (total - idle, total)
}

fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|value| value.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_counters() {
        assert_eq!(cpu("cpu  10 0 5 80 5 0 0 0 9 9\ncpu0 1 2 3\n"), (15, 100));
        assert_eq!(field("MemTotal:  12 kB\nCached: 3 kB\n", "Cached:"), 3);
        let metrics = read(&Sampler::default()).expect("this machine has /proc");
        assert!(metrics.mem_used <= metrics.mem_total && metrics.disk_used <= metrics.disk_total);
    }
}
