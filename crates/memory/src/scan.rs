//! Which pages of the mapping the process has written, and which it uses as the file has them.
//!
//! In a private mapping of a file a page is either the file's own (or not there yet), or a private copy that the kernel
//! made on the first write. A private copy is present or swapped out, and not "of a file". The kernel answers that
//! question for a whole range in one call since 6.7 (`PAGEMAP_SCAN`); before, we read its page table entry by entry.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

use crate::failure::Result;
use crate::target::{Run, Target, page_size};

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const REGIONS: usize = 4096;

const ENTRY_PRESENT: u64 = 1 << 63;
const ENTRY_SWAPPED: u64 = 1 << 62;
const ENTRY_FILE: u64 = 1 << 61;
const ENTRIES: usize = 32 * 1024;

/// What was found.
pub struct Scan {
    /// In order, not touching one another, inside the mapping.
    pub runs: Vec<Run>,
    /// How it was found.
    pub method: &'static str,
}

/// A kind of page in a private mapping of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It differs, or may differ, from the file's.
    Written,
    /// It is the file's own page, and the process has it in its page table.
    OfFile,
}

/// The pages of `target`'s mapping that are of `kind`.
pub fn pages(target: &Target, kind: Kind, plain_pagemap: bool) -> Result<Scan> {
    let pagemap = target.proc_file("pagemap")?;
    let mut found = Found::new(target);
    if !plain_pagemap && search(&pagemap, target, kind, &mut found)? {
        return Ok(found.into_scan("pagemap_scan"));
    }
    let mut found = Found::new(target);
    read_entries(&pagemap, target, kind, &mut found)?;
    Ok(found.into_scan("pagemap"))
}

/// Runs as they are found, joined where they touch, clipped to the mapping.
struct Found<'a> {
    target: &'a Target,
    runs: Vec<Run>,
}

impl<'a> Found<'a> {
    fn new(target: &'a Target) -> Self {
        Self {
            target,
            runs: Vec::new(),
        }
    }

    fn add(&mut self, start: u64, end: u64) {
        let offset = start - self.target.start;
        let length = (end - self.target.start).min(self.target.length) - offset;
        match self.runs.last_mut() {
            Some(last) if last.offset + last.length == offset => last.length += length,
            _ => self.runs.push(Run { offset, length }),
        }
    }

    fn into_scan(self, method: &'static str) -> Scan {
        Scan {
            runs: self.runs,
            method,
        }
    }
}

/// `struct pm_scan_arg` of `<linux/fs.h>`.
#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region` of `<linux/fs.h>`.
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// One `PAGEMAP_SCAN` call: fills the regions that the argument points at.
struct PagemapScan<'a> {
    argument: &'a mut ScanArgument,
}

// SAFETY: the argument is the structure that this request reads and writes; its `vec` names `vec_len` regions that the
// caller holds for the length of the call.
unsafe impl Ioctl for PagemapScan<'_> {
    type Output = usize;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<ScanArgument>(b'f', 16)
    }

    fn as_ptr(&mut self) -> *mut rustix::ffi::c_void {
        std::ptr::from_mut(self.argument).cast()
    }

    unsafe fn output_from_ptr(
        filled: IoctlOutput,
        _argument: *mut rustix::ffi::c_void,
    ) -> rustix::io::Result<Self::Output> {
        usize::try_from(filled).map_err(|_| rustix::io::Errno::INVAL)
    }
}

/// Asks the kernel to search; false when it does not know how.
fn search(pagemap: &File, target: &Target, kind: Kind, found: &mut Found<'_>) -> Result<bool> {
    let mut regions = vec![Region::default(); REGIONS];
    let mut position = target.start;
    while position < target.end() {
        let mut argument = ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            start: position,
            end: target.end(),
            vec: regions.as_mut_ptr() as u64,
            vec_len: REGIONS as u64,
            category_inverted: match kind {
                Kind::Written => PAGE_IS_FILE,
                Kind::OfFile => 0,
            },
            category_mask: PAGE_IS_FILE,
            category_anyof_mask: match kind {
                Kind::Written => PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
                Kind::OfFile => PAGE_IS_PRESENT,
            },
            return_mask: PAGE_IS_FILE,
            ..ScanArgument::default()
        };
        // SAFETY: `argument` points at `regions`, which outlives the call and has the length it says.
        let outcome = unsafe {
            ioctl(
                pagemap.as_fd(),
                PagemapScan {
                    argument: &mut argument,
                },
            )
        };
        let filled = match outcome {
            Ok(filled) => filled,
            Err(rustix::io::Errno::NOTTY | rustix::io::Errno::INVAL)
                if position == target.start =>
            {
                return Ok(false);
            }
            Err(error) => return Err(target.refused("search the page table", error.into())),
        };
        for region in &regions[..filled] {
            found.add(region.start, region.end);
        }
        // `walk_end` cannot be used: kernels up to 6.18 at least leave it at an earlier place after a complete walk.
        match regions[..filled].last() {
            Some(last) if filled == REGIONS => position = last.end,
            _ => return Ok(true),
        }
    }
    Ok(true)
}

fn read_entries(pagemap: &File, target: &Target, kind: Kind, found: &mut Found<'_>) -> Result<()> {
    let page = page_size();
    let mut bytes = vec![0; ENTRIES * 8];
    let mut position = target.start;
    while position < target.end() {
        let pages = ((target.end() - position) / page).min(ENTRIES as u64);
        let wanted = &mut bytes[..pages as usize * 8];
        if let Err(error) = pagemap.read_exact_at(wanted, position / page * 8) {
            target.require_unchanged()?;
            return Err(target.refused("read the page table", error));
        }
        for entry in wanted.chunks_exact(8) {
            let entry = u64::from_ne_bytes(entry.try_into().unwrap_or_default());
            let of_file = entry & ENTRY_FILE != 0;
            let wanted = match kind {
                Kind::Written => entry & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0 && !of_file,
                Kind::OfFile => entry & ENTRY_PRESENT != 0 && of_file,
            };
            if wanted {
                found.add(position, position + page);
            }
            position += page;
        }
    }
    Ok(())
}
