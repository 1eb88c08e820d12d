//! Private mappings to look into, and the binary that does.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use serde_json::Value;
use tempfile::TempDir;

pub const PAGE: usize = 4096;

/// A private mapping of a file, in this process.
pub struct Mapped {
    pub start: *mut u8,
    pub length: usize,
}

impl Mapped {
    pub fn new(path: &Path, length: usize, flags: MapFlags) -> Self {
        allow_children_to_look();
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .expect("the base opens");
        // SAFETY: a fresh mapping at an address of the kernel's choosing touches nothing that exists.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                &file,
                0,
            )
        };
        Self {
            start: start.expect("the base maps").cast(),
            length,
        }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is ours, readable, writable and `length` long until it is dropped.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }

    pub fn capture(&self, out: &Path, more: &[&str]) -> (bool, Value) {
        run(
            "capture",
            std::process::id() as i32,
            self.start as usize,
            self.length,
            Some(out),
            more,
        )
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: nothing borrows the mapping any more.
        unsafe { munmap(self.start.cast(), self.length) }.expect("the mapping goes");
    }
}

fn allow_children_to_look() {
    // SAFETY: plain arguments. Where Yama is not there it says EINVAL, and then nothing forbids it.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
}

/// Runs a task of the binary on a mapping; answers whether it went well, and its report.
pub fn run(
    task: &str,
    pid: i32,
    start: usize,
    length: usize,
    out: Option<&Path>,
    more: &[&str],
) -> (bool, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pandastack-memory"));
    command
        .arg(task)
        .args(["--pid", &pid.to_string()])
        .args(["--start", &format!("{start:#x}")])
        .args(["--length", &length.to_string()])
        .args(more);
    if let Some(out) = out {
        command.arg("--out").arg(out);
    }
    let output = command.output().expect("the binary runs");
    let report = serde_json::from_slice(&output.stdout).expect("it answers in JSON");
    (output.status.success(), report)
}

/// A base whose every page says which page it is; every eighth is a hole.
pub fn make_base(directory: &TempDir, length: usize) -> (std::path::PathBuf, std::path::PathBuf) {
    let base = directory.path().join("base");
    let file = File::create(&base).expect("the base is made");
    file.set_len(length as u64).expect("the base grows");
    for page in (0..length / PAGE).filter(|page| page % 8 != 0) {
        let content = [(page % 251) as u8 + 1; PAGE];
        file.write_all_at(&content, (page * PAGE) as u64)
            .expect("the base is written");
    }
    let out = directory.path().join("out");
    fs::copy(&base, &out).expect("the base is copied");
    (base, out)
}
