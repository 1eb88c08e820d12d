//! `filesystem.Filesystem`: looking, moving, removing, watching.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use std::{fs, os::unix::fs::symlink, time::Duration};

use common::{Frames, Server, fetch};
use serde_json::{Value, json};

fn call(method: &str) -> String {
    format!("filesystem.Filesystem/{method}")
}

#[tokio::test]
async fn makes_lists_moves_and_removes() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap().to_owned();
    let at = |below: &str| json!({ "path": format!("{root}/{below}") });

    let made = server.ok(&call("MakeDir"), at("d/ünï/deep")).await;
    assert_eq!(
        (&made["entry"]["name"], &made["entry"]["type"]),
        (&json!("deep"), &json!("FILE_TYPE_DIRECTORY"))
    );
    assert_eq!(
        (&made["entry"]["mode"], &made["entry"]["permissions"]),
        (&json!(0o755), &json!("drwxr-xr-x"))
    );
    let (status, answer) = server.call(&call("MakeDir"), at("d")).await;
    assert_eq!((status, &answer["code"]), (409, &json!("already_exists")));

    fs::write(format!("{root}/d/a"), "1234").unwrap();
    symlink("a", format!("{root}/d/link")).unwrap();
    let names = |list: &Value| -> Vec<String> {
        list["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names(&server.ok(&call("ListDir"), at("d")).await),
        ["a", "link", "ünï"]
    );
    let deep = server
        .ok(
            &call("ListDir"),
            json!({ "path": format!("{root}/d"), "depth": 2 }),
        )
        .await;
    assert_eq!(names(&deep), ["a", "link", "ünï", "deep"]);
    assert_eq!(
        (
            &deep["entries"][0]["size"],
            &deep["entries"][1]["isSymlink"]
        ),
        (&json!("4"), &json!(true))
    );
    assert_eq!(
        deep["entries"][1]["symlinkTarget"],
        json!(format!("{root}/d/a"))
    );

    let (status, answer) = server.call(&call("ListDir"), at("d/a")).await;
    assert_eq!((status, &answer["code"]), (400, &json!("invalid_argument")));
    for method in ["Stat", "ListDir"] {
        let (status, answer) = server.call(&call(method), at("none")).await;
        assert_eq!((status, &answer["code"]), (404, &json!("not_found")));
    }
    let nul = json!({ "path": "/tmp/\0" });
    assert_eq!(
        server.call(&call("Stat"), nul).await.1["code"],
        "invalid_argument"
    );

    let paths =
        json!({ "source": format!("{root}/d/a"), "destination": format!("{root}/new/parent/b") });
    let moved = server.ok(&call("Move"), paths.clone()).await;
    assert_eq!(
        (&moved["entry"]["name"], &moved["entry"]["size"]),
        (&json!("b"), &json!("4"))
    );
    assert_eq!(server.call(&call("Move"), paths).await.0, 404);

    server.ok(&call("Remove"), at("d")).await;
    server.ok(&call("Remove"), at("d")).await;
    assert!(!folder.path().join("d").exists());
    assert_eq!(
        server.call(&call("Remove"), json!({ "path": "/" })).await.0,
        400
    );
}

#[tokio::test]
async fn a_tree_too_deep_for_paths_is_removed_and_links_in_it_are_not_followed() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept");
    fs::write(&kept, "x").unwrap();
    let script = format!(
        "cd {}; mkdir t; cd t; ln -s .. up; i=0; while [ $i -lt 60 ]; do mkdir {name}; cd -P {name} || exit 1; i=$((i+1)); done",
        folder.path().display(),
        name = "d".repeat(100),
    );
    assert_eq!(server.sh(&script).await.end["exitCode"], 0);
    let tree = json!({ "path": folder.path().join("t"), "depth": 100 });
    assert!(
        server.ok(&call("ListDir"), tree.clone()).await["entries"]
            .as_array()
            .unwrap()
            .len()
            > 30
    );
    server.ok(&call("Remove"), tree).await;
    assert!(!folder.path().join("t").exists() && kept.exists());
}

#[tokio::test]
async fn ten_thousand_files_in_one_folder() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    for number in 0..10_000 {
        fs::write(folder.path().join(format!("f{number:05}")), "").unwrap();
    }
    let list = server
        .ok(&call("ListDir"), json!({ "path": folder.path() }))
        .await;
    let entries = list["entries"].as_array().unwrap();
    assert_eq!(
        (entries.len(), &entries[9_999]["name"]),
        (10_000, &json!("f09999"))
    );
}

fn kinds(events: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let kind = |event: &Value| text(&event["type"]).replace("EVENT_TYPE_", "");
    events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (text(&event["name"]), kind(event)))
        .collect()
}

fn pair(name: &str, kind: &str) -> (String, String) {
    (name.to_owned(), kind.to_owned())
}

