//! The binary against real private mappings: those of this test's own process, or of a child that can be killed.
//!
//! Needs no root (a parent lets its children look into it), no VM, and no file system that can reflink.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use common::{Mapped, PAGE, make_base, run};
use rustix::mm::{Advice, MapFlags, madvise};
use serde_json::Value;
use tempfile::TempDir;

fn digest(path: &Path) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_pandastack-memory"))
        .arg("digest")
        .arg(path)
        .output()
        .expect("the binary runs");
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).expect("it answers in JSON")
}

/// Writes every kind of page: single ones, long runs, zeros over data, zeros over holes, one byte only.
fn scribble(memory: &mut [u8]) {
    let pages = memory.len() / PAGE;
    for page in (0..pages).step_by(3) {
        memory[page * PAGE + page % PAGE] ^= 0xa5;
    }
    memory[PAGE * 40..PAGE * 400].fill(7);
    memory[PAGE * 500..PAGE * 600].fill(0);
    memory[PAGE * 610..PAGE * 611].fill(0);
    memory[PAGE * 648..PAGE * 649].fill(0);
}

#[test]
fn the_copy_is_byte_for_byte_the_memory() {
    for (more, method) in [(&[][..], None), (&["--plain-pagemap"][..], Some("pagemap"))] {
        let directory = TempDir::new().expect("a folder");
        let length = PAGE * 2048;
        let (base, out) = make_base(&directory, length);
        let before = fs::read(&base).expect("the base is read");
        let mut mapped = Mapped::new(&base, length, MapFlags::PRIVATE);
        scribble(mapped.bytes());
        let (ok, report) = mapped.capture(&out, more);
        assert!(ok, "{report}");
        assert!(
            fs::read(&out).expect("the copy is read") == mapped.bytes(),
            "the copy differs"
        );
        assert!(
            fs::read(&base).expect("the base is read") == before,
            "the base was touched"
        );
        assert!(report["zero_pages"].as_u64() >= Some(100));
        assert_eq!(
            report["bytes"].as_u64(),
            report["pages"].as_u64().map(|pages| pages * PAGE as u64)
        );
        if let Some(method) = method {
            assert_eq!(report["method"], method);
        }
        let zeroed = File::open(&out).expect("the copy opens");
        let data = rustix::fs::seek(
            &zeroed,
            rustix::fs::SeekFrom::Data(500 * PAGE as u64 + 65536),
        );
        assert!(
            data.expect("there is data") >= 590 * PAGE as u64,
            "a long run of zeros is a hole"
        );
    }
}

#[test]
fn both_ways_of_searching_find_the_same() {
    let directory = TempDir::new().expect("a folder");
    let length = PAGE * 4096;
    let (base, _) = make_base(&directory, length);
    let mut mapped = Mapped::new(&base, length, MapFlags::PRIVATE);
    scribble(mapped.bytes());
    let pid = std::process::id() as i32;
    let (_, fast) = run("scan", pid, mapped.start as usize, length, None, &[]);
    let (_, plain) = run(
        "scan",
        pid,
        mapped.start as usize,
        length,
        None,
        &["--plain-pagemap"],
    );
    assert_eq!(fast["pages"], plain["pages"]);
    assert_eq!(fast["runs"], plain["runs"]);
    assert!(
        fast["runs"].as_u64() > Some(1000),
        "more runs than one call of the kernel hands out at once"
    );
}

#[test]
fn nothing_written_is_nothing_copied() {
    let directory = TempDir::new().expect("a folder");
    let length = PAGE * 256;
    let (base, out) = make_base(&directory, length);
    let mut mapped = Mapped::new(&base, length, MapFlags::PRIVATE);
    assert_eq!(
        mapped
            .bytes()
            .iter()
            .map(|byte| u64::from(*byte != 0))
            .sum::<u64>(),
        224 * PAGE as u64
    );
    let (ok, report) = mapped.capture(&out, &[]);
    assert!(ok, "{report}");
    assert_eq!(report["pages"], 0);
    assert!(fs::read(&out).expect("the copy is read") == mapped.bytes());
}

