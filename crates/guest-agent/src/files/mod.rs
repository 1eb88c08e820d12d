//! `/files`: contents in and out, streamed, with the user's own rights.

pub mod compose;
pub mod download;
pub mod granted;
pub mod metadata;
pub mod multipart;
pub mod sink;
pub mod upload;
