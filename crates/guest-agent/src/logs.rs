//! The sandbox's log: the latest output of every process, told as lines.
//!
//! Output is kept as it came, sharing memory with the processes' rings, and cut into lines only when somebody reads:
//! a process that prints pays nothing for it.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    io,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::{Stream as AsyncStream, stream::unfold};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::watch;

use crate::{agent::Shared, process::ring::Stream};

/// Bytes kept, the bookkeeping of each piece included.
const CAPACITY: usize = 2 << 20;
/// What a piece costs besides its data.
const OVERHEAD: usize = 96;
/// A longer line is told in several.
const MAX_LINE: usize = 64 << 10;

/// Output as it came, or the end of a process's output.
#[derive(Clone)]
pub struct Piece {
    /// When, in nanoseconds since 1970.
    pub nanos: u128,
    /// Whose.
    pub pid: u32,
    /// `None` marks the end of the process's output.
    pub output: Option<(Stream, Bytes)>,
}

impl Piece {
    fn cost(&self) -> usize {
        OVERHEAD + self.output.as_ref().map_or(0, |(_, data)| data.len())
    }
}

/// Bounded memory of what was printed.
pub struct Logs {
    pieces: RefCell<VecDeque<Piece>>,
    cost: Cell<usize>,
    /// Number of the oldest piece kept; pieces are numbered from zero.
    first: Cell<u64>,
    news: watch::Sender<()>,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            pieces: RefCell::default(),
            cost: Cell::default(),
            first: Cell::default(),
            news: watch::Sender::new(()),
        }
    }
}

impl Logs {
    /// Notes output of a process.
    pub fn output(&self, pid: u32, stream: Stream, data: Bytes) {
        self.push(pid, Some((stream, data)));
    }

    /// Notes that a process prints no more, so that its last line counts as whole.
    pub fn ended(&self, pid: u32) {
        self.push(pid, None);
    }

    fn push(&self, pid: u32, output: Option<(Stream, Bytes)>) {
        let nanos = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        self.keep(Piece { nanos, pid, output });
    }

    /// Everything kept, oldest first.
    pub fn pieces(&self) -> Vec<Piece> {
        self.pieces.borrow().iter().cloned().collect()
    }

    /// Appends a piece; the oldest make room.
    pub fn keep(&self, piece: Piece) {
        let mut pieces = self.pieces.borrow_mut();
        let mut cost = self.cost.get() + piece.cost();
        pieces.push_back(piece);
        while cost > CAPACITY {
            let Some(oldest) = pieces.pop_front() else {
                break;
            };
            cost -= oldest.cost();
            self.first.set(self.first.get() + 1);
        }
        self.cost.set(cost);
        self.news.send_replace(());
    }

    /// Up to `max` pieces from number `from` on, and the number after the last.
    fn read(&self, from: u64, max: usize) -> (Vec<Piece>, u64) {
        let pieces = self.pieces.borrow();
        let from = from.max(self.first.get());
        let skip = usize::try_from(from - self.first.get()).unwrap_or(usize::MAX);
        let taken: Vec<Piece> = pieces.iter().skip(skip).take(max).cloned().collect();
        let next = from + taken.len() as u64;
        (taken, next)
    }
}

/// What part of the log is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// Lines of stdout and of terminals.
    pub stdout: bool,
    /// Lines of stderr.
    pub stderr: bool,
    /// Go on with new lines as they come.
    pub follow: bool,
    /// Begin with only so many of the lines kept.
    pub tail: Option<usize>,
}

impl Selection {
    fn wants(self, stream: Stream) -> bool {
        match stream {
            Stream::Stderr => self.stderr,
            Stream::Stdout | Stream::Pty => self.stdout,
        }
    }
}

/// The log as newline-delimited JSON, `{"time","pid","stream","line"}` each.
pub fn tell(agent: Shared, selection: Selection) -> impl AsyncStream<Item = io::Result<Bytes>> {
    let news = agent.logs.news.subscribe();
    let teller = Teller {
        agent,
        news,
        selection,
        next: 0,
        lines: Lines::default(),
        stage: Stage::Backlog,
    };
    unfold(teller, |mut teller| async move {
        Some((Ok(teller.next().await?), teller))
    })
}

struct Teller {
    agent: Shared,
    news: watch::Receiver<()>,
    selection: Selection,
    next: u64,
    lines: Lines,
    stage: Stage,
}

enum Stage {
    Backlog,
    Live,
    Over,
}

