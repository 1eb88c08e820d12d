//! Identity and the workload's own network. Needs root, `unshare` and `ip`; makes its own namespaces and skips otherwise.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    path::PathBuf,
    process::{Child, Command},
    thread,
};

use common::{Options, Server, encode, fetch, is_root, request, send};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;

/// A network namespace that lives as long as this does.
struct Network(Child);

impl Network {
    /// With its loopback up and one more address, as if from outside.
    fn new() -> Option<Self> {
        if !is_root() || Command::new("ip").arg("-V").output().is_err() {
            eprintln!("skipped: needs root, unshare and ip");
            return None;
        }
        let script =
            "ip link set lo up && ip addr add 10.99.0.1/32 dev lo && echo ready && exec sleep 1000";
        let mut child = Command::new("unshare")
            .args(["-n", "sh", "-c", script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 6];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut line)
            .unwrap();
        Some(Self(child))
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }

    /// Runs `work` on a thread inside.
    fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(self.path()).unwrap();
        thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        })
        .join()
        .unwrap()
    }

    fn agent(&self) -> Server {
        Server::with(Options {
            workload_netns: Some(self.path()),
            ..Options::default()
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn processes_and_tunnels_are_in_the_workloads_network() {
    let Some(network) = Network::new() else {
        return;
    };
    let server = network.agent();
    let inside = fs::read_link(network.path()).unwrap();
    let output = server.sh("readlink /proc/self/ns/net").await;
    assert_eq!(output.text().trim(), inside.to_str().unwrap());
    assert_ne!(fs::read_link("/proc/thread-self/ns/net").unwrap(), inside);

    let port = network.inside(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || listener.accept().unwrap().0.write_all(b"inside").unwrap());
        port
    });
    let headers = [("connection", "upgrade"), ("upgrade", "tcp")];
    let answer = send(
        server.control,
        request("GET", &format!("/tunnel?port={port}"), &headers, ""),
    )
    .await;
    assert_eq!(answer.status(), 101);
    let mut pipe = hyper_util::rt::TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut pipe, &mut text)
        .await
        .unwrap();
    assert_eq!(text, "inside");
}

fn pair(address: &'static str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(address).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

#[tokio::test]
async fn init_resets_connections_that_leave_the_machine() {
    let Some(network) = Network::new() else {
        return;
    };
    let server = network.agent();
    let (mut outside, _peer) = network.inside(|| pair("10.99.0.1:0"));
    let (mut local, mut local_peer) = network.inside(|| pair("127.0.0.1:0"));
    let (status, headers, _) = fetch(
        server.control,
        "POST",
        "/init",
        &[],
        r#"{"resetConnections":true}"#,
    )
    .await;
    assert_eq!(status, 204);
    if let Some(warning) = headers.get("x-pandastack-warning") {
        eprintln!("skipped: {warning:?}");
        return;
    }
    assert!(
        outside.read(&mut [0]).is_err(),
        "the connection is dead and says so at once"
    );
    local.write_all(b"x").unwrap();
    assert_eq!(local_peer.read(&mut [0]).unwrap(), 1);
}

#[tokio::test]
async fn init_gives_an_identity() {
    if !is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    // The agent's thread gets its own host name and mounts, with a private /etc.
    let etc = tempfile::tempdir().unwrap();
    for name in ["passwd", "group", "hosts"] {
        fs::copy(format!("/etc/{name}"), etc.path().join(name)).unwrap();
    }
    let private = etc.path().to_path_buf();
    let prepare = move || {
        let path = std::ffi::CString::new(private.to_str().unwrap()).unwrap();
        let none = std::ptr::null();
        // SAFETY: plain system calls with NUL-terminated strings; they affect this thread only.
        unsafe {
            assert_eq!(libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWUTS), 0);
            assert_eq!(
                libc::mount(
                    none,
                    c"/".as_ptr(),
                    none,
                    libc::MS_REC | libc::MS_PRIVATE,
                    none.cast()
                ),
                0
            );
            assert_eq!(
                libc::mount(
                    path.as_ptr(),
                    c"/etc".as_ptr(),
                    none,
                    libc::MS_BIND,
                    none.cast()
                ),
                0
            );
        }
    };
    let server = Server::with(Options {
        prepare: Box::new(prepare),
        ..Options::default()
    });
    let id = "0123456789abcdef0123456789abcdef";
    let message = json!({ "hostname": "sb-1", "machineId": id, "entropy": encode([7; 64]) });
    let (status, _, body) = fetch(server.control, "POST", "/init", &[], message.to_string()).await;
    assert_eq!(status, 204, "{body:?}");
    // The files are written after the answer and before any other request is looked at.
    assert_eq!(server.sh("uname -n").await.text(), "sb-1\n");
    assert_eq!(
        fs::read_to_string(etc.path().join("machine-id")).unwrap(),
        format!("{id}\n")
    );
    assert_eq!(
        fs::read_to_string(etc.path().join("hostname")).unwrap(),
        "sb-1\n"
    );
    assert!(
        fs::read_to_string(etc.path().join("hosts"))
            .unwrap()
            .ends_with("127.0.1.1\tsb-1\n")
    );
}
