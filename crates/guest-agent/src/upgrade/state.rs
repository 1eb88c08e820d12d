//! What one build of the agent tells the next: the format.
//!
//! Both directions of time must work, since a sandbox may be restored by a newer host or by an older one. So every
//! field has a default and unknown ones are passed over: a field may be added, and one whose absence is harmless may go.
//! Whatever a reader that does not know it would get wrong needs a new [`FORMAT`], which older builds refuse in the
//! rehearsal.
//!
//! Descriptors are told by number: both builds are one process.

use std::{os::fd::RawFd, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::carrier::Span;
use crate::{
    agent::{Birthright, Settings},
    filesystem::watchers,
    process::{handle::Outcome, messages::ProcessConfig, ring::Stream},
    server::Side,
};

/// The format this build writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// Everything; no `Debug`, since the access token is in it.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub struct State {
    /// See [`FORMAT`].
    pub format: u32,
    /// SHA-256 of the successor's program, in hexadecimal.
    pub digest: String,
    /// The program of the build that wrote this, to go back to.
    pub predecessor: RawFd,
    /// The sockets that clients and the host connect to.
    pub listeners: Vec<Listener>,
    /// What `/init` set.
    pub settings: Settings,
    /// What processes get back of what the agent changed for itself.
    pub birthright: Birthright,
    /// Number of the process started last.
    pub last_id: u64,
    /// Processes that run.
    pub running: Vec<SavedProcess>,
    /// Processes that ended a moment ago.
    pub finished: Vec<SavedProcess>,
    /// Pipes that daemons hold open.
    pub leftovers: Vec<SavedLeftover>,
    /// cgroups of ended processes in which daemons live.
    pub cgroups: Vec<PathBuf>,
    /// Polled watches of directories.
    pub watchers: watchers::Saved,
    /// The log's pieces, oldest first.
    pub log: Vec<SavedLog>,
    /// Their data, one after the other.
    pub log_data: Span,
}

/// A listening socket.
#[derive(Debug, Deserialize, Serialize)]
pub struct Listener {
    /// Which side it serves.
    pub side: Side,
    /// The socket.
    pub fd: RawFd,
}

/// One end of a pipe or terminal.
#[derive(Debug, Deserialize, Serialize)]
pub struct Outlet {
    /// Which stream it is.
    pub stream: Stream,
    /// The agent's end.
    pub fd: RawFd,
}

/// A process.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct SavedProcess {
    /// Process id.
    pub pid: u32,
    /// Name given by the client.
    pub tag: Option<String>,
    /// What was asked to run.
    pub config: ProcessConfig,
    /// Its cgroup.
    pub cgroup: Option<PathBuf>,
    /// The writing end of its stdin.
    pub stdin: Option<RawFd>,
    /// The master of its terminal, which is its outlet as well.
    pub terminal: Option<RawFd>,
    /// What is open of its output.
    pub outlets: Vec<Outlet>,
    /// Milliseconds to its deadline.
    pub remaining_ms: Option<u64>,
    /// Whether its deadline has killed it.
    pub timed_out: bool,
    /// The earliest byte that a reader wants and has not got.
    pub unread: Option<u64>,
    /// Offset of the oldest byte of output that is kept.
    pub start: u64,
    /// The pieces of output kept, by stream and length.
    pub pieces: Vec<(Stream, u64)>,
    /// Their data, one after the other.
    pub data: Span,
    /// How it ended, if it has.
    pub outcome: Option<Outcome>,
}

/// Pipes that daemons hold open after the end of the process that started them.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct SavedLeftover {
    /// The process that has ended.
    pub pid: u32,
    /// What is open.
    pub outlets: Vec<Outlet>,
}

/// A piece of the log.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct SavedLog {
    /// Nanoseconds since 1970.
    pub nanos: u64,
    /// Whose.
    pub pid: u32,
    /// Which stream, and how many bytes; absent at the end of a process's output.
    pub output: Option<(Stream, u64)>,
}
