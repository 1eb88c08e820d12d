//! Terminals: a master for the agent, a slave that becomes the process's controlling terminal.

use std::{io, os::fd::OwnedFd};

use rustix::{
    fs::{Mode, fchmod, fchown},
    process::{Gid, Uid},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use super::messages::Size;
use crate::{
    error::{Error, Result},
    user::User,
};

/// A terminal that no process uses yet.
pub struct Pty {
    /// The agent's end.
    pub master: OwnedFd,
    /// The process's end.
    pub slave: OwnedFd,
}

/// Opens a terminal of `size` that belongs to `user`.
///
/// # Errors
/// The kernel's, for example when `/dev/ptmx` is missing.
pub fn open(size: Size, user: &User) -> io::Result<Pty> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    if user.uid != rustix::process::geteuid().as_raw() {
        fchown(
            &slave,
            Some(Uid::from_raw(user.uid)),
            Some(Gid::from_raw(user.gid)),
        )?;
        fchmod(&slave, Mode::from_raw_mode(0o620))?;
    }
    tcsetwinsize(&master, winsize(size))?;
    Ok(Pty { master, slave })
}

/// Gives the terminal a new size; its foreground programs get SIGWINCH from the kernel.
///
/// # Errors
/// `internal` with the kernel's reason.
pub fn resize(master: &OwnedFd, size: Size) -> Result<()> {
    tcsetwinsize(master, winsize(size))
        .map_err(|error| Error::internal(format!("cannot resize the terminal: {error}")))
}

fn winsize(size: Size) -> Winsize {
    let clamp = |value: u64, default: u16| match value {
        0 => default,
        value => u16::try_from(value).unwrap_or(u16::MAX),
    };
    Winsize {
        ws_col: clamp(size.cols, 80),
        ws_row: clamp(size.rows, 24),
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