impl Teller {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.stage {
                Stage::Over => return None,
                Stage::Backlog => {
                    let mut told = VecDeque::new();
                    self.take(&mut told);
                    if self.selection.follow {
                        self.stage = Stage::Live;
                    } else {
                        self.lines.flush_all(&mut told);
                        self.stage = Stage::Over;
                    }
                    told.retain(|line| self.selection.wants(line.stream));
                    let skip = self
                        .selection
                        .tail
                        .map_or(0, |tail| told.len().saturating_sub(tail));
                    let bytes = render(told.into_iter().skip(skip));
                    if !bytes.is_empty() {
                        return Some(bytes);
                    }
                }
                Stage::Live => {
                    // The sender lives as long as the agent does, which this task holds.
                    let _ = self.news.changed().await;
                    let mut told = VecDeque::new();
                    self.take(&mut told);
                    told.retain(|line| self.selection.wants(line.stream));
                    let bytes = render(told.into_iter());
                    if !bytes.is_empty() {
                        return Some(bytes);
                    }
                }
            }
        }
    }

    /// Cuts everything not yet seen into lines.
    fn take(&mut self, told: &mut VecDeque<Line>) {
        self.news.borrow_and_update();
        loop {
            let (pieces, next) = self.agent.logs.read(self.next, 256);
            self.next = next;
            if pieces.is_empty() {
                return;
            }
            for piece in pieces {
                self.lines.feed(&piece, told);
            }
        }
    }
}

fn render(lines: impl Iterator<Item = Line>) -> Bytes {
    let mut out = Vec::new();
    for line in lines {
        let text = json!({
            "time": rfc3339(line.nanos),
            "pid": line.pid,
            "stream": line.stream.name(),
            "line": String::from_utf8_lossy(&line.text),
        });
        out.extend_from_slice(text.to_string().as_bytes());
        out.push(b'\n');
    }
    out.into()
}

/// A moment in nanoseconds since 1970, as text.
fn rfc3339(nanos: u128) -> String {
    i128::try_from(nanos)
        .ok()
        .and_then(|nanos| OffsetDateTime::from_unix_timestamp_nanos(nanos).ok())
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_default()
}

struct Line {
    nanos: u128,
    pid: u32,
    stream: Stream,
    text: Vec<u8>,
}

/// Lines under construction, one for each stream of each process.
#[derive(Default)]
struct Lines {
    open: HashMap<(u32, Stream), (u128, Vec<u8>)>,
}

impl Lines {
    fn feed(&mut self, piece: &Piece, told: &mut VecDeque<Line>) {
        let Some((stream, data)) = &piece.output else {
            for stream in [Stream::Stdout, Stream::Stderr, Stream::Pty] {
                self.flush(piece.pid, stream, told);
            }
            return;
        };
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            let (whole, part) = match part.strip_suffix(b"\n") {
                Some(part) => (true, part),
                None => (false, part),
            };
            for slice in part.chunks(MAX_LINE).chain(part.is_empty().then_some(part)) {
                let (_, text) = self
                    .open
                    .entry((piece.pid, *stream))
                    .or_insert_with(|| (piece.nanos, Vec::new()));
                if text.len() + slice.len() > MAX_LINE {
                    self.flush(piece.pid, *stream, told);
                }
                let (_, text) = self
                    .open
                    .entry((piece.pid, *stream))
                    .or_insert_with(|| (piece.nanos, Vec::new()));
                text.extend_from_slice(slice);
            }
            if whole {
                self.flush(piece.pid, *stream, told);
            }
        }
    }

    fn flush(&mut self, pid: u32, stream: Stream, told: &mut VecDeque<Line>) {
        if let Some((nanos, mut text)) = self.open.remove(&(pid, stream)) {
            if text.last() == Some(&b'\r') {
                text.pop();
            }
            told.push_back(Line {
                nanos,
                pid,
                stream,
                text,
            });
        }
    }

    fn flush_all(&mut self, told: &mut VecDeque<Line>) {
        let keys: Vec<_> = self.open.keys().copied().collect();
        for (pid, stream) in keys {
            self.flush(pid, stream, told);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[(u32, Option<&[u8]>)]) -> Vec<(u32, String)> {
        let mut lines = Lines::default();
        let mut told = VecDeque::new();
        for (pid, data) in pieces {
            let output = data.map(|data| (Stream::Stdout, Bytes::copy_from_slice(data)));
            lines.feed(
                &Piece {
                    nanos: 0,
                    pid: *pid,
                    output,
                },
                &mut told,
            );
        }
        lines.flush_all(&mut told);
        told.into_iter()
            .map(|line| (line.pid, String::from_utf8_lossy(&line.text).into_owned()))
            .collect()
    }

    #[test]
    fn joins_pieces_into_lines() {
        let told = cut(&[
            (1, Some(b"ab")),
            (2, Some(b"x\n\ny")),
            (1, Some(b"c\r\n\xff")),
            (2, None),
        ]);
        let expected = [(2, "x"), (2, ""), (1, "abc"), (2, "y"), (1, "\u{fffd}")];
        assert_eq!(told, expected.map(|(pid, line)| (pid, line.to_owned())));
    }

    #[test]
    fn splits_endless_lines() {
        let told = cut(&[(1, Some(&vec![b'a'; MAX_LINE * 2 + 5])), (1, Some(b"b\n"))]);
        let lengths: Vec<usize> = told.iter().map(|(_, line)| line.len()).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, 6]);
    }

    #[test]
    fn stays_bounded() {
        let logs = Logs::default();
        for _ in 0..10_000 {
            logs.output(1, Stream::Stdout, Bytes::from(vec![b'x'; 1000]));
        }
        assert!(logs.cost.get() <= CAPACITY);
        let (_, next) = logs.read(0, usize::MAX);
        assert_eq!(next, 10_000);
    }
}
