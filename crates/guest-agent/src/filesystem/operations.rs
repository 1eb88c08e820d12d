//! The work behind the file system calls, on a thread that acts as the user.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::fd::BorrowedFd,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, unlinkat},
    io::Errno,
};

use super::entry::{EntryInfo, describe};
use crate::{
    error::{Code, Error, Result},
    files::{
        metadata::{self, Metadata},
        sink::{Sink, make_parents},
    },
    paths,
    user::Names,
};

/// Entries one listing may have.
const MAX_ENTRIES: usize = 500_000;

/// `Stat`.
///
/// # Errors
/// What the kernel says about the path.
pub fn stat(path: &str) -> Result<EntryInfo> {
    describe(path, &Names::read())
}

/// `MakeDir`: with all missing parents.
///
/// # Errors
/// `already_exists` for a directory that is there, `invalid_argument` for anything else there.
pub fn make_dir(path: &str) -> Result<EntryInfo> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            return Err(Error::new(
                Code::AlreadyExists,
                format!("directory '{path}' already exists"),
            ));
        }
        Ok(_) => {
            return Err(Error::invalid(format!(
                "path '{path}' already exists but is not a directory"
            )));
        }
        Err(_) => {}
    }
    make_parents(path).map_err(|error| Error::from_io(&error, path))?;
    stat(path)
}

/// `Move`: makes the destination's parents; files move between file systems as well.
///
/// # Errors
/// What the kernel says about either path.
pub fn rename(source: &str, destination: &str) -> Result<EntryInfo> {
    let found = fs::symlink_metadata(source).map_err(|error| Error::from_io(&error, source))?;
    make_parents(paths::parent(destination))
        .map_err(|error| Error::from_io(&error, destination))?;
    match fs::rename(source, destination) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EXDEV) && found.is_file() => {
            copy_over(source, destination)?;
        }
        Err(error) => return Err(Error::from_io(&error, destination)),
    }
    stat(destination)
}

fn copy_over(source: &str, destination: &str) -> Result<()> {
    let wrong = |error: io::Error| Error::from_io(&error, source);
    let mut file = fs::File::open(source).map_err(wrong)?;
    let permissions = file.metadata().map_err(wrong)?.permissions();
    let kept: Metadata = metadata::read(source.as_ref());
    let mut sink = Sink::open(destination, kept)?;
    io::copy(&mut file, &mut sink).map_err(|error| sink.wrong(&error))?;
    sink.finish()?;
    fs::set_permissions(destination, permissions)
        .map_err(|error| Error::from_io(&error, destination))?;
    fs::remove_file(source).map_err(wrong)
}

/// `ListDir`: everything down to `depth` levels, parents before children, each level by name.
///
/// # Errors
/// `not_found`, `invalid_argument` for something that is no directory, `resource_exhausted` for an endless tree.
pub fn list(path: &str, depth: u64) -> Result<Vec<EntryInfo>> {
    let found = fs::metadata(path).map_err(|error| Error::from_io(&error, path))?;
    if !found.is_dir() {
        return Err(Error::invalid(format!("path '{path}' is not a directory")));
    }
    let names = Names::read();
    let mut entries = Vec::new();
    // Folders still to be read, the next one last: a stack of our own, for a tree may be deeper than a thread's.
    let mut levels = vec![children(path).map_err(|error| Error::from_io(&error, path))?];
    while let Some(level) = levels.last_mut() {
        let Some(child) = level.pop() else {
            levels.pop();
            continue;
        };
        // It may be gone by now, or its name may not be text; neither spoils the rest.
        let Ok(entry) = describe(&child, &names) else {
            continue;
        };
        let descend = entry.kind == "FILE_TYPE_DIRECTORY" && !entry.is_symlink;
        entries.push(entry);
        if entries.len() > MAX_ENTRIES {
            return Err(Error::new(
                Code::ResourceExhausted,
                format!("the listing has more than {MAX_ENTRIES} entries: list fewer levels"),
            ));
        }
        if descend && (levels.len() as u64) < depth {
            // What the user may not read is shown without its content.
            levels.push(children(&child).unwrap_or_default());
        }
    }
    Ok(entries)
}

/// The paths in a folder, the first by name last.
fn children(path: &str) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(path)?
        .filter_map(|child| Some(child.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort_unstable_by(|one, other| other.cmp(one));
    let folder = path.trim_end_matches('/');
    Ok(names
        .into_iter()
        .map(|name| format!("{folder}/{name}"))
        .collect())
}

/// `Remove`: a file, a link, or a directory with all it holds; what is not there counts as removed.
///
/// # Errors
/// `invalid_argument` for the root directory, else what the kernel says.
pub fn remove(path: &str) -> Result<()> {
    if path == "/" {
        return Err(Error::invalid("the root directory cannot be removed"));
    }
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => remove_tree(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|error| Error::from_io(&error, path)),
    }
}

/// Removes a directory and all below it, however deep, without ever following a link.
fn remove_tree(path: &str) -> io::Result<()> {
    let open = |folder: BorrowedFd<'_>, name: &CStr| -> io::Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Dir::new(openat(folder, name, flags, Mode::empty())?)?)
    };
    let top = CString::new(path)?;
    let mut levels = vec![(open(CWD, &top)?, top)];
    while let Some((folder, _)) = levels.last_mut() {
        match folder.read().transpose()? {
            Some(entry) => {
                let name = entry.file_name();
                if name == c"." || name == c".." {
                    continue;
                }
                let below = match unlinkat(folder.fd()?, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => continue,
                    Err(Errno::ISDIR) => open(folder.fd()?, name)?,
                    Err(error) => return Err(error.into()),
                };
                levels.push((below, name.to_owned()));
            }
            None => {
                let Some((_, name)) = levels.pop() else { break };
                let removed = match levels.last() {
                    Some((parent, _)) => unlinkat(parent.fd()?, name, AtFlags::REMOVEDIR),
                    None => unlinkat(CWD, name, AtFlags::REMOVEDIR),
                };
                match removed {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    Ok(())
}
