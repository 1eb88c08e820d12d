//! The calls of `process.Process`.

use std::rc::Rc;

use hyper::{Request, body::Incoming};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{task::spawn_local, time::Instant};

use super::{
    events::{Following, follow},
    handle::Process,
    messages::{
        CloseStdinRequest, ConnectRequest, Input, SendInputRequest, SendSignalRequest,
        StartRequest, StreamInputRequest, UpdateRequest,
    },
    pty,
    start::start,
};
use crate::{
    agent::Shared,
    auth,
    connect::{self, Messages},
    error::{Code, Error, Result},
    http::Answer,
    watched::Watched,
};

/// Answers one call by its method's name; `None` when there is no such method.
pub async fn call(agent: &Shared, method: &str, request: Request<Incoming>) -> Option<Answer> {
    Some(match method {
        "Start" => match start_stream(agent, request).await {
            Ok(answer) => answer,
            Err(error) => connect::short_stream(Err(error)),
        },
        "Connect" => match connect_stream(agent, request).await {
            Ok(answer) => answer,
            Err(error) => connect::short_stream(Err(error)),
        },
        "StreamInput" => connect::short_stream(stream_input(agent, request).await),
        "List" => connect::unary(list(agent, request).await),
        "Update" => connect::unary(update(agent, request).await),
        "SendInput" => connect::unary(send_input(agent, request).await),
        "SendSignal" => connect::unary(send_signal(agent, request).await),
        "CloseStdin" => connect::unary(close_stdin(agent, request).await),
        _ => return None,
    })
}

/// Whether a method's messages come in a stream's envelopes.
pub fn is_stream(method: &str) -> bool {
    matches!(method, "Start" | "Connect" | "StreamInput")
}

async fn start_stream(agent: &Shared, request: Request<Incoming>) -> Result<Answer> {
    let user = auth::user(agent, &request)?;
    let deadline = connect::timeout(&request)?.map(|timeout| Instant::now() + timeout);
    let keepalive = connect::keepalive(&request);
    let message: StartRequest = connect::read_one(request).await?;
    // A task of its own: a client that leaves in this moment must not leave a half-started process behind.
    let agent = agent.clone();
    let process = spawn_local(async move { start(&agent, message, &user, deadline).await })
        .await
        .unwrap_or_else(|_| {
            Err(Error::internal(
                "the start of the process stopped unexpectedly",
            ))
        })?;
    let following = Following {
        keepalive,
        until: None,
        owns_deadline: true,
    };
    Ok(connect::stream(follow(process, 0, following)))
}

async fn connect_stream(agent: &Shared, request: Request<Incoming>) -> Result<Answer> {
    let until = connect::timeout(&request)?.map(|timeout| Instant::now() + timeout);
    let keepalive = connect::keepalive(&request);
    let message: ConnectRequest = connect::read_one(request).await?;
    let process = agent.processes.find_or_finished(message.process.as_ref())?;
    let following = Following {
        keepalive,
        until,
        owns_deadline: false,
    };
    Ok(connect::stream(follow(
        process,
        message.offset.unwrap_or(0),
        following,
    )))
}

async fn list(agent: &Shared, request: Request<Incoming>) -> Result<Value> {
    let _: Value = connect::read_unary(request).await?;
    Ok(json!({ "processes": agent.processes.list() }))
}

async fn update(agent: &Shared, request: Request<Incoming>) -> Result<Value> {
    let message: UpdateRequest = connect::read_unary(request).await?;
    let process = agent.processes.find(message.process.as_ref())?;
    if let Some(size) = message.pty.and_then(|pty| pty.size) {
        pty::resize(terminal(&process)?.get_ref(), size)?;
    }
    Ok(json!({}))
}

async fn send_input(agent: &Shared, request: Request<Incoming>) -> Result<Value> {
    let message: SendInputRequest = connect::read_unary(request).await?;
    let process = agent.processes.find(message.process.as_ref())?;
    write(&process, message.input.unwrap_or_default()).await?;
    Ok(json!({}))
}

