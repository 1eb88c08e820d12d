//! The two sides: tokens, signatures, control routes, logs, tunnels. No privileges needed.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use common::{Frames, Options, Server, fetch, request, send, unary};
use guest_agent::auth::signature;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");

async fn init(server: &Server, message: Value) {
    let (status, _, body) = fetch(server.control, "POST", "/init", &[], message.to_string()).await;
    assert_eq!(status, 204, "{body:?}");
}

#[tokio::test]
async fn control_routes_do_not_exist_on_the_public_side() {
    let server = Server::start();
    for (method, path) in [
        ("POST", "/init"),
        ("POST", "/sync"),
        ("POST", "/hold"),
        ("POST", "/release"),
        ("POST", "/shutdown"),
        ("GET", "/logs"),
        ("GET", "/tunnel?port=1"),
        ("POST", "/upgrade"),
        ("GET", "/nonsense"),
    ] {
        let (status, _, _) = fetch(server.public, method, path, &[], "{}").await;
        assert_eq!(status, 404, "{method} {path}");
    }
    let (status, _, _) = fetch(server.public, "GET", "/health", &[], "").await;
    assert_eq!(status, 204);
    let (_, _, body) = fetch(server.public, "GET", "/version", &[], "").await;
    assert_eq!(
        serde_json::from_slice::<Value>(&body).unwrap()["envdVersion"],
        guest_agent::ENVD_VERSION
    );
    let (status, _, body) = fetch(server.public, "GET", "/metrics", &[], "").await;
    assert_eq!(status, 200);
    assert!(serde_json::from_slice::<Value>(&body).unwrap()["mem_total"].as_u64() > Some(0));
}

#[tokio::test]
async fn the_public_side_demands_the_token() {
    let server = Server::start();
    let list = "process.Process/List";
    assert_eq!(unary(server.public, list, &json!({}), &[]).await.0, 200);
    init(&server, json!({ "accessToken": "secret", "unknown": 1 })).await;
    for headers in [
        &[][..],
        &[("x-access-token", "wrong")],
        &[("x-access-token", "")],
    ] {
        let (status, answer) = unary(server.public, list, &json!({}), headers).await;
        assert_eq!((status, &answer["code"]), (401, &json!("unauthenticated")));
    }
    assert_eq!(
        unary(
            server.public,
            list,
            &json!({}),
            &[("x-access-token", "secret")]
        )
        .await
        .0,
        200
    );
    assert_eq!(unary(server.control, list, &json!({}), &[]).await.0, 200);
    let (status, _, body) = fetch(server.public, "GET", "/files?path=/etc/hostname", &[], "").await;
    assert_eq!(
        (
            status.as_u16(),
            &serde_json::from_slice::<Value>(&body).unwrap()["code"]
        ),
        (401, &json!(401))
    );
    assert_eq!(fetch(server.public, "GET", "/health", &[], "").await.0, 204);
    assert_eq!(
        fetch(
            server.public,
            "POST",
            "/init",
            &[("x-access-token", "secret")],
            "{}"
        )
        .await
        .0,
        404
    );
}

#[tokio::test]
async fn signed_urls_open_one_file_for_one_thing() {
    let server = Server::start();
    init(&server, json!({ "accessToken": "secret" })).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("signed").to_str().unwrap().to_owned();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let url = |operation: &str, user: &str, expiration: Option<u64>| {
        let expiration = expiration.map(|time| time.to_string());
        let signature = signature(&path, operation, user, "secret", expiration.as_deref())
            .replace('+', "%2B")
            .replace('/', "%2F");
        let mut url = format!("/files?path={path}&signature={signature}");
        if !user.is_empty() {
            url += &format!("&username={user}");
        }
        if let Some(expiration) = expiration {
            url += &format!("&signature_expiration={expiration}");
        }
        url
    };
    let get = async |url: String| fetch(server.public, "GET", &url, &[], "").await.0.as_u16();
    let post = async |url: String| {
        fetch(server.public, "POST", &url, &[OCTETS], "x")
            .await
            .0
            .as_u16()
    };
    assert_eq!(post(url("write", "", None)).await, 200);
    assert_eq!(get(url("read", "", None)).await, 200);
    assert_eq!(get(url("read", "root", Some(now + 60))).await, 200);
    assert_eq!(get(url("read", "", Some(now - 60))).await, 401);
    assert_eq!(get(url("write", "", None)).await, 401);
    assert_eq!(post(url("read", "", None)).await, 401);
    assert_eq!(
        get(url("read", "", None).replace("signed", "other")).await,
        401
    );
    assert_eq!(get(format!("/files?path={path}&signature=v1_x")).await, 401);
}

