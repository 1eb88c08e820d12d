//! A client's view of a process: `start`, then `data` from the ring as it comes, `keepalive` when idle, then `end`.

use std::{cell::Cell, io, rc::Rc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::{Stream as AsyncStream, stream::unfold};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    handle::{Outcome, Process},
    ring::Stream,
};
use crate::{
    connect::{end_of_stream, envelope, message},
    error::{Code, Error},
};

/// Output put into one chunk of the response, in bytes before base64.
const BATCH: usize = 64 << 10;

/// How a follower wants to be served.
#[derive(Clone, Copy, Default)]
pub struct Following {
    /// Interval of signs of life on an idle stream.
    pub keepalive: Option<Duration>,
    /// When this stream (not the process) is over.
    pub until: Option<Instant>,
    /// Whether the process's own deadline is the client's: it then sees `deadline_exceeded` instead of `end`.
    pub owns_deadline: bool,
}

/// Follows `process` from byte `offset` of its output on, as a body of a streaming answer.
///
/// While a follower is attached the process is held back when it does not keep up; dropping the stream lets go.
pub fn follow(
    process: Rc<Process>,
    offset: u64,
    following: Following,
) -> impl AsyncStream<Item = io::Result<Bytes>> {
    let follower = Follower::new(process, offset, following);
    unfold(follower, |mut follower| async move {
        Some((Ok(follower.next().await?), follower))
    })
}

struct Follower {
    process: Rc<Process>,
    cursor: Rc<Cell<u64>>,
    news: watch::Receiver<()>,
    following: Following,
    stage: Stage,
}

enum Stage {
    Start,
    Data,
    Over,
}

impl Follower {
    fn new(process: Rc<Process>, offset: u64, following: Following) -> Self {
        let first = process.ring.borrow().start();
        let end = process.ring.borrow().end();
        let cursor = process.attach(offset.clamp(first, end));
        let news = process.news.subscribe();
        Self {
            process,
            cursor,
            news,
            following,
            stage: Stage::Start,
        }
    }

    /// The next chunk, `None` after the last.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        match self.stage {
            Stage::Over => return None,
            Stage::Start => {
                self.stage = Stage::Data;
                let start = serde_json::json!({ "pid": self.process.pid, "offset": self.cursor.get().to_string() });
                message(
                    &mut out,
                    &serde_json::json!({ "event": { "start": start } }),
                );
                return Some(out.into());
            }
            Stage::Data => {}
        }
        let idle_until = self
            .following
            .keepalive
            .map(|interval| Instant::now() + interval);
        loop {
            self.news.borrow_and_update();
            let (pieces, next) = self.process.ring.borrow().read(self.cursor.get(), BATCH);
            if !pieces.is_empty() {
                pieces
                    .iter()
                    .for_each(|(stream, data)| data_event(&mut out, *stream, data));
                self.cursor.set(next);
                self.process.space.notify_one();
                return Some(out.into());
            }
            if let Some(outcome) = self.process.outcome() {
                self.stage = Stage::Over;
                end(&mut out, &outcome, self.following.owns_deadline);
                return Some(out.into());
            }
            tokio::select! {
                _ = self.news.changed() => {}
                () = at(idle_until) => {
                    message(&mut out, &serde_json::json!({ "event": { "keepalive": {} } }));
                    return Some(out.into());
                }
                () = at(self.following.until) => {
                    self.stage = Stage::Over;
                    let error = Error::new(Code::DeadlineExceeded, "the deadline of this connection passed; the process goes on");
                    end_of_stream(&mut out, Some(&error));
                    return Some(out.into());
                }
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let done = matches!(self.stage, Stage::Over) || self.process.outcome().is_some();
        self.process.detach(&self.cursor, done);
    }
}

/// Waits for a moment, for ever when there is none.
pub async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Written by hand: this is the path every byte of output takes.
fn data_event(out: &mut Vec<u8>, stream: Stream, data: &[u8]) {
    envelope(out, |out| {
        out.extend_from_slice(b"{\"event\":{\"data\":{\"");
        out.extend_from_slice(stream.name().as_bytes());
        out.extend_from_slice(b"\":\"");
        let start = out.len();
        out.resize(start + data.len().div_ceil(3) * 4, 0);
        // The space reserved is exactly what the encoding takes.
        let written = BASE64_STANDARD
            .encode_slice(data, &mut out[start..])
            .unwrap_or(0);
        out.truncate(start + written);
        out.extend_from_slice(b"\"}}}");
    });
}

fn end(out: &mut Vec<u8>, outcome: &Outcome, owns_deadline: bool) {
    if outcome.timed_out && owns_deadline {
        let text = "the process ran into its deadline and was killed with everything it started";
        return end_of_stream(out, Some(&Error::new(Code::DeadlineExceeded, text)));
    }
    let mut event = serde_json::json!({
        "exitCode": outcome.exit_code,
        "exited": outcome.exited,
        "status": outcome.status,
    });
    if let Some(error) = &outcome.error {
        event["error"] = error.as_str().into();
    }
    message(out, &serde_json::json!({ "event": { "end": event } }));
    end_of_stream(out, None);
}

/// The text for a wait status: what ended the process, and how.
pub fn outcome(code: Option<i32>, signal: Option<i32>, core: bool, timed_out: bool) -> Outcome {
    let (exit_code, status) = match (code, signal) {
        (Some(code), _) => (code, format!("exit status {code}")),
        (None, signal) => {
            let name = signal_name(signal.unwrap_or_default());
            (
                -1,
                format!("signal: {name}{}", if core { " (core dumped)" } else { "" }),
            )
        }
    };
    let error = (exit_code != 0).then(|| status.clone());
    Outcome {
        exit_code,
        exited: code.is_some(),
        status,
        error,
        timed_out,
    }
}

fn signal_name(number: i32) -> String {
    let known = match number {
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGQUIT => "quit",
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGUSR1 => "user defined signal 1",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGUSR2 => "user defined signal 2",
        libc::SIGPIPE => "broken pipe",
        libc::SIGALRM => "alarm clock",
        libc::SIGTERM => "terminated",
        other => return format!("signal {other}"),
    };
    known.to_owned()
}
