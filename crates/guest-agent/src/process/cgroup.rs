//! One cgroup a process, so that killing it kills everything it started.
//!
//! Only membership is used, no controller. Where cgroup2 is not writable a process group stands in, which programs
//! can leave.

use std::{
    cell::RefCell,
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

/// The directory all process cgroups live in.
pub struct Root {
    path: PathBuf,
    leftover: RefCell<Vec<PathBuf>>,
}

impl Root {
    /// Prepares `path` on a cgroup2 file system; `None` when that is not possible here.
    pub fn open(path: &Path) -> Option<Self> {
        const CGROUP2_MAGIC: i64 = 0x6367_7270;
        let kind = rustix::fs::statfs(path.parent()?).ok()?.f_type;
        if kind != CGROUP2_MAGIC || !(path.is_dir() || fs::create_dir(path).is_ok()) {
            return None;
        }
        // An agent started anew finds the groups of its predecessor; the empty ones can go.
        for old in fs::read_dir(path).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(old.path());
        }
        path.join("cgroup.kill").exists().then(|| {
            let root = Self {
                path: path.to_owned(),
                leftover: RefCell::default(),
            };
            // What a predecessor held, it can let go no more.
            let _ = root.freeze(false);
            root
        })
    }

    /// Tells every process in every cgroup to stand still, or to go on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        fs::write(
            self.path.join("cgroup.freeze"),
            if frozen { "1" } else { "0" },
        )
    }

    /// Whether all of them stand still.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_frozen(&self) -> io::Result<bool> {
        Ok(fs::read_to_string(self.path.join("cgroup.events"))?.contains("frozen 1"))
    }

    /// A new, empty cgroup called `name`.
    ///
    /// # Errors
    /// The kernel's, for example when there are too many cgroups.
    pub fn create(&self, name: &str) -> io::Result<Cgroup> {
        let path = self.path.join(name);
        fs::create_dir(&path)?;
        Cgroup::open(path.clone()).inspect_err(|_| {
            let _ = fs::remove_dir(&path);
        })
    }

    /// Groups whose main process ended and that are not empty yet.
    pub fn leftover(&self) -> Vec<PathBuf> {
        self.leftover.borrow().clone()
    }

    /// Takes over such groups of a predecessor.
    pub fn keep_leftover(&self, paths: Vec<PathBuf>) {
        self.leftover.borrow_mut().extend(paths);
    }

    /// Removes a cgroup whose main process ended; if a daemon still lives in it, some later call does.
    pub fn retire(&self, cgroup: Cgroup) {
        let mut leftover = self.leftover.borrow_mut();
        leftover.push(cgroup.path);
        leftover.retain(|path| {
            fs::remove_dir(path).is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
        });
    }
}

/// The cgroup of one process and all its descendants.
pub struct Cgroup {
    path: PathBuf,
    directory: OwnedFd,
}

impl Cgroup {
    /// The group at `path`, which exists.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty())?;
        Ok(Self { path, directory })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open directory, for `clone3` to start a child in it.
    pub fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Kills every member, at once and without a race against forks.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&self) -> io::Result<()> {
        let file = rustix::fs::openat(
            self.directory.as_fd(),
            "cgroup.kill",
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        rustix::io::write(file, b"1")?;
        Ok(())
    }
}