#[test]
fn a_mapping_may_end_inside_a_page() {
    let directory = TempDir::new().expect("a folder");
    let length = PAGE * 5 + 123;
    let (base, out) = make_base(&directory, length);
    let mut mapped = Mapped::new(&base, length, MapFlags::PRIVATE);
    mapped.bytes()[PAGE * 4..].fill(9);
    for more in [&[][..], &["--plain-pagemap"][..]] {
        let (ok, report) = mapped.capture(&out, more);
        assert!(ok, "{report}");
        assert_eq!(report["bytes"].as_u64(), Some((PAGE + 123) as u64));
        assert!(fs::read(&out).expect("the copy is read") == mapped.bytes());
    }
}

#[test]
fn memory_beyond_four_gibibytes_lands_where_it_belongs() {
    let directory = TempDir::new().expect("a folder");
    let length: usize = 6 << 30;
    let (base, out) = (directory.path().join("base"), directory.path().join("out"));
    for path in [&base, &out] {
        File::create(path)
            .and_then(|file| file.set_len(length as u64))
            .expect("a sparse file");
    }
    let places = [
        0,
        (2 << 30) - PAGE,
        3 << 30,
        (4 << 30) - 1,
        4 << 30,
        (5 << 30) + 12345,
        length - 1,
    ];
    let mut mapped = Mapped::new(&base, length, MapFlags::PRIVATE | MapFlags::NORESERVE);
    for (index, place) in places.iter().enumerate() {
        mapped.bytes()[*place] = index as u8 + 1;
    }
    let (ok, report) = mapped.capture(&out, &[]);
    assert!(ok, "{report}");
    assert_eq!(report["pages"].as_u64(), Some(places.len() as u64));
    let copy = File::open(&out).expect("the copy opens");
    let mut byte = [0];
    for (index, place) in places.iter().enumerate() {
        copy.read_exact_at(&mut byte, *place as u64)
            .expect("the copy is read");
        assert_eq!(byte[0], index as u8 + 1, "at {place:#x}");
    }
    assert!(
        copy.metadata().expect("the copy is there").blocks() * 512 < 1 << 20,
        "the copy stays sparse"
    );
}

#[test]
fn pages_pushed_out_of_memory_are_not_lost() {
    let directory = TempDir::new().expect("a folder");
    let length = PAGE * 1024;
    let (base, out) = make_base(&directory, length);
    let mut mapped = Mapped::new(&base, length, MapFlags::PRIVATE);
    scribble(mapped.bytes());
    // SAFETY: the advice changes where the pages are, never what is in them. Without swap it does nothing to ours.
    unsafe { madvise(mapped.start.cast(), length, Advice::LinuxPageOut) }
        .expect("the advice is taken");
    let (ok, report) = mapped.capture(&out, &[]);
    assert!(ok, "{report}");
    assert!(fs::read(&out).expect("the copy is read") == mapped.bytes());
}

