//! Another build takes the agent's place: the real program on two loopback ports, replaced while its processes run.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    fs::{self, File},
    io::Write,
    net::{SocketAddr, TcpListener},
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::Path,
    process::{Child, Command},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use common::{Frames, Output, encode, fetch, unary};
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const PROGRAM: &str = env!("CARGO_BIN_EXE_guest-agent");

/// The agent as a process of its own.
struct Agent {
    process: Child,
    control: SocketAddr,
    _cgroup: tempfile::TempDir,
}

impl Agent {
    async fn start() -> Self {
        let free = || {
            TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
        };
        let (public, control) = (free(), free());
        let cgroup = tempfile::tempdir().unwrap();
        let process = Command::new(PROGRAM)
            .args([
                "--public",
                &public.to_string(),
                "--control",
                &control.to_string(),
            ])
            .arg("--cgroup-root")
            .arg(cgroup.path())
            .spawn()
            .unwrap();
        let agent = Self {
            process,
            control,
            _cgroup: cgroup,
        };
        for _ in 0..500 {
            if tokio::net::TcpStream::connect(control).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        agent
    }

    async fn start_process(&self, message: Value) -> (u64, Frames) {
        let mut frames = Frames::open(self.control, "process.Process/Start", &message, &[]).await;
        let (_, first) = frames.next().await.unwrap();
        (first["event"]["start"]["pid"].as_u64().unwrap(), frames)
    }

    async fn connect(&self, pid: u64, offset: usize) -> Frames {
        let message = json!({ "process": { "pid": pid }, "offset": offset.to_string() });
        Frames::open(self.control, "process.Process/Connect", &message, &[]).await
    }

    async fn ok(&self, method: &str, message: Value) -> Value {
        let (status, answer) = unary(self.control, method, &message, &[]).await;
        assert_eq!(status, 200, "{method}: {answer}");
        answer
    }

    async fn send(&self, pid: u64, kind: &str, text: &str) {
        let message = json!({ "process": { "pid": pid }, "input": { kind: encode(text) } });
        self.ok("process.Process/SendInput", message).await;
    }

    async fn version(&self) -> Value {
        let (_, _, body) = fetch(self.control, "GET", "/version", &[], "").await;
        serde_json::from_slice(&body).unwrap()
    }

    /// Sends a program; answers status and message.
    async fn upgrade(&self, program: &[u8], digest: &str) -> (u16, String) {
        let headers = [("x-pandastack-sha256", digest)];
        let (status, _, body) =
            fetch(self.control, "POST", "/upgrade", &headers, program.to_vec()).await;
        (status.as_u16(), String::from_utf8_lossy(&body).into_owned())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The same agent with another digest, as a build from another day would be.
fn another_build() -> Vec<u8> {
    let mut program = fs::read(PROGRAM).unwrap();
    program.extend_from_slice(b"another build");
    program
}

fn digest(program: &[u8]) -> String {
    format!("{:x}", Sha256::digest(program))
}

/// The bytes of output that one event carries.
fn length(message: &Value) -> usize {
    let data = message["event"]["data"].as_object();
    data.into_iter()
        .flatten()
        .map(|(_, text)| {
            BASE64_STANDARD
                .decode(text.as_str().unwrap())
                .unwrap()
                .len()
        })
        .sum()
}

#[tokio::test]
async fn what_runs_goes_on_and_no_byte_is_lost() {
    let agent = Agent::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let settings =
        json!({ "envVars": { "KEPT": "yes" }, "defaultWorkdir": path, "accessToken": "secret" });
    let (status, headers, _) =
        fetch(agent.control, "POST", "/init", &[], settings.to_string()).await;
    assert_eq!(status, 204);
    let about = headers["x-pandastack-agent"].to_str().unwrap().to_owned();
    assert!(
        about.ends_with(&digest(&fs::read(PROGRAM).unwrap())),
        "{about}"
    );

    // More output than is kept of a process, of which a little is read: the reader holds the rest back.
    let (counting, mut counted) = agent
        .start_process(json!({ "process": { "cmd": "seq", "args": ["300000"] } }))
        .await;
    let mut read = 0;
    while read < 70_000 {
        read += length(&counted.next().await.unwrap().1);
    }
    let (cat, mut echoed) = agent
        .start_process(json!({ "process": { "cmd": "cat" }, "tag": "cat" }))
        .await;
    agent.send(cat, "stdin", "before\n").await;
    echoed.until("before\n").await;
    let shell = json!({ "process": { "cmd": "sh", "args": ["-i"], "envs": { "PS1": "", "ENV": "" } },
        "pty": { "size": { "cols": 80, "rows": 24 } } });
    let (shell, mut screen) = agent.start_process(shell).await;
    agent
        .send(shell, "pty", "here=in''side; echo re''ady\n")
        .await;
    screen.until("ready").await;
    let started =
        json!({ "process": { "cmd": "sh", "args": ["-c", "echo gone; echo wrong >&2; exit 3"] } });
    let ended = Frames::open(agent.control, "process.Process/Start", &started, &[])
        .await
        .output()
        .await;
    let deadline = json!({ "process": { "cmd": "sleep", "args": ["1000"] } });
    let mut late = Frames::open(
        agent.control,
        "process.Process/Start",
        &deadline,
        &[("connect-timeout-ms", "3000")],
    )
    .await;
    let late = late.next().await.unwrap().1["event"]["start"]["pid"]
        .as_u64()
        .unwrap();
    let daemon = format!("(sleep 1.5; echo daemon; echo lived > {path}/daemon) & ");
    let daemon = json!({ "process": { "cmd": "sh", "args": ["-c", daemon] } });
    Frames::open(agent.control, "process.Process/Start", &daemon, &[])
        .await
        .output()
        .await;
    let watch = agent
        .ok(
            "filesystem.Filesystem/CreateWatcher",
            json!({ "path": path, "recursive": true }),
        )
        .await;
    fs::create_dir(folder.path().join("first")).unwrap();

    let program = another_build();
    let before = agent.process.id();
    let (status, why) = agent.upgrade(&program, &digest(&program)).await;
    assert_eq!(status, 202, "{why}");
    let version = agent.version().await;
    assert_eq!(version["digest"], digest(&program), "{version}");
    assert_eq!(version["upgradeFailure"], Value::Null);
    let name = fs::read_to_string(format!("/proc/{before}/comm")).unwrap();
    assert_eq!(name.trim(), "guest-agent");
    // The former connections have ended, after what was sent on them.
    while let Some((_, message)) = counted.try_next().await {
        read += length(&message);
    }

    let rest: Output = agent.connect(counting, read).await.output().await;
    let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(rest.offset, read as u64);
    assert_eq!(rest.stdout, &expected.as_bytes()[read..]);
    assert_eq!(rest.end["exitCode"], 0);

    let mut echoed = agent.connect(cat, 3).await;
    echoed.until("ore\n").await;
    agent.send(cat, "stdin", "after\n").await;
    echoed.until("after\n").await;
    agent
        .ok(
            "process.Process/CloseStdin",
            json!({ "process": { "tag": "cat" } }),
        )
        .await;
    assert_eq!(echoed.output().await.end["exitCode"], 0);

    let mut screen = agent.connect(shell, 0).await;
    screen.until("ready").await;
    let size =
        json!({ "process": { "pid": shell }, "pty": { "size": { "cols": 132, "rows": 43 } } });
    agent.ok("process.Process/Update", size).await;
    agent
        .send(shell, "pty", "stty size; echo $here; exit 5\n")
        .await;
    let screen = screen.output().await;
    assert!(
        screen.text().contains("43 132") && screen.text().contains("inside"),
        "{screen:?}"
    );
    assert_eq!(screen.end["exitCode"], 5);

    let again = agent.connect(ended.pid, 0).await.output().await;
    assert_eq!(
        (again.stdout, again.stderr, &again.end),
        (ended.stdout, ended.stderr, &ended.end)
    );
    let late = agent.connect(late, 0).await.output().await;
    assert_eq!(late.end["status"], "signal: killed");

    let environment = json!({ "process": { "cmd": "sh", "args": ["-c", "echo $KEPT; pwd"] } });
    let environment = Frames::open(agent.control, "process.Process/Start", &environment, &[])
        .await
        .output()
        .await;
    assert_eq!(environment.text(), format!("yes\n{path}\n"));

    File::create(folder.path().join("first/second")).unwrap();
    let events = agent
        .ok(
            "filesystem.Filesystem/GetWatcherEvents",
            json!({ "watcherId": watch["watcherId"] }),
        )
        .await;
    let names: Vec<&str> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["name"].as_str().unwrap())
        .collect();
    assert!(
        names.contains(&"first") && names.contains(&"first/second"),
        "{events}"
    );

    for _ in 0..500 {
        if folder.path().join("daemon").exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        folder.path().join("daemon").exists(),
        "a daemon with the old agent's pipes lives on"
    );
    let (_, _, log) = fetch(agent.control, "GET", "/logs", &[], "").await;
    let log = String::from_utf8(log.to_vec()).unwrap();
    assert!(
        log.contains("\"before\"") && log.contains("\"daemon\""),
        "{}",
        &log[log.len().saturating_sub(2000)..]
    );
}

#[tokio::test]
async fn it_can_be_done_again_and_back() {
    let agent = Agent::start().await;
    let (cat, _frames) = agent
        .start_process(json!({ "process": { "cmd": "cat" } }))
        .await;
    for program in [another_build(), fs::read(PROGRAM).unwrap()] {
        assert_eq!(agent.upgrade(&program, &digest(&program)).await.0, 202);
        assert_eq!(agent.version().await["digest"], digest(&program));
        agent.send(cat, "stdin", "x").await;
    }
    let mut echoed = agent.connect(cat, 0).await;
    echoed.until("xx").await;
    let limit = json!({ "process": { "cmd": "sh", "args": ["-c", "ulimit -n; cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l"] } });
    let limit = Frames::open(agent.control, "process.Process/Start", &limit, &[])
        .await
        .output()
        .await;
    let here = Command::new("sh")
        .args(["-c", "ulimit -n"])
        .output()
        .unwrap()
        .stdout;
    let lines: Vec<String> = limit.text().lines().map(str::to_owned).collect();
    assert_eq!(
        lines[0],
        String::from_utf8(here).unwrap().trim(),
        "what the agent raised for itself is its own"
    );
    assert_eq!(lines[1], "0");
    assert!(
        lines[2].trim().parse::<u32>().unwrap() <= 4,
        "no descriptor of the agent leaks into a process"
    );
}

#[tokio::test]
async fn a_program_that_cannot_take_over_changes_nothing() {
    let agent = Agent::start().await;
    let (cat, _frames) = agent
        .start_process(json!({ "process": { "cmd": "cat" } }))
        .await;
    let refuses = fs::read("/bin/false").unwrap();
    let garbage = b"\x7fELF no program".to_vec();
    for (program, status, word) in [
        (&refuses, 409, "cannot take over"),
        (&garbage, 409, "cannot take over"),
    ] {
        let (got, why) = agent.upgrade(program, &digest(program)).await;
        assert_eq!(got, status, "{why}");
        assert!(why.contains(word), "{why}");
    }
    let program = another_build();
    let (status, why) = agent.upgrade(&program, &digest(b"something else")).await;
    assert_eq!(
        (status, why.contains("is not the one announced")),
        (400, true),
        "{why}"
    );
    let (status, why) = agent.upgrade(b"x", "short").await;
    assert_eq!(
        (status, why.contains("X-Pandastack-Sha256")),
        (400, true),
        "{why}"
    );

    assert_eq!(
        agent.version().await["digest"],
        digest(&fs::read(PROGRAM).unwrap())
    );
    agent.send(cat, "stdin", "still here\n").await;
    agent.connect(cat, 0).await.until("still here\n").await;
}

#[tokio::test]
async fn an_upload_under_way_ends_before_and_leaves_nothing() {
    let agent = Agent::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let stream = tokio::net::TcpStream::connect(agent.control).await.unwrap();
    let head = format!(
        "POST /files?path={} HTTP/1.1\r\nHost: agent\r\nContent-Type: application/octet-stream\r\nContent-Length: 1000\r\n\r\nhalf",
        path.display()
    );
    stream.writable().await.unwrap();
    assert_eq!(stream.try_write(head.as_bytes()).unwrap(), head.len());
    for _ in 0..500 {
        if fs::read_dir(folder.path()).unwrap().next().is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let program = another_build();
    let (status, why) = agent.upgrade(&program, &digest(&program)).await;
    assert_eq!(status, 202, "{why}");
    assert_eq!(agent.version().await["digest"], digest(&program));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// The last resort: a build that passed its rehearsal and fails all the same executes its predecessor, here `echo`.
#[test]
fn a_state_that_is_not_understood_goes_back() {
    let predecessor = File::open(fs::canonicalize(Path::new("/bin/echo")).unwrap()).unwrap();
    let mut state = File::from(memfd_create("state", MemfdFlags::empty()).unwrap());
    let json =
        json!({ "format": 99, "predecessor": predecessor.as_raw_fd(), "later": [] }).to_string();
    state.write_all(&(json.len() as u64).to_be_bytes()).unwrap();
    state.write_all(json.as_bytes()).unwrap();
    let mut command = Command::new(PROGRAM);
    command
        .args(["--public", "127.0.0.1:1", "--control", "127.0.0.1:2"])
        .args(["--inherit", &state.as_raw_fd().to_string()]);
    let fd = predecessor.as_raw_fd();
    // SAFETY: one system call on a number.
    unsafe {
        command.pre_exec(move || match libc::fcntl(fd, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(
        said.contains("--refused the state has format 99, this build knows format 1"),
        "{said}"
    );
}
