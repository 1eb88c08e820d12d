//! The table of routes: what each side answers.
//!
//! Both sides: `/health`, `/metrics`, `/envs`, `/version`, `/files`, `/files/compose`, `/process.Process/*`,
//! `/filesystem.Filesystem/*`. Control side only: everything in [`control`]. On the public side those answer 404.

use hyper::{Method, Request, Response, StatusCode, body::Incoming, header};

use crate::{
    AGENT_VERSION, ENVD_VERSION,
    agent::Shared,
    auth, connect, control,
    error::{Error, Result},
    files, filesystem,
    http::{self, Answer},
    metrics, process,
    server::Side,
};

const PROCESS: &str = "/process.Process/";
const FILESYSTEM: &str = "/filesystem.Filesystem/";

/// Answers one request.
pub async fn answer(agent: &Shared, side: Side, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    if path == "/health" && request.method() == Method::GET {
        return http::status_only(StatusCode::NO_CONTENT);
    }
    agent.settled();
    let call = path.starts_with(PROCESS) || path.starts_with(FILESYSTEM);
    match side {
        Side::Public => {
            if let Err(error) = auth::admit(agent, &request) {
                return if call {
                    connect::unary_error(&error)
                } else {
                    http::plain_error(&error)
                };
            }
        }
        Side::Control => {
            if let Some(handler) = control::route(request.method(), &path) {
                return control::answer(agent, handler, request).await;
            }
        }
    }
    if call {
        return rpc(agent, &path, request).await;
    }
    match plain(agent, &path, request).await {
        Ok(answer) => answer,
        Err(error) => http::plain_error(&error),
    }
}

async fn plain(agent: &Shared, path: &str, request: Request<Incoming>) -> Result<Answer> {
    match (request.method().as_str(), path) {
        ("GET", "/metrics") => Ok(http::json(StatusCode::OK, &metrics::read(&agent.sampler)?)),
        ("GET", "/envs") => Ok(http::json(StatusCode::OK, &agent.settings.borrow().env)),
        ("GET", "/version") => Ok(http::json(
            StatusCode::OK,
            &serde_json::json!({
                "envdVersion": ENVD_VERSION,
                "agentVersion": AGENT_VERSION,
                "digest": agent.digest(),
                "upgradeFailure": *agent.upgrade_failure.borrow(),
            }),
        )),
        ("GET" | "HEAD", "/files") => files::download::answer(agent, request).await,
        ("POST", "/files") => files::upload::answer(agent, request).await,
        ("POST", "/files/compose") => files::compose::answer(agent, request).await,
        (method, path) => Err(Error::not_found(format!(
            "there is no {method} {path} here"
        ))),
    }
}

async fn rpc(agent: &Shared, path: &str, request: Request<Incoming>) -> Answer {
    let (service, method) = path.rsplit_once('/').unwrap_or_default();
    let method = method.to_owned();
    let of_process = service.len() + 1 == PROCESS.len();
    if request.method() != Method::POST {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, header::ALLOW, "POST");
    }
    let streaming = if of_process {
        process::service::is_stream(&method)
    } else {
        filesystem::service::is_stream(&method)
    };
    if !connect::accepts(&request, streaming) {
        let wanted = if streaming {
            "application/connect+json"
        } else {
            "application/json"
        };
        return refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            header::HeaderName::from_static("accept-post"),
            wanted,
        );
    }
    let answer = if of_process {
        process::service::call(agent, &method, request).await
    } else {
        filesystem::service::call(agent, &method, request).await
    };
    answer.unwrap_or_else(|| {
        connect::unary_error(&Error::new(
            crate::error::Code::Unimplemented,
            format!("there is no method {path}"),
        ))
    })
}

fn refuse(status: StatusCode, name: header::HeaderName, value: &'static str) -> Answer {
    let mut answer: Response<_> = http::status_only(status);
    answer
        .headers_mut()
        .insert(name, header::HeaderValue::from_static(value));
    answer
}