#[tokio::test]
async fn polled_watch_shows_uploads_as_plain_writes() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let message = json!({ "path": folder.path(), "includeEntry": true });
    let id = server.ok(&call("CreateWatcher"), message).await["watcherId"].clone();
    let watcher = json!({ "watcherId": id });
    let upload = async |content: &'static str| {
        let url = format!("/files?path={}/file", folder.path().display());
        fetch(
            server.control,
            "POST",
            &url,
            &[("content-type", "application/octet-stream")],
            content,
        )
        .await;
    };
    upload("one").await;
    let answer = server.ok(&call("GetWatcherEvents"), watcher.clone()).await;
    assert_eq!(
        kinds(&answer["events"]),
        [
            pair("file", "CREATE"),
            pair("file", "CHMOD"),
            pair("file", "WRITE")
        ]
    );
    assert_eq!(answer["events"][2]["entry"]["size"], "3");
    upload("two").await;
    let answer = server.ok(&call("GetWatcherEvents"), watcher.clone()).await;
    assert_eq!(kinds(&answer["events"]), [pair("file", "WRITE")]);

    fs::rename(folder.path().join("file"), folder.path().join("other")).unwrap();
    fs::remove_file(folder.path().join("other")).unwrap();
    let answer = server.ok(&call("GetWatcherEvents"), watcher.clone()).await;
    assert_eq!(
        kinds(&answer["events"]),
        [
            pair("file", "RENAME"),
            pair("other", "CREATE"),
            pair("other", "REMOVE")
        ]
    );
    assert!(answer["events"][0].get("entry").is_none());

    server.ok(&call("RemoveWatcher"), watcher.clone()).await;
    assert_eq!(
        server
            .call(&call("GetWatcherEvents"), watcher.clone())
            .await
            .0,
        404
    );
    assert_eq!(server.call(&call("RemoveWatcher"), watcher).await.0, 404);
}

#[tokio::test]
async fn recursive_watch_follows_new_and_moved_folders() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("old")).unwrap();
    let message = json!({ "path": folder.path(), "recursive": true });
    let id = server.ok(&call("CreateWatcher"), message).await["watcherId"].clone();
    let watcher = json!({ "watcherId": id });
    let events =
        async || kinds(&server.ok(&call("GetWatcherEvents"), watcher.clone()).await["events"]);

    fs::create_dir_all(folder.path().join("new/deep")).unwrap();
    fs::write(folder.path().join("new/deep/file"), "x").unwrap();
    let mut seen = events().await;
    for expected in [
        pair("new", "CREATE"),
        pair("new/deep", "CREATE"),
        pair("new/deep/file", "CREATE"),
    ] {
        assert!(seen.contains(&expected), "{expected:?} in {seen:?}");
    }
    fs::write(folder.path().join("new/deep/file"), "y").unwrap();
    seen = events().await;
    assert!(seen.contains(&pair("new/deep/file", "WRITE")), "{seen:?}");

    fs::rename(folder.path().join("new"), folder.path().join("old/moved")).unwrap();
    events().await;
    fs::write(folder.path().join("old/moved/deep/file"), "z").unwrap();
    seen = events().await;
    assert!(
        seen.contains(&pair("old/moved/deep/file", "WRITE")),
        "{seen:?}"
    );
}

#[tokio::test]
async fn streamed_watch() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let message = json!({ "path": folder.path() });
    let mut frames = Frames::open(
        server.control,
        &call("WatchDir"),
        &message,
        &[("connect-timeout-ms", "2000")],
    )
    .await;
    assert_eq!(frames.next().await, Some((0, json!({ "start": {} }))));
    fs::write(folder.path().join("ünï"), "x").unwrap();
    let (_, event) = frames.next().await.unwrap();
    assert_eq!(
        event,
        json!({ "filesystem": { "name": "ünï", "type": "EVENT_TYPE_CREATE" } })
    );
    let mut last = (0, Value::Null);
    while let Some(frame) = frames.next().await {
        last = frame;
    }
    assert_eq!(
        (last.0, &last.1["error"]["code"]),
        (2, &json!("deadline_exceeded"))
    );

    fs::write(folder.path().join("file"), "x").unwrap();
    for (path, code) in [("none", "not_found"), ("file", "invalid_argument")] {
        let message = json!({ "path": folder.path().join(path) });
        let output = Frames::open(server.control, &call("WatchDir"), &message, &[])
            .await
            .output()
            .await;
        assert_eq!(output.error.as_deref(), Some(code));
    }
}

#[tokio::test]
async fn watches_are_bounded_and_given_back() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let message = json!({ "path": folder.path() });
    for _ in 0..40 {
        let mut frames = Frames::open(server.control, &call("WatchDir"), &message, &[]).await;
        frames.next().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut ids = Vec::new();
    let refused = loop {
        let (status, answer) = server.call(&call("CreateWatcher"), message.clone()).await;
        if status != 200 {
            break answer;
        }
        ids.push(answer["watcherId"].clone());
        assert!(ids.len() <= 256);
    };
    assert_eq!(refused["code"], "resource_exhausted");
    server
        .ok(&call("RemoveWatcher"), json!({ "watcherId": ids[0] }))
        .await;
    server.ok(&call("CreateWatcher"), message).await;
}
