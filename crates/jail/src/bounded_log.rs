//! A log file that never exceeds its bound, whatever is poured into it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Appends; when the bound would be passed, the newest half is moved to the front and the rest is cut off.
///
/// A reader always finds at least half a bound of the newest output (once there was as much), at no cost but one
/// copy of half the bound for every half that is written.
pub struct BoundedLog {
    file: File,
    length: u64,
    max_bytes: u64,
}

impl BoundedLog {
    /// Makes an empty log, readable for its owner only.
    pub fn create(path: &Path, max_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        Ok(Self {
            file,
            length: 0,
            max_bytes,
        })
    }

    /// Adds `bytes`, dropping the oldest output as needed.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = usize::try_from(self.max_bytes / 2).unwrap_or(usize::MAX);
        for chunk in bytes.chunks(room.max(1)) {
            if self.length + chunk.len() as u64 > self.max_bytes {
                self.drop_oldest()?;
            }
            self.file.write_all_at(chunk, self.length)?;
            self.length += chunk.len() as u64;
        }
        Ok(())
    }

    fn drop_oldest(&mut self) -> io::Result<()> {
        let kept = self.length.min(self.max_bytes / 2);
        let mut newest = vec![0; usize::try_from(kept).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut newest, self.length - kept)?;
        self.file.write_all_at(&newest, 0)?;
        self.file.set_len(kept)?;
        self.length = kept;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(path: &Path) -> Vec<u8> {
        std::fs::read(path).expect("readable")
    }

    #[test]
    fn short_output_is_kept_whole() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("log");
        let mut log = BoundedLog::create(&path, 100).expect("created");
        log.append(b"hello ").expect("appended");
        log.append(b"world").expect("appended");
        assert_eq!(content(&path), b"hello world");
    }

    #[test]
    fn the_bound_holds_and_the_newest_survives() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("log");
        let mut log = BoundedLog::create(&path, 100).expect("created");
        for number in 0..1000 {
            log.append(format!("{number}\n").as_bytes())
                .expect("appended");
            assert!(content(&path).len() <= 100);
        }
        let text = String::from_utf8(content(&path)).expect("text");
        assert!(text.len() >= 50 && text.ends_with("998\n999\n"), "{text}");
    }

    #[test]
    fn one_write_larger_than_the_bound_keeps_its_end() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("log");
        let mut log = BoundedLog::create(&path, 10).expect("created");
        log.append(b"0123456789abcdefghijklm").expect("appended");
        assert!(content(&path).len() <= 10);
        assert!(content(&path).ends_with(b"jklm"));
    }
}
