//! Where an upload goes: a hidden file beside the target that takes the target's place when it is whole.
//!
//! A reader never sees half an upload and a failed one leaves no trace. What cannot be replaced by a new file (a
//! device, a file with several names, one in a folder the user may not write) is written in place. What is new in a
//! folder of root's goes by the rule of `granted`.

use std::{
    fs::{self, File, Metadata as Attributes, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use super::{
    granted::Folder,
    metadata::{self, Metadata},
};
use crate::{
    error::{Error, Result},
    paths,
};

/// Beginning of the hidden files' names; `watch` shows clients the finished file instead.
pub const PREFIX: &str = ".pandastack-upload-";
/// Marks, after the prefix, an upload that replaces a file.
pub const REPLACES: &str = "r-";
/// Marks, after the prefix, an upload that makes a new file.
pub const CREATES: &str = "c-";

/// An upload under way. Dropping it unfinished removes what was written.
pub struct Sink {
    file: File,
    path: String,
    temporary: Option<Temporary>,
    target: PathBuf,
    metadata: Metadata,
}

/// The hidden file of an upload.
struct Temporary {
    path: PathBuf,
    /// Where it lies, if the user may not write there.
    granted: Option<Folder>,
}

impl Sink {
    /// Begins an upload to `path`, making missing parents; the calling thread acts as the user.
    ///
    /// # Errors
    /// `invalid_argument` for a directory, else what the kernel says about the path.
    pub fn open(path: &str, metadata: Metadata) -> Result<Self> {
        let wrong = |error: io::Error| Error::from_io(&error, path);
        // A link stays a link: what it points to is written.
        let target = fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
        let old = match fs::metadata(&target) {
            Ok(old) if old.is_dir() => {
                return Err(Error::invalid(format!("path '{path}' is a directory")));
            }
            Ok(old) => Some(old),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_parents(paths::parent(path)).map_err(wrong)?;
                None
            }
            Err(error) => return Err(wrong(error)),
        };
        let in_place = |metadata| -> Result<Self> {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(&target)
                .map_err(wrong)?;
            Ok(Self {
                file,
                path: path.to_owned(),
                temporary: None,
                target: target.clone(),
                metadata,
            })
        };
        if old
            .as_ref()
            .is_some_and(|old| !old.is_file() || old.nlink() > 1)
        {
            return in_place(metadata);
        }
        // Whoever may not write the old file may not replace it either, though the folder would allow that.
        if old.is_some() {
            OpenOptions::new()
                .write(true)
                .open(&target)
                .map_err(wrong)?;
        }
        match Self::beside(&target, old.as_ref()) {
            Ok((file, temporary)) => Ok(Self {
                file,
                path: path.to_owned(),
                temporary: Some(temporary),
                target,
                metadata,
            }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && old.is_some() => {
                in_place(metadata)
            }
            Err(error) => Err(wrong(error)),
        }
    }

    fn beside(target: &Path, old: Option<&Attributes>) -> io::Result<(File, Temporary)> {
        let mark = if old.is_some() { REPLACES } else { CREATES };
        let folder = target.parent().unwrap_or(Path::new("/"));
        let path = folder.join(format!("{PREFIX}{mark}{:016x}", random()?));
        let created = OpenOptions::new().write(true).create_new(true).open(&path);
        let (file, granted) = match (created, old) {
            (Ok(file), _) => (file, None),
            (Err(refused), None) => {
                let folder = Folder::open(folder, refused)?;
                (folder.create(last(&path), last(target))?, Some(folder))
            }
            (Err(error), Some(_)) => return Err(error),
        };
        let temporary = Temporary { path, granted };
        if let Some(old) = old {
            // Only root may give a file away; a user's own file stays theirs anyway.
            let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
            let kept = file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777));
            if let Err(error) = kept {
                temporary.remove();
                return Err(error);
            }
        }
        Ok((file, temporary))
    }

    /// Ends the upload: the target now has the new content.
    ///
    /// # Errors
    /// What the kernel says; nothing is changed then, unless the target was written in place.
    pub fn finish(mut self) -> Result<Metadata> {
        let wrong = |error: io::Error| match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Error::invalid(format!(
                "the file system of '{}' cannot keep metadata",
                self.path
            )),
            _ => Error::from_io(&error, &self.path),
        };
        metadata::replace(&self.file, &self.metadata).map_err(wrong)?;
        if let Some(temporary) = &self.temporary {
            temporary.rename(&self.target).map_err(wrong)?;
            self.temporary = None;
        }
        Ok(std::mem::take(&mut self.metadata))
    }

    /// What a failed write to this upload means.
    pub fn wrong(&self, error: &io::Error) -> Error {
        Error::from_io(error, &self.path)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            temporary.remove();
        }
    }
}

impl Temporary {
    fn rename(&self, target: &Path) -> io::Result<()> {
        match &self.granted {
            Some(folder) => folder.rename(last(&self.path), last(target)),
            None => fs::rename(&self.path, target),
        }
    }

    /// A failure leaves it behind and hinders nobody.
    fn remove(&self) {
        let _ = match &self.granted {
            Some(folder) => folder.remove(last(&self.path)),
            None => fs::remove_file(&self.path),
        };
    }
}

/// Makes a directory and all its missing parents; they belong to whom the thread acts as, also in folders of root's.
///
/// # Errors
/// The kernel's.
pub fn make_parents(path: &str) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut at = path;
    loop {
        match fs::metadata(at) {
            Ok(found) if found.is_dir() => break,
            Ok(_) => return Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && at != "/" => missing.push(at),
            Err(error) => return Err(error),
        }
        at = paths::parent(at);
    }
    for folder in missing.into_iter().rev() {
        match fs::create_dir(folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(refused) => {
                let parent = paths::parent(folder).as_ref();
                Folder::open(parent, refused)?.make_dir(last(folder.as_ref()))?;
            }
        }
    }
    Ok(())
}

/// The last component of a path.
fn last(path: &Path) -> &Path {
    path.file_name().map_or(path, Path::new)
}

fn random() -> io::Result<u64> {
    getrandom::u64().map_err(|error| io::Error::other(error.to_string()))
}
