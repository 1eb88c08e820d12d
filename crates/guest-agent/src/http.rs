//! Bodies and answers: the few shapes every route uses.

use std::{io, pin::Pin};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body_util::{BodyExt, Empty, Full, Limited, StreamBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Frame, Incoming},
    header,
};
use serde::Serialize;

use crate::error::{Code, Error, Result};

/// The largest JSON body or frame accepted, in bytes.
pub const MAX_JSON: usize = 4 << 20;

/// Any response body. Not `Send`: the agent is one thread.
pub type ResponseBody = Pin<Box<dyn Body<Data = Bytes, Error = io::Error>>>;

/// A response of the agent.
pub type Answer = Response<ResponseBody>;

/// A body known in full.
pub fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Box::pin(Full::new(bytes.into()).map_err(|never| match never {}))
}

/// A body produced while it is sent.
pub fn streamed(stream: impl Stream<Item = io::Result<Bytes>> + 'static) -> ResponseBody {
    Box::pin(StreamBody::new(stream.map(|chunk| chunk.map(Frame::data))))
}

/// An answer with a status and nothing else.
pub fn status_only(status: StatusCode) -> Answer {
    let empty: ResponseBody = Box::pin(Empty::new().map_err(|never| match never {}));
    let mut answer = Response::new(empty);
    *answer.status_mut() = status;
    answer
}

/// An answer with a body of one content type.
pub fn with_type(status: StatusCode, content_type: &'static str, body: ResponseBody) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    answer
}

/// A JSON answer.
pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => with_type(status, "application/json", full(bytes)),
        Err(error) => plain_error(&Error::internal(format!(
            "cannot encode the answer: {error}"
        ))),
    }
}

/// An error of a plain HTTP route: `{"code": <status>, "message": …}`.
pub fn plain_error(error: &Error) -> Answer {
    let status =
        StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::json!({ "code": status.as_u16(), "message": error.message });
    with_type(status, "application/json", full(body.to_string()))
}

/// Reads a JSON body of at most [`MAX_JSON`] bytes.
///
/// # Errors
/// `invalid_argument` when the body breaks off, `resource_exhausted` when it is too large.
pub async fn read_body(request: Request<Incoming>) -> Result<Bytes> {
    match Limited::new(request.into_body(), MAX_JSON).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Error::with_status(
            Code::ResourceExhausted,
            413,
            format!(
                "the request body is larger than {MAX_JSON} bytes: send large data by /files or in several calls"
            ),
        )),
        Err(error) => Err(Error::invalid(format!(
            "the request body could not be read: {error}"
        ))),
    }
}

/// The value of one query parameter, percent-decoded (`+` is a space).
pub fn query_value(request: &Request<Incoming>, name: &str) -> Option<String> {
    let query = request.uri().query()?;
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(value))
    })
}

/// A header as text, if it is there and readable.
pub fn header_text<'a>(request: &'a Request<Incoming>, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced)
        .decode_utf8_lossy()
        .into_owned()
}
