//! `POST /upgrade`, the body a program of the agent: checked, rehearsed, and then executed after the answer.
//!
//! Answers 202 when the successor is about to run; its `GET /version` then tells its own digest, or, should it have come
//! back to this build after all, `upgradeFailure`. Until then connections wait in the kernel.

use std::{
    ffi::OsStr,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::Ordering,
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::{Request, StatusCode, body::Incoming as Body, header};
use serde_json::json;
use tokio::{
    task::spawn_local,
    time::{Instant, sleep},
};

use super::{
    carrier::{self, number},
    program::{self, Incoming, MAX_PROGRAM, rehearse},
    save::{descriptors, save},
};
use crate::{
    agent::Shared,
    error::{Code, Error, Result},
    http::{self, Answer, header_text},
    server::Spared,
};

/// How long work under way may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Answers the request.
///
/// # Errors
/// 400 for a program that is not the one announced, 409 when another upgrade is under way, when work does not end, or
/// when the program cannot take over: then this build goes on, and only clients' connections have ended.
pub async fn answer(agent: &Shared, request: Request<Body>) -> Result<Answer> {
    let digest = header_text(&request, "x-pandastack-sha256")
        .map(str::to_ascii_lowercase)
        .filter(|digest| digest.len() == 64)
        .ok_or_else(|| {
            Error::invalid("the header X-Pandastack-Sha256 must be 64 hexadecimal digits")
        })?;
    let length = header_text(&request, header::CONTENT_LENGTH.as_str())
        .and_then(|length| length.parse::<u64>().ok())
        .filter(|length| *length <= MAX_PROGRAM)
        .ok_or_else(|| Error::invalid("the header Content-Length must be the program's length"))?;
    let spared = request.extensions().get::<Spared>().cloned();
    let program = receive(request, length, &digest).await?;

    if let Some(spared) = spared {
        spared.0.store(true, Ordering::Relaxed);
    }
    let still = Still::begin(agent)?;
    let upgrade = Upgrade {
        agent: agent.clone(),
        program,
        predecessor: program::own().map_err(|error| {
            Error::internal(format!("cannot open this build's own program: {error}"))
        })?,
        digest,
        _still: still,
    };
    upgrade.rehearse().await?;
    agent.upgrade_failure.replace(None);
    // Runs once this answer has gone out: the server writes it before it lets another task have the thread.
    spawn_local(upgrade.finish());
    let mut answer = http::json(StatusCode::ACCEPTED, &json!({}));
    answer.headers_mut().insert(
        header::CONNECTION,
        header::HeaderValue::from_static("close"),
    );
    Ok(answer)
}

async fn receive(request: Request<Body>, length: u64, digest: &str) -> Result<OwnedFd> {
    let mut body = request.into_body();
    let mut program = Incoming::new()?;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Error::invalid(format!("the program broke off: {error}")))?;
        program.add(&frame.into_data().unwrap_or_default())?;
    }
    program.seal(length, digest)
}

/// While it lives no connection is taken; those there were have ended.
struct Still(Shared);

impl Still {
    fn begin(agent: &Shared) -> Result<Self> {
        if !agent.open.send_replace(false) {
            return Err(Error::with_status(
                Code::FailedPrecondition,
                409,
                "another upgrade is under way",
            ));
        }
        agent.leaving.notify_waiters();
        Ok(Self(agent.clone()))
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        self.0.open.send_replace(true);
    }
}

struct Upgrade {
    agent: Shared,
    program: OwnedFd,
    predecessor: OwnedFd,
    digest: String,
    _still: Still,
}

impl Upgrade {
    /// Lets the successor take over a copy of everything.
    async fn rehearse(&self) -> Result<()> {
        let (mut command, _state) = self.prepare(&[OsStr::new("--rehearse")]).await?;
        command.env_clear();
        rehearse(command).await
    }

    /// Executes the successor; comes back only when the kernel refuses.
    async fn finish(self) {
        let failure = match self.prepare(&[]).await {
            // No wait between the two: what was saved is all there is.
            Ok((command, _state)) => program::execute(command).to_string(),
            Err(error) => error.message,
        };
        eprintln!("guest-agent: the upgrade failed, going on: {failure}");
        self.agent.upgrade_failure.replace(Some(failure));
    }

    /// Waits for work under way, writes the state and makes the command that runs the successor with it.
    async fn prepare(&self, more: &[&OsStr]) -> Result<(std::process::Command, OwnedFd)> {
        let deadline = Instant::now() + PATIENCE;
        let (state, data) = loop {
            if let Some(saved) = save(&self.agent, &self.digest, &self.predecessor) {
                break saved;
            }
            if Instant::now() > deadline {
                return Err(Error::with_status(
                    Code::FailedPrecondition,
                    409,
                    "work on files is under way that does not end; the agent stays as it is",
                ));
            }
            sleep(LOOK_AGAIN).await;
        };
        let file = carrier::write(&state, &data).map_err(|error| {
            Error::internal(format!("cannot write down the agent's state: {error}"))
        })?;
        let mut inherited = descriptors(&state);
        inherited.push(number(&file));
        let carrier = number(&file).to_string();
        let mut arguments = vec![OsStr::new("--inherit"), OsStr::new(&carrier)];
        arguments.extend(more);
        let command = program::command(
            &self.agent.arguments,
            self.program.as_fd(),
            &arguments,
            inherited,
        );
        Ok((command, file))
    }
}
