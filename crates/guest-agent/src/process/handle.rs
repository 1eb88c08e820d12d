//! The handle through which everything deals with one process.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex, Notify, watch},
    time::Instant,
};

use super::{
    cgroup::Cgroup, messages::ProcessConfig, pump::Source, registry::RING_BYTES, ring::Ring,
};
use crate::{
    error::{Error, Result},
    watched::Watched,
};

/// How long a process is held back for a reader whose connection broke, so that it loses nothing when it comes back.
pub const RETURN: Duration = Duration::from_secs(10);

/// How a process ended.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Outcome {
    /// Exit code; -1 when a signal ended it.
    pub exit_code: i32,
    /// Whether it ended by itself.
    pub exited: bool,
    /// `exit status N` or `signal: name`.
    pub status: String,
    /// The status again when it was not success.
    pub error: Option<String>,
    /// Whether its deadline ended it.
    pub timed_out: bool,
}

/// One process started by a client.
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Name given by the client.
    pub tag: Option<String>,
    /// What was asked to run.
    pub config: ProcessConfig,
    /// Its latest output.
    pub ring: RefCell<Ring>,
    /// The terminal's master, when it has one; until its end.
    pub terminal: RefCell<Option<Rc<Watched>>>,
    /// The writing end of its stdin, until its end; a lock so that writers queue and a close comes after them.
    pub stdin: Mutex<Option<Rc<Watched>>>,
    /// Told when a reader took output away.
    pub space: Notify,
    /// Ticks whenever there is news for readers; they subscribe.
    pub news: watch::Sender<()>,
    /// What is still open of its output.
    pub sources: RefCell<Vec<Source>>,
    /// Becomes readable when it ends; whoever waits for that takes it. `None` for one that had ended before this agent
    /// began.
    pub pidfd: RefCell<Option<Watched>>,
    /// When it is killed with everything it started.
    pub deadline: Cell<Option<Instant>>,
    /// Whether its deadline killed it.
    pub timed_out: Cell<bool>,
    cgroup: RefCell<Option<Cgroup>>,
    outcome: RefCell<Option<Outcome>>,
    readers: RefCell<Vec<Rc<Cell<u64>>>>,
    /// Where a reader stood whose connection broke, and until when it is waited for.
    awaited: Cell<Option<(u64, Instant)>>,
}

/// What a process is made of, besides what it does later.
pub struct Parts {
    /// Process id.
    pub pid: u32,
    /// Name given by the client.
    pub tag: Option<String>,
    /// What was asked to run.
    pub config: ProcessConfig,
    /// Where it and all it starts live.
    pub cgroup: Option<Cgroup>,
    /// The writing end of its stdin.
    pub stdin: Option<Rc<Watched>>,
    /// The terminal's master, when it has one.
    pub terminal: Option<Rc<Watched>>,
    /// The reading ends of its output.
    pub sources: Vec<Source>,
    /// See [`Process::pidfd`].
    pub pidfd: Option<Watched>,
    /// See [`Process::deadline`].
    pub deadline: Option<Instant>,
}

impl Process {
    /// A handle for a process.
    pub fn new(parts: Parts) -> Self {
        Self {
            pid: parts.pid,
            tag: parts.tag,
            config: parts.config,
            ring: RefCell::new(Ring::new(RING_BYTES)),
            terminal: RefCell::new(parts.terminal),
            stdin: Mutex::new(parts.stdin),
            space: Notify::new(),
            news: watch::Sender::new(()),
            sources: RefCell::new(parts.sources),
            pidfd: RefCell::new(parts.pidfd),
            deadline: Cell::new(parts.deadline),
            timed_out: Cell::default(),
            cgroup: RefCell::new(parts.cgroup),
            outcome: RefCell::default(),
            readers: RefCell::default(),
            awaited: Cell::default(),
        }
    }

    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome.borrow().clone()
    }

    /// Counts a reader in; its cursor holds the output back that it has not taken.
    pub fn attach(&self, cursor: u64) -> Rc<Cell<u64>> {
        let cursor = Rc::new(Cell::new(cursor));
        self.readers.borrow_mut().push(cursor.clone());
        self.awaited.set(None);
        cursor
    }

    /// Counts a reader out. One that was not `done` lost its connection: all output kept now is kept on for it for
    /// [`RETURN`], since what it was sent and what it got may differ by whatever the network held.
    pub fn detach(&self, cursor: &Rc<Cell<u64>>, done: bool) {
        self.readers
            .borrow_mut()
            .retain(|other| !Rc::ptr_eq(other, cursor));
        if !done {
            self.expect(self.ring.borrow().start());
        }
        self.space.notify_one();
    }

    /// Keeps output from `offset` on for a reader that may come back within [`RETURN`].
    pub fn expect(&self, offset: u64) {
        self.awaited.set(Some((offset, Instant::now() + RETURN)));
    }

    /// Until when the output is held back for a reader that is away; `None` when none is awaited.
    pub fn patience(&self) -> Option<Instant> {
        self.awaited.get().map(|(_, until)| until)
    }

    /// The earliest byte that some reader, attached or awaited, has not taken.
    pub fn unread(&self) -> Option<u64> {
        let awaited = self
            .awaited
            .get()
            .filter(|(_, until)| *until > Instant::now())
            .map(|(offset, _)| offset);
        let readers = self.readers.borrow();
        readers
            .iter()
            .map(|cursor| cursor.get())
            .chain(awaited)
            .min()
    }

    /// Whether `incoming` bytes can be kept without taking unread ones from a reader.
    pub fn has_room(&self, incoming: usize) -> bool {
        self.unread()
            .is_none_or(|cursor| self.ring.borrow().has_room(cursor, incoming))
    }

    /// Kills the process and everything it started.
    pub fn kill(&self) {
        let killed = match &*self.cgroup.borrow() {
            Some(cgroup) => cgroup.kill().is_ok(),
            None => false,
        };
        if !killed && self.outcome.borrow().is_none() {
            let _ = self.signal(Signal::KILL);
        }
    }

    /// Sends `signal` to the process's group.
    ///
    /// # Errors
    /// `not_found` when the group is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let gone = || Error::not_found(format!("process {} has ended", self.pid));
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(gone)?;
        rustix::process::kill_process_group(pid, signal).map_err(|_| gone())
    }

    /// Notes its end; gives back its cgroup for removal.
    pub fn finish(&self, outcome: Outcome) -> Option<Cgroup> {
        *self.outcome.borrow_mut() = Some(outcome);
        self.news.send_replace(());
        self.cgroup.borrow_mut().take()
    }

    /// Whether any of its output is still open.
    pub fn is_open(&self) -> bool {
        !self.sources.borrow().is_empty()
    }

    /// Where its cgroup is, if it has one.
    pub fn cgroup_path(&self) -> Option<std::path::PathBuf> {
        self.cgroup
            .borrow()
            .as_ref()
            .map(|cgroup| cgroup.path().to_owned())
    }
}
