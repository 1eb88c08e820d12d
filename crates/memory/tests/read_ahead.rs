//! What `read-ahead` asks for, and that it is in memory afterwards.

mod common;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Mapped, PAGE, make_base, run};
use rustix::fs::{Advice, fadvise};
use rustix::mm::MapFlags;
use tempfile::TempDir;

const LENGTH: usize = PAGE * 4096;
/// Pages that are read, in three places far from each other, and one that is written.
const READ: [usize; 4] = [101, 102, 1001, 3001];
/// Pages in memory already that the kernel may map at one fault.
const AROUND: usize = 16;
const WRITTEN: usize = 2001;

#[test]
fn reads_what_the_process_uses_and_has_not_written() {
    for more in [&[][..], &["--plain-pagemap"][..]] {
        let directory = TempDir::new().expect("a folder");
        let (base, out) = make_base(&directory, LENGTH);
        let mut mapped = Mapped::new(&base, LENGTH, MapFlags::PRIVATE);
        use_pages(&mut mapped);
        let evicted = evict(&out);
        let report = read_ahead(&mapped, &out, u64::MAX, more);
        let pages = report["bytes"].as_u64().expect("a number") as usize / PAGE;
        assert!((READ.len()..=3 * AROUND).contains(&pages), "{report}");
        assert_eq!(report["runs"], 3, "{report}");
        if evicted {
            let deadline = Instant::now() + Duration::from_secs(10);
            while READ.iter().any(|page| !is_resident(&out, *page)) {
                assert!(Instant::now() < deadline, "the pages never came");
                sleep(Duration::from_millis(5));
            }
            assert!(!is_resident(&out, 4001), "nobody asked for that page");
        }
    }
}

#[test]
fn reads_no_more_than_it_may() {
    let directory = TempDir::new().expect("a folder");
    let (base, out) = make_base(&directory, LENGTH);
    let mut mapped = Mapped::new(&base, LENGTH, MapFlags::PRIVATE);
    use_pages(&mut mapped);
    for (most, runs) in [(PAGE * 2, 1), (0, 0)] {
        let report = read_ahead(&mapped, &out, most as u64, &[]);
        assert_eq!(
            (report["bytes"].as_u64(), report["runs"].as_u64()),
            (Some(most as u64), Some(runs))
        );
    }
}

#[test]
fn says_when_there_is_nothing_to_read() {
    let directory = TempDir::new().expect("a folder");
    let (base, out) = make_base(&directory, LENGTH);
    let mapped = Mapped::new(&base, LENGTH, MapFlags::PRIVATE);
    std::fs::remove_file(&out).expect("the copy goes");
    let (ok, report) = tool(&mapped, &out, 1, &[]);
    assert!(!ok);
    assert!(
        report["error"]
            .as_str()
            .is_some_and(|error| error.contains("open the copy")),
        "{report}"
    );
}

fn use_pages(mapped: &mut Mapped) {
    let memory = mapped.bytes();
    for page in READ {
        assert_ne!(std::hint::black_box(memory[page * PAGE]), 0);
    }
    memory[WRITTEN * PAGE] = 1;
}

fn read_ahead(mapped: &Mapped, out: &Path, most: u64, more: &[&str]) -> serde_json::Value {
    let (ok, report) = tool(mapped, out, most, more);
    assert!(ok, "{report}");
    report
}

fn tool(mapped: &Mapped, out: &Path, most: u64, more: &[&str]) -> (bool, serde_json::Value) {
    let most = most.to_string();
    let file = out.to_str().expect("a plain path");
    let mut arguments = vec!["--file", file, "--most", &most];
    arguments.extend(more);
    let pid = std::process::id() as i32;
    run(
        "read-ahead",
        pid,
        mapped.start as usize,
        LENGTH,
        None,
        &arguments,
    )
}

/// Throws the file out of memory; false where a file system has no other place for it.
fn evict(path: &Path) -> bool {
    let file = File::open(path).expect("the copy opens");
    file.sync_all().expect("the copy is written");
    fadvise(file.as_fd(), 0, None, Advice::DontNeed).expect("the advice is taken");
    READ.iter().all(|page| !is_resident(path, *page))
}

fn is_resident(path: &Path, page: usize) -> bool {
    let mapped = Mapped::new(path, LENGTH, MapFlags::SHARED);
    let mut state = [0];
    // SAFETY: one page of a mapping that is there, and one byte for it.
    let answer = unsafe {
        libc::mincore(
            mapped.start.wrapping_add(page * PAGE).cast(),
            PAGE,
            state.as_mut_ptr(),
        )
    };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
    state[0] & 1 == 1
}
