//! The process's view of the file system: an empty, read-only root with only what was named in it.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root};

use crate::config::{Bind, Config};

const NOTHING: Option<&str> = None;

/// Enters a mount namespace of its own in which `/` holds what `config` names and nothing else.
pub fn enter(config: &Config) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("make a new mount namespace")?;
    mount(
        NOTHING,
        "/",
        NOTHING,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        NOTHING,
    )
    .context("make mounts private")?;
    let root = &config.root;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("jail"),
        root,
        Some("tmpfs"),
        safe,
        Some("size=64k,nr_inodes=256,mode=0755"),
    )
    .with_context(|| format!("mount the root on {}", root.display()))?;
    for bind in &config.binds {
        add_bind(root, bind).with_context(|| {
            format!(
                "show {} as {}",
                bind.source.display(),
                bind.target.display()
            )
        })?;
    }
    for link in &config.symlinks {
        let at = inside(root, &link.link)?;
        make_parent(&at)?;
        symlink(&link.target, &at).with_context(|| format!("link {}", link.link.display()))?;
    }
    mount(
        NOTHING,
        root,
        NOTHING,
        safe | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY,
        NOTHING,
    )
    .context("make the root read-only")?;
    chdir(root).context("enter the root")?;
    pivot_root(".", ".").context("switch to the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("let go of the host's file system")?;
    chdir("/").context("enter the root")
}

fn add_bind(root: &Path, bind: &Bind) -> Result<()> {
    let target = inside(root, &bind.target)?;
    if fs::metadata(&bind.source)?.is_dir() {
        fs::create_dir_all(&target)?;
    } else {
        make_parent(&target)?;
        fs::File::create(&target)?;
    }
    mount(
        Some(&bind.source),
        &target,
        NOTHING,
        MsFlags::MS_BIND,
        NOTHING,
    )?;
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID;
    if !bind.devices {
        flags |= MsFlags::MS_NODEV;
    }
    if !bind.writable {
        flags |= MsFlags::MS_RDONLY;
    }
    mount(NOTHING, &target, NOTHING, flags, NOTHING)?;
    Ok(())
}

fn make_parent(path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    Ok(())
}

/// Where an absolute path of the jail lies below `root`; `..` is refused.
fn inside(root: &Path, path: &Path) -> Result<PathBuf> {
    let mut parts = path.components();
    ensure!(
        parts.next() == Some(Component::RootDir)
            && parts.all(|part| matches!(part, Component::Normal(_))),
        "configuration is not valid: {} must be absolute and without '..'",
        path.display()
    );
    // A path that became a C string before this point holds no NUL; say so here rather than in a mount call.
    CString::new(path.as_os_str().as_encoded_bytes()).context("path holds NUL")?;
    Ok(root.join(path.strip_prefix("/")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        assert_eq!(
            inside(Path::new("/r"), Path::new("/a/b")).expect("fine"),
            Path::new("/r/a/b")
        );
        assert!(inside(Path::new("/r"), Path::new("/a/../../etc")).is_err());
        assert!(inside(Path::new("/r"), Path::new("etc")).is_err());
    }
}
