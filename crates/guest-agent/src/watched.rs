//! Descriptors the event loop watches.

use std::{io, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

/// A descriptor that can be waited for: a pipe, a terminal, a pidfd, an inotify queue.
pub type Watched = AsyncFd<OwnedFd>;

/// Hands a descriptor to the event loop; must be called on the agent's thread.
///
/// # Errors
/// The kernel's, for what cannot be waited for.
pub fn watched(fd: OwnedFd) -> io::Result<Watched> {
    // SAFETY: an `OwnedFd` is open, always answers the same descriptor and stays open until it is dropped, which
    // nothing but the `AsyncFd` does from here on.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
