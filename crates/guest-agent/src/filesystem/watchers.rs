//! Watches as clients use them: streamed (`WatchDir`) or kept here and polled (`CreateWatcher`).

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    io,
    os::fd::{OwnedFd, RawFd},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream as AsyncStream, stream::unfold};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    task::{JoinHandle, spawn_local},
    time::Instant,
};

use super::watch::{self, Event, Watch};
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

/// The polled watches on their way from one build of the agent to the next.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Saved {
    last_id: u64,
    /// Each of them.
    pub polled: Vec<SavedWatcher>,
}

/// One of them.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct SavedWatcher {
    id: String,
    /// The watch itself.
    pub watch: watch::Saved,
    events: Vec<Value>,
}

struct Polled {
    watch: Watch,
    /// As they are told: what a predecessor of the agent saw is told as it told it.
    events: RefCell<VecDeque<Value>>,
    trouble: RefCell<Option<Error>>,
    task: RefCell<Option<JoinHandle<()>>>,
    _place: Place,
}

impl Polled {
    fn keep(&self, events: Result<Vec<Event>>) {
        match events {
            Ok(events) => {
                let told = events.iter().map(|event| json!(event));
                self.events.borrow_mut().extend(told);
            }
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
        self.poll(id.clone(), watch, place, VecDeque::new());
        id
    }

    fn poll(&self, id: String, watch: Watch, place: Place, events: VecDeque<Value>) {
        let polled = Rc::new(Polled {
            watch,
            events: RefCell::new(events),
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
        self.polled.borrow_mut().insert(id, polled);
    }

    /// The polled watches, for a successor of the agent; `None` while one of them is being worked with.
    pub fn save(&self) -> Option<Saved> {
        let one = |(id, polled): (&String, &Rc<Polled>)| {
            Some(SavedWatcher {
                id: id.clone(),
                watch: polled.watch.save()?,
                events: polled.events.borrow().iter().cloned().collect(),
            })
        };
        Some(Saved {
            last_id: self.next_id.get(),
            polled: self
                .polled
                .borrow()
                .iter()
                .map(one)
                .collect::<Option<_>>()?,
        })
    }

    /// Goes on with the watches of a predecessor; `own` gives the descriptor that a number stands for.
    ///
    /// # Errors
    /// `internal` when one of them cannot be taken over.
    pub fn resume(&self, saved: Saved, own: impl Fn(RawFd) -> Result<OwnedFd>) -> Result<()> {
        self.next_id.set(saved.last_id);
        for SavedWatcher { id, watch, events } in saved.polled {
            let fd = own(watch.fd)?;
            self.poll(
                id,
                Watch::resume(watch, fd)?,
                self.reserve()?,
                events.into(),
            );
        }
        Ok(())
    }

    /// Takes what has happened since the last time.
    ///
    /// # Errors
    /// `not_found`; `data_loss` once after events were lost.
    pub async fn take(&self, id: &str) -> Result<Vec<Value>> {
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
