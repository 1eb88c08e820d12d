//! The Connect protocol with its JSON codec: unary calls, server streams, client streams.
//!
//! A stream is a sequence of envelopes: one flag byte, a big-endian 32-bit length, that many bytes of JSON. Flag 2
//! marks the last envelope, which carries `{}` or the error the stream ended with.

use std::{io, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::Stream;
use http_body_util::BodyExt;
use hyper::{Request, StatusCode, body::Incoming, header};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{Code, Error, Result},
    http::{self, Answer, MAX_JSON},
};

const STREAM_TYPE: &str = "application/connect+json";
const END_OF_STREAM: u8 = 2;
const COMPRESSED: u8 = 1;
const HEADER: usize = 5;

/// Appends one message envelope to `out`; `write` puts the JSON there.
pub fn envelope(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    write(out);
    // An envelope is built from bounded parts (64 KiB of output, one listing), so the length fits 32 bits.
    let length = u32::try_from(out.len() - start - HEADER).unwrap_or(u32::MAX);
    out[start + 1..start + HEADER].copy_from_slice(&length.to_be_bytes());
}

/// Appends one serialised message to `out`.
pub fn message(out: &mut Vec<u8>, value: &impl Serialize) {
    envelope(out, |out| {
        // Writing to memory fails only for types that cannot be JSON, of which there are none here.
        let _ = serde_json::to_writer(out, value);
    });
}

/// Appends the envelope that ends a stream.
pub fn end_of_stream(out: &mut Vec<u8>, error: Option<&Error>) {
    let start = out.len();
    match error {
        None => message(out, &serde_json::json!({})),
        Some(error) => {
            message(
                out,
                &serde_json::json!({ "error": { "code": error.code.name(), "message": error.message } }),
            );
        }
    }
    out[start] = END_OF_STREAM;
}

/// The answer to a unary call.
pub fn unary<T: Serialize>(result: Result<T>) -> Answer {
    match result {
        Ok(value) => http::json(StatusCode::OK, &value),
        Err(error) => unary_error(&error),
    }
}

/// A failed unary call.
pub fn unary_error(error: &Error) -> Answer {
    let status =
        StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    http::json(
        status,
        &serde_json::json!({ "code": error.code.name(), "message": error.message }),
    )
}

/// A server stream whose items are whole runs of envelopes.
pub fn stream(chunks: impl Stream<Item = io::Result<Bytes>> + 'static) -> Answer {
    http::with_type(StatusCode::OK, STREAM_TYPE, http::streamed(chunks))
}

/// A stream that ends at once, with an error or with one message.
pub fn short_stream(result: Result<serde_json::Value>) -> Answer {
    let mut out = Vec::new();
    match result {
        Ok(value) => {
            message(&mut out, &value);
            end_of_stream(&mut out, None);
        }
        Err(error) => end_of_stream(&mut out, Some(&error)),
    }
    http::with_type(StatusCode::OK, STREAM_TYPE, http::full(out))
}

/// Whether a call's content type fits; `streaming` tells which of the two it must be.
pub fn accepts(request: &Request<Incoming>, streaming: bool) -> bool {
    let given = http::header_text(request, header::CONTENT_TYPE.as_str()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(if streaming {
        STREAM_TYPE
    } else {
        "application/json"
    })
}

/// Reads the message of a unary call.
///
/// # Errors
/// `invalid_argument` for broken JSON, `resource_exhausted` for too much of it, `unimplemented` for a compressed body.
pub async fn read_unary<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T> {
    refuse_compression(&request, header::CONTENT_ENCODING.as_str())?;
    parse(&http::read_body(request).await?)
}

/// Reads the single message of a server-stream call.
///
/// # Errors
/// As [`read_unary`], and `invalid_argument` when no message came.
pub async fn read_one<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T> {
    let mut messages = Messages::new(request)?;
    match messages.next().await? {
        Some(bytes) => parse(&bytes),
        None => Err(Error::invalid("the request stream carried no message")),
    }
}

/// Parses one message; unknown fields are ignored, an empty body is an empty message.
///
/// # Errors
/// `invalid_argument` with the place where the JSON is wrong.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(bytes)
        .map_err(|error| Error::invalid(format!("the request is not valid JSON: {error}")))
}

/// The deadline the client set for the call, if any.
///
/// # Errors
/// `invalid_argument` when the header is not a number of milliseconds.
pub fn timeout(request: &Request<Incoming>) -> Result<Option<Duration>> {
    let Some(text) = http::header_text(request, "connect-timeout-ms") else {
        return Ok(None);
    };
    match text.trim().parse::<u64>() {
        // Ten digits is the protocol's bound; it also keeps the sum with the clock in range.
        Ok(ms) if text.trim().len() <= 10 => Ok((ms > 0).then(|| Duration::from_millis(ms))),
        _ => Err(Error::invalid(
            "Connect-Timeout-Ms must be a whole number of milliseconds of at most ten digits",
        )),
    }
}

/// How often the client wants a sign of life on an idle stream, if it asked for one.
pub fn keepalive(request: &Request<Incoming>) -> Option<Duration> {
    let seconds = http::header_text(request, "keepalive-ping-interval")?
        .trim()
        .parse::<u64>()
        .ok()?;
    (1..=86_400)
        .contains(&seconds)
        .then(|| Duration::from_secs(seconds))
}

/// The messages of a client stream, each at most [`MAX_JSON`] bytes.
pub struct Messages {
    body: Incoming,
    buffer: BytesMut,
}

impl Messages {
    /// Takes over the body of a streaming call.
    ///
    /// # Errors
    /// `unimplemented` when the stream is compressed.
    pub fn new(request: Request<Incoming>) -> Result<Self> {
        refuse_compression(&request, "connect-content-encoding")?;
        Ok(Self {
            body: request.into_body(),
            buffer: BytesMut::new(),
        })
    }

    /// The next message, `None` at the end of the stream.
    ///
    /// # Errors
    /// `invalid_argument` when the stream breaks off inside an envelope, `resource_exhausted` when one is too large.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.buffer.len() >= HEADER {
                let flags = self.buffer[0];
                let length = u32::from_be_bytes([
                    self.buffer[1],
                    self.buffer[2],
                    self.buffer[3],
                    self.buffer[4],
                ]);
                let length = length as usize;
                if length > MAX_JSON {
                    return Err(Error::new(
                        Code::ResourceExhausted,
                        format!(
                            "a message of {length} bytes is larger than the limit of {MAX_JSON}"
                        ),
                    ));
                }
                if flags & COMPRESSED != 0 {
                    return Err(Error::new(
                        Code::Unimplemented,
                        "compressed messages are not supported",
                    ));
                }
                if self.buffer.len() >= HEADER + length {
                    self.buffer.advance(HEADER);
                    let message = self.buffer.split_to(length).freeze();
                    if flags & END_OF_STREAM != 0 {
                        return Ok(None);
                    }
                    return Ok(Some(message));
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    return Err(Error::invalid(format!(
                        "the request stream broke off: {error}"
                    )));
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Error::invalid("the request stream ended inside a message")),
            }
        }
    }
}

fn refuse_compression(request: &Request<Incoming>, name: &str) -> Result<()> {
    match http::header_text(request, name) {
        None | Some("identity" | "") => Ok(()),
        Some(other) => Err(Error::new(
            Code::Unimplemented,
            format!("compression '{other}' is not supported for calls: send them uncompressed"),
        )),
    }
}
