//! Copying the written pages into the copy of the file: two readers, bounded memory, no page left out.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

use crate::failure::{Failure, Result};
use crate::target::{Run, Target, page_size};

const THREADS: usize = 2;
// Fits the CPU's cache beside the page being written; larger was measured slower.
const BATCH_BYTES: u64 = 256 * 1024;
// Not more than the kernel takes in one call (UIO_MAXIOV).
const BATCH_RUNS: usize = 512;
// Below this, writing zeros is cheaper than asking the file system for a hole.
const LEAST_HOLE: usize = 64 * 1024;

/// What was copied.
#[derive(Debug, Default, Clone, Copy)]
pub struct Copied {
    /// Pages looked at.
    pub pages: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Those of them that held nothing but zeros.
    pub zero_pages: u64,
}

/// Puts every page of `runs` at its place in `out`.
pub fn copy_runs(target: &Target, runs: &[Run], out: &File) -> Result<Copied> {
    let batches = Mutex::new(Batches::new(runs));
    let stop = AtomicBool::new(false);
    let total: u64 = runs.iter().map(|run| run.length).sum();
    let threads = if total <= BATCH_BYTES { 1 } else { THREADS };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| work(target, &batches, out, &stop)))
            .collect();
        let mut all = Copied::default();
        let mut failure = None;
        for worker in workers {
            match worker.join() {
                Ok(Ok(part)) => {
                    all.pages += part.pages;
                    all.bytes += part.bytes;
                    all.zero_pages += part.zero_pages;
                }
                Ok(Err(error)) => failure = Some(error),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        failure.map_or(Ok(all), Err)
    })
}

fn work(
    target: &Target,
    batches: &Mutex<Batches<'_>>,
    out: &File,
    stop: &AtomicBool,
) -> Result<Copied> {
    let mut buffer = vec![0; BATCH_BYTES as usize];
    let mut copied = Copied::default();
    while !stop.load(Ordering::Relaxed) {
        let batch = batches
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .next_batch();
        if batch.is_empty() {
            break;
        }
        let outcome = target
            .read(&batch, &mut buffer)
            .and_then(|()| write_batch(out, &batch, &buffer, &mut copied));
        if let Err(failure) = outcome {
            stop.store(true, Ordering::Relaxed);
            return Err(failure);
        }
    }
    Ok(copied)
}

/// Hands the runs out in pieces that fit a buffer and one call of the kernel.
struct Batches<'a> {
    runs: &'a [Run],
    // The part of `runs[0]` that was handed out already.
    taken: u64,
}

impl<'a> Batches<'a> {
    fn new(runs: &'a [Run]) -> Self {
        Self { runs, taken: 0 }
    }

    fn next_batch(&mut self) -> Vec<Run> {
        let mut batch = Vec::new();
        let mut room = BATCH_BYTES;
        while let Some(run) = self.runs.first() {
            if room == 0 || batch.len() == BATCH_RUNS {
                break;
            }
            let length = (run.length - self.taken).min(room);
            batch.push(Run {
                offset: run.offset + self.taken,
                length,
            });
            room -= length;
            self.taken += length;
            if self.taken == run.length {
                self.runs = &self.runs[1..];
                self.taken = 0;
            }
        }
        batch
    }
}

fn write_batch(out: &File, batch: &[Run], buffer: &[u8], copied: &mut Copied) -> Result<()> {
    let page = page_size() as usize;
    let mut rest = buffer;
    for run in batch {
        let (data, after) = rest.split_at(run.length as usize);
        rest = after;
        let mut offset = run.offset;
        // Neighbouring pages of one kind go together: one write, or one hole.
        for stretch in data
            .chunks(page)
            .collect::<Vec<_>>()
            .chunk_by(|a, b| is_zero(a) == is_zero(b))
        {
            let length: usize = stretch.iter().map(|page| page.len()).sum();
            let begin = (offset - run.offset) as usize;
            let bytes = &data[begin..begin + length];
            copied.pages += stretch.len() as u64;
            copied.bytes += length as u64;
            if is_zero(stretch[0]) {
                copied.zero_pages += stretch.len() as u64;
                erase(out, offset, bytes)?;
            } else {
                write(out, offset, bytes)?;
            }
            offset += length as u64;
        }
    }
    Ok(())
}

fn write(out: &File, offset: u64, bytes: &[u8]) -> Result<()> {
    out.write_all_at(bytes, offset)
        .map_err(|error| Failure::from_io("write the copy", error))
}

/// Makes a stretch of `out` read as zeros; `zeros` is as long as the stretch.
fn erase(out: &File, offset: u64, zeros: &[u8]) -> Result<()> {
    let length = zeros.len() as u64;
    match seek(out, SeekFrom::Data(offset)) {
        Ok(data) if data >= offset + length => return Ok(()),
        Err(rustix::io::Errno::NXIO) => return Ok(()),
        Ok(_) => {}
        Err(error) => return Err(Failure::from_io("look for holes in the copy", error.into())),
    }
    if zeros.len() < LEAST_HOLE {
        return write(out, offset, zeros);
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(out, flags, offset, length) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP) => write(out, offset, zeros),
        Err(error) => Err(Failure::from_io("make a hole in the copy", error.into())),
    }
}

/// Whether all of `bytes` are zero; most pages say no in their first word.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (head, words, tail) = {
        // SAFETY: every bit pattern is a valid u128, and nothing is written.
        unsafe { bytes.align_to::<u128>() }
    };
    head.iter().all(|byte| *byte == 0)
        && words.iter().all(|word| *word == 0)
        && tail.iter().all(|byte| *byte == 0)
}
