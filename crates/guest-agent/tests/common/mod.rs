//! A real agent on two loopback ports, and a client that speaks raw HTTP/1.1 and Connect frames to it.

#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(missing_docs, clippy::unwrap_used, reason = "test support")]

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Buf, Bytes, BytesMut};
use guest_agent::{
    agent::{Agent, Birthright, Config},
    server::{self, Side},
};
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Frame, Incoming},
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::LocalSet,
};

/// How a test's agent differs from the usual one.
pub struct Options {
    /// Runs first on the agent's thread.
    pub prepare: Box<dyn FnOnce() + Send>,
    /// Whom `/shutdown` signals; by default a process that cannot be.
    pub init_pid: u32,
    pub workload_netns: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prepare: Box::new(|| {}),
            init_pid: u32::MAX >> 1,
            workload_netns: None,
        }
    }
}

/// An agent in a thread of its own; dropping it kills its processes and removes its cgroups.
pub struct Server {
    pub public: SocketAddr,
    pub control: SocketAddr,
    /// Whether processes get cgroups here, so that killing them is complete.
    pub has_cgroups: bool,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    cgroup: PathBuf,
}

impl Server {
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// As [`Server::start`], set up otherwise.
    pub fn with(options: Options) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = cgroup2().join(format!("pandastack-test-{}-{number}", std::process::id()));
        let Options {
            prepare,
            init_pid,
            workload_netns,
        } = options;
        let config = Config {
            workload_netns,
            cgroup_root: cgroup.clone(),
            init_pid,
            arguments: Vec::new(),
        };
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            prepare();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            LocalSet::new().block_on(&runtime, async move {
                let agent = Agent::new(&config, Birthright::default()).unwrap();
                let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let control = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let addresses = (
                    public.local_addr().unwrap(),
                    control.local_addr().unwrap(),
                    agent.cgroups.is_some(),
                );
                ready.send(addresses).unwrap();
                tokio::select! {
                    _ = stopped => {}
                    () = server::run(agent.clone(), public, Side::Public) => {}
                    () = server::run(agent.clone(), control, Side::Control) => {}
                }
                for info in agent.processes.list() {
                    let selector = serde_json::from_value(json!({ "pid": info.pid })).unwrap();
                    if let Ok(process) = agent.processes.find(Some(&selector)) {
                        process.kill();
                    }
                }
                while !agent.processes.list().is_empty() {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            });
        });
        let (public, control, has_cgroups) = is_ready.recv().unwrap();
        Self {
            public,
            control,
            has_cgroups,
            stop: Some(stop),
            thread: Some(thread),
            cgroup,
        }
    }

    /// Runs a shell script to its end on the control side.
    pub async fn sh(&self, script: &str) -> Output {
        self.run(json!({ "process": { "cmd": "/bin/sh", "args": ["-c", script] }, "stdin": false }))
            .await
    }

    /// Runs a `Start` request to its end.
    pub async fn run(&self, message: Value) -> Output {
        Frames::open(self.control, "process.Process/Start", &message, &[])
            .await
            .output()
            .await
    }

    /// Begins a `Start` and reads the pid.
    pub async fn start_process(&self, message: Value) -> (u64, Frames) {
        let mut frames = Frames::open(self.control, "process.Process/Start", &message, &[]).await;
        let (_, first) = frames.next().await.unwrap();
        let pid = first["event"]["start"]["pid"]
            .as_u64()
            .unwrap_or_else(|| panic!("no start: {first}"));
        (pid, frames)
    }

    pub async fn call(&self, method: &str, message: Value) -> (u16, Value) {
        unary(self.control, method, &message, &[]).await
    }

    /// A unary call that must succeed.
    pub async fn ok(&self, method: &str, message: Value) -> Value {
        let (status, answer) = self.call(method, message).await;
        assert_eq!(status, 200, "{method}: {answer}");
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // What a daemon of a test still holds goes as soon as it ends.
        for _ in 0..100 {
            for child in std::fs::read_dir(&self.cgroup)
                .into_iter()
                .flatten()
                .flatten()
            {
                let _ = std::fs::write(child.path().join("cgroup.kill"), "1");
                let _ = std::fs::remove_dir(child.path());
            }
            if !self.cgroup.exists() || std::fs::remove_dir(&self.cgroup).is_ok() {
                return;
            }
            thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

fn cgroup2() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mount = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|mount| mount[2] == "cgroup2");
    mount.map_or_else(|| "/nonexistent".into(), |mount| mount[1].into())
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Sends one request on a connection of its own.
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.unwrap()
}

pub fn request(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    let mut builder = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "agent");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Full::new(body.into())).unwrap()
}

