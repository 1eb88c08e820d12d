//! Terminals: a shell on a PTY, its size, its keys. Needs `/dev/ptmx`.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Server, encode};
use serde_json::json;

#[tokio::test]
async fn a_shell_on_a_terminal_that_is_resized() {
    let server = Server::start();
    let message = json!({ "process": { "cmd": "/bin/sh", "args": ["-i"], "envs": { "PS1": "", "ENV": "" } },
        "pty": { "size": { "cols": 100, "rows": 30 } } });
    let (pid, mut frames) = server.start_process(message).await;
    let process = json!({ "pid": pid });
    let keys = |text: &str| json!({ "process": process, "input": { "pty": encode(text) } });

    server
        .ok(
            "process.Process/SendInput",
            keys("stty size; tty; echo \"<$TERM>\"\n"),
        )
        .await;
    let output = frames.until("<xterm-256color>").await;
    assert!(
        output.text().contains("30 100") && output.text().contains("/dev/pts/"),
        "{output:?}"
    );
    assert!(output.order.iter().all(|stream| stream == "pty"));

    let size = json!({ "process": process, "pty": { "size": { "cols": 132, "rows": 43 } } });
    server.ok("process.Process/Update", size.clone()).await;
    server
        .ok("process.Process/SendInput", keys("stty size\n"))
        .await;
    frames.until("43 132").await;

    // Ctrl-C reaches the foreground program, the shell goes on.
    server
        .ok(
            "process.Process/SendInput",
            // It speaks once it is in the foreground itself, so that the key cannot come too early.
            keys("sh -c 'echo slee\"\"ping; exec sleep 1000'\n"),
        )
        .await;
    frames.until("sleeping").await;
    server.ok("process.Process/SendInput", keys("\x03")).await;
    server
        .ok("process.Process/SendInput", keys("echo st\"\"ill\n"))
        .await;
    frames.until("still").await;

    let (status, answer) = server
        .call("process.Process/CloseStdin", json!({ "process": process }))
        .await;
    assert_eq!(
        (status, &answer["code"]),
        (400, &json!("failed_precondition"))
    );
    server
        .ok("process.Process/SendInput", keys("exit 5\n"))
        .await;
    assert_eq!(frames.output().await.end["exitCode"], 5);
    assert_eq!(server.call("process.Process/Update", size).await.0, 404);
}

#[tokio::test]
async fn only_terminals_have_a_size() {
    let server = Server::start();
    let (pid, _frames) = server
        .start_process(json!({ "process": { "cmd": "cat" } }))
        .await;
    let size = json!({ "process": { "pid": pid }, "pty": { "size": { "cols": 1, "rows": 1 } } });
    assert_eq!(
        server.call("process.Process/Update", size).await.1["code"],
        "failed_precondition"
    );
    let input = json!({ "process": { "pid": pid }, "input": { "pty": "YQ==" } });
    assert_eq!(
        server.call("process.Process/SendInput", input).await.1["code"],
        "failed_precondition"
    );
}
