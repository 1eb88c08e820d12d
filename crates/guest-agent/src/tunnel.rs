//! `GET /tunnel?port=N` with `Upgrade: tcp`: a byte pipe to a port on the workload's loopback.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hyper::{Request, StatusCode, body::Incoming, header};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use tokio::{
    io::copy_bidirectional,
    net::{TcpSocket, TcpStream},
    select,
    task::spawn_local,
};

use crate::{
    agent::{Agent, Shared},
    error::{Code, Error, Result},
    http::{self, Answer},
};

/// Connects to the port, answers 101 and pipes until both directions are closed.
///
/// # Errors
/// 400 for a bad port or a missing upgrade, 502 with "port is not open" when nothing listens.
pub async fn answer(agent: &Shared, request: Request<Incoming>) -> Result<Answer> {
    let port: u16 = http::query_value(&request, "port")
        .and_then(|port| port.parse().ok())
        .filter(|port| *port > 0)
        .ok_or_else(|| Error::invalid("'port' must be a number from 1 to 65535"))?;
    if !http::header_text(&request, header::UPGRADE.as_str())
        .is_some_and(|kind| kind.eq_ignore_ascii_case("tcp"))
    {
        return Err(Error::with_status(
            Code::InvalidArgument,
            426,
            "a tunnel needs the header Upgrade: tcp",
        ));
    }
    let mut target = connect(agent, port).await.map_err(|error| {
        let text = format!(
            "port is not open: nothing accepts connections on port {port} in the sandbox ({error})"
        );
        Error::with_status(Code::FailedPrecondition, 502, text)
    })?;
    let upgrade = hyper::upgrade::on(request);
    let agent = agent.clone();
    spawn_local(async move {
        let reborn = agent.reborn.notified();
        let Ok(client) = upgrade.await else { return };
        let mut client = TokioIo::new(client);
        select! {
            // Either end may break at any time; there is nobody left to tell.
            _ = copy_bidirectional(&mut client, &mut target) => {}
            // A tunnel came out of a snapshot: the program at its end sees a reset, as for any other connection.
            () = reborn => {
                let _ = sockopt::set_socket_linger(&target, Some(Duration::ZERO));
            }
        }
    });
    let mut answer = http::status_only(StatusCode::SWITCHING_PROTOCOLS);
    answer.headers_mut().insert(
        header::CONNECTION,
        header::HeaderValue::from_static("upgrade"),
    );
    answer
        .headers_mut()
        .insert(header::UPGRADE, header::HeaderValue::from_static("tcp"));
    Ok(answer)
}

/// Tries both loopback addresses: many programs listen on one of them only.
async fn connect(agent: &Agent, port: u16) -> io::Result<TcpStream> {
    let inside = |make: fn() -> io::Result<TcpSocket>| match &agent.netns {
        Some(netns) => netns.visit(make),
        None => make(),
    };
    let first = match inside(TcpSocket::new_v4)?
        .connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .await
    {
        Ok(stream) => Ok(stream),
        Err(error) => match inside(TcpSocket::new_v6) {
            Ok(socket) => socket
                .connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port)))
                .await
                .map_err(|_| error),
            Err(_) => Err(error),
        },
    }?;
    let _ = first.set_nodelay(true);
    Ok(first)
}
