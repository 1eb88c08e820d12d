//! Runs file work with a user's own rights: what the user may not touch, the agent does not touch for them.
//!
//! Work runs on a blocking thread whose *file system* identity (fsuid, fsgid, groups) is the user's for its duration.
//! These are attributes of a thread in Linux; with an unprivileged fsuid the kernel also takes away the
//! capabilities that bypass permissions. The raw system calls are used because the C library's wrappers would
//! change every thread.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
};

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::{
    error::{Error, Result},
    user::User,
};

/// Runs `work` on a blocking thread as `user`.
///
/// # Errors
/// What `work` returns; `internal` when the identity cannot be taken on or the work panicked.
pub async fn run<T: Send + 'static>(
    user: &User,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let user = user.clone();
    let mine = AtWork::begin();
    let theirs = AtWork::begin();
    let done = tokio::task::spawn_blocking(move || {
        let _theirs = theirs;
        let _identity = Identity::assume(&user).map_err(|error| {
            Error::internal(format!("cannot act as user '{}': {error}", user.name))
        })?;
        work()
    })
    .await;
    drop(mine);
    done.unwrap_or_else(|_| Err(Error::internal("the file operation stopped unexpectedly")))
}

/// Does `work`, one system call, as the user whom the thread acts as but past the modes of files and folders.
///
/// What it makes is still the user's. Only [`crate::files::granted`] knows when this is right.
///
/// # Errors
/// The kernel's, when the agent itself has no such right.
pub fn past_modes<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    let own = capabilities(None)?;
    let mut raised = own;
    raised.effective |= CapabilitySet::DAC_OVERRIDE;
    set_capabilities(None, raised)?;
    let _lowered = Raised(own);
    Ok(work())
}

/// Gives the thread its capabilities back when dropped.
struct Raised(CapabilitySets);

impl Drop for Raised {
    fn drop(&mut self) {
        if set_capabilities(None, self.0).is_err() {
            // As for an identity: nothing else may run with these.
            std::process::abort();
        }
    }
}

/// Work that must not be cut off in the middle: counted from its request to what is made of its result.
pub struct AtWork(());

static AT_WORK: AtomicUsize = AtomicUsize::new(0);

impl AtWork {
    /// Counts one more until it is dropped.
    pub fn begin() -> Self {
        AT_WORK.fetch_add(1, Ordering::AcqRel);
        Self(())
    }

    /// Whether there is any.
    pub fn any() -> bool {
        AT_WORK.load(Ordering::Acquire) > 0
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        AT_WORK.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The thread's borrowed identity; dropping it gives the agent's own back.
struct Identity {
    previous: Option<(u32, u32, Vec<u32>)>,
}

impl Identity {
    fn assume(user: &User) -> io::Result<Self> {
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        if user.uid == uid {
            return Ok(Self { previous: None });
        }
        let groups: Vec<u32> = rustix::process::getgroups()?
            .into_iter()
            .map(|group| group.as_raw())
            .collect();
        let identity = Self {
            previous: Some((uid, gid, groups)),
        };
        set(user.uid, user.gid, &user.groups)?;
        Ok(identity)
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        if let Some((uid, gid, groups)) = &self.previous
            && set(*uid, *gid, groups).is_err()
        {
            // A pooled thread with the wrong identity would do later work with the wrong rights.
            std::process::abort();
        }
    }
}

fn set(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: `groups` is a live array of `groups.len()` group ids; the other calls take plain numbers.
    unsafe {
        if libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        // Both calls answer the previous id and never fail visibly; an impossible id reads the present one.
        let now = (
            libc::syscall(libc::SYS_setfsuid, -1),
            libc::syscall(libc::SYS_setfsgid, -1),
        );
        if now != (i64::from(uid), i64::from(gid)) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
    }
    Ok(())
}
