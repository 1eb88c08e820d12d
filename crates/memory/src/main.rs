//! `pandastack-memory`: the memory path of snapshots and forks.
//!
//! A restored machine's RAM is a private mapping of its snapshot's memory file, so no VMM command can dump it cheaply.
//! But the kernel knows which pages the guest has written: they are no longer pages of the file. `capture` finds them
//! and writes just those into a copy of the file that shares everything else. The machine must be paused meanwhile.
//!
//! One JSON object goes to standard output, `{"error", "code"}` with exit status 1 when it fails. A page that cannot be
//! read is always a failure, never zeros.
//!
//! `capture --used` also lists what the copies of the machine will use first.

mod capture;
mod digest;
mod failure;
mod scan;
mod target;
mod used;

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::scan::Kind;
use crate::target::Target;

#[derive(Parser)]
#[command(about = "Copies the pages a guest has written out of a private file mapping")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Write the pages the process has written in its mapping into FILE, a copy of the mapped file.
    Capture {
        #[command(flatten)]
        mapping: Mapping,
        /// An existing copy (a reflink clone) of the mapped file, as long as the mapping.
        #[arg(long)]
        out: PathBuf,
        /// Check everything, then begin only when a line comes on standard input: for the moment the machine is paused.
        #[arg(long)]
        wait: bool,
        /// Before that, list in LIST which parts of the mapped file the process uses as they are in the file.
        #[arg(long, value_name = "LIST")]
        used: Option<PathBuf>,
    },
    /// Count the pages the process has written in its mapping.
    Scan {
        #[command(flatten)]
        mapping: Mapping,
    },
    /// Digest of a sparse file's content, the same for every layout of its holes.
    Digest {
        /// The file to read.
        file: PathBuf,
    },
}

#[derive(Args, Clone, Copy)]
struct Mapping {
    /// The process, by its id in this PID namespace.
    #[arg(long)]
    pid: i32,
    /// Where the mapping begins in its address space; decimal, or hexadecimal after 0x.
    #[arg(long, value_parser = address)]
    start: u64,
    /// Bytes of the mapping.
    #[arg(long, value_parser = address)]
    length: u64,
    /// Read the page table entry by entry even where the kernel can search it itself.
    #[arg(long, hide = true)]
    plain_pagemap: bool,
}

#[derive(Serialize)]
struct CaptureReport {
    pages: u64,
    bytes: u64,
    zero_pages: u64,
    runs: u64,
    scan_ms: f64,
    copy_ms: f64,
    method: &'static str,
}

#[derive(Serialize)]
struct ScanReport {
    pages: u64,
    bytes: u64,
    runs: u64,
    scan_ms: f64,
    method: &'static str,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Capture {
            mapping,
            out,
            wait,
            used,
        } => capture_task(mapping, &out, wait, used.as_deref()),
        Task::Scan { mapping } => scan_task(mapping),
        Task::Digest { file } => digest::digest_file(&file).and_then(|report| json(&report)),
    };
    match outcome {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let line = serde_json::json!({"error": failure.to_string(), "code": failure.code()});
            println!("{line}");
            ExitCode::FAILURE
        }
    }
}

fn capture_task(mapping: Mapping, path: &Path, wait: bool, used: Option<&Path>) -> Result<String> {
    let out = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| Failure::from_io("open the copy", error))?;
    let size = out
        .metadata()
        .map_err(|error| Failure::from_io("look at the copy", error))?
        .len();
    if size != mapping.length {
        return Err(Failure::WrongSize {
            size,
            expected: mapping.length,
        });
    }
    let target = Target::open(mapping.pid, mapping.start, mapping.length)?;
    if let Some(list) = used {
        let scan = scan::pages(&target, Kind::OfFile, mapping.plain_pagemap)?;
        used::write_list(list, &scan.runs)?;
    }
    if wait {
        wait_for_word()?;
    }
    let begin = Instant::now();
    let scan = scan::pages(&target, Kind::Written, mapping.plain_pagemap)?;
    let scan_ms = milliseconds(begin);
    let begin = Instant::now();
    let copied = capture::copy_runs(&target, &scan.runs, &out)?;
    target.require_unchanged()?;
    json(&CaptureReport {
        pages: copied.pages,
        bytes: copied.bytes,
        zero_pages: copied.zero_pages,
        runs: scan.runs.len() as u64,
        scan_ms,
        copy_ms: milliseconds(begin),
        method: scan.method,
    })
}

fn scan_task(mapping: Mapping) -> Result<String> {
    let target = Target::open(mapping.pid, mapping.start, mapping.length)?;
    let begin = Instant::now();
    let scan = scan::pages(&target, Kind::Written, mapping.plain_pagemap)?;
    let scan_ms = milliseconds(begin);
    target.require_unchanged()?;
    let bytes: u64 = scan.runs.iter().map(|run| run.length).sum();
    json(&ScanReport {
        pages: bytes.div_ceil(target::page_size()),
        bytes,
        runs: scan.runs.len() as u64,
        scan_ms,
        method: scan.method,
    })
}

/// Says that everything is ready, and returns when the caller says "now".
fn wait_for_word() -> Result<()> {
    println!("ready");
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(read) if read > 0 => Ok(()),
        Ok(_) => Err(Failure::Cancelled),
        Err(error) => Err(Failure::from_io("wait for the word to begin", error)),
    }
}

fn milliseconds(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 1e5).round() / 100.0
}

fn json<T: Serialize>(report: &T) -> Result<String> {
    serde_json::to_string(report)
        .map_err(|error| Failure::from_io("write the report", error.into()))
}

fn address(text: &str) -> std::result::Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text} is not a number"))
}
