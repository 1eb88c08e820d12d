//! Moves a process's output into its ring and notices its end.
//!
//! Theory of operation. One task a process waits for four things: output to read, room to put it (an attached reader
//! that lags holds the process back through its pipe), the process's end (its pidfd), and its deadline. After the end,
//! what was in the pipes at that moment is still read; then a short silence ends the stream, so that a daemon which
//! holds the pipes open does not hold up the client. The pipes of such a daemon stay open and are drained into the log
//! only: closing them would kill it at its next write.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};
use tokio::{task::spawn_local, time::Instant};

use super::{
    events::{at, outcome},
    handle::{Outcome, Process},
    ring::Stream,
};
use crate::{
    agent::Shared,
    watched::{Watched, watched},
};

/// The most read at once, in bytes.
const READ: usize = 64 << 10;
/// Silence after the end of a process that counts as the end of its output.
const QUIET: Duration = Duration::from_millis(100);
/// How long output of descendants is waited for at all.
const LINGER: Duration = Duration::from_secs(1);

/// One open output of a process.
pub struct Source {
    /// Which stream it is.
    pub stream: Stream,
    /// The agent's end, non-blocking.
    pub fd: Rc<Watched>,
}

/// Runs until the process has ended and its output is in the ring.
///
/// Everything that counts is in `process`, and nothing is between a read and the ring while this waits: at any of its
/// waits a successor of the agent can go on from what `process` holds (see `upgrade`).
pub async fn run(agent: Shared, process: Rc<Process>) {
    let Some(pidfd) = process.pidfd.take() else {
        return;
    };
    let mut exit: Option<Exit> = None;
    while exit.is_none() || process.is_open() {
        process
            .ring
            .borrow_mut()
            .limit(agent.processes.ring_share());
        let room = process.has_room(READ);
        let silence = exit.as_ref().filter(|_| room).map(Exit::patience);
        tokio::select! {
            (index, read) = next(&process.sources), if room && process.is_open() => {
                match read {
                    Some((stream, data)) => {
                        if let Some(exit) = &mut exit {
                            exit.backlog = exit.backlog.saturating_sub(data.len());
                            exit.last_output = Instant::now();
                        }
                        agent.logs.output(process.pid, stream, data.clone());
                        process.ring.borrow_mut().push(stream, data);
                        process.news.send_replace(());
                    }
                    None => {
                        process.sources.borrow_mut().swap_remove(index);
                    }
                }
            }
            () = process.space.notified(), if !room => {}
            () = at(process.patience()), if !room => {}
            result = pidfd.readable(), if exit.is_none() => {
                if result.is_ok() {
                    exit = Some(Exit::new(&process.sources.borrow()));
                }
            }
            () = at(silence) => break,
            () = at(process.deadline.get()) => {
                process.deadline.set(None);
                process.timed_out.set(exit.is_none());
                process.kill();
            }
        }
    }
    // The wait comes last: until then the process id cannot become another process's.
    let ended = reap(pidfd.as_fd(), process.timed_out.get());
    if let Some(cgroup) = agent.processes.finish(&process, ended)
        && let Some(root) = &agent.cgroups
    {
        root.retire(cgroup);
    }
    let leftover = Leftover {
        pid: process.pid,
        sources: RefCell::new(process.sources.take()),
    };
    if leftover.sources.borrow().is_empty() {
        agent.logs.ended(leftover.pid);
    } else {
        let leftover = Rc::new(leftover);
        agent.processes.keep(leftover.clone());
        spawn_local(drain(agent, leftover));
    }
    // What is kept of the process for a while is what it printed, and no descriptor. A writer that still has the lock
    // gives it up at the news of the end.
    process.terminal.take();
    process.stdin.lock().await.take();
}

/// What is known since the main process ended.
struct Exit {
    since: Instant,
    last_output: Instant,
    /// Bytes that were in the pipes at the end and are not read yet.
    backlog: usize,
}

impl Exit {
    fn new(sources: &[Source]) -> Self {
        let backlog = sources
            .iter()
            .map(|source| rustix::io::ioctl_fionread(source.fd.get_ref()).unwrap_or(0))
            .fold(0, |sum, bytes| sum + usize::try_from(bytes).unwrap_or(0));
        let now = Instant::now();
        Self {
            since: now,
            last_output: now,
            backlog,
        }
    }

    /// When to stop waiting for more.
    fn patience(&self) -> Instant {
        let quiet = self.last_output + QUIET;
        if self.backlog > 0 {
            quiet
        } else {
            quiet.min(self.since + LINGER)
        }
    }
}

/// Pipes that daemons hold open after the end of the process that started them.
pub struct Leftover {
    /// The process that has ended.
    pub pid: u32,
    /// What is open still.
    pub sources: RefCell<Vec<Source>>,
}

/// Follows what a daemon writes after its parent's end, for the log.
pub async fn drain(agent: Shared, leftover: Rc<Leftover>) {
    while !leftover.sources.borrow().is_empty() {
        match next(&leftover.sources).await {
            (_, Some((stream, data))) => agent.logs.output(leftover.pid, stream, data),
            (index, None) => {
                leftover.sources.borrow_mut().swap_remove(index);
            }
        }
    }
    agent.processes.forget(&leftover);
    agent.logs.ended(leftover.pid);
}

/// The next piece of output and the index of its source; `None` when that source is at its end.
async fn next(sources: &RefCell<Vec<Source>>) -> (usize, Option<(Stream, Bytes)>) {
    std::future::poll_fn(|context| {
        for (index, source) in sources.borrow().iter().enumerate() {
            if let Poll::Ready(read) = poll_read(source, context) {
                return Poll::Ready((index, read.map(|data| (source.stream, data))));
            }
        }
        Poll::Pending
    })
    .await
}

thread_local! {
    // One buffer for all: what was read is copied out at its real size, so that a ring holds no slack.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

fn poll_read(source: &Source, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
    loop {
        let Ok(mut guard) = ready!(source.fd.poll_read_ready(context)) else {
            return Poll::Ready(None);
        };
        let read = guard.try_io(|fd| {
            SCRATCH.with_borrow_mut(|scratch| {
                let count = rustix::io::read(fd.get_ref(), scratch.as_mut_slice())?;
                Ok(Bytes::copy_from_slice(&scratch[..count]))
            })
        });
        match read {
            Ok(Ok(data)) if data.is_empty() => return Poll::Ready(None),
            Ok(Ok(data)) => return Poll::Ready(Some(data)),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            // A terminal without any user left answers EIO: its end.
            Ok(Err(_)) => return Poll::Ready(None),
            Err(_would_block) => {}
        }
    }
}

fn reap(pidfd: std::os::fd::BorrowedFd<'_>, timed_out: bool) -> Outcome {
    match waitid(
        WaitId::PidFd(pidfd),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    ) {
        Ok(Some(status)) => describe(&status, timed_out),
        // Only the kernel's failure to tell leads here; the process is over all the same.
        _ => outcome(None, None, false, timed_out),
    }
}

fn describe(status: &WaitIdStatus, timed_out: bool) -> Outcome {
    outcome(
        status.exit_status(),
        status.terminating_signal(),
        status.dumped(),
        timed_out,
    )
}

/// Waits for a child that failed before its program ran, so that it does not stay a zombie.
pub async fn bury(pidfd: OwnedFd) {
    if let Ok(pidfd) = watched(pidfd) {
        let _ = pidfd.readable().await;
        let _ = reap(pidfd.as_fd(), false);
    }
}
