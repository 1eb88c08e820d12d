//! `filesystem.Filesystem`: looking at, moving and watching what lies on the sandbox's disk.

pub mod entry;
pub mod operations;
pub mod service;
pub mod watch;
pub mod watchers;
