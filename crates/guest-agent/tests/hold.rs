//! Holding processes still around a capture. Needs a writable cgroup2; without one there is nothing to hold by.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use std::{fs, path::Path, time::Duration};

use common::{Server, fetch};
use serde_json::json;
use tokio::time::{Instant, sleep};

const CALM: Duration = Duration::from_millis(300);

async fn post(server: &Server, path: &str) {
    let (status, _, body) = fetch(server.control, "POST", path, &[], "{}").await;
    assert_eq!(status, 204, "{path}: {body:?}");
}

fn ticks(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |found| found.len())
}

async fn grows(file: &Path, within: Duration) -> bool {
    let (before, deadline) = (ticks(file), Instant::now() + within);
    while ticks(file) == before {
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(10)).await;
    }
    true
}

/// A server, and a file that a process and its daemon write to all the time.
async fn ticking(folder: &Path) -> Option<(Server, std::path::PathBuf)> {
    let server = Server::start();
    if !server.has_cgroups {
        return None;
    }
    let file = folder.join("ticks");
    let tick = format!(
        "while :; do printf x >> {}; sleep 0.01; done",
        file.display()
    );
    let script = format!("setsid sh -c '{tick}' & {tick}");
    server
        .start_process(json!({ "process": { "cmd": "sh", "args": ["-c", script] } }))
        .await;
    assert!(grows(&file, Duration::from_secs(10)).await);
    Some((server, file))
}

#[tokio::test]
async fn held_processes_stand_still_until_they_are_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let Some((server, file)) = ticking(folder.path()).await else {
        return;
    };
    for let_go in ["/release", "/init"] {
        post(&server, "/hold").await;
        post(&server, "/hold").await;
        assert!(!grows(&file, CALM).await, "something went on");
        post(&server, let_go).await;
        assert!(grows(&file, Duration::from_secs(10)).await, "{let_go}");
    }
    post(&server, "/release").await;
}

#[tokio::test]
async fn what_is_started_meanwhile_runs_afterwards_and_what_is_killed_dies() {
    let folder = tempfile::tempdir().unwrap();
    let Some((server, _)) = ticking(folder.path()).await else {
        return;
    };
    let (pid, _frames) = server
        .start_process(json!({ "process": { "cmd": "sleep", "args": ["1000"] } }))
        .await;
    post(&server, "/hold").await;
    let signal = json!({ "process": { "pid": pid }, "signal": "SIGNAL_SIGKILL" });
    server.ok("process.Process/SendSignal", signal).await;
    let (output, ()) = tokio::join!(server.sh("echo later"), async {
        sleep(CALM).await;
        post(&server, "/release").await;
    });
    assert_eq!(output.text(), "later\n");
    let deadline = Instant::now() + Duration::from_secs(10);
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < deadline, "the killed process lives");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_host_that_never_comes_back_leaves_nobody_frozen() {
    let folder = tempfile::tempdir().unwrap();
    let Some((server, file)) = ticking(folder.path()).await else {
        return;
    };
    post(&server, "/hold").await;
    assert!(!grows(&file, CALM).await);
    assert!(grows(&file, Duration::from_secs(30)).await);
}
