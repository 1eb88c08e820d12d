//! Everything the agent knows, as the state it hands over.

use std::{
    os::fd::{OwnedFd, RawFd},
    rc::Rc,
};

use super::{
    carrier::{Data, number},
    state::{FORMAT, Listener, Outlet, SavedLeftover, SavedLog, SavedProcess, State},
};
use crate::{
    agent::Agent,
    as_user::AtWork,
    process::{
        cgroup,
        handle::Process,
        pump::{Leftover, Source},
    },
};

/// Collects everything, for a successor with this digest. `None` while something is under way that must not be cut off.
///
/// Does not wait: no task runs between this and the execution of the successor.
pub fn save(agent: &Agent, digest: &str, predecessor: &OwnedFd) -> Option<(State, Data)> {
    if AtWork::any() || agent.processes.is_starting() {
        return None;
    }
    let mut data = Data::default();
    let (running, finished) = agent.processes.all();
    let mut processes = |processes: &[Rc<Process>]| {
        processes
            .iter()
            .map(|process| save_process(process, &mut data))
            .collect::<Option<Vec<_>>>()
    };
    let (running, finished) = (processes(&running)?, processes(&finished)?);
    let pieces = agent.logs.pieces();
    let log = pieces.iter().map(|piece| SavedLog {
        nanos: u64::try_from(piece.nanos).unwrap_or(u64::MAX),
        pid: piece.pid,
        output: piece
            .output
            .as_ref()
            .map(|(stream, data)| (*stream, data.len() as u64)),
    });
    let log: Vec<SavedLog> = log.collect();
    let log_data = data.add(pieces.into_iter().filter_map(|piece| Some(piece.output?.1)));
    let listeners = agent.listeners.borrow();
    let state = State {
        format: FORMAT,
        digest: digest.to_owned(),
        predecessor: number(predecessor),
        listeners: listeners
            .iter()
            .map(|(side, fd)| Listener {
                side: *side,
                fd: number(fd),
            })
            .collect(),
        settings: agent.settings.borrow().clone(),
        birthright: agent.birthright,
        last_id: agent.processes.last_id(),
        running,
        finished,
        leftovers: agent
            .processes
            .leftovers()
            .iter()
            .map(|leftover| save_leftover(leftover))
            .collect(),
        cgroups: agent
            .cgroups
            .as_ref()
            .map(cgroup::Root::leftover)
            .unwrap_or_default(),
        watchers: agent.watchers.save()?,
        log,
        log_data,
    };
    Some((state, data))
}

/// Every descriptor a state names.
pub fn descriptors(state: &State) -> Vec<RawFd> {
    let outlets = |outlets: &[Outlet]| outlets.iter().map(|outlet| outlet.fd).collect::<Vec<_>>();
    let mut all = vec![state.predecessor];
    all.extend(state.listeners.iter().map(|listener| listener.fd));
    for process in &state.running {
        all.extend(outlets(&process.outlets));
        all.extend(process.stdin);
        all.extend(process.terminal);
    }
    for leftover in &state.leftovers {
        all.extend(outlets(&leftover.outlets));
    }
    all.extend(state.watchers.polled.iter().map(|polled| polled.watch.fd));
    all.sort_unstable();
    all.dedup();
    all
}

fn save_process(process: &Process, data: &mut Data) -> Option<SavedProcess> {
    let ring = process.ring.borrow();
    let (pieces, _) = ring.read(0, usize::MAX);
    let lengths = pieces
        .iter()
        .map(|(stream, data)| (*stream, data.len() as u64));
    let ended = process.outcome().is_some();
    // Held only while input is being written, by a connection that has ended by now.
    let stdin = process.stdin.try_lock().ok()?;
    Some(SavedProcess {
        pid: process.pid,
        tag: process.tag.clone(),
        config: process.config.clone(),
        cgroup: process.cgroup_path(),
        stdin: stdin
            .as_ref()
            .filter(|_| !ended)
            .map(|fd| number(fd.get_ref())),
        terminal: process
            .terminal
            .borrow()
            .as_ref()
            .filter(|_| !ended)
            .map(|fd| number(fd.get_ref())),
        outlets: save_outlets(&process.sources.borrow()),
        remaining_ms: process.deadline.get().map(|deadline| {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
        }),
        timed_out: process.timed_out.get(),
        unread: process.unread(),
        start: ring.start(),
        pieces: lengths.collect(),
        data: data.add(pieces.into_iter().map(|(_, data)| data)),
        outcome: process.outcome(),
    })
}

fn save_leftover(leftover: &Leftover) -> SavedLeftover {
    SavedLeftover {
        pid: leftover.pid,
        outlets: save_outlets(&leftover.sources.borrow()),
    }
}

fn save_outlets(sources: &[Source]) -> Vec<Outlet> {
    let save = |source: &Source| Outlet {
        stream: source.stream,
        fd: number(source.fd.get_ref()),
    };
    sources.iter().map(save).collect()
}