#[test]
fn what_is_not_the_machines_memory_is_refused() {
    let directory = TempDir::new().expect("a folder");
    let length = PAGE * 16;
    let (base, out) = make_base(&directory, length);
    let pid = std::process::id() as i32;
    let shared = Mapped::new(&base, length, MapFlags::SHARED);
    assert_eq!(shared.capture(&out, &[]).1["code"], "shared_mapping");
    let mapped = Mapped::new(&base, length, MapFlags::PRIVATE);
    let start = mapped.start as usize;
    let refused = |start, length| {
        File::options()
            .write(true)
            .open(&out)
            .and_then(|file| file.set_len(length as u64))
            .expect("the copy is resized");
        let (ok, report) = run("capture", pid, start, length, Some(&out), &[]);
        assert!(!ok);
        report["code"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(refused(start + PAGE, length - PAGE), "not_a_mapping");
    assert_eq!(refused(start + 1, length), "not_a_mapping");
    assert_eq!(refused(start, 1 << 40), "not_a_mapping");
    assert_eq!(refused(PAGE, length), "not_a_mapping");
    fs::write(&out, [0]).expect("the copy is cut");
    let (ok, report) = run("capture", pid, start, length, Some(&out), &[]);
    assert!(!ok);
    assert_eq!(report["code"], "wrong_size");
    assert_eq!(
        run("scan", 0, start, length, None, &[]).1["code"],
        "target_gone"
    );
    assert_eq!(
        run("scan", i32::MAX, start, length, None, &[]).1["code"],
        "target_gone"
    );
}

#[test]
fn a_full_disk_is_said_to_be_full() {
    let directory = TempDir::new().expect("a folder");
    let length = PAGE * 16;
    let (base, _) = make_base(&directory, length);
    let mut mapped = Mapped::new(&base, length, MapFlags::PRIVATE);
    mapped.bytes().fill(1);
    let mut command = Command::new("sh");
    // A file size limit is the disk that anyone can fill; the kernel's words differ, ours must not be "ok".
    let script = format!(
        "ulimit -f 0; trap '' XFSZ; exec {} capture --pid {} --start {:#x} --length {length} --out {}",
        env!("CARGO_BIN_EXE_pandastack-memory"),
        std::process::id(),
        mapped.start as usize,
        base.display(),
    );
    let output = command
        .args(["-c", &script])
        .output()
        .expect("the shell runs");
    assert!(!output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout).expect("it answers in JSON");
    assert_eq!(report["code"], "io");
}

#[test]
fn a_process_that_dies_meanwhile_is_an_error_never_zeros() {
    let directory = TempDir::new().expect("a folder");
    let length = PAGE * 32768;
    let (base, out) = (directory.path().join("base"), directory.path().join("out"));
    File::create(&base)
        .and_then(|file| file.set_len(length as u64))
        .expect("a sparse file");
    for delay in [0, 2, 5, 10, 20, 40] {
        File::create(&out)
            .and_then(|file| file.set_len(length as u64))
            .expect("a sparse file");
        let mapped = Mapped::new(&base, length, MapFlags::PRIVATE);
        let child = fork_scribbler(&mapped);
        let killer = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(delay));
            // SAFETY: the child is ours and not waited for yet, so the number is still its.
            unsafe { libc::kill(child, libc::SIGKILL) };
        });
        let (ok, report) = run(
            "capture",
            child,
            mapped.start as usize,
            length,
            Some(&out),
            &[],
        );
        killer.join().expect("the killer ends");
        // SAFETY: as above.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        if ok {
            let copy = fs::read(&out).expect("the copy is read");
            assert!(
                copy.iter().all(|byte| *byte == 7),
                "a hole in what was called whole"
            );
        } else {
            assert_eq!(report["code"], "target_gone", "{report}");
        }
        let (ok, report) = run(
            "capture",
            child,
            mapped.start as usize,
            length,
            Some(&out),
            &[],
        );
        assert!(!ok, "a dead process was captured");
        assert_eq!(report["code"], "target_gone");
    }
}

/// A child that has filled the mapping with sevens and sleeps.
fn fork_scribbler(mapped: &Mapped) -> i32 {
    let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
    // SAFETY: the child does nothing but fill its own copy of the mapping, write one byte and sleep: no allocation, no
    // lock, nothing that another thread of this process could have held at the fork.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "no child");
    if child == 0 {
        // SAFETY: as above; the pointers are the mapping and one byte on the stack.
        unsafe {
            libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY);
            std::ptr::write_bytes(mapped.start, 7, mapped.length);
            libc::write(
                std::os::fd::AsRawFd::as_raw_fd(&writer),
                [1u8].as_ptr().cast(),
                1,
            );
            loop {
                libc::pause();
            }
        }
    }
    let mut byte = [0];
    std::io::Read::read_exact(&mut File::from(reader), &mut byte).expect("the child is ready");
    child
}

#[test]
fn a_digest_knows_content_and_not_holes() {
    let directory = TempDir::new().expect("a folder");
    let length = PAGE * 333 + 7;
    let (base, _) = make_base(&directory, length);
    let dense = directory.path().join("dense");
    fs::write(&dense, fs::read(&base).expect("the base is read")).expect("a copy without holes");
    assert_eq!(digest(&base)["digest"], digest(&dense)["digest"]);
    assert!(
        digest(&base)["digest"]
            .as_str()
            .is_some_and(|text| text.starts_with("blake3-sparse:"))
    );
    let file = File::options()
        .write(true)
        .open(&dense)
        .expect("the copy opens");
    file.write_all_at(&[1], length as u64 - 1)
        .expect("the last byte changes");
    assert_ne!(digest(&base)["digest"], digest(&dense)["digest"]);
    file.set_len(length as u64 - 1).expect("the copy shrinks");
    assert_ne!(digest(&base)["digest"], digest(&dense)["digest"]);
    let empty = directory.path().join("empty");
    File::create(&empty)
        .and_then(|file| file.set_len(1 << 40))
        .expect("a sparse file");
    assert_eq!(digest(&empty)["data_bytes"], 0);
}
