//! Watches as clients use them: streamed (`WatchDir`) or kept here and polled (`CreateWatcher`).

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    io,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream as AsyncStream, stream::unfold};
use serde_json::json;
use tokio::{
    task::{JoinHandle, spawn_local},
    time::Instant,
};

use super::watch::{Event, Watch};
use crate::{
    connect::{end_of_stream, message},
    error::{Code, Error, Result},
    process::events::at,
};

/// Watches of both kinds at once.
const MAX_WATCHES: usize = 256;
/// Events kept for a client that polls.
const MAX_EVENTS: usize = 16_384;

/// All watches of the sandbox.
#[derive(Default)]
pub struct Watchers {
    polled: RefCell<HashMap<String, Rc<Polled>>>,
    used: Rc<Cell<usize>>,
    next_id: Cell<u64>,
}

/// A reserved place among the watches.
pub struct Place(Rc<Cell<usize>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

struct Polled {
    watch: Watch,
    events: RefCell<VecDeque<Event>>,
    trouble: RefCell<Option<Error>>,
    task: RefCell<Option<JoinHandle<()>>>,
    _place: Place,
}

impl Polled {
    fn keep(&self, events: Result<Vec<Event>>) {
        match events {
            Ok(events) => self.events.borrow_mut().extend(events),
            Err(error) => *self.trouble.borrow_mut() = Some(error),
        }
        let mut kept = self.events.borrow_mut();
        if kept.len() > MAX_EVENTS {
            let surplus = kept.len() - MAX_EVENTS;
            kept.drain(..surplus);
            let text = format!("{surplus} events or more were lost: fetch them more often");
            *self.trouble.borrow_mut() = Some(Error::new(Code::DataLoss, text));
        }
    }
}

impl Watchers {
    /// Reserves a place for one more watch.
    ///
    /// # Errors
    /// `resource_exhausted` when there are too many.
    pub fn reserve(&self) -> Result<Place> {
        if self.used.get() >= MAX_WATCHES {
            return Err(Error::new(
                Code::ResourceExhausted,
                format!("{MAX_WATCHES} directories are watched already: stop watching some"),
            ));
        }
        self.used.set(self.used.get() + 1);
        Ok(Place(self.used.clone()))
    }

    /// Keeps a watch for polling; answers its id.
    pub fn add(&self, watch: Watch, place: Place) -> String {
        self.next_id.set(self.next_id.get() + 1);
        let id = format!("w{}", self.next_id.get());
        let polled = Rc::new(Polled {
            watch,
            events: RefCell::default(),
            trouble: RefCell::default(),
            task: RefCell::default(),
            _place: place,
        });
        // New directories must be watched soon after they appear, whether or not the client polls.
        let reader = Rc::downgrade(&polled);
        let task = spawn_local(async move {
            while let Some(polled) = reader.upgrade() {
                let events = polled.watch.next().await;
                let broken = events
                    .as_ref()
                    .is_err_and(|error| error.code != Code::DataLoss);
                polled.keep(events);
                if broken {
                    return;
                }
            }
        });
        *polled.task.borrow_mut() = Some(task);
        self.polled.borrow_mut().insert(id.clone(), polled);
        id
    }

    /// Takes what has happened since the last time.
    ///
    /// # Errors
    /// `not_found`; `data_loss` once after events were lost.
    pub async fn take(&self, id: &str) -> Result<Vec<Event>> {
        let polled = self
            .polled
            .borrow()
            .get(id)
            .cloned()
            .ok_or_else(|| unknown(id))?;
        let latest = polled.watch.drain().await;
        polled.keep(latest);
        if let Some(error) = polled.trouble.borrow_mut().take() {
            return Err(error);
        }
        Ok(polled.events.borrow_mut().drain(..).collect())
    }

    /// Ends a watch.
    ///
    /// # Errors
    /// `not_found`.
    pub fn remove(&self, id: &str) -> Result<()> {
        let polled = self
            .polled
            .borrow_mut()
            .remove(id)
            .ok_or_else(|| unknown(id))?;
        // The task holds the watch while it waits.
        if let Some(task) = polled.task.borrow_mut().take() {
            task.abort();
        }
        Ok(())
    }
}

fn unknown(id: &str) -> Error {
    Error::not_found(format!("watcher '{id}' does not exist"))
}

/// The body of a `WatchDir` answer: `start`, then events as they come.
pub fn follow(
    watch: Watch,
    place: Place,
    keepalive: Option<Duration>,
    until: Option<Instant>,
) -> impl AsyncStream<Item = io::Result<Bytes>> {
    let follower = Follower {
        watch,
        _place: place,
        keepalive,
        until,
        started: false,
        over: false,
    };
    unfold(follower, |mut follower| async move {
        Some((Ok(follower.next().await?), follower))
    })
}

struct Follower {
    watch: Watch,
    _place: Place,
    keepalive: Option<Duration>,
    until: Option<Instant>,
    started: bool,
    over: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let mut out = Vec::new();
        if !self.started {
            self.started = true;
            message(&mut out, &json!({ "start": {} }));
            return Some(out.into());
        }
        let idle_until = self.keepalive.map(|interval| Instant::now() + interval);
        tokio::select! {
            events = self.watch.next() => match events {
                Ok(events) => events.iter().for_each(|event| message(&mut out, &json!({ "filesystem": event }))),
                Err(error) => self.end(&mut out, &error),
            },
            () = at(idle_until) => message(&mut out, &json!({ "keepalive": {} })),
            () = at(self.until) => {
                self.end(&mut out, &Error::new(Code::DeadlineExceeded, "the deadline of this watch passed"));
            }
        }
        Some(out.into())
    }

    fn end(&mut self, out: &mut Vec<u8>, error: &Error) {
        self.over = true;
        end_of_stream(out, Some(error));
    }
}
