//! New entries in folders of root's: what a user gets although they may not write there.
//!
//! Clients expect `/data/x` to be writable in a machine that is theirs. So what does not exist yet is made for them where
//! only root could make it, and belongs to them. The one right that is borrowed, for one system call at a time, is to
//! pass the modes of a folder; its owner stays the user, so that nothing is ever given away afterwards. What exists is
//! never opened, replaced or followed with it.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Component, Path},
};

use rustix::{
    fs::{
        AtFlags, CWD, Mode, OFlags, RenameFlags, fstat, mkdirat, openat, renameat_with, statat,
        unlinkat,
    },
    io::Errno,
};

use crate::as_user;

/// Write permission of the group and of others.
const WRITABLE: u32 = 0o022;

/// A folder that only root can change, reached through folders of that kind and no link: nobody can have swapped it.
pub struct Folder(OwnedFd);

impl Folder {
    /// Opens the folder at the absolute `path`, for a user who was refused there with `refused`.
    ///
    /// # Errors
    /// `refused` itself when it is not about rights or the folder is not of that kind.
    pub fn open(path: &Path, refused: io::Error) -> io::Result<Self> {
        if refused.kind() != io::ErrorKind::PermissionDenied {
            return Err(refused);
        }
        walk(path).map(Self).map_err(|_| refused)
    }

    /// Makes a folder that is the user's; one that has come up meanwhile is as good.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make_dir(&self, name: &Path) -> io::Result<()> {
        match as_user::past_modes(|| mkdirat(&self.0, name, Mode::from_raw_mode(0o777)))? {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a file that is the user's, for an upload that will take the free name `target`.
    ///
    /// # Errors
    /// `EEXIST` when either name is taken, be it by a link to nowhere; else the kernel's.
    pub fn create(&self, name: &Path, target: &Path) -> io::Result<File> {
        match statat(&self.0, target, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Ok(_) => return Err(Errno::EXIST.into()),
            Err(error) => return Err(error.into()),
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o666);
        let file = as_user::past_modes(|| openat(&self.0, name, flags, mode))??;
        Ok(file.into())
    }

    /// Gives the file `from` the name `to`.
    ///
    /// # Errors
    /// `EEXIST` when that is taken by now; else the kernel's.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let renamed = as_user::past_modes(|| {
            renameat_with(&self.0, from, &self.0, to, RenameFlags::NOREPLACE)
        })?;
        Ok(renamed?)
    }

    /// Removes a file that was made here.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, name: &Path) -> io::Result<()> {
        Ok(as_user::past_modes(|| {
            unlinkat(&self.0, name, AtFlags::empty())
        })??)
    }
}

/// Goes down from the root folder with the user's own rights, refusing links and whatever is not root's alone.
fn walk(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder = openat(CWD, "/", flags, Mode::empty())?;
    for component in path.components() {
        match component {
            Component::RootDir => {}
            Component::Normal(name) => folder = openat(&folder, name, flags, Mode::empty())?,
            _ => return Err(Errno::INVAL.into()),
        }
        let found = fstat(&folder)?;
        if found.st_uid != 0 || found.st_mode & WRITABLE != 0 {
            return Err(Errno::ACCESS.into());
        }
    }
    Ok(folder)
}
