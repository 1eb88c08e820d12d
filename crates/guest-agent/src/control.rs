//! Routes for the host alone: identity, stillness around a capture, shutdown, logs, tunnels.

use hyper::{Method, Request, StatusCode, body::Incoming, header};
use rustix::process::{Pid, Signal};

use crate::{
    AGENT_VERSION, ENVD_VERSION,
    agent::Shared,
    as_user::AtWork,
    connect,
    error::{Code, Error, Result},
    hold,
    http::{self, Answer},
    init,
    logs::{self, Selection},
    tunnel, upgrade,
};

/// A control route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// `POST /init`
    Init,
    /// `POST /sync`: writes everything to disk.
    Sync,
    /// `POST /hold`: holds the workload's processes still, for a capture; see [`crate::hold`].
    Hold,
    /// `POST /release`: lets them go on.
    Release,
    /// `POST /shutdown`: asks PID 1 to end the machine.
    Shutdown,
    /// `GET /logs`
    Logs,
    /// `GET /tunnel`
    Tunnel,
    /// `POST /upgrade`: puts another build of the agent in this one's place.
    Upgrade,
}

/// Which control route a request means, if any.
pub fn route(method: &Method, path: &str) -> Option<Control> {
    Some(match (method.as_str(), path) {
        ("POST", "/init") => Control::Init,
        ("POST", "/sync") => Control::Sync,
        ("POST", "/hold") => Control::Hold,
        ("POST", "/release") => Control::Release,
        ("POST", "/shutdown") => Control::Shutdown,
        ("GET", "/logs") => Control::Logs,
        ("GET", "/tunnel") => Control::Tunnel,
        ("POST", "/upgrade") => Control::Upgrade,
        _ => return None,
    })
}

/// Answers a control route.
pub async fn answer(agent: &Shared, control: Control, request: Request<Incoming>) -> Answer {
    let result = match control {
        Control::Init => init(agent, request).await,
        Control::Sync => sync().await,
        Control::Hold => done("hold the processes", hold::hold(agent).await),
        Control::Release => done("let the processes go on", hold::release(agent)),
        Control::Shutdown => shutdown(agent),
        Control::Logs => logs_answer(agent, &request),
        Control::Tunnel => tunnel::answer(agent, request).await,
        Control::Upgrade => upgrade::answer(agent, request).await,
    };
    result.unwrap_or_else(|error| http::plain_error(&error))
}

async fn init(agent: &Shared, request: Request<Incoming>) -> Result<Answer> {
    let body = http::read_body(request).await?;
    let warning = init::apply(agent, connect::parse(&body)?)?;
    // Runs once this answer has gone out: the server writes it before it lets another task have the thread.
    let later = agent.clone();
    tokio::task::spawn_local(async move {
        later.settled();
        // Who was held in the captured machine goes on in this one, and not before it is this one.
        if let Err(error) = hold::release(&later) {
            eprintln!("guest-agent: cannot let the processes go on: {error}");
        }
    });
    let mut answer = http::status_only(StatusCode::NO_CONTENT);
    // What the host looks at to tell whether this agent is the one it has itself: no question of its own is needed.
    let about = format!("{AGENT_VERSION} {ENVD_VERSION} {}", agent.digest());
    answer.headers_mut().extend(
        header::HeaderValue::from_str(&about)
            .map(|about| (header::HeaderName::from_static("x-pandastack-agent"), about)),
    );
    if let Some(value) = warning.and_then(|text| header::HeaderValue::from_str(&text).ok()) {
        answer.headers_mut().insert("x-pandastack-warning", value);
    }
    Ok(answer)
}

async fn sync() -> Result<Answer> {
    // Waits for the disk: on a thread, so that the agent goes on answering.
    let at_work = AtWork::begin();
    tokio::task::spawn_blocking(move || {
        let _at_work = at_work;
        rustix::fs::sync();
    })
    .await
    .map_err(|_| Error::internal("the flush of the disk stopped unexpectedly"))?;
    Ok(http::status_only(StatusCode::NO_CONTENT))
}

fn done(what: &str, result: std::io::Result<()>) -> Result<Answer> {
    result.map_err(|error| Error::internal(format!("cannot {what}: {error}")))?;
    Ok(http::status_only(StatusCode::NO_CONTENT))
}

fn shutdown(agent: &Shared) -> Result<Answer> {
    let pid = i32::try_from(agent.init_pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Error::internal("there is no init process to ask"))?;
    rustix::process::kill_process(pid, Signal::TERM)
        .map_err(|error| Error::internal(format!("cannot signal the init process: {error}")))?;
    Ok(http::status_only(StatusCode::ACCEPTED))
}

fn logs_answer(agent: &Shared, request: &Request<Incoming>) -> Result<Answer> {
    let query = |name| http::query_value(request, name).filter(|value| !value.is_empty());
    let stream = query("stream").unwrap_or_else(|| "both".into());
    let (stdout, stderr) = match stream.as_str() {
        "stdout" => (true, false),
        "stderr" => (false, true),
        "both" => (true, true),
        other => {
            return Err(Error::invalid(format!(
                "'stream' is stdout, stderr or both, not '{other}'"
            )));
        }
    };
    let follow = match query("follow").as_deref() {
        None | Some("0" | "false") => false,
        Some("1" | "true") => true,
        Some(other) => {
            return Err(Error::new(
                Code::InvalidArgument,
                format!("'follow' is 0 or 1, not '{other}'"),
            ));
        }
    };
    let tail = match query("tail") {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| Error::invalid("'tail' must be a number of lines"))?,
        ),
    };
    let selection = Selection {
        stdout,
        stderr,
        follow,
        tail,
    };
    let body = http::streamed(logs::tell(agent.clone(), selection));
    Ok(http::with_type(
        StatusCode::OK,
        "application/x-ndjson",
        body,
    ))
}