#[tokio::test]
async fn init_sets_environment_user_and_directory() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    init(&server, json!({ "envVars": { "A": "init", "B": "init" }, "defaultUser": "root", "defaultWorkdir": dir })).await;
    let (_, _, body) = fetch(server.public, "GET", "/envs", &[], "").await;
    assert_eq!(
        serde_json::from_slice::<Value>(&body).unwrap(),
        json!({ "A": "init", "B": "init" })
    );
    let message = json!({ "process": { "cmd": "sh", "args": ["-c", "echo $A $B $PWD"], "envs": { "B": "own" } } });
    assert_eq!(
        server.run(message).await.text(),
        format!("init own {dir}\n")
    );
    let (status, _, _) = fetch(server.public, "POST", "/files?path=here", &[OCTETS], "x").await;
    assert_eq!(
        (
            status.as_u16(),
            fs::read(folder.path().join("here")).unwrap()
        ),
        (200, b"x".to_vec())
    );

    for bad in [
        json!({ "timestamp": "never" }),
        json!({ "hostname": "a b" }),
        json!({ "machineId": "12" }),
        json!({ "entropy": "%" }),
        json!({ "envVars": { "A=B": "" } }),
        json!([]),
    ] {
        let (status, _, _) = fetch(server.control, "POST", "/init", &[], bad.to_string()).await;
        assert_eq!(status, 400, "{bad}");
    }
}

#[tokio::test]
async fn tells_the_log() {
    let server = Server::start();
    server.sh("echo one; echo two; printf 'three'").await;
    server.sh(r"printf 'bad \377 byte\n' >&2").await;
    let lines = async |query: &str| -> Vec<Value> {
        let (status, headers, body) =
            fetch(server.control, "GET", &format!("/logs{query}"), &[], "").await;
        assert_eq!(
            (status.as_u16(), headers["content-type"].to_str().unwrap()),
            (200, "application/x-ndjson")
        );
        String::from_utf8(body.to_vec())
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let text = |lines: &[Value]| {
        lines
            .iter()
            .map(|line| line["line"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let all = lines("").await;
    assert_eq!(text(&all), ["one", "two", "three", "bad \u{fffd} byte"]);
    assert!(all[0]["time"].as_str().unwrap().ends_with('Z') && all[0]["pid"].as_u64() > Some(0));
    assert_eq!(all[3]["stream"], "stderr");
    assert_eq!(text(&lines("?stream=stderr").await), ["bad \u{fffd} byte"]);
    assert_eq!(text(&lines("?stream=stdout&tail=1").await), ["three"]);
    let (status, _, _) = fetch(server.control, "GET", "/logs?stream=x", &[], "").await;
    assert_eq!(status, 400);

    let answer = send(
        server.control,
        request("GET", "/logs?follow=1&tail=0", &[], ""),
    )
    .await;
    server.sh("echo live").await;
    let mut body = answer.into_body();
    let frame = http_body_util::BodyExt::frame(&mut body)
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&frame).unwrap()["line"],
        "live"
    );
}

#[tokio::test]
async fn tunnels_to_a_port() {
    let server = Server::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        bytes.reverse();
        stream.write_all(&bytes).await.unwrap();
    });
    let headers = [("connection", "upgrade"), ("upgrade", "tcp")];
    let answer = send(
        server.control,
        request("GET", &format!("/tunnel?port={port}"), &headers, ""),
    )
    .await;
    assert_eq!(answer.status(), 101);
    let mut pipe = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    pipe.write_all(b"\x00abc").await.unwrap();
    pipe.shutdown().await.unwrap();
    let mut back = Vec::new();
    pipe.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"cba\x00");
    echo.await.unwrap();

    let (status, _, body) = fetch(
        server.control,
        "GET",
        &format!("/tunnel?port={port}"),
        &headers,
        "",
    )
    .await;
    assert_eq!(status, 502);
    assert!(String::from_utf8_lossy(&body).contains("port is not open"));
    let (status, _, _) = fetch(server.control, "GET", "/tunnel?port=0", &headers, "").await;
    assert_eq!(status, 400);
    let (status, _, _) = fetch(
        server.control,
        "GET",
        &format!("/tunnel?port={port}"),
        &[],
        "",
    )
    .await;
    assert_eq!(status, 426);
}

#[tokio::test]
async fn shutdown_asks_the_init_process() {
    let mut child = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let server = Server::with(Options {
        init_pid: child.id(),
        ..Options::default()
    });
    let (status, _, _) = fetch(server.control, "POST", "/shutdown", &[], "").await;
    assert_eq!(status, 202);
    assert!(!child.wait().unwrap().success());
    let (status, _, _) = fetch(server.control, "POST", "/sync", &[], "").await;
    assert_eq!(status, 204);
}

#[tokio::test]
async fn both_sides_run_processes() {
    let server = Server::start();
    let message = json!({ "process": { "cmd": "echo", "args": ["hi"] } });
    let output = Frames::open(server.public, "process.Process/Start", &message, &[])
        .await
        .output()
        .await;
    assert_eq!(output.text(), "hi\n");
}
