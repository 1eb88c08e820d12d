//! What a user may make in folders of root's, and what they may not touch there. Needs root, to act as another user.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use common::{Server, fetch, is_root, unary};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Who all of this is done as: `Basic` credentials of "nobody".
const NOBODY: (&str, &str) = ("authorization", "Basic bm9ib2R5Og==");
const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");

/// An agent and a folder like `/`: root's, and below nothing that others may write.
struct Stage {
    server: Server,
    folder: TempDir,
}

impl Stage {
    /// `None`, said aloud, without root.
    fn set() -> Option<Self> {
        if !is_root() {
            eprintln!("skipped: needs root to act as another user");
            return None;
        }
        let folder = tempfile::tempdir_in("/").unwrap();
        mode(folder.path(), 0o755);
        Some(Self {
            server: Server::start(),
            folder,
        })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn upload(&self, path: &Path) -> u16 {
        let url = format!("/files?username=nobody&path={}", path.display());
        let (status, _, _) = fetch(self.server.control, "POST", &url, &[OCTETS], "theirs").await;
        status.as_u16()
    }

    async fn call(&self, method: &str, message: Value) -> (u16, Value) {
        let method = format!("filesystem.Filesystem/{method}");
        unary(self.server.control, &method, &message, &[NOBODY]).await
    }

    /// That a refusal left no trace.
    fn holds(&self, names: &[&str]) {
        let mut found: Vec<_> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        assert_eq!(found, names);
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// User id, group id and mode of what lies at `path` itself.
fn owner(path: &Path) -> (u32, u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid(), found.mode() & 0o7777)
}

fn nobody(mode: u32) -> (u32, u32, u32) {
    let user = guest_agent::user::User::lookup("nobody").unwrap();
    (user.uid, user.gid, mode)
}

#[tokio::test]
async fn what_is_missing_is_made_and_is_the_user_s() {
    let Some(stage) = Stage::set() else { return };
    let deep = stage.at("deep/er/x.txt");
    let file = stage.at("x.txt");
    for path in [&deep, &file] {
        assert_eq!(stage.upload(path).await, 200);
        assert_eq!(
            stage.upload(path).await,
            200,
            "and they may write it again: {path:?}"
        );
        assert_eq!(fs::read(path).unwrap(), b"theirs");
        assert_eq!(owner(path), nobody(0o644));
    }
    assert_eq!(owner(&stage.at("deep")), nobody(0o755));
    assert_eq!(owner(&stage.at("deep/er")), nobody(0o755));

    let workspace = json!({ "path": stage.at("workspace") });
    let (status, answer) = stage.call("MakeDir", workspace.clone()).await;
    assert_eq!(
        (status, &answer["entry"]["owner"]),
        (200, &json!("nobody")),
        "{answer}"
    );
    assert_eq!(owner(&stage.at("workspace")), nobody(0o755));
    assert_eq!(stage.call("MakeDir", workspace).await.0, 409);

    let moved = json!({ "source": deep, "destination": stage.at("moved/to/x.txt") });
    assert_eq!(stage.call("Move", moved).await.0, 200);
    assert_eq!(owner(&stage.at("moved")), nobody(0o755));

    let part = stage.at("moved/to/x.txt");
    let joined =
        json!({ "source_paths": [part], "destination": stage.at("whole"), "username": "nobody" });
    let control = stage.server.control;
    let (status, _, _) = fetch(control, "POST", "/files/compose", &[], joined.to_string()).await;
    assert_eq!(
        (status.as_u16(), owner(&stage.at("whole"))),
        (200, nobody(0o644))
    );
    stage.holds(&["deep", "moved", "whole", "workspace", "x.txt"]);
    assert_eq!(
        owner(stage.folder.path()),
        (0, 0, 0o755),
        "the folder itself is root's still"
    );
}

#[tokio::test]
async fn what_exists_keeps_its_owner_and_content() {
    let Some(stage) = Stage::set() else { return };
    let file = stage.at("file");
    fs::write(&file, "root's").unwrap();
    for permissions in [0o644, 0o600] {
        mode(&file, permissions);
        assert_eq!(stage.upload(&file).await, 403);
        assert_eq!(owner(&file), (0, 0, permissions));
    }
    let moved = json!({ "source": file, "destination": stage.at("new/file") });
    assert_eq!(stage.call("Move", moved).await.0, 403);
    assert_eq!(
        stage.upload(&stage.at("file/below")).await,
        400,
        "a file is no folder"
    );
    assert_eq!(fs::read(&file).unwrap(), b"root's");

    let private = stage.at("private");
    fs::create_dir(&private).unwrap();
    mode(&private, 0o700);
    assert_eq!(stage.upload(&private.join("x")).await, 403);
    assert_eq!(fs::read_dir(&private).unwrap().count(), 0);
    stage.holds(&["file", "new", "private"]);
}

#[tokio::test]
async fn links_are_not_followed_with_more_than_the_user_s_rights() {
    let Some(stage) = Stage::set() else { return };
    let target = stage.at("target");
    fs::create_dir(&target).unwrap();
    symlink("target", stage.at("link")).unwrap();
    symlink("nowhere", stage.at("dangling")).unwrap();
    let theirs = stage.at("theirs");
    assert_eq!(stage.upload(&theirs.join("x")).await, 200);
    // What a process of the sandbox could put there to lead the agent astray.
    symlink(&target, theirs.join("trap")).unwrap();

    for name in ["link/x", "link/new/x", "theirs/trap/x", "theirs/trap/new/x"] {
        assert_eq!(stage.upload(&stage.at(name)).await, 403, "{name}");
        let made = json!({ "path": stage.at(name) });
        assert_eq!(stage.call("MakeDir", made).await.0, 403, "{name}");
    }
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    assert_eq!(stage.upload(&stage.at("dangling")).await, 409);
    stage.holds(&["dangling", "link", "target", "theirs"]);
}

#[tokio::test]
async fn only_folders_that_nobody_else_may_change_are_added_to() {
    let Some(stage) = Stage::set() else { return };
    let shared = stage.at("shared");
    let inner = shared.join("inner");
    fs::create_dir_all(&inner).unwrap();
    mode(&shared, 0o1777);
    mode(&inner, 0o755);
    assert_eq!(
        stage.upload(&inner.join("x")).await,
        403,
        "its parent is open to all"
    );
    let other = stage.at("other");
    fs::create_dir(&other).unwrap();
    std::os::unix::fs::chown(&other, Some(12345), None).unwrap();
    assert_eq!(
        stage.upload(&other.join("x")).await,
        403,
        "it is another user's"
    );
    assert_eq!(stage.upload(&other.join("new/x")).await, 403);
    assert_eq!(
        fs::read_dir(&other).unwrap().count() + fs::read_dir(&inner).unwrap().count(),
        0
    );
}

#[tokio::test]
async fn an_upload_that_fails_leaves_nothing() {
    let Some(stage) = Stage::set() else { return };
    let broken = format!(
        "/files?username=nobody&path={}",
        stage.at("broken").display()
    );
    let gzip = [OCTETS, ("content-encoding", "gzip")];
    let (status, _, _) = fetch(stage.server.control, "POST", &broken, &gzip, "not gzip").await;
    assert_eq!(status, 400);
    stage.holds(&[]);
}

#[tokio::test]
async fn an_upload_does_not_replace_what_came_up_meanwhile() {
    let Some(stage) = Stage::set() else { return };
    let path = stage.at("late");
    let mut stream = TcpStream::connect(stage.server.control).await.unwrap();
    let head = format!(
        "POST /files?username=nobody&path={} HTTP/1.1\r\nhost: a\r\ncontent-type: application/octet-stream\r\ncontent-length: 2\r\nconnection: close\r\n\r\n1",
        path.display()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    while fs::read_dir(stage.folder.path()).unwrap().count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fs::write(&path, "root's").unwrap();
    stream.write_all(b"2").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 409 "), "{answer}");
    assert_eq!(fs::read(&path).unwrap(), b"root's");
    assert_eq!(owner(&path), (0, 0, 0o644));
    stage.holds(&["late"]);
}
