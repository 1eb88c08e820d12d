//! `process.Process`: starting programs, following their output, feeding and stopping them.
//!
//! `service` answers the calls; `start` turns a request into a running program with `spawn`, `cgroup` and `pty`;
//! `pump` moves its output into the `ring` and notices its end; `events` shows the ring to clients; `handle` is one
//! process to all others, `registry` knows what runs.

pub mod cgroup;
pub mod events;
pub mod handle;
pub mod messages;
pub mod pty;
pub mod pump;
pub mod registry;
pub mod ring;
pub mod service;
pub mod spawn;
pub mod start;
