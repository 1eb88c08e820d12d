//! The workload's network namespace, which is not the agent's.
//!
//! A socket belongs for life to the namespace it was made in, so the agent visits the workload's just long enough to
//! make one.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Handles on both namespaces.
pub struct NetNs {
    workload: OwnedFd,
    home: OwnedFd,
}

impl NetNs {
    /// Opens the workload's namespace at `path`, and remembers the calling thread's own.
    ///
    /// # Errors
    /// When either cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            workload: File::open(path)?.into(),
            home: File::open("/proc/thread-self/ns/net")?.into(),
        })
    }

    /// The workload's namespace.
    pub fn workload(&self) -> BorrowedFd<'_> {
        self.workload.as_fd()
    }

    /// Runs `make` inside the workload's namespace; it must not wait for anything.
    ///
    /// # Errors
    /// What `make` answers, or the kernel's refusal to enter.
    pub fn visit<T>(&self, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(self.workload.as_fd(), network)?;
        let made = make();
        if move_into_link_name_space(self.home.as_fd(), network).is_err() {
            // In the workload's namespace the agent would be unreachable for the host for good.
            std::process::abort();
        }
        made
    }
}
