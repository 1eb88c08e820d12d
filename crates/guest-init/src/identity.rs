//! The files that say who a machine is, kept in memory.
//!
//! Every restore gives the machine a new name and id. Writing them to a disk costs a freshly restored, emulated guest tens of
//! milliseconds of file system work before its first answer; a tmpfs costs next to nothing. `/etc` has links to them.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::failure::{Context, Failure};

const FILES: [&str; 3] = ["hostname", "hosts", "machine-id"];

/// Moves the identity files of `etc` into a directory below `run` and leaves links in their places.
pub fn keep_in_memory(etc: &Path, run: &Path) -> Result<(), Failure> {
    let home = run.join("identity");
    fs::create_dir_all(&home).doing(format_args!("make {}", home.display()))?;
    for name in FILES {
        keep(&etc.join(name), &home.join(name))
            .doing(format_args!("keep {} in memory", etc.join(name).display()))?;
    }
    Ok(())
}

fn keep(path: &Path, kept: &Path) -> io::Result<()> {
    // Absent, or a link left by an earlier boot of the same disk: what it pointed at is gone with that boot's memory.
    let content = match fs::read(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        result => result.unwrap_or_default(),
    };
    fs::write(kept, content)?;
    let fresh = path.with_extension("pandastack");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(kept, &fresh)?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_links_and_a_second_boot_starts_empty() {
        let root = std::env::temp_dir().join(format!("identity-{}", std::process::id()));
        let (etc, run) = (root.join("etc"), root.join("run"));
        fs::create_dir_all(&etc).expect("etc");
        fs::write(etc.join("hostname"), "box\n").expect("a name");
        keep_in_memory(&etc, &run).expect("kept");
        assert_eq!(
            fs::read_to_string(etc.join("hostname")).expect("readable"),
            "box\n"
        );
        assert_eq!(
            fs::read_link(etc.join("machine-id")).expect("a link"),
            run.join("identity/machine-id")
        );
        fs::remove_dir_all(&run).expect("the memory of the first boot goes");
        keep_in_memory(&etc, &run).expect("kept again");
        assert_eq!(
            fs::read_to_string(etc.join("hostname")).expect("readable"),
            ""
        );
        fs::remove_dir_all(&root).expect("cleaned");
    }
}
