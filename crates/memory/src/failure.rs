//! What can go wrong, each with a code that programs read and one line that people read.

use std::io;

use thiserror::Error;

/// The result of everything that can fail here.
pub type Result<T> = std::result::Result<T, Failure>;

/// Why nothing usable was made; the copy must be thrown away.
#[derive(Debug, Error)]
pub enum Failure {
    /// The process is not there, or ended before all was read.
    #[error("process {0} is gone; its memory cannot be read")]
    TargetGone(i32),
    /// We may not look into the process.
    #[error("process {0} may not be read; this needs root or CAP_SYS_PTRACE")]
    NotPermitted(i32),
    /// The given range is not what it should be in the process's address space.
    #[error("{0:#x}..{1:#x} is not one private mapping of a file from its beginning: {2}")]
    NotAMapping(u64, u64, &'static str),
    /// The mapping is shared: the file itself is the memory, nothing is to be copied.
    #[error("{0:#x}..{1:#x} is a shared mapping; the file is the memory, copy that")]
    SharedMapping(u64, u64),
    /// The file that should receive the pages does not fit the mapping.
    #[error(
        "the copy is {size} bytes long and the mapping {expected}; it is not a copy of the mapped file"
    )]
    WrongSize {
        /// Bytes of the copy.
        size: u64,
        /// Bytes of the mapping.
        expected: u64,
    },
    /// The kernel gave less memory than there is.
    #[error("only {got} of {wanted} bytes could be read at {address:#x}")]
    ShortRead {
        /// Where, in the process's address space.
        address: u64,
        /// Bytes that came.
        got: u64,
        /// Bytes that should have come.
        wanted: u64,
    },
    /// The caller went away before it said that the machine is paused.
    #[error("nobody said to begin; nothing was read")]
    Cancelled,
    /// The disk is full.
    #[error("cannot {0}: no space left on the disk")]
    NoSpace(&'static str),
    /// Anything else the operating system said.
    #[error("cannot {0}: {1}")]
    Io(&'static str, io::Error),
}

impl Failure {
    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TargetGone(_) => "target_gone",
            Self::NotPermitted(_) => "not_permitted",
            Self::NotAMapping(..) => "not_a_mapping",
            Self::SharedMapping(..) => "shared_mapping",
            Self::WrongSize { .. } => "wrong_size",
            Self::ShortRead { .. } => "short_read",
            Self::Cancelled => "cancelled",
            Self::NoSpace(_) => "no_space",
            Self::Io(..) => "io",
        }
    }

    /// The failure of doing `what`.
    pub fn from_io(what: &'static str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::NoSpace(what),
            _ => Self::Io(what, error),
        }
    }
}