/// Sends a request and reads the whole answer.
pub async fn fetch(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> (StatusCode, HeaderMap, Bytes) {
    let answer = send(address, request(method, path, headers, body)).await;
    let (head, body) = answer.into_parts();
    (
        head.status,
        head.headers,
        body.collect().await.unwrap().to_bytes(),
    )
}

pub async fn unary(
    address: SocketAddr,
    method: &str,
    message: &Value,
    headers: &[(&str, &str)],
) -> (u16, Value) {
    let headers = [&[("content-type", "application/json")], headers].concat();
    let (status, _, body) = fetch(
        address,
        "POST",
        &format!("/{method}"),
        &headers,
        message.to_string(),
    )
    .await;
    (
        status.as_u16(),
        serde_json::from_slice(&body).unwrap_or(Value::Null),
    )
}

pub fn frame(message: &Value) -> Vec<u8> {
    let text = message.to_string();
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// The envelopes of a server stream, as they come. Dropping it closes the connection.
pub struct Frames {
    body: Incoming,
    buffer: BytesMut,
}

impl Frames {
    pub async fn open(
        address: SocketAddr,
        method: &str,
        message: &Value,
        headers: &[(&str, &str)],
    ) -> Self {
        Self::send(address, method, frame(message), headers).await
    }

    pub async fn send(
        address: SocketAddr,
        method: &str,
        body: Vec<u8>,
        headers: &[(&str, &str)],
    ) -> Self {
        let headers = [&[("content-type", "application/connect+json")], headers].concat();
        let answer = send(
            address,
            request("POST", &format!("/{method}"), &headers, body),
        )
        .await;
        assert_eq!(answer.status(), 200);
        Self {
            body: answer.into_body(),
            buffer: BytesMut::new(),
        }
    }

    /// The next flag and message; `None` at the end of the body.
    pub async fn next(&mut self) -> Option<(u8, Value)> {
        loop {
            if let Some(message) = self.buffered() {
                return Some(message);
            }
            let frame = self.body.frame().await?;
            self.take(frame.unwrap());
        }
    }

    /// As [`Frames::next`], of a stream that may break off.
    pub async fn try_next(&mut self) -> Option<(u8, Value)> {
        loop {
            if let Some(message) = self.buffered() {
                return Some(message);
            }
            let frame = self.body.frame().await?.ok()?;
            self.take(frame);
        }
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        self.buffer
            .extend_from_slice(&frame.into_data().unwrap_or_default());
    }

    fn buffered(&mut self) -> Option<(u8, Value)> {
        let length = u32::from_be_bytes(self.buffer.get(1..5)?.try_into().unwrap()) as usize;
        if self.buffer.len() < 5 + length {
            return None;
        }
        let flag = self.buffer[0];
        self.buffer.advance(5);
        let message = serde_json::from_slice(&self.buffer.split_to(length)).unwrap();
        Some((flag, message))
    }

    /// Reads on to the end of the stream.
    pub async fn output(mut self) -> Output {
        let mut output = Output::default();
        while let Some((flag, message)) = self.next().await {
            output.take(flag, &message);
        }
        output
    }

    /// Reads until `stdout` or the terminal has shown `text`.
    pub async fn until(&mut self, text: &str) -> Output {
        let mut output = Output::default();
        while !output.text().contains(text) {
            let (flag, message) = self
                .next()
                .await
                .unwrap_or_else(|| panic!("ended before {text:?}: {output:?}"));
            output.take(flag, &message);
        }
        output
    }
}

/// What a stream told.
#[derive(Debug, Default)]
pub struct Output {
    pub pid: u64,
    pub offset: u64,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub pty: Vec<u8>,
    /// Streams in the order their data came.
    pub order: Vec<String>,
    pub end: Value,
    /// Code the stream ended with.
    pub error: Option<String>,
    pub message: String,
    pub keepalives: usize,
    pub closed: bool,
}

impl Output {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&[&self.stdout[..], &self.pty[..]].concat()).into_owned()
    }

    fn take(&mut self, flag: u8, message: &Value) {
        if flag == 2 {
            self.closed = true;
            self.error = message["error"]["code"].as_str().map(str::to_owned);
            self.message = message["error"]["message"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            return;
        }
        let event = &message["event"];
        if let Some(start) = event["start"].as_object() {
            self.pid = start["pid"].as_u64().unwrap();
            self.offset = start["offset"].as_str().unwrap().parse().unwrap();
        } else if let Some(data) = event["data"].as_object() {
            for (stream, text) in data {
                let bytes = BASE64_STANDARD.decode(text.as_str().unwrap()).unwrap();
                self.order.push(stream.clone());
                match stream.as_str() {
                    "stdout" => self.stdout.extend(bytes),
                    "stderr" => self.stderr.extend(bytes),
                    _ => self.pty.extend(bytes),
                }
            }
        } else if event["end"].is_object() {
            self.end = event["end"].clone();
        } else if event["keepalive"].is_object() {
            self.keepalives += 1;
        }
    }
}

pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(bytes)
}
