//! `GET /files`: a file's content, in full or one range of it, streamed.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    time::SystemTime,
};

use bytes::Bytes;
use futures_util::stream::unfold;
use hyper::{Method, Request, StatusCode, body::Incoming, header};
use tokio::sync::mpsc;

use crate::{
    agent::Shared,
    as_user, auth,
    error::{Error, Result},
    http::{self, Answer, header_text, query_value},
    paths,
};

/// Read at once and handed on, in bytes.
const CHUNK: usize = 256 << 10;
/// Chunks read ahead of the network.
const IN_FLIGHT: usize = 3;

/// Answers the file's bytes.
///
/// # Errors
/// 400 for a directory or device, 401 for an unknown user, 403, 404 as the path deserves.
pub async fn answer(agent: &Shared, request: Request<Incoming>) -> Result<Answer> {
    let user = auth::file_user(agent, &request)?;
    let base = agent.settings.borrow().base(&user).to_owned();
    let path = query_value(&request, "path").unwrap_or_default();
    let path = paths::resolve(&path, &user, &base)?;
    let wanted = header_text(&request, header::RANGE.as_str()).map(str::to_owned);
    let head = request.method() == Method::HEAD;

    let opened = as_user::run(&user, move || Opened::new(&path, wanted.as_deref(), head)).await?;
    let mut answer = match opened.content {
        Content::Small(bytes) => http::with_type(
            StatusCode::OK,
            "application/octet-stream",
            http::full(bytes),
        ),
        Content::File(file) => {
            http::with_type(StatusCode::OK, "application/octet-stream", read_ahead(file))
        }
    };
    let headers = answer.headers_mut();
    headers.insert(
        header::ACCEPT_RANGES,
        header::HeaderValue::from_static("bytes"),
    );
    if let Some(modified) = http_date(opened.modified) {
        headers.insert(header::LAST_MODIFIED, modified);
    }
    match opened.span {
        Span::Unknown => {}
        Span::Whole(size) => {
            headers.insert(header::CONTENT_LENGTH, size.into());
        }
        Span::Part {
            start,
            length,
            size,
        } => {
            headers.insert(header::CONTENT_LENGTH, length.into());
            let range = format!("bytes {start}-{}/{size}", start + length - 1);
            headers.extend(
                header::HeaderValue::from_str(&range).map(|range| (header::CONTENT_RANGE, range)),
            );
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Span::Outside(size) => {
            let range = format!("bytes */{size}");
            headers.extend(
                header::HeaderValue::from_str(&range).map(|range| (header::CONTENT_RANGE, range)),
            );
            *answer.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
        }
    }
    Ok(answer)
}

/// What part of a file is sent.
#[derive(Debug, PartialEq, Eq)]
enum Span {
    /// The kernel does not tell the size (files of /proc).
    Unknown,
    Whole(u64),
    Part {
        start: u64,
        length: u64,
        size: u64,
    },
    /// The range asked for lies behind the end.
    Outside(u64),
}

impl Span {
    /// Where to begin and how many bytes to send.
    fn extent(&self) -> (u64, u64) {
        match *self {
            Self::Unknown => (0, u64::MAX),
            Self::Whole(size) => (0, size),
            Self::Part { start, length, .. } => (start, length),
            Self::Outside(_) => (0, 0),
        }
    }
}

enum Content {
    Small(Bytes),
    File(io::Take<File>),
}

struct Opened {
    content: Content,
    span: Span,
    modified: SystemTime,
}

impl Opened {
    fn new(path: &str, wanted: Option<&str>, head: bool) -> Result<Self> {
        let wrong = |error: io::Error| Error::from_io(&error, path);
        // Without O_NONBLOCK a pipe nobody writes to would hold the thread for ever.
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(wrong)?;
        let found = file.metadata().map_err(wrong)?;
        if found.is_dir() {
            return Err(Error::invalid(format!("path '{path}' is a directory")));
        }
        if !found.is_file() {
            return Err(Error::invalid(format!(
                "path '{path}' is not a regular file"
            )));
        }
        let modified = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let span = match found.len() {
            0 => Span::Unknown,
            size => wanted.map_or(Span::Whole(size), |wanted| range(wanted, size)),
        };
        let (start, length) = span.extent();
        if start > 0 {
            file.seek(SeekFrom::Start(start)).map_err(wrong)?;
        }
        let mut file = file.take(if head { 0 } else { length });
        let mut first = Vec::new();
        if length <= CHUNK as u64 || span == Span::Unknown {
            file.by_ref()
                .take(CHUNK as u64)
                .read_to_end(&mut first)
                .map_err(wrong)?;
            // An empty file, or all of a small one: known in full after all.
            if first.len() < CHUNK || first.len() as u64 == length {
                let span = if span == Span::Unknown {
                    Span::Whole(first.len() as u64)
                } else {
                    span
                };
                return Ok(Self {
                    content: Content::Small(first.into()),
                    span,
                    modified,
                });
            }
            file.get_mut().seek(SeekFrom::Start(start)).map_err(wrong)?;
            file.set_limit(length);
        }
        Ok(Self {
            content: Content::File(file),
            span,
            modified,
        })
    }
}

/// Reads on a thread of its own, a few chunks ahead of the client.
fn read_ahead(mut file: io::Take<File>) -> http::ResponseBody {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(IN_FLIGHT);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            let read = file.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
            let item = match read {
                Ok(0) => return,
                Ok(_) => Ok(chunk.into()),
                Err(error) => Err(error),
            };
            let failed = item.is_err();
            // A client that left has dropped the receiver.
            if sender.blocking_send(item).is_err() || failed {
                return;
            }
        }
    });
    http::streamed(unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    }))
}

/// Understands one range of bytes; anything else means the whole file, as the standard allows.
fn range(text: &str, size: u64) -> Span {
    let Some((first, last)) = text
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return Span::Whole(size);
    };
    let (start, end) = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(start), Ok(last)) if start <= last => (start, last.saturating_add(1).min(size)),
        (Ok(start), Err(_)) if last.trim().is_empty() => (start, size),
        (Err(_), Ok(suffix)) if first.trim().is_empty() => (size.saturating_sub(suffix), size),
        _ => return Span::Whole(size),
    };
    if start >= end {
        Span::Outside(size)
    } else {
        Span::Part {
            start,
            length: end - start,
            size,
        }
    }
}

fn http_date(moment: SystemTime) -> Option<header::HeaderValue> {
    let moment = time::OffsetDateTime::from(moment);
    let text = format!(
        "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
        &moment.weekday().to_string()[..3],
        moment.day(),
        &moment.month().to_string()[..3],
        moment.year(),
        moment.hour(),
        moment.minute(),
        moment.second()
    );
    header::HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn understands_ranges() {
        let part = |start, length| Span::Part {
            start,
            length,
            size: 100,
        };
        for (text, expected) in [
            ("bytes=0-9", part(0, 10)),
            ("bytes=90-", part(90, 10)),
            ("bytes=-5", part(95, 5)),
            ("bytes=0-999", part(0, 100)),
            ("bytes=100-", Span::Outside(100)),
            ("bytes=5-2", Span::Whole(100)),
            ("bytes=0-1,5-6", Span::Whole(100)),
            ("lines=1-2", Span::Whole(100)),
        ] {
            assert_eq!(range(text, 100), expected, "{text}");
        }
    }

    #[test]
    fn writes_dates() {
        let date =
            http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)).expect("valid");
        assert_eq!(date, "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
