//! A digest of a large, mostly empty file that does not read its holes.
//!
//! The digest is BLAKE3 over the file's length and, for every 64 KiB chunk that is not all zeros, the chunk's number
//! and its own BLAKE3; all numbers little-endian u64. Whether a zero chunk is a hole or written out makes no difference.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use serde::Serialize;

use crate::capture::is_zero;
use crate::failure::{Failure, Result};

const CHUNK: u64 = 64 * 1024;

/// What was read.
#[derive(Serialize)]
pub struct DigestReport {
    /// `blake3-sparse:` and 64 hexadecimal digits.
    pub digest: String,
    /// Length of the file.
    pub bytes: u64,
    /// Bytes of chunks that are not all zeros.
    pub data_bytes: u64,
}

/// The digest of the file at `path`.
pub fn digest_file(path: &Path) -> Result<DigestReport> {
    let unreadable = |error| Failure::from_io("read the file", error);
    let file = File::open(path).map_err(unreadable)?;
    let bytes = file.metadata().map_err(unreadable)?.len();
    let mut whole = blake3::Hasher::new();
    whole.update(&bytes.to_le_bytes());
    let mut buffer = vec![0; CHUNK as usize];
    let (mut position, mut data_bytes) = (0, 0);
    while let Some(offset) = next_data(&file, position, bytes)? {
        let chunk = offset / CHUNK;
        let begin = chunk * CHUNK;
        let part = &mut buffer[..(bytes - begin).min(CHUNK) as usize];
        file.read_exact_at(part, begin).map_err(unreadable)?;
        if !is_zero(part) {
            whole.update(&chunk.to_le_bytes());
            whole.update(blake3::hash(part).as_bytes());
            data_bytes += part.len() as u64;
        }
        position = begin + part.len() as u64;
    }
    Ok(DigestReport {
        digest: format!("blake3-sparse:{}", whole.finalize().to_hex()),
        bytes,
        data_bytes,
    })
}

fn next_data(file: &File, position: u64, end: u64) -> Result<Option<u64>> {
    if position >= end {
        return Ok(None);
    }
    match seek(file, SeekFrom::Data(position)) {
        Ok(offset) => Ok(Some(offset)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(Failure::from_io("look for holes in the file", error.into())),
    }
}
