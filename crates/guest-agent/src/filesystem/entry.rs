//! `EntryInfo`: what a client is told about one file, directory or link.

use std::{
    collections::BTreeMap,
    fs::{self, FileType},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use serde::Serialize;
use time::OffsetDateTime;

use crate::{
    error::{Error, Result},
    files::metadata,
    paths,
    user::Names,
};

/// One entry, as `filesystem.proto` names its parts.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryInfo {
    /// Last component of the path.
    pub name: String,
    /// Type of the entry; of what it points to when it is a link.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Absolute path.
    pub path: String,
    /// Bytes, as text: the field is a 64-bit integer.
    pub size: String,
    /// Permission bits.
    pub mode: u32,
    /// Type and permissions as Go writes them, for example `-rw-r--r--`.
    pub permissions: String,
    /// Owner's name.
    pub owner: String,
    /// Group's name.
    pub group: String,
    /// Last change of the content, RFC 3339.
    pub modified_time: String,
    /// Where a link leads, absolute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symlink_target: Option<String>,
    /// Whether the entry itself is a link.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_symlink: bool,
    /// Metadata given at upload.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: metadata::Metadata,
}

/// Describes what lies at `path`; the calling thread acts as the user.
///
/// # Errors
/// What the kernel says about the path.
pub fn describe(path: &str, names: &Names) -> Result<EntryInfo> {
    read(path, names).map_err(|error| Error::from_io(&error, path))
}

fn read(path: &str, names: &Names) -> io::Result<EntryInfo> {
    let found = fs::symlink_metadata(path)?;
    let is_symlink = found.is_symlink();
    let target = is_symlink.then(|| fs::metadata(path).map(|target| target.file_type()));
    let kind = match target {
        Some(Ok(target)) => kind(target),
        Some(Err(_)) => "FILE_TYPE_SYMLINK",
        None => kind(found.file_type()),
    };
    Ok(EntryInfo {
        name: if path == "/" { "/" } else { paths::name(path) }.to_owned(),
        kind,
        path: path.to_owned(),
        size: found.len().to_string(),
        mode: found.mode() & 0o777,
        permissions: permissions(found.file_type(), found.mode()),
        owner: names.user(found.uid()),
        group: names.group(found.gid()),
        modified_time: moment(found.mtime(), found.mtime_nsec()),
        symlink_target: is_symlink.then(|| leads_to(path)),
        is_symlink,
        metadata: if is_symlink {
            BTreeMap::new()
        } else {
            metadata::read(Path::new(path))
        },
    })
}

fn leads_to(path: &str) -> String {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    match fs::canonicalize(path) {
        Ok(target) => text(&target),
        // A link to nowhere: what is written in it, made absolute.
        Err(_) => fs::read_link(path)
            .map(|target| paths::clean(&text(&Path::new(paths::parent(path)).join(target))))
            .unwrap_or_default(),
    }
}

fn kind(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_file() => "FILE_TYPE_FILE",
        kind if kind.is_dir() => "FILE_TYPE_DIRECTORY",
        kind if kind.is_symlink() => "FILE_TYPE_SYMLINK",
        _ => "FILE_TYPE_UNSPECIFIED",
    }
}

/// Go's notation, which clients compare with: special letters come before the nine permissions.
fn permissions(kind: FileType, mode: u32) -> String {
    let mut text = String::new();
    for (letter, holds) in [
        ('d', kind.is_dir()),
        ('L', kind.is_symlink()),
        ('D', kind.is_block_device() || kind.is_char_device()),
        ('p', kind.is_fifo()),
        ('S', kind.is_socket()),
        ('u', mode & 0o4000 != 0),
        ('g', mode & 0o2000 != 0),
        ('c', kind.is_char_device()),
        ('t', mode & 0o1000 != 0),
    ] {
        if holds {
            text.push(letter);
        }
    }
    if text.is_empty() {
        text.push('-');
    }
    for (place, letter) in "rwxrwxrwx".chars().enumerate() {
        text.push(if mode & (0o400 >> place) != 0 {
            letter
        } else {
            '-'
        });
    }
    text
}

/// Nine digits after the point, so that every reader of protobuf's JSON takes it.
fn moment(seconds: i64, nanos: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{nanos:09}Z",
        moment.year(),
        u8::from(moment.month()),
        moment.day(),
        moment.hour(),
        moment.minute(),
        moment.second()
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn describes_files_and_links() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ünï\u{1F600}.txt");
        fs::write(&file, "four").expect("written");
        let link = folder.path().join("link");
        symlink("ünï\u{1F600}.txt", &link).expect("linked");
        let lost = folder.path().join("lost");
        symlink("nowhere", &lost).expect("linked");
        let names = Names::read();
        let info = |path: &Path| describe(&path.to_string_lossy(), &names).expect("there");

        let entry = info(&file);
        assert_eq!(
            (entry.kind, entry.size.as_str(), entry.is_symlink),
            ("FILE_TYPE_FILE", "4", false)
        );
        assert_eq!(entry.name, "ünï\u{1F600}.txt");
        let entry = info(&link);
        assert_eq!((entry.kind, entry.is_symlink), ("FILE_TYPE_FILE", true));
        assert_eq!(
            entry.symlink_target,
            Some(file.to_string_lossy().into_owned())
        );
        assert!(entry.permissions.starts_with("Lrwx"));
        let entry = info(&lost);
        assert_eq!(entry.kind, "FILE_TYPE_SYMLINK");
        assert!(entry.symlink_target.expect("a link").ends_with("/nowhere"));
        assert!(info(folder.path()).permissions.starts_with("drwx"));
        assert!(describe("/does/not/exist", &names).is_err());
    }

    #[test]
    fn writes_moments() {
        assert_eq!(moment(1_700_000_000, 5), "2023-11-14T22:13:20.000000005Z");
    }
}
