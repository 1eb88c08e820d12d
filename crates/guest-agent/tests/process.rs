//! `process.Process` over real connections. No privileges needed; what depends on cgroups says so.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use std::time::Duration;

use common::{Frames, Options, Server, encode, frame, is_root, unary};
use serde_json::json;

fn alive(pid: &str) -> bool {
    // A zombie counts as dead: nobody in the test's container may be there to reap it.
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap()
            .trim_start()
            .starts_with('Z')
    })
}

async fn gone(pid: &str) {
    for _ in 0..400 {
        if !alive(pid) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("process {pid} still lives");
}

#[tokio::test]
async fn tells_start_output_and_exit_code() {
    let server = Server::start();
    let output = server.sh("echo out; echo err >&2; exit 3").await;
    assert!(output.pid > 0 && output.closed && output.error.is_none());
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    let end = json!({ "exitCode": 3, "exited": true, "status": "exit status 3", "error": "exit status 3" });
    assert_eq!(output.end, end);
    let output = server.sh("true").await;
    assert_eq!(
        output.end,
        json!({ "exitCode": 0, "exited": true, "status": "exit status 0" })
    );
    let output = server.sh("kill -9 $$").await;
    assert_eq!(output.end["status"], "signal: killed");
    assert_eq!(
        (&output.end["exited"], &output.end["exitCode"]),
        (&json!(false), &json!(-1))
    );
}

#[tokio::test]
async fn keeps_the_order_within_streams_and_between_pauses() {
    let server = Server::start();
    let script = "for i in 1 2 3; do echo o$i; sleep 0.05; echo e$i >&2; sleep 0.05; done";
    let output = server.sh(script).await;
    assert_eq!(
        output.order,
        ["stdout", "stderr", "stdout", "stderr", "stdout", "stderr"]
    );
    assert_eq!(output.stdout, b"o1\no2\no3\n");
}

#[tokio::test]
async fn carries_binary_output_whole() {
    let server = Server::start();
    let output = server.sh(r"printf '\000\377\303(\r\nx\303\251'").await;
    assert_eq!(output.stdout, b"\x00\xff\xc3(\r\nx\xc3\xa9");
    let output = server.sh("head -c 20000000 /dev/zero").await;
    assert_eq!(output.stdout.len(), 20_000_000);
}

#[tokio::test]
async fn gives_environment_arguments_and_directory() {
    let server = Server::start();
    server.call("init", json!({})).await;
    let folder = tempfile::tempdir().unwrap();
    let cwd = folder.path().to_str().unwrap();
    let output = server
        .run(json!({
            "process": { "cmd": "sh", "args": ["-c", "printf '%s|%s|%s|%s' \"$A\" \"$1\" \"$PWD\" \"$HOME\"", "x", "a b*\u{1F600}"],
                "envs": { "A": "é\n" }, "cwd": cwd },
            "unknownField": { "x": 1 },
        }))
        .await;
    let text = output.text();
    assert!(
        text.starts_with(&format!("é\n|a b*\u{1F600}|{cwd}|/")),
        "{text}"
    );
}

#[tokio::test]
async fn says_clearly_what_cannot_start() {
    let server = Server::start();
    for (process, expected) in [
        (
            json!({ "cmd": "no-such-command" }),
            "command 'no-such-command' was not found in PATH",
        ),
        (
            json!({ "cmd": "/no/such" }),
            "command '/no/such' does not exist",
        ),
        (json!({ "cmd": "/etc/passwd" }), "may not be executed"),
        (
            json!({ "cmd": "true", "cwd": "/x/y" }),
            "cwd '/x/y' does not exist",
        ),
        (
            json!({ "cmd": "true", "cwd": "/etc/passwd" }),
            "cwd '/etc/passwd' is not a directory",
        ),
        (json!({ "cmd": "" }), "no command"),
        (json!({ "cmd": "a\0b" }), "NUL"),
        (
            json!({ "cmd": "true", "envs": { "A=B": "c" } }),
            "environment variable",
        ),
    ] {
        let output = server.run(json!({ "process": process })).await;
        assert_eq!(
            output.error.as_deref(),
            Some("invalid_argument"),
            "{process}"
        );
        assert!(output.message.contains(expected), "{}", output.message);
    }
    let list = server.ok("process.Process/List", json!({})).await;
    assert_eq!(list["processes"], json!([]));
}

#[tokio::test]
async fn a_deadline_kills_the_whole_tree() {
    let server = Server::start();
    let daemon = if server.has_cgroups {
        "setsid sleep 1000 & echo $!;"
    } else {
        ""
    };
    let script = format!("{daemon} sleep 1000 & echo $!; echo $$; wait");
    let message = json!({ "process": { "cmd": "sh", "args": ["-c", script] } });
    let headers = [("connect-timeout-ms", "300")];
    let output = Frames::open(server.control, "process.Process/Start", &message, &headers)
        .await
        .output()
        .await;
    assert_eq!(output.error.as_deref(), Some("deadline_exceeded"));
    assert!(output.end.is_null());
    for pid in output.text().lines() {
        gone(pid).await;
    }
}

#[tokio::test]
async fn a_deadline_holds_when_the_client_is_gone() {
    let server = Server::start();
    let message = json!({ "process": { "cmd": "sleep", "args": ["1000"] } });
    let headers = [("connect-timeout-ms", "300")];
    let mut frames =
        Frames::open(server.control, "process.Process/Start", &message, &headers).await;
    let pid = frames.next().await.unwrap().1["event"]["start"]["pid"].to_string();
    drop(frames);
    gone(&pid).await;
}

#[tokio::test]
async fn a_daemon_neither_delays_the_end_nor_dies_of_it() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("written");
    let script = format!(
        "(sleep 0.4; echo late; echo done > {}; exec sleep 1000) & echo $!",
        file.display()
    );
    let output = server.sh(&script).await;
    assert_eq!(output.end["exitCode"], 0);
    let pid = output.text();
    for _ in 0..400 {
        if file.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // It wrote to the pipe after the end was told, and lived.
    assert!(file.exists() && alive(&pid));
    let _ = std::process::Command::new("kill").arg(pid.trim()).status();
}

#[tokio::test]
async fn feeds_and_closes_stdin() {
    let server = Server::start();
    let (pid, mut frames) = server
        .start_process(json!({ "process": { "cmd": "cat" }, "stdin": true }))
        .await;
    let process = json!({ "pid": pid });
    let input = json!({ "process": process, "input": { "stdin": encode(b"a\x00\xffb\n") } });
    server.ok("process.Process/SendInput", input).await;
    assert_eq!(frames.until("b\n").await.stdout, b"a\x00\xffb\n");

    let mut body = frame(&json!({ "start": { "process": process } }));
    for part in ["x", "y", "z\n"] {
        body.extend(frame(
            &json!({ "data": { "input": { "stdin": encode(part) } } }),
        ));
    }
    body.extend(frame(&json!({ "keepalive": {} })));
    let mut stream = Frames::send(server.control, "process.Process/StreamInput", body, &[]).await;
    assert_eq!(stream.next().await, Some((0, json!({}))));
    assert_eq!(stream.next().await, Some((2, json!({}))));
    frames.until("xyz\n").await;

    server
        .ok("process.Process/CloseStdin", json!({ "process": process }))
        .await;
    let output = frames.output().await;
    assert_eq!(output.end["exitCode"], 0);

    let (_, answer) = server
        .call(
            "process.Process/SendInput",
            json!({ "process": { "pid": pid } }),
        )
        .await;
    assert_eq!(answer["code"], "not_found");
    let (pid, frames) = server
        .start_process(json!({ "process": { "cmd": "cat" }, "stdin": false }))
        .await;
    let input = json!({ "process": { "pid": pid }, "input": { "stdin": "YQ==" } });
    let (_, answer) = server.call("process.Process/SendInput", input).await;
    assert!(
        answer["code"] == "failed_precondition" || answer["code"] == "not_found",
        "{answer}"
    );
    drop(frames);
}

#[tokio::test]
async fn reconnects_with_replay_from_an_offset() {
    let server = Server::start();
    let script = "echo one; echo two >&2; read line; echo $line; read line";
    let message = json!({ "process": { "cmd": "sh", "args": ["-c", script] }, "tag": "job" });
    let (pid, mut frames) = server.start_process(message).await;
    let mut seen = 0;
    while seen < 8 {
        let (_, message) = frames.next().await.unwrap();
        seen += message["event"]["data"]
            .as_object()
            .unwrap()
            .values()
            .map(|text| text.as_str().unwrap().len() / 4 * 3)
            .sum::<usize>();
    }
    drop(frames);

    let by_tag = json!({ "process": { "tag": "job" } });
    let mut again = Frames::open(server.control, "process.Process/Connect", &by_tag, &[]).await;
    let mut part = again.until("one\n").await;
    assert_eq!((part.pid, part.offset), (pid, 0));
    let offset = json!({ "process": { "pid": pid }, "offset": "2" });
    let mut third = Frames::open(server.control, "process.Process/Connect", &offset, &[]).await;
    part = third.until("e\n").await;
    assert_eq!(part.offset, 2);
    assert_eq!(part.stdout, b"e\n");

    let input = json!({ "process": { "pid": pid }, "input": { "stdin": encode("three\n") } });
    server.ok("process.Process/SendInput", input).await;
    again.until("three\n").await;
    third.until("three\n").await;
    drop((again, third));
    server
        .ok(
            "process.Process/CloseStdin",
            json!({ "process": { "pid": pid } }),
        )
        .await;

    // It ends with nobody attached; the rest can still be fetched, but it is no process any more.
    gone(&pid.to_string()).await;
    let output = Frames::open(server.control, "process.Process/Connect", &by_tag, &[])
        .await
        .output()
        .await;
    assert_eq!(output.stdout, b"one\nthree\n");
    assert_eq!(
        (output.stderr.as_slice(), &output.end["exitCode"]),
        (&b"two\n"[..], &json!(1))
    );
    let kill = json!({ "process": { "pid": pid }, "signal": "SIGNAL_SIGKILL" });
    assert_eq!(server.call("process.Process/SendSignal", kill).await.0, 404);

    let missing = json!({ "process": { "pid": 999_999_999 } });
    let output = Frames::open(server.control, "process.Process/Connect", &missing, &[])
        .await
        .output()
        .await;
    assert_eq!(output.error.as_deref(), Some("not_found"));
}

#[tokio::test]
async fn a_slow_reader_holds_the_process_back_and_a_gone_one_does_not() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let counter = folder.path().join("done");
    let script = format!("head -c 60000000 /dev/zero; echo > {}", counter.display());
    let message = json!({ "process": { "cmd": "sh", "args": ["-c", script] } });
    let (pid, frames) = server.start_process(message).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(
        !counter.exists(),
        "the reader took nothing, so the writer must still wait"
    );
    drop(frames);
    // For a while it is waited for: what was kept when it left is still there when it comes back.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut again = Frames::open(
        server.control,
        "process.Process/Connect",
        &json!({ "process": { "pid": pid }, "offset": "0" }),
        &[],
    )
    .await;
    let (_, start) = again.next().await.unwrap();
    let offset: u64 = start["event"]["start"]["offset"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(offset < 59_000_000 && !counter.exists(), "{start}");
    drop(again);
    for _ in 0..4000 {
        if counter.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(counter.exists(), "with no reader the process runs on");
    let rest = json!({ "process": { "pid": pid } });
    let output = Frames::open(server.control, "process.Process/Connect", &rest, &[])
        .await
        .output()
        .await;
    assert_eq!(output.offset + output.stdout.len() as u64, 60_000_000);
    assert!(output.stdout.len() >= 900_000);
}

#[tokio::test]
async fn lists_and_signals() {
    let server = Server::start();
    let message = json!({ "process": { "cmd": "sh", "args": ["-c", "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.02; done"],
        "envs": { "A": "1" }, "cwd": "/tmp" }, "tag": "t" });
    let (pid, mut frames) = server.start_process(message).await;
    frames.until("ready").await;
    let list = server.ok("process.Process/List", json!({})).await;
    let info = &list["processes"][0];
    assert_eq!(
        (info["pid"].as_u64(), &info["tag"]),
        (Some(pid), &json!("t"))
    );
    assert_eq!(
        (&info["config"]["envs"]["A"], &info["config"]["cwd"]),
        (&json!("1"), &json!("/tmp"))
    );

    let signal = |name: serde_json::Value| json!({ "process": { "pid": pid }, "signal": name });
    assert_eq!(
        server
            .call(
                "process.Process/SendSignal",
                signal(json!("SIGNAL_NONSENSE"))
            )
            .await
            .0,
        400
    );
    server
        .ok(
            "process.Process/SendSignal",
            signal(json!("SIGNAL_SIGTERM")),
        )
        .await;
    let output = frames.output().await;
    assert!(output.text().contains("caught"));
    assert_eq!(output.end["exitCode"], 7);

    let (pid, frames) = server
        .start_process(json!({ "process": { "cmd": "sh", "args": ["-c", "sleep 1000"] } }))
        .await;
    server
        .ok(
            "process.Process/SendSignal",
            json!({ "process": { "pid": pid }, "signal": 9 }),
        )
        .await;
    assert_eq!(frames.output().await.end["status"], "signal: killed");
    assert_eq!(
        server
            .call("process.Process/SendSignal", json!({ "signal": 9 }))
            .await
            .0,
        400
    );
}

#[tokio::test]
async fn two_hundred_processes_at_once() {
    let server = Server::start();
    let mut running = Vec::new();
    for number in 0..200 {
        let message =
            json!({ "process": { "cmd": "sh", "args": ["-c", format!("read x; echo {number}")] } });
        running.push(server.start_process(message).await);
    }
    let list = server.ok("process.Process/List", json!({})).await;
    assert_eq!(list["processes"].as_array().unwrap().len(), 200);
    for (pid, _) in &running {
        server
            .ok(
                "process.Process/CloseStdin",
                json!({ "process": { "pid": pid } }),
            )
            .await;
    }
    for (number, (_, frames)) in running.into_iter().enumerate() {
        assert_eq!(frames.output().await.text(), format!("{number}\n"));
    }
}

#[tokio::test]
async fn an_idle_stream_shows_signs_of_life() {
    let server = Server::start();
    let message = json!({ "process": { "cmd": "sleep", "args": ["1.5"] } });
    let headers = [("keepalive-ping-interval", "1")];
    let output = Frames::open(server.control, "process.Process/Start", &message, &headers)
        .await
        .output()
        .await;
    assert_eq!(output.keepalives, 1);
}

#[tokio::test]
async fn runs_as_the_user_asked_for() {
    let server = Server::start();
    let message = json!({ "process": { "cmd": "/usr/bin/id", "args": ["-un"] } });
    let headers = [("authorization", "Basic bm9ib2R5Og==")];
    if is_root() {
        let output = Frames::open(server.control, "process.Process/Start", &message, &headers)
            .await
            .output()
            .await;
        assert_eq!(output.text(), "nobody\n", "{}", output.message);
    }
    let headers = [("authorization", "Basic bm8tc3VjaC11c2VyOg==")];
    let output = Frames::open(server.control, "process.Process/Start", &message, &headers)
        .await
        .output()
        .await;
    assert_eq!(output.error.as_deref(), Some("unauthenticated"));
}

#[tokio::test]
async fn a_process_hears_signals_that_the_agent_ignores_or_blocks() {
    let quiet = [libc::SIGHUP, libc::SIGINT, libc::SIGUSR2, libc::SIGRTMAX()];
    // As `nohup` and a shell's `&` leave them for what they start.
    let server = Server::with(Options {
        // SAFETY: plain numbers and a set of signals on the stack; no handler is installed.
        prepare: Box::new(move || unsafe {
            let mut blocked: libc::sigset_t = std::mem::zeroed();
            for signal in quiet {
                libc::signal(signal, libc::SIG_IGN);
                libc::sigaddset(&raw mut blocked, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, std::ptr::null_mut());
        }),
        ..Options::default()
    });
    let output = server
        .run(json!({ "process": { "cmd": "grep", "args": ["-E", "^Sig(Blk|Ign)", "/proc/self/status"] } }))
        .await;
    for signal in quiet {
        // SAFETY: plain numbers.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let none = "0".repeat(16);
    assert_eq!(output.text(), format!("SigBlk:\t{none}\nSigIgn:\t{none}\n"));
}

#[tokio::test]
async fn survives_bad_input() {
    let server = Server::start();
    let (status, answer) = unary(
        server.control,
        "process.Process/SendSignal",
        &json!([1, 2]),
        &[],
    )
    .await;
    assert_eq!((status, &answer["code"]), (400, &json!("invalid_argument")));
    let (status, answer) = unary(server.control, "process.Process/Nonsense", &json!({}), &[]).await;
    assert_eq!((status, &answer["code"]), (501, &json!("unimplemented")));

    let start = "process.Process/Start";
    for body in [
        vec![],
        vec![0, 0, 0],
        vec![0, 0, 0, 0, 9, b'{'],
        frame(&json!("x")),
        b"\0\0\0\0\x02{]".to_vec(),
    ] {
        let output = Frames::send(server.control, start, body, &[])
            .await
            .output()
            .await;
        assert_eq!(output.error.as_deref(), Some("invalid_argument"));
    }
    let output = Frames::send(server.control, start, vec![0, 0xff, 0xff, 0xff, 0xff], &[])
        .await
        .output()
        .await;
    assert_eq!(output.error.as_deref(), Some("resource_exhausted"));
    let output = Frames::send(server.control, start, vec![1, 0, 0, 0, 1, 0], &[])
        .await
        .output()
        .await;
    assert_eq!(output.error.as_deref(), Some("unimplemented"));
    let output = Frames::open(
        server.control,
        start,
        &json!({}),
        &[("connect-timeout-ms", "soon")],
    )
    .await
    .output()
    .await;
    assert_eq!(output.error.as_deref(), Some("invalid_argument"));

    let (status, _, _) = common::fetch(
        server.control,
        "POST",
        "/process.Process/List",
        &[("content-type", "application/proto")],
        "",
    )
    .await;
    assert_eq!(status, 415);
    let (status, _, _) =
        common::fetch(server.control, "GET", "/process.Process/List", &[], "").await;
    assert_eq!(status, 405);
    let big = "x".repeat(5 << 20);
    let (status, _) = unary(
        server.control,
        "process.Process/List",
        &json!({ "a": big }),
        &[],
    )
    .await;
    assert_eq!(status, 429);
    assert_eq!(server.sh("echo fine").await.text(), "fine\n");
}
