//! From the state that a predecessor left to an agent that goes on.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io,
    os::fd::{AsFd, OwnedFd, RawFd},
    rc::Rc,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{net::TcpListener, task::spawn_local, time::Instant};

use super::{
    carrier::{Carried, duplicate},
    program,
    save::descriptors,
    state::{FORMAT, Outlet, SavedProcess},
};
use crate::{
    agent::{Agent, Config, Shared},
    error::Error,
    logs::Piece,
    process::{
        cgroup::Cgroup,
        handle::{Parts, Process},
        pump::{self, Leftover, Source},
    },
    server::Side,
    watched::{Watched, watched},
};

/// An agent with everything its predecessor had, which nothing has been read of yet.
pub struct Inherited {
    /// The agent.
    pub agent: Shared,
    /// The sockets it serves.
    pub listeners: Vec<(Side, TcpListener)>,
    originals: Vec<RawFd>,
}

/// Takes over what the state in descriptor `number` names. Changes nothing: what it opens are copies.
///
/// # Errors
/// `InvalidData` for a state that this build does not understand, else the kernel's.
pub fn take_over(config: &Config, number: RawFd) -> io::Result<Inherited> {
    let carried = Carried::read(number)?;
    let state = &carried.state;
    if state.format != FORMAT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "the state has format {}, this build knows format {FORMAT}",
                state.format
            ),
        ));
    }
    let agent = Agent::new(config, state.birthright)?;
    agent.set_digest(state.digest.clone());
    agent.settings.replace(state.settings.clone());
    agent.processes.count_from(state.last_id);
    for saved in &state.running {
        agent.processes.add(Rc::new(process(saved, &carried)?));
    }
    for saved in &state.finished {
        agent
            .processes
            .add_finished(Rc::new(process(saved, &carried)?));
    }
    for saved in &state.leftovers {
        let leftover = Leftover {
            pid: saved.pid,
            sources: sources(&saved.outlets, &mut Shelf::default())?.into(),
        };
        agent.processes.keep(Rc::new(leftover));
    }
    if let Some(root) = &agent.cgroups {
        root.keep_leftover(state.cgroups.clone());
    }
    log(&agent, &carried);
    let mut listeners = Vec::new();
    for listener in &state.listeners {
        let socket = std::net::TcpListener::from(duplicate(listener.fd)?);
        listeners.push((listener.side, TcpListener::from_std(socket)?));
    }
    let mut originals = descriptors(state);
    originals.push(number);
    let own = |fd| duplicate(fd).map_err(|error| Error::internal(error.to_string()));
    agent
        .watchers
        .resume(carried.state.watchers, own)
        .map_err(|error| io::Error::other(error.message))?;
    Ok(Inherited {
        agent,
        listeners,
        originals,
    })
}

/// Executes the predecessor, which goes on with what it had; comes back only when that fails too.
pub fn give_back(config: &Config, number: RawFd, why: &io::Error) -> io::Error {
    let back = || -> io::Result<io::Error> {
        let state = Carried::read(number)?.state;
        let mut inherited = descriptors(&state);
        inherited.push(number);
        let (carrier, why) = (number.to_string(), why.to_string());
        let more = ["--inherit", &carrier, "--refused", &why].map(OsStr::new);
        let program = duplicate(state.predecessor)?;
        Ok(program::execute(program::command(
            &config.arguments,
            program.as_fd(),
            &more,
            inherited,
        )))
    };
    let failure = back().unwrap_or_else(|error| error);
    io::Error::other(format!(
        "cannot take over ({why}), nor give back ({failure})"
    ))
}

impl Inherited {
    /// Goes on: from here on there is no way back to the predecessor.
    pub fn begin(self) -> (Shared, Vec<(Side, TcpListener)>) {
        for number in self.originals {
            // SAFETY: every one of them was handed to this process by number, and no part of it owns them.
            unsafe { libc::close(number) };
        }
        let (running, _) = self.agent.processes.all();
        for process in running {
            spawn_local(pump::run(self.agent.clone(), process));
        }
        for leftover in self.agent.processes.leftovers() {
            spawn_local(pump::drain(self.agent.clone(), leftover));
        }
        (self.agent, self.listeners)
    }
}

/// Descriptors by their number in the state: a terminal has one for both directions.
type Shelf = BTreeMap<RawFd, Rc<Watched>>;

fn shelved(shelf: &mut Shelf, number: RawFd) -> io::Result<Rc<Watched>> {
    if let Some(known) = shelf.get(&number) {
        return Ok(known.clone());
    }
    let fd = Rc::new(watched(duplicate(number)?)?);
    shelf.insert(number, fd.clone());
    Ok(fd)
}

fn sources(outlets: &[Outlet], shelf: &mut Shelf) -> io::Result<Vec<Source>> {
    outlets
        .iter()
        .map(|outlet| {
            Ok(Source {
                stream: outlet.stream,
                fd: shelved(shelf, outlet.fd)?,
            })
        })
        .collect()
}

fn process(saved: &SavedProcess, carried: &Carried) -> io::Result<Process> {
    let mut shelf = Shelf::default();
    let mut open =
        |number: Option<RawFd>| number.map(|number| shelved(&mut shelf, number)).transpose();
    let (stdin, terminal) = (open(saved.stdin)?, open(saved.terminal)?);
    let process = Process::new(Parts {
        pid: saved.pid,
        tag: saved.tag.clone(),
        config: saved.config.clone(),
        // A group that is gone had nobody in it.
        cgroup: saved
            .cgroup
            .clone()
            .and_then(|path| Cgroup::open(path).ok()),
        stdin,
        terminal,
        sources: sources(&saved.outlets, &mut shelf)?,
        pidfd: match saved.outcome {
            Some(_) => None,
            None => Some(watched(pidfd(saved.pid)?)?),
        },
        deadline: saved
            .remaining_ms
            .map(|left| Instant::now() + Duration::from_millis(left)),
    });
    process.timed_out.set(saved.timed_out);
    let mut data = carried.data(saved.data);
    let mut ring = process.ring.borrow_mut();
    ring.start_at(saved.start);
    for (stream, length) in &saved.pieces {
        let length = usize::try_from(*length).unwrap_or(usize::MAX);
        // Copied: a slice would keep all that was carried in memory for as long as the last piece of it.
        let piece = data.split_to(length.min(data.len()));
        ring.push(*stream, bytes::Bytes::copy_from_slice(&piece));
    }
    drop(ring);
    if let Some(outcome) = &saved.outcome {
        process.finish(outcome.clone());
    } else if let Some(offset) = saved.unread {
        process.expect(offset);
    }
    Ok(process)
}

/// A new one, since this process's children are the predecessor's and none of them has been waited for.
fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn log(agent: &Agent, carried: &Carried) {
    let mut data = carried.data(carried.state.log_data);
    for saved in &carried.state.log {
        let output = saved.output.map(|(stream, length)| {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let piece = data.split_to(length.min(data.len()));
            (stream, bytes::Bytes::copy_from_slice(&piece))
        });
        agent.logs.keep(Piece {
            nanos: saved.nanos.into(),
            pid: saved.pid,
            output,
        });
    }
}