async fn stream_input(agent: &Shared, request: Request<Incoming>) -> Result<Value> {
    let mut messages = Messages::new(request)?;
    let mut target = None;
    while let Some(bytes) = messages.next().await? {
        let message: StreamInputRequest = connect::parse(&bytes)?;
        if let Some(start) = message.start {
            target = Some(agent.processes.find(start.process.as_ref())?);
        }
        if let Some(data) = message.data {
            let process = target
                .as_ref()
                .ok_or_else(|| Error::invalid("the first message of the stream must be 'start'"))?;
            write(process, data.input.unwrap_or_default()).await?;
        }
    }
    match target {
        Some(_) => Ok(json!({})),
        None => Err(Error::invalid(
            "the stream ended before its 'start' message",
        )),
    }
}

async fn send_signal(agent: &Shared, request: Request<Incoming>) -> Result<Value> {
    let message: SendSignalRequest = connect::read_unary(request).await?;
    let signal = signal(&message.signal)?;
    let process = agent.processes.find(message.process.as_ref())?;
    if signal == Signal::KILL {
        process.kill();
    } else {
        process.signal(signal)?;
    }
    Ok(json!({}))
}

async fn close_stdin(agent: &Shared, request: Request<Incoming>) -> Result<Value> {
    let message: CloseStdinRequest = connect::read_unary(request).await?;
    let process = agent.processes.find(message.process.as_ref())?;
    if process.terminal.borrow().is_some() {
        return Err(Error::new(
            Code::FailedPrecondition,
            "a terminal has no stdin to close: send the byte 0x04 (Ctrl-D) as its input instead",
        ));
    }
    process.stdin.lock().await.take();
    Ok(json!({}))
}

/// The proto's two signals, and the few others that make sense, by name or number.
fn signal(value: &Value) -> Result<Signal> {
    let known = [
        ("SIGNAL_SIGHUP", Signal::HUP),
        ("SIGNAL_SIGINT", Signal::INT),
        ("SIGNAL_SIGQUIT", Signal::QUIT),
        ("SIGNAL_SIGKILL", Signal::KILL),
        ("SIGNAL_SIGUSR1", Signal::USR1),
        ("SIGNAL_SIGUSR2", Signal::USR2),
        ("SIGNAL_SIGTERM", Signal::TERM),
        ("SIGNAL_SIGCONT", Signal::CONT),
        ("SIGNAL_SIGSTOP", Signal::STOP),
    ];
    let matches = |(name, signal): &&(&str, Signal)| match value {
        Value::String(text) => text == name,
        Value::Number(number) => number.as_i64() == Some(i64::from(signal.as_raw())),
        _ => false,
    };
    known
        .iter()
        .find(matches)
        .map(|(_, signal)| *signal)
        .ok_or_else(|| {
            Error::invalid(format!(
                "signal {value} is not one of SIGNAL_SIGTERM, SIGNAL_SIGKILL"
            ))
        })
}

fn terminal(process: &Process) -> Result<Rc<Watched>> {
    process.terminal.borrow().clone().ok_or_else(|| {
        Error::new(
            Code::FailedPrecondition,
            format!("process {} was not started with a terminal", process.pid),
        )
    })
}

/// Writes input in full; waits while the process does not read.
async fn write(process: &Process, input: Input) -> Result<()> {
    let closed = || {
        Error::new(
            Code::FailedPrecondition,
            format!(
                "stdin of process {} is closed or was never open",
                process.pid
            ),
        )
    };
    // The lock keeps concurrent writes whole and makes a close come after them.
    let stdin = process.stdin.lock().await;
    let (fd, bytes) = match (input.stdin, input.pty) {
        (Some(bytes), None) => (stdin.clone().ok_or_else(closed)?, bytes),
        (None, Some(bytes)) => (terminal(process)?, bytes),
        _ => {
            return Err(Error::invalid(
                "the input must carry either 'stdin' or 'pty'",
            ));
        }
    };
    let mut news = process.news.subscribe();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        if process.outcome().is_some() {
            return Err(closed());
        }
        let mut guard = tokio::select! {
            guard = fd.writable() => guard.map_err(|_| closed())?,
            // Nothing says that a full terminal will never be read again, but the process's end is news.
            _ = news.changed() => continue,
        };
        match guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), rest)?)) {
            Ok(Ok(count)) => rest = &rest[count..],
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(Err(_)) => return Err(closed()),
            Err(_would_block) => {}
        }
    }
    Ok(())
}
