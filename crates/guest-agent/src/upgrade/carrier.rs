//! The memory file that carries the state: eight bytes of length, that much JSON, then bare data.
//!
//! Data (output, the log) stands behind the JSON and is named in it by [`Span`]s: megabytes of it cost a copy and no
//! encoding.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use bytes::Bytes;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::state::State;

/// Where data lies, counted from the end of the JSON.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Span {
    /// Offset of its first byte.
    pub at: u64,
    /// Bytes.
    pub length: u64,
}

/// Data to be carried, gathered piece by piece.
#[derive(Default)]
pub struct Data {
    pieces: Vec<Bytes>,
    length: u64,
}

impl Data {
    /// Adds pieces that are read as one.
    pub fn add(&mut self, pieces: impl IntoIterator<Item = Bytes>) -> Span {
        let at = self.length;
        for piece in pieces {
            self.length += piece.len() as u64;
            self.pieces.push(piece);
        }
        Span {
            at,
            length: self.length - at,
        }
    }
}

/// Writes `state` and `data` to a new memory file.
///
/// # Errors
/// The kernel's, when there is not enough memory.
pub fn write(state: &State, data: &Data) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("agent-state", MemfdFlags::CLOEXEC)?);
    let json = serde_json::to_vec(state)?;
    file.write_all(&(json.len() as u64).to_be_bytes())?;
    file.write_all(&json)?;
    for piece in &data.pieces {
        file.write_all(piece)?;
    }
    Ok(file.into())
}

/// A state as it arrived, and the data its spans are about.
pub struct Carried {
    /// The state.
    pub state: State,
    data: Bytes,
}

impl Carried {
    /// Reads the file that descriptor `number` stands for, from its beginning; it stays open.
    ///
    /// # Errors
    /// The kernel's, and `InvalidData` for what is no such file.
    pub fn read(number: RawFd) -> io::Result<Self> {
        let mut file = File::from(duplicate(number)?);
        io::Seek::rewind(&mut file)?;
        let mut all = Vec::new();
        file.read_to_end(&mut all)?;
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let length = all
            .first_chunk()
            .map(|length| u64::from_be_bytes(*length))
            .and_then(|length| usize::try_from(length).ok())
            .filter(|length| *length <= all.len() - 8)
            .ok_or_else(|| wrong("the state has no beginning"))?;
        let state = serde_json::from_slice(&all[8..8 + length])
            .map_err(|error| wrong(&format!("the state is not understood: {error}")))?;
        Ok(Self {
            state,
            data: Bytes::from(all).slice(8 + length..),
        })
    }

    /// The data of `span`; empty when there is no such data.
    pub fn data(&self, span: Span) -> Bytes {
        let range = || {
            let start = usize::try_from(span.at).ok()?;
            let end = start.checked_add(usize::try_from(span.length).ok()?)?;
            (end <= self.data.len()).then_some(start..end)
        };
        range().map_or_else(Bytes::new, |range| self.data.slice(range))
    }
}

/// A descriptor of our own for what `number` stands for: so the original stays as it is until all has succeeded.
///
/// # Errors
/// The kernel's, when nothing is open there.
pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only, and answers a new descriptor that nobody else knows, or -1.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// The number of a descriptor.
pub fn number(fd: &impl AsRawFd) -> RawFd {
    fd.as_raw_fd()
}
