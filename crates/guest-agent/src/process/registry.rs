//! What runs, and what has run a moment ago.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use super::{
    cgroup::Cgroup,
    handle::{Outcome, Process},
    messages::{ProcessInfo, Selector},
    pump::Leftover,
};
use crate::error::{Code, Error, Result};

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

/// All processes of the sandbox that clients started.
#[derive(Default)]
pub struct Registry {
    live: RefCell<BTreeMap<u32, Rc<Process>>>,
    finished: RefCell<VecDeque<Rc<Process>>>,
    leftovers: RefCell<Vec<Rc<Leftover>>>,
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

    /// Every process: those that run, then those that ended a moment ago, oldest first.
    pub fn all(&self) -> (Vec<Rc<Process>>, Vec<Rc<Process>>) {
        (
            self.live.borrow().values().cloned().collect(),
            self.finished.borrow().iter().cloned().collect(),
        )
    }

    /// Takes over a process of this agent's predecessor that has ended already.
    pub fn add_finished(&self, process: Rc<Process>) {
        self.finished.borrow_mut().push_back(process);
    }

    /// Pipes that daemons hold open after the end of the process that started them.
    pub fn leftovers(&self) -> Vec<Rc<Leftover>> {
        self.leftovers.borrow().clone()
    }

    /// Remembers such pipes.
    pub fn keep(&self, leftover: Rc<Leftover>) {
        self.leftovers.borrow_mut().push(leftover);
    }

    /// Forgets such pipes: nobody holds them any more.
    pub fn forget(&self, leftover: &Rc<Leftover>) {
        self.leftovers
            .borrow_mut()
            .retain(|kept| !Rc::ptr_eq(kept, leftover));
    }

    /// Whether a process is between the request for it and its first moment.
    pub fn is_starting(&self) -> bool {
        self.starting.get() > 0
    }

    /// The number of the process started last.
    pub fn last_id(&self) -> u64 {
        self.next_id.get()
    }

    /// Goes on counting where a predecessor stopped.
    pub fn count_from(&self, last: u64) {
        self.next_id.set(last);
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
