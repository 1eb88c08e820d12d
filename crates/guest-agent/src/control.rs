//! Routes for the host alone: identity, disk quiescence, shutdown, logs, tunnels.

use hyper::{Method, Request, StatusCode, body::Incoming, header};
use rustix::process::{Pid, Signal};

use crate::{
    AGENT_VERSION, ENVD_VERSION,
    agent::Shared,
    as_user::AtWork,
    connect,
    error::{Code, Error, Result},
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
    /// `POST /freeze`: holds the root file system still.
    Freeze,
    /// `POST /thaw`: lets it go on.
    Thaw,
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
        ("POST", "/freeze") => Control::Freeze,
        ("POST", "/thaw") => Control::Thaw,
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
        Control::Sync => {
            quiesce(|| {
                rustix::fs::sync();
                Ok(())
            })
            .await
        }
        Control::Freeze => quiesce(|| freeze(FIFREEZE, libc::EBUSY)).await,
        Control::Thaw => quiesce(|| freeze(FITHAW, libc::EINVAL)).await,
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
    tokio::task::spawn_local(async move { later.settled() });
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

async fn quiesce(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<Answer> {
    // These wait for the disk: on a thread, so that the agent goes on answering.
    let at_work = AtWork::begin();
    tokio::task::spawn_blocking(move || {
        let _at_work = at_work;
        work()
    })
    .await
    .unwrap_or_else(|_| Err(Error::internal("the work on the disk stopped unexpectedly")))?;
    Ok(http::status_only(StatusCode::NO_CONTENT))
}

const FIFREEZE: libc::Ioctl = 0xC004_5877;
const FITHAW: libc::Ioctl = 0xC004_5878;

/// Freezes or thaws the root file system; `already` is the error that says it is so already.
fn freeze(request: libc::Ioctl, already: i32) -> Result<()> {
    use std::os::fd::AsRawFd;
    let root = std::fs::File::open("/").map_err(|error| Error::from_io(&error, "/"))?;
    // SAFETY: both requests ignore their argument; the descriptor is open for the time of the call.
    if unsafe { libc::ioctl(root.as_raw_fd(), request, 0) } == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    if error.raw_os_error() == Some(already) {
        return Ok(());
    }
    let verb = if request == FIFREEZE {
        "freeze"
    } else {
        "thaw"
    };
    Err(Error::internal(format!(
        "cannot {verb} the root file system: {error}"
    )))
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
