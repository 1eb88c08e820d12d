//! Reading what the next machines will need while they are being started.
//!
//! A clone shares its blocks with the file it was cloned from, but not that file's pages in memory: a machine that maps
//! it waits for the disk at every page it has not seen yet. What the captured machine uses of the file is what its copies
//! will use first (the working set; compare Ustiugov et al., "Benchmarking, Analysis, and Optimization of Serverless
//! Function Snapshots", ASPLOS 2021).

use std::fs::File;
use std::num::NonZeroU64;

use rustix::fs::{Advice, fadvise};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::target::Run;

/// What was asked of the kernel.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Asked {
    bytes: u64,
    runs: u64,
}

/// Has the kernel begin to read `runs` of `file`, in their order, up to `most` bytes of them.
pub fn read_ahead(file: &File, runs: &[Run], most: u64) -> Result<Asked> {
    let mut asked = Asked::default();
    for run in runs {
        let length = run.length.min(most - asked.bytes);
        let Some(stretch) = NonZeroU64::new(length) else {
            break;
        };
        fadvise(file, run.offset, Some(stretch), Advice::WillNeed)
            .map_err(|error| Failure::from_io("read the copy ahead", error.into()))?;
        asked.bytes += length;
        asked.runs += 1;
    }
    Ok(asked)
}
