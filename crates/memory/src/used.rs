//! The list of what a machine uses of its memory file.
//!
//! A clone shares its blocks with the file it was cloned from, but not that file's pages in the host's memory: a machine
//! that maps it waits for the disk at every page it has not seen yet. What the captured machine uses is what its copies
//! will use first, so whoever starts one reads that ahead (the working set; compare Ustiugov et al., "Benchmarking,
//! Analysis, and Optimization of Serverless Function Snapshots", ASPLOS 2021).

use std::fs;
use std::path::Path;

use crate::failure::{Failure, Result};
use crate::target::Run;

/// About what a disk reads while a VMM starts: more would stand in the way of what the machine itself asks for.
const MOST: u64 = 96 << 20;

/// Writes `runs`, up to [`MOST`] bytes of them, into a new file: a JSON list of `[offset, length]`, in bytes.
pub fn write_list(path: &Path, runs: &[Run]) -> Result<()> {
    let mut left = MOST;
    let mut listed = Vec::new();
    for run in runs {
        let length = run.length.min(left);
        if length == 0 {
            break;
        }
        listed.push([run.offset, length]);
        left -= length;
    }
    let list = serde_json::to_vec(&listed)
        .map_err(|error| Failure::from_io("write the list of used pages", error.into()))?;
    fs::write(path, list).map_err(|error| Failure::from_io("write the list of used pages", error))
}
