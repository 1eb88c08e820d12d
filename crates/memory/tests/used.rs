//! The list of what a process uses of the file it maps.

mod common;

use std::fs;

use common::{Mapped, PAGE, make_base};
use rustix::mm::MapFlags;
use tempfile::TempDir;

const LENGTH: usize = PAGE * 4096;
/// Pages that are read, in three places far from each other, and one that is written.
const READ: [usize; 4] = [101, 102, 1001, 3001];
const WRITTEN: usize = 2001;
/// Pages in memory already that the kernel may map at one fault.
const AROUND: usize = 16;

#[test]
fn lists_what_the_process_uses_and_has_not_written() {
    for more in [&[][..], &["--plain-pagemap"][..]] {
        let directory = TempDir::new().expect("a folder");
        let (base, out) = make_base(&directory, LENGTH);
        let mut mapped = Mapped::new(&base, LENGTH, MapFlags::PRIVATE);
        let memory = mapped.bytes();
        for page in READ {
            assert_ne!(std::hint::black_box(memory[page * PAGE]), 0);
        }
        memory[WRITTEN * PAGE] = 1;
        let list = directory.path().join("used");
        let mut arguments = vec!["--used", list.to_str().expect("a plain path")];
        arguments.extend(more);
        let (ok, report) = mapped.capture(&out, &arguments);
        assert!(ok, "{report}");
        let runs: Vec<[usize; 2]> =
            serde_json::from_slice(&fs::read(&list).expect("the list is there")).expect("JSON");
        let listed = |page: usize| {
            runs.iter()
                .any(|[offset, length]| (*offset..offset + length).contains(&(page * PAGE)))
        };
        assert!(READ.iter().all(|page| listed(*page)), "{runs:?}");
        assert!(!listed(WRITTEN) && !listed(4001), "{runs:?}");
        assert_eq!(runs.len(), 3, "{runs:?}");
        let bytes: usize = runs.iter().map(|[_, length]| length).sum();
        assert!(bytes <= 3 * AROUND * PAGE, "{runs:?}");
    }
}

#[test]
fn a_list_that_cannot_be_written_fails_before_the_word() {
    let directory = TempDir::new().expect("a folder");
    let (base, out) = make_base(&directory, LENGTH);
    let mapped = Mapped::new(&base, LENGTH, MapFlags::PRIVATE);
    let nowhere = directory.path().join("no/such/folder");
    let (ok, report) = mapped.capture(&out, &["--used", nowhere.to_str().expect("a plain path")]);
    assert!(!ok);
    assert!(
        report["error"]
            .as_str()
            .is_some_and(|error| error.contains("list of used pages")),
        "{report}"
    );
}
