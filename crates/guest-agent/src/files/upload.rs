//! `POST /files`: one file as `application/octet-stream` (gzip allowed) or any number as `multipart/form-data`.
//!
//! The body flows chunk by chunk through a short channel to a blocking thread that acts as the user; memory stays
//! flat whatever the size.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::{Request, StatusCode, body::Incoming, header};
use serde::Serialize;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinHandle,
    time::timeout,
};

use super::{
    metadata::{self, Metadata},
    multipart,
    sink::Sink,
};
use crate::{
    agent::Shared,
    as_user, auth,
    error::{Code, Error, Result},
    http::{self, Answer, header_text, query_value},
    paths,
    user::User,
};

/// Chunks on their way between network and disk.
const IN_FLIGHT: usize = 8;
/// How long a client may send nothing in the middle of an upload.
const IDLE: Duration = Duration::from_secs(300);
/// How long a refused upload may go on before its connection is closed.
const DISCARD: Duration = Duration::from_secs(60);

/// One file that was written.
#[derive(Debug, Serialize)]
pub struct Written {
    /// Last component of the path.
    pub name: String,
    /// Always `file`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The absolute path.
    pub path: String,
    /// What was sent along.
    #[serde(skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
}

/// Stores the request's file or files and answers what was written.
///
/// # Errors
/// 400 for a bad path or body, 401 for an unknown user, 403, 404, 413, 507 as the path deserves.
pub async fn answer(agent: &Shared, request: Request<Incoming>) -> Result<Answer> {
    let user = auth::file_user(agent, &request)?;
    let metadata = metadata::from_headers(request.headers())?;
    let base = agent.settings.borrow().base(&user).to_owned();
    let path = query_value(&request, "path").filter(|path| !path.is_empty());
    let path = path
        .map(|path| paths::resolve(&path, &user, &base))
        .transpose()?;
    let kind = header_text(&request, header::CONTENT_TYPE.as_str())
        .unwrap_or_default()
        .to_owned();
    let gzip = match header_text(&request, header::CONTENT_ENCODING.as_str()) {
        None | Some("" | "identity") => false,
        Some("gzip") => true,
        Some(other) => {
            return Err(unsupported(format!(
                "content encoding '{other}': use gzip or none"
            )));
        }
    };

    let body = Body::new(request.into_body());
    let stored = store(&body, &kind, gzip, user, &base, path, metadata).await;
    if stored.is_err() {
        body.discard().await;
    }
    Ok(http::json(StatusCode::OK, &stored?))
}

async fn store(
    body: &Body,
    kind: &str,
    gzip: bool,
    user: User,
    base: &str,
    path: Option<String>,
    metadata: Metadata,
) -> Result<Vec<Written>> {
    if let Ok(boundary) = multer::parse_boundary(kind) {
        if gzip {
            return Err(unsupported(
                "a compressed multipart body: send application/octet-stream".into(),
            ));
        }
        return multipart::store(body.clone(), boundary, &user, base, path, metadata).await;
    }
    if !kind.is_empty() && !kind.starts_with("application/octet-stream") {
        let text =
            format!("content type '{kind}': use multipart/form-data or application/octet-stream");
        return Err(unsupported(text));
    }
    let path = path.ok_or_else(|| {
        Error::invalid("an application/octet-stream upload needs the query 'path'")
    })?;
    let transfer = Transfer::begin(user, path, metadata, gzip);
    while let Some(data) = body
        .next()
        .await
        .map_err(|error| Error::invalid(format!("the upload broke off: {error}")))?
    {
        if !transfer.send(data).await {
            break;
        }
    }
    Ok(vec![transfer.finish().await?])
}

/// The body of an upload; clones share it.
#[derive(Clone)]
pub struct Body(Arc<Mutex<Incoming>>);

impl Body {
    fn new(body: Incoming) -> Self {
        Self(Arc::new(Mutex::new(body)))
    }

