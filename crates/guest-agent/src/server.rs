//! Accepts connections and hands requests to the routes.

use std::{
    convert::Infallible,
    future::pending,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_local,
    time::sleep,
};

use crate::{agent::Shared, routes};

/// Connections one side serves at once; more wait in the kernel.
const MAX_CONNECTIONS: usize = 4096;
/// How long a client may take to send the head of a request, which includes resting between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);
/// After so much silence a connection's other end is asked whether it is there.
const PROBE_AFTER: Duration = Duration::from_secs(10);

/// Which of the two addresses a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Clients, through the gateway: the token is demanded, control routes do not exist.
    Public,
    /// The host.
    Control,
}

/// In a request's extensions: set, it spares the request's connection when all others are ended.
#[derive(Clone, Default)]
pub struct Spared(pub Arc<AtomicBool>);

/// Serves `listener` for ever.
pub async fn run(agent: Shared, listener: TcpListener, side: Side) {
    tune(&listener);
    if let Ok(listener) = listener.as_fd().try_clone_to_owned() {
        agent.listeners.borrow_mut().push((side, listener));
    }
    let mut open = agent.open.subscribe();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        // The agent has the sender.
        let _ = open.wait_for(|open| *open).await;
        let accepted = select! {
            accepted = listener.accept() => accepted,
            _ = open.wait_for(|open| !*open) => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors or memory: some connection must end first.
                eprintln!("guest-agent: cannot accept a connection: {error}");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        spawn_local(serve(agent.clone(), stream, side, place));
    }
}

/// Serves one connection to its end.
async fn serve(agent: Shared, stream: TcpStream, side: Side, place: OwnedSemaphorePermit) {
    let spared = Spared::default();
    let service = service_fn(|mut request| {
        let agent = agent.clone();
        request.extensions_mut().insert(spared.clone());
        async move { Ok::<_, Infallible>(routes::answer(&agent, side, request).await) }
    });
    let left = async {
        agent.leaving.notified().await;
        if spared.0.load(Ordering::Relaxed) {
            pending().await
        }
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    select! {
        // A connection that breaks is the client's affair; the routes clean up by being dropped.
        _ = connection => {}
        () = left => {}
    }
    drop(place);
}

/// Makes small answers leave at once and dead connections end soon.
///
/// Connections that were open in a snapshot have no other end in the restored machine: the host answers the first
/// probe or the first byte with a reset, and what the connection held (a follower of a process) is let go.
///
/// Set once for the listener: connections inherit it.
fn tune(listener: &TcpListener) {
    let _ = sockopt::set_tcp_nodelay(listener, true);
    let _ = sockopt::set_socket_keepalive(listener, true);
    let _ = sockopt::set_tcp_keepidle(listener, PROBE_AFTER);
    let _ = sockopt::set_tcp_keepintvl(listener, PROBE_AFTER / 2);
    let _ = sockopt::set_tcp_keepcnt(listener, 4);
}
