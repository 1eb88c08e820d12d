//! Metadata of files: a client's `X-Metadata-<key>` headers, kept as `user.e2b.<key>` extended attributes.

use std::{collections::BTreeMap, fs::File, io, path::Path};

use hyper::HeaderMap;
use xattr::FileExt;

use crate::error::{Error, Result};

const PREFIX: &str = "user.e2b.";
const HEADER: &str = "x-metadata-";

/// Keys and values of one file.
pub type Metadata = BTreeMap<String, String>;

/// Takes the metadata out of a request's headers; keys come in lower case.
///
/// # Errors
/// `invalid_argument` for a value that is not printable ASCII or when it is too much for any file system.
pub fn from_headers(headers: &HeaderMap) -> Result<Metadata> {
    let mut metadata = Metadata::new();
    for (name, value) in headers {
        if let Some(key) = name
            .as_str()
            .strip_prefix(HEADER)
            .filter(|key| !key.is_empty())
        {
            let value = value
                .to_str()
                .map_err(|_| Error::invalid(format!("metadata '{key}' must be printable ASCII")))?;
            if key.len() + PREFIX.len() > 255 {
                return Err(Error::invalid(format!("metadata key '{key}' is too long")));
            }
            metadata.insert(key.to_owned(), value.to_owned());
        }
    }
    Ok(metadata)
}

/// Makes `metadata` the whole metadata of an open file: keys that are not in it go.
///
/// # Errors
/// The kernel's; none for an empty metadata on a file system without attributes.
pub fn replace(file: &File, metadata: &Metadata) -> io::Result<()> {
    if let Ok(names) = file.list_xattr() {
        for name in names {
            let stale = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            if stale.is_some_and(|key| !metadata.contains_key(key)) {
                file.remove_xattr(&name)?;
            }
        }
    }
    for (key, value) in metadata {
        file.set_xattr(format!("{PREFIX}{key}"), value.as_bytes())?;
    }
    Ok(())
}

/// The metadata of what lies at `path`, itself and not what a link there points to.
pub fn read(path: &Path) -> Metadata {
    let mut metadata = Metadata::new();
    for name in xattr::list(path).into_iter().flatten() {
        if let Some(key) = name.to_str().and_then(|name| name.strip_prefix(PREFIX))
            && let Ok(Some(value)) = xattr::get(path, &name)
        {
            metadata.insert(key.to_owned(), String::from_utf8_lossy(&value).into_owned());
        }
    }
    metadata
}
