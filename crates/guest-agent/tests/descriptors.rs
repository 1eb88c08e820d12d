//! What the agent holds of processes that have ended. One test in a program of its own: it counts descriptors.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use std::{fs, time::Duration};

use common::Server;
use serde_json::json;

/// Descriptors of this process that stand for a process, a pipe or a terminal.
fn held() -> Vec<String> {
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .filter(|link| {
            ["pidfd", "pipe:", "/dev/ptmx", "/ptmx"]
                .iter()
                .any(|kind| link.contains(kind))
        })
        .collect()
}

#[tokio::test]
async fn of_a_process_that_has_ended_its_output_is_kept_and_no_descriptor() {
    let before = held().len();
    let server = Server::start();
    server.sh("true").await;
    let shell = |script: &str| json!({ "cmd": "/bin/sh", "args": ["-c", script] });
    for _ in 0..8 {
        server.sh("echo plain").await;
        server
            .run(json!({ "process": shell("echo open"), "stdin": true }))
            .await;
        let pty = json!({ "size": { "rows": 24, "cols": 80 } });
        let output = server
            .run(json!({ "process": shell("tty; echo kept"), "pty": pty, "tag": "terminal" }))
            .await;
        assert!(String::from_utf8_lossy(&output.pty).contains("/dev/pts/"));
    }
    // A writer that waits on a full pipe lets go of it too.
    let request = json!({ "process": shell("sleep 0.2"), "stdin": true, "tag": "full" });
    let (_, frames) = server.start_process(request).await;
    let much = common::encode(vec![b'x'; 1 << 20]);
    let input = json!({ "process": { "tag": "full" }, "input": { "stdin": much } });
    let (status, _) = server.call("process.Process/SendInput", input).await;
    assert_eq!(status, 400);
    frames.output().await;
    for _ in 0..400 {
        if held().len() <= before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(held().len() <= before, "{:?}", held());
    let again = json!({ "process": { "tag": "terminal" }, "offset": "0" });
    let kept = common::Frames::open(server.control, "process.Process/Connect", &again, &[]);
    assert!(String::from_utf8_lossy(&kept.await.output().await.pty).contains("kept"));
}
