//! What runs, and the handle through which everything else deals with a process.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use rustix::process::{Pid, Signal};
use tokio::sync::{Mutex, Notify, watch};

use super::{
    cgroup::Cgroup,
    messages::{ProcessConfig, ProcessInfo, Selector},
    ring::Ring,
};
use crate::{
    error::{Code, Error, Result},
    watched::Watched,
};

/// Processes that may run at once.
pub const MAX_PROCESSES: usize = 4096;
/// Output kept for each process, in bytes; less when many run.
pub const RING_BYTES: usize = 1 << 20;
/// Output kept for all running processes together, unless their number makes the least share exceed it.
const ALL_RINGS_BYTES: usize = 64 << 20;
/// The least share: twice what is read at once.
const LEAST_RING_BYTES: usize = 128 << 10;
/// Ended processes whose last output can still be fetched, and how many bytes of it in all.
const FINISHED: usize = 32;
const FINISHED_BYTES: usize = 8 << 20;

/// How a process ended.
#[derive(Clone, Debug)]
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
    /// The terminal's master, when it has one.
    pub terminal: Option<Rc<Watched>>,
    /// The writing end of its stdin; a lock so that writers queue and a close comes after them.
    pub stdin: Mutex<Option<Rc<Watched>>>,
    /// Told when a reader took output away.
    pub space: Notify,
    /// Ticks whenever there is news for readers; they subscribe.
    pub news: watch::Sender<()>,
    cgroup: RefCell<Option<Cgroup>>,
    outcome: RefCell<Option<Outcome>>,
    readers: RefCell<Vec<Rc<Cell<u64>>>>,
}

impl Process {
    /// A handle for a process just started.
    pub fn new(
        pid: u32,
        tag: Option<String>,
        config: ProcessConfig,
        cgroup: Option<Cgroup>,
        stdin: Option<Rc<Watched>>,
        terminal: Option<Rc<Watched>>,
    ) -> Self {
        Self {
            pid,
            tag,
            config,
            ring: RefCell::new(Ring::new(RING_BYTES)),
            terminal,
            stdin: Mutex::new(stdin),
            space: Notify::new(),
            news: watch::Sender::new(()),
            cgroup: RefCell::new(cgroup),
            outcome: RefCell::new(None),
            readers: RefCell::default(),
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
        cursor
    }

    /// Counts a reader out.
    pub fn detach(&self, cursor: &Rc<Cell<u64>>) {
        self.readers
            .borrow_mut()
            .retain(|other| !Rc::ptr_eq(other, cursor));
        self.space.notify_one();
    }

    /// Whether `incoming` bytes can be kept without taking unread ones from an attached reader.
    pub fn has_room(&self, incoming: usize) -> bool {
        let ring = self.ring.borrow();
        self.readers
            .borrow()
            .iter()
            .all(|cursor| ring.has_room(cursor.get(), incoming))
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

    fn finish(&self, outcome: Outcome) -> Option<Cgroup> {
        *self.outcome.borrow_mut() = Some(outcome);
        self.news.send_replace(());
        self.cgroup.borrow_mut().take()
    }
}

/// All processes of the sandbox that clients started.
#[derive(Default)]
pub struct Registry {
    live: RefCell<BTreeMap<u32, Rc<Process>>>,
    finished: RefCell<VecDeque<Rc<Process>>>,
    starting: Cell<usize>,
    next_id: Cell<u64>,
}

impl Registry {
    /// Reserves a place for one more process; hold it until [`Registry::add`].
    ///
    /// # Errors
    /// `resource_exhausted` at [`MAX_PROCESSES`].
    pub fn reserve(self: &Rc<Self>) -> Result<Place> {
        if self.live.borrow().len() + self.starting.get() >= MAX_PROCESSES {
            return Err(Error::new(
                Code::ResourceExhausted,
                format!(
                    "{MAX_PROCESSES} processes are running already: wait for some to end or kill them"
                ),
            ));
        }
        self.starting.set(self.starting.get() + 1);
        self.next_id.set(self.next_id.get() + 1);
        Ok(Place {
            registry: self.clone(),
            id: self.next_id.get(),
        })
    }

    /// Makes a started process known.
    pub fn add(&self, process: Rc<Process>) {
        self.live.borrow_mut().insert(process.pid, process);
    }

    /// Notes the end of a process; gives back its cgroup for removal.
    pub fn finish(&self, process: &Rc<Process>, outcome: Outcome) -> Option<Cgroup> {
        let mut live = self.live.borrow_mut();
        if live
            .get(&process.pid)
            .is_some_and(|known| Rc::ptr_eq(known, process))
        {
            live.remove(&process.pid);
        }
        let mut finished = self.finished.borrow_mut();
        finished.push_back(process.clone());
        let mut kept: usize = finished
            .iter()
            .map(|process| process.ring.borrow().len())
            .sum();
        while finished.len() > FINISHED || (kept > FINISHED_BYTES && finished.len() > 1) {
            if let Some(oldest) = finished.pop_front() {
                kept -= oldest.ring.borrow().len();
            }
        }
        process.finish(outcome)
    }

    /// The running process a client means.
    ///
    /// # Errors
    /// `not_found`, or `invalid_argument` for a selector that selects nothing.
    pub fn find(&self, selector: Option<&Selector>) -> Result<Rc<Process>> {
        let live = self.live.borrow();
        match selector {
            Some(Selector { pid: Some(pid), .. }) => u32::try_from(*pid)
                .ok()
                .and_then(|pid| live.get(&pid).cloned())
                .ok_or_else(|| Error::not_found(format!("process with pid {pid} not found"))),
            Some(Selector { tag: Some(tag), .. }) => live
                .values()
                .find(|process| process.tag.as_ref() == Some(tag))
                .cloned()
                .ok_or_else(|| Error::not_found(format!("process with tag '{tag}' not found"))),
            _ => Err(Error::invalid(
                "the request names no process: give 'process' with 'pid' or 'tag'",
            )),
        }
    }

    /// As [`Registry::find`], but a process that ended a moment ago is found as well, so that a client whose
    /// connection broke can still fetch the rest of its output.
    ///
    /// # Errors
    /// As [`Registry::find`].
    pub fn find_or_finished(&self, selector: Option<&Selector>) -> Result<Rc<Process>> {
        self.find(selector).or_else(|error| {
            let matches = |process: &&Rc<Process>| match selector {
                Some(Selector { pid: Some(pid), .. }) => u64::from(process.pid) == *pid,
                Some(Selector { tag: Some(tag), .. }) => process.tag.as_ref() == Some(tag),
                _ => false,
            };
            self.finished
                .borrow()
                .iter()
                .rev()
                .find(matches)
                .cloned()
                .ok_or(error)
        })
    }

    /// The bytes of output each running process may keep.
    pub fn ring_share(&self) -> usize {
        (ALL_RINGS_BYTES / self.live.borrow().len().max(1)).clamp(LEAST_RING_BYTES, RING_BYTES)
    }

    /// Every running process.
    pub fn list(&self) -> Vec<ProcessInfo> {
        let info = |process: &Rc<Process>| ProcessInfo {
            config: process.config.clone(),
            pid: process.pid,
            tag: process.tag.clone(),
        };
        self.live.borrow().values().map(info).collect()
    }
}

/// A reserved place in the registry, and a number no other process has.
pub struct Place {
    registry: Rc<Registry>,
    /// Unique for the life of the agent.
    pub id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.registry.starting.set(self.registry.starting.get() - 1);
    }
}
