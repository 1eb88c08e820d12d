//! The last part of a process's output, addressed by byte offset from its start.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Where output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// The stdout pipe.
    Stdout,
    /// The stderr pipe.
    Stderr,
    /// The terminal, where both are one.
    Pty,
}

impl Stream {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Pty => "pty",
        }
    }
}

struct Chunk {
    offset: u64,
    stream: Stream,
    data: Bytes,
}

/// Bounded in bytes and in pieces; the oldest pieces make room.
pub struct Ring {
    chunks: VecDeque<Chunk>,
    end: u64,
    bytes: usize,
    max_bytes: usize,
    max_chunks: usize,
}

impl Ring {
    /// A ring of at most `max_bytes` bytes.
    pub fn new(max_bytes: usize) -> Self {
        // A piece costs some 48 bytes besides its data: with pieces of 256 bytes the overhead stays below a fifth.
        Self {
            chunks: VecDeque::new(),
            end: 0,
            bytes: 0,
            max_bytes,
            max_chunks: max_bytes / 256,
        }
    }

    /// Puts an empty ring behind `offset` bytes that are kept no more.
    pub fn start_at(&mut self, offset: u64) {
        self.end = offset;
    }

    /// Sets new bounds; what is beyond them goes with the next push.
    pub fn limit(&mut self, max_bytes: usize) {
        self.max_bytes = max_bytes;
        self.max_chunks = max_bytes / 256;
    }

    /// Offset of the oldest byte kept.
    pub fn start(&self) -> u64 {
        self.chunks.front().map_or(self.end, |chunk| chunk.offset)
    }

    /// Offset after the newest byte.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends a piece, dropping the oldest ones beyond the bounds.
    pub fn push(&mut self, stream: Stream, data: Bytes) {
        self.bytes += data.len();
        let offset = self.end;
        self.end += data.len() as u64;
        self.chunks.push_back(Chunk {
            offset,
            stream,
            data,
        });
        while self.chunks.len() > 1
            && (self.bytes > self.max_bytes || self.chunks.len() > self.max_chunks)
        {
            if let Some(oldest) = self.chunks.pop_front() {
                self.bytes -= oldest.data.len();
            }
        }
    }

    /// Whether `incoming` more bytes can be pushed without dropping anything at or after `cursor`.
    pub fn has_room(&self, cursor: u64, incoming: usize) -> bool {
        let unread = usize::try_from(self.end.saturating_sub(cursor)).unwrap_or(usize::MAX);
        unread + incoming <= self.max_bytes
            && self.chunks.len() - self.index(cursor) < self.max_chunks
    }

    /// Pieces from `cursor` on, about `max` bytes of them, and the offset to go on from.
    pub fn read(&self, cursor: u64, max: usize) -> (Vec<(Stream, Bytes)>, u64) {
        let mut next = cursor.max(self.start());
        let mut taken = 0;
        let mut pieces = Vec::new();
        for chunk in self.chunks.iter().skip(self.index(next)) {
            if taken >= max {
                break;
            }
            let skip = usize::try_from(next - chunk.offset).unwrap_or(0);
            let data = chunk.data.slice(skip..);
            taken += data.len();
            next += data.len() as u64;
            pieces.push((chunk.stream, data));
        }
        (pieces, next)
    }

    /// The place of the piece that holds `cursor`, or of the first one after it.
    fn index(&self, cursor: u64) -> usize {
        self.chunks
            .partition_point(|chunk| chunk.offset + chunk.data.len() as u64 <= cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ring: &Ring, cursor: u64) -> (String, u64) {
        let (pieces, next) = ring.read(cursor, usize::MAX);
        (
            pieces
                .iter()
                .map(|(_, data)| String::from_utf8_lossy(data).into_owned())
                .collect(),
            next,
        )
    }

    #[test]
    fn replays_from_any_offset() {
        let mut ring = Ring::new(4096);
        ring.push(Stream::Stdout, Bytes::from_static(b"hello "));
        ring.push(Stream::Stderr, Bytes::from_static(b"world"));
        assert_eq!(text(&ring, 0), ("hello world".into(), 11));
        assert_eq!(text(&ring, 4), ("o world".into(), 11));
        assert_eq!(text(&ring, 6), ("world".into(), 11));
        assert_eq!(text(&ring, 11), (String::new(), 11));
        assert_eq!(ring.read(0, 1).0.len(), 1);
    }

    #[test]
    fn drops_the_oldest_and_says_when_it_would() {
        let mut ring = Ring::new(1024);
        for round in 0..10u8 {
            ring.push(Stream::Stdout, Bytes::from(vec![round; 200]));
        }
        assert!(ring.len() <= 1024);
        assert_eq!((ring.start(), ring.end()), (1200, 2000));
        assert_eq!(ring.read(0, usize::MAX).1, 2000);
        assert!(ring.has_room(2000, 1024));
        assert!(!ring.has_room(1200, 1024));
    }

    #[test]
    fn bounds_the_number_of_pieces() {
        let mut ring = Ring::new(2560);
        for _ in 0..100 {
            ring.push(Stream::Pty, Bytes::from_static(b"x"));
        }
        assert_eq!((ring.start(), ring.end()), (90, 100));
        assert!(!ring.has_room(90, 1));
        assert!(ring.has_room(95, 1));
    }
}
