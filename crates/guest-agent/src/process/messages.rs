//! The messages of `process.proto`, as their JSON looks.
//!
//! Everything is optional on the way in, as proto3 wants, and unknown fields are ignored.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize};

/// What to run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ProcessConfig {
    /// Program: a path, or a name looked up in the process's own PATH.
    #[serde(default, deserialize_with = "or_default")]
    pub cmd: String,
    /// Arguments after the program's name.
    #[serde(default, deserialize_with = "or_default")]
    pub args: Vec<String>,
    /// Environment added to the defaults.
    #[serde(default, deserialize_with = "or_default")]
    pub envs: BTreeMap<String, String>,
    /// Working directory; the user's home when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Size {
    /// Columns.
    #[serde(default, deserialize_with = "number")]
    pub cols: u64,
    /// Rows.
    #[serde(default, deserialize_with = "number")]
    pub rows: u64,
}

/// A terminal asked for.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Pty {
    /// Its size; 80×24 when absent.
    pub size: Option<Size>,
}

/// `Start`.
#[derive(Debug, Default, Deserialize)]
pub struct StartRequest {
    /// What to run.
    pub process: Option<ProcessConfig>,
    /// Run it on a terminal.
    pub pty: Option<Pty>,
    /// A name to find the process by later.
    pub tag: Option<String>,
    /// Whether the process gets a stdin that can be written; absent means yes.
    pub stdin: Option<bool>,
}

/// Which process: by pid or by tag.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Selector {
    /// Process id.
    #[serde(default, deserialize_with = "optional_number")]
    pub pid: Option<u64>,
    /// Tag given at start.
    pub tag: Option<String>,
}

/// `Connect`.
#[derive(Debug, Default, Deserialize)]
pub struct ConnectRequest {
    /// Which process.
    #[serde(default)]
    pub process: Option<Selector>,
    /// Replay from this byte of the process's output on (all streams counted together); absent means everything kept.
    #[serde(default, deserialize_with = "optional_number")]
    pub offset: Option<u64>,
}

/// `Update`.
#[derive(Debug, Default, Deserialize)]
pub struct UpdateRequest {
    /// Which process.
    pub process: Option<Selector>,
    /// The terminal's new size.
    pub pty: Option<Pty>,
}

/// Bytes for a process: exactly one of the two.
#[derive(Debug, Default, Deserialize)]
pub struct Input {
    /// For its stdin pipe.
    #[serde(default, deserialize_with = "bytes")]
    pub stdin: Option<Vec<u8>>,
    /// For its terminal.
    #[serde(default, deserialize_with = "bytes")]
    pub pty: Option<Vec<u8>>,
}

/// `SendInput`.
#[derive(Debug, Default, Deserialize)]
pub struct SendInputRequest {
    /// Which process.
    pub process: Option<Selector>,
    /// What to write.
    pub input: Option<Input>,
}

/// One message of `StreamInput`; the first must be `start`.
#[derive(Debug, Default, Deserialize)]
pub struct StreamInputRequest {
    /// Names the process the rest of the stream is for.
    pub start: Option<StreamInputStart>,
    /// Carries bytes.
    pub data: Option<StreamInputData>,
}

/// The first message of `StreamInput`.
#[derive(Debug, Default, Deserialize)]
pub struct StreamInputStart {
    /// Which process.
    pub process: Option<Selector>,
}

/// A later message of `StreamInput`.
#[derive(Debug, Default, Deserialize)]
pub struct StreamInputData {
    /// What to write.
    pub input: Option<Input>,
}

/// `SendSignal`.
#[derive(Debug, Default, Deserialize)]
pub struct SendSignalRequest {
    /// Which process.
    pub process: Option<Selector>,
    /// The signal, by proto name or number.
    #[serde(default)]
    pub signal: serde_json::Value,
}

/// `CloseStdin`.
#[derive(Debug, Default, Deserialize)]
pub struct CloseStdinRequest {
    /// Which process.
    pub process: Option<Selector>,
}

/// One row of `List`.
#[derive(Debug, Serialize)]
pub struct ProcessInfo {
    /// What was asked to run.
    pub config: ProcessConfig,
    /// Process id.
    pub pid: u32,
    /// Tag given at start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// `null` means the default, as everywhere in proto3's JSON.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Integers may come as numbers or as strings.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Plain(u64),
    Text(String),
}

/// A number that may be absent.
///
/// # Errors
/// When the text is no number.
pub fn optional_number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    match Option::<Number>::deserialize(from)? {
        None => Ok(None),
        Some(Number::Plain(value)) => Ok(Some(value)),
        Some(Number::Text(text)) => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

/// A number that is zero when absent.
///
/// # Errors
/// When the text is no number.
pub fn number<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    Ok(optional_number(from)?.unwrap_or_default())
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
    let Some(text) = Option::<std::borrow::Cow<'de, str>>::deserialize(from)? else {
        return Ok(None);
    };
    BASE64_STANDARD
        .decode(text.as_bytes())
        .map(Some)
        .map_err(serde::de::Error::custom)
}
