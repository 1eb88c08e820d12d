//! The agent's one error type, and how it looks on the wire.
//!
//! An error is a Connect code and a sentence. RPC routes show it as `{"code": "<name>", "message"}`; plain HTTP
//! routes (`/files`, control) as `{"code": <status>, "message"}`.

use std::{fmt, io};

/// Connect error codes the agent uses, with the HTTP status each maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request is malformed or names something impossible.
    InvalidArgument,
    /// A deadline passed; the process it bounded was killed.
    DeadlineExceeded,
    /// No such process, path or watcher.
    NotFound,
    /// The path exists already.
    AlreadyExists,
    /// The user may not do this.
    PermissionDenied,
    /// A limit of the agent or of the disk was reached.
    ResourceExhausted,
    /// The target is in a state that does not allow this.
    FailedPrecondition,
    /// The agent does not offer this.
    Unimplemented,
    /// The kernel or the agent failed.
    Internal,
    /// Events or output were lost because nobody fetched them in time.
    DataLoss,
    /// No valid token, signature or user.
    Unauthenticated,
}

impl Code {
    /// The name used in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::FailedPrecondition => "failed_precondition",
            Self::Unimplemented => "unimplemented",
            Self::Internal => "internal",
            Self::DataLoss => "data_loss",
            Self::Unauthenticated => "unauthenticated",
        }
    }

    /// The HTTP status of a unary RPC that fails with this code.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidArgument | Self::FailedPrecondition => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::AlreadyExists => 409,
            Self::ResourceExhausted => 429,
            Self::Internal | Self::DataLoss => 500,
            Self::Unimplemented => 501,
            Self::DeadlineExceeded => 504,
        }
    }
}

/// What went wrong, for the caller to read.
#[derive(Clone, Debug)]
pub struct Error {
    /// The class of the failure.
    pub code: Code,
    /// One sentence: what happened and, where it helps, what to do.
    pub message: String,
    status: u16,
}

/// The result of everything that can be answered to a client.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with the code's own HTTP status.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            status: code.status(),
        }
    }

    /// An error whose plain HTTP routes answer `status` instead of the code's own.
    pub fn with_status(code: Code, status: u16, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            status,
        }
    }

    /// The status plain HTTP routes answer with.
    pub fn http_status(&self) -> u16 {
        self.status
    }

    /// Shorthand for [`Code::InvalidArgument`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// Shorthand for [`Code::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// Shorthand for [`Code::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// What a failed operation on `path` means to the client.
    pub fn from_io(error: &io::Error, path: &str) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT) => Self::not_found(format!("path '{path}' does not exist")),
            Some(libc::EEXIST) => {
                Self::new(Code::AlreadyExists, format!("path '{path}' already exists"))
            }
            Some(libc::EACCES | libc::EPERM) => Self::new(
                Code::PermissionDenied,
                format!("permission denied: '{path}'"),
            ),
            Some(libc::EROFS) => Self::new(
                Code::PermissionDenied,
                format!("'{path}' is on a read-only file system"),
            ),
            Some(libc::ENOTDIR) => {
                Self::invalid(format!("a parent of '{path}' is not a directory"))
            }
            Some(libc::EISDIR) => Self::invalid(format!("path '{path}' is a directory")),
            Some(libc::ENAMETOOLONG) => Self::invalid(format!("path '{path}' is too long")),
            Some(libc::ELOOP) => Self::invalid(format!(
                "path '{path}' goes through too many symbolic links"
            )),
            Some(libc::ENOTEMPTY) => Self::invalid(format!("directory '{path}' is not empty")),
            Some(libc::EXDEV) => Self::invalid(format!("'{path}' lies on another file system")),
            Some(libc::ENXIO | libc::ENODEV) => {
                Self::invalid(format!("path '{path}' cannot be opened as a file"))
            }
            Some(libc::ENOSPC | libc::EDQUOT) => Self::with_status(
                Code::ResourceExhausted,
                507,
                format!("not enough disk space for '{path}': free some space in the sandbox"),
            ),
            _ => Self::internal(format!("cannot use '{path}': {error}")),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
    }
}

impl std::error::Error for Error {}