    /// The next bytes, `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks or the client is silent for [`IDLE`].
    pub async fn next(&self) -> io::Result<Option<Bytes>> {
        let mut body = self.0.lock().await;
        match timeout(IDLE, body.frame()).await {
            Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Ok(None) => Ok(None),
            Err(_) => Err(io::Error::other("no data came for five minutes")),
        }
    }

    /// Reads the rest for nothing: a client that is still sending would take a closed connection for the answer.
    async fn discard(&self) {
        let rest = async { while let Ok(Some(_)) = self.next().await {} };
        let _ = timeout(DISCARD, rest).await;
    }
}

/// A file being written on its own thread.
pub struct Transfer {
    chunks: mpsc::Sender<Chunk>,
    writer: JoinHandle<Result<Written>>,
}

enum Chunk {
    Data(Bytes),
    /// Only this makes the file real: a channel that just closes is an upload that broke off.
    Whole,
}

impl Transfer {
    /// Begins to write `path` as `user`.
    pub fn begin(user: User, path: String, metadata: Metadata, gzip: bool) -> Self {
        let (chunks, receiver) = mpsc::channel(IN_FLIGHT);
        let writer = tokio::task::spawn_local(async move {
            as_user::run(&user, move || write(receiver, path, metadata, gzip)).await
        });
        Self { chunks, writer }
    }

    /// Hands a chunk over; `false` when the writer gave up and [`Transfer::finish`] tells why.
    pub async fn send(&self, data: Bytes) -> bool {
        self.chunks.send(Chunk::Data(data)).await.is_ok()
    }

    /// Declares the upload whole and waits until it is in place.
    ///
    /// # Errors
    /// What the writer met.
    pub async fn finish(self) -> Result<Written> {
        // A writer that gave up has closed its end; its result says more.
        let _ = self.chunks.send(Chunk::Whole).await;
        self.writer
            .await
            .unwrap_or_else(|_| Err(Error::internal("the upload stopped unexpectedly")))
    }
}

fn write(
    mut chunks: mpsc::Receiver<Chunk>,
    path: String,
    metadata: Metadata,
    gzip: bool,
) -> Result<Written> {
    let mut target = if gzip {
        Target::Gzip(Box::new(MultiGzDecoder::new(Sink::open(&path, metadata)?)))
    } else {
        Target::Plain(Sink::open(&path, metadata)?)
    };
    loop {
        match chunks.blocking_recv() {
            Some(Chunk::Data(data)) => target.write(&data)?,
            Some(Chunk::Whole) => break,
            None => return Err(Error::invalid("the upload broke off")),
        }
    }
    let metadata = target.finish()?;
    Ok(Written {
        name: paths::name(&path).to_owned(),
        kind: "file",
        path,
        metadata,
    })
}

enum Target {
    Plain(Sink),
    Gzip(Box<MultiGzDecoder<Sink>>),
}

impl Target {
    fn write(&mut self, data: &[u8]) -> Result<()> {
        match self {
            Self::Plain(sink) => sink.write_all(data).map_err(|error| sink.wrong(&error)),
            Self::Gzip(decoder) => decoder
                .write_all(data)
                .map_err(|error| broken(&error, decoder.get_ref())),
        }
    }

    fn finish(self) -> Result<Metadata> {
        match self {
            Self::Plain(sink) => sink.finish(),
            Self::Gzip(mut decoder) => {
                decoder
                    .try_finish()
                    .map_err(|error| broken(&error, decoder.get_ref()))?;
                decoder
                    .finish()
                    .map_err(|error| {
                        Error::invalid(format!("the body is not valid gzip: {error}"))
                    })?
                    .finish()
            }
        }
    }
}

/// Tells broken compression from a failing disk.
fn broken(error: &io::Error, sink: &Sink) -> Error {
    if error.raw_os_error().is_some() {
        sink.wrong(error)
    } else {
        Error::invalid(format!("the body is not valid gzip: {error}"))
    }
}

fn unsupported(what: String) -> Error {
    Error::with_status(Code::InvalidArgument, 415, format!("not supported: {what}"))
}
