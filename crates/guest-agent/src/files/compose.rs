//! `POST /files/compose`: joins files into one and removes the parts.

use std::{
    fs::{self, File},
    io,
};

use hyper::{Request, StatusCode, body::Incoming};
use serde::Deserialize;

use super::{sink::Sink, upload::Written};
use crate::{
    agent::Shared,
    as_user, auth, connect,
    error::{Error, Result},
    http::{self, Answer},
    paths,
};

#[derive(Deserialize)]
struct ComposeRequest {
    source_paths: Vec<String>,
    destination: String,
    username: Option<String>,
}

/// Joins the sources in order; they are removed once the destination is whole.
///
/// # Errors
/// As for an upload; on failure sources and destination stay as they were.
pub async fn answer(agent: &Shared, request: Request<Incoming>) -> Result<Answer> {
    let fallback = auth::file_user(agent, &request)?;
    let body = http::read_body(request).await?;
    let asked: ComposeRequest = connect::parse(&body)?;
    let user = match asked.username.filter(|name| !name.is_empty()) {
        Some(name) => auth::pick(agent, Some(&name))?,
        None => fallback,
    };
    let base = agent.settings.borrow().base(&user).to_owned();
    let destination = paths::resolve(&asked.destination, &user, &base)?;
    let sources = asked
        .source_paths
        .iter()
        .map(|path| paths::resolve(path, &user, &base))
        .collect::<Result<Vec<_>>>()?;
    if sources.is_empty() {
        return Err(Error::invalid("'source_paths' names no file"));
    }
    let written = as_user::run(&user, move || {
        let mut sink = Sink::open(&destination, super::metadata::Metadata::new())?;
        for source in &sources {
            let mut file = File::open(source).map_err(|error| Error::from_io(&error, source))?;
            if !file.metadata().is_ok_and(|found| found.is_file()) {
                return Err(Error::invalid(format!(
                    "path '{source}' is not a regular file"
                )));
            }
            io::copy(&mut file, &mut sink).map_err(|error| sink.wrong(&error))?;
        }
        let metadata = sink.finish()?;
        for source in sources.iter().filter(|source| **source != destination) {
            fs::remove_file(source).map_err(|error| Error::from_io(&error, source))?;
        }
        let name = paths::name(&destination).to_owned();
        Ok(Written {
            name,
            kind: "file",
            path: destination,
            metadata,
        })
    })
    .await?;
    Ok(http::json(StatusCode::OK, &written))
}
