//! `/files`: contents in and out. Parts that need root (acting as another user) say so.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use common::{Server, fetch, is_root, request, send};
use http_body_util::BodyExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");

fn url(path: &Path) -> String {
    format!(
        "/files?path={}",
        utf8_percent_encode(path.to_str().unwrap(), NON_ALPHANUMERIC)
    )
}

fn parse(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[tokio::test]
async fn round_trip_of_64_mib_by_octets_and_by_form() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let content = noise(64 << 20);
    let path = folder.path().join("new/folder/big.bin");
    let (status, _, body) = fetch(
        server.control,
        "POST",
        &url(&path),
        &[OCTETS],
        content.clone(),
    )
    .await;
    assert_eq!(status, 200);
    assert_eq!(
        parse(&body),
        json!([{ "name": "big.bin", "type": "file", "path": path }])
    );
    let (status, headers, body) = fetch(server.control, "GET", &url(&path), &[], "").await;
    assert_eq!(
        (status.as_u16(), headers["content-length"].to_str().unwrap()),
        (200, "67108864")
    );
    assert!(body == content);

    let other = folder.path().join("by form");
    let mut form = format!(
        "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\n\r\n",
        other.display()
    )
    .into_bytes();
    form.extend_from_slice(&content);
    form.extend_from_slice(b"\r\n--b--\r\n");
    let kind = ("content-type", "multipart/form-data; boundary=b");
    let (status, _, _) = fetch(server.control, "POST", "/files", &[kind], form).await;
    assert_eq!(status, 200);
    assert!(fs::read(&other).unwrap() == content);
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        2,
        "no hidden file is left"
    );
}

#[tokio::test]
async fn several_files_in_one_form() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let mut form = String::new();
    for (name, content) in [("ünï \u{1F600}.txt", "a\r\nb"), ("sub/zwei", "")] {
        let path = folder.path().join(name);
        form += &format!(
            "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\nContent-Type: text/plain\r\n\r\n{content}\r\n",
            path.display()
        );
    }
    form += "--b--\r\n";
    let kind = ("content-type", "multipart/form-data; boundary=b");
    let (status, _, body) = fetch(server.control, "POST", "/files", &[kind], form.clone()).await;
    assert_eq!(
        (status.as_u16(), parse(&body).as_array().unwrap().len()),
        (200, 2)
    );
    assert_eq!(
        fs::read(folder.path().join("ünï \u{1F600}.txt")).unwrap(),
        b"a\r\nb"
    );
    assert_eq!(fs::read(folder.path().join("sub/zwei")).unwrap(), b"");
    let (status, _, body) = fetch(
        server.control,
        "POST",
        &url(&folder.path().join("x")),
        &[kind],
        form,
    )
    .await;
    assert_eq!(status, 400, "{body:?}");
    let (status, _, _) = fetch(server.control, "POST", "/files", &[kind], "garbage").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn compressed_upload() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let content = "compress me ".repeat(100_000);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content.as_bytes()).unwrap();
    let packed = encoder.finish().unwrap();
    let path = folder.path().join("file");
    let headers = [OCTETS, ("content-encoding", "gzip")];
    let (status, _, _) = fetch(
        server.control,
        "POST",
        &url(&path),
        &headers,
        packed.clone(),
    )
    .await;
    assert_eq!(status, 200);
    assert!(fs::read(&path).unwrap() == content.as_bytes());
    for broken in [packed[..packed.len() / 2].to_vec(), b"not gzip".to_vec()] {
        let (status, _, body) = fetch(server.control, "POST", &url(&path), &headers, broken).await;
        assert_eq!(status, 400, "{body:?}");
    }
    assert!(
        fs::read(&path).unwrap() == content.as_bytes(),
        "a broken upload changes nothing"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn errors_name_their_cause() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (status, _, body) = fetch(
        server.control,
        "GET",
        &url(&folder.path().join("none")),
        &[],
        "",
    )
    .await;
    assert_eq!((status.as_u16(), &parse(&body)["code"]), (404, &json!(404)));
    let (status, _, _) = fetch(server.control, "GET", &url(folder.path()), &[], "").await;
    assert_eq!(status, 400);
    let (status, _, _) = fetch(server.control, "POST", &url(folder.path()), &[OCTETS], "x").await;
    assert_eq!(status, 400);
    for method in ["GET", "POST"] {
        let (status, _, body) = fetch(
            server.control,
            method,
            "/files?path=%2Ftmp%2Fa%00b",
            &[OCTETS],
            "x",
        )
        .await;
        assert_eq!(status, 400);
        assert!(parse(&body)["message"].as_str().unwrap().contains("NUL"));
    }
    let (status, _, _) = fetch(server.control, "GET", "/files?path=%2Fdev%2Fzero", &[], "").await;
    assert_eq!(status, 400);
    let (status, _, _) = fetch(server.control, "POST", "/files", &[OCTETS], "x").await;
    assert_eq!(status, 400);
    let (status, _, _) = fetch(
        server.control,
        "GET",
        "/files?path=x&username=no-such-user",
        &[],
        "",
    )
    .await;
    assert_eq!(status, 401);
    let (status, _, _) = fetch(
        server.control,
        "POST",
        &url(&folder.path().join("f")),
        &[("content-type", "text/html")],
        "x",
    )
    .await;
    assert_eq!(status, 415);
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let (status, _, _) = fetch(server.control, "GET", &url(&fifo), &[], "").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_full_disk_is_told_as_507() {
    let server = Server::start();
    let (status, _, body) = fetch(
        server.control,
        "POST",
        "/files?path=%2Fdev%2Ffull",
        &[OCTETS],
        "x",
    )
    .await;
    assert_eq!((status.as_u16(), &parse(&body)["code"]), (507, &json!(507)));
    // The answer arrives although the client had much more to send.
    let (status, _, _) = fetch(
        server.control,
        "POST",
        "/files?path=%2Fdev%2Ffull",
        &[OCTETS],
        noise(16 << 20),
    )
    .await;
    assert_eq!(status, 507);
}

#[tokio::test]
async fn ranges_heads_and_sizeless_files() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("digits");
    fs::write(&path, "0123456789".repeat(100_000)).unwrap();
    let (status, headers, body) = fetch(
        server.control,
        "GET",
        &url(&path),
        &[("range", "bytes=12-15")],
        "",
    )
    .await;
    assert_eq!((status.as_u16(), &body[..]), (206, &b"2345"[..]));
    assert_eq!(headers["content-range"], "bytes 12-15/1000000");
    let (status, _, body) = fetch(
        server.control,
        "GET",
        &url(&path),
        &[("range", "bytes=5-")],
        "",
    )
    .await;
    assert_eq!((status.as_u16(), body.len()), (206, 999_995));
    let (status, _, _) = fetch(
        server.control,
        "GET",
        &url(&path),
        &[("range", "bytes=1000000-")],
        "",
    )
    .await;
    assert_eq!(status, 416);
    let (status, headers, body) = fetch(server.control, "HEAD", &url(&path), &[], "").await;
    assert_eq!((status.as_u16(), body.len()), (200, 0));
    assert_eq!(headers["content-length"], "1000000");
    let (status, _, body) = fetch(
        server.control,
        "GET",
        "/files?path=/proc/self/status",
        &[],
        "",
    )
    .await;
    assert_eq!(status, 200);
    assert!(body.starts_with(b"Name:"));
    fs::write(&path, "").unwrap();
    let (status, _, body) = fetch(server.control, "GET", &url(&path), &[], "").await;
    assert_eq!((status.as_u16(), body.len()), (200, 0));
}

#[tokio::test]
async fn a_replaced_file_keeps_its_mode_and_links_stay() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o751)).unwrap();
    let link = folder.path().join("link");
    symlink("script", &link).unwrap();
    let (status, _, _) = fetch(server.control, "POST", &url(&link), &[OCTETS], "new").await;
    assert_eq!(status, 200);
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o751);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let second = folder.path().join("second name");
    fs::hard_link(&path, &second).unwrap();
    fetch(server.control, "POST", &url(&path), &[OCTETS], "newer").await;
    assert_eq!(fs::read(&second).unwrap(), b"newer");
}

#[tokio::test]
async fn metadata_is_kept_and_cleared() {
    let server = Server::start();
    let folder = tempfile::tempdir_in(".").unwrap();
    let path = folder.path().canonicalize().unwrap().join("file");
    let headers = [
        OCTETS,
        ("x-metadata-author", "mish"),
        ("x-metadata-Purpose", "test"),
    ];
    let (status, _, body) = fetch(server.control, "POST", &url(&path), &headers, "1").await;
    if status == 400 && String::from_utf8_lossy(&body).contains("cannot keep metadata") {
        return; // this machine's file system has no attributes
    }
    assert_eq!(
        parse(&body)[0]["metadata"],
        json!({ "author": "mish", "purpose": "test" })
    );
    let entry = server
        .ok("filesystem.Filesystem/Stat", json!({ "path": path }))
        .await;
    assert_eq!(
        entry["entry"]["metadata"],
        json!({ "author": "mish", "purpose": "test" })
    );
    fetch(server.control, "POST", &url(&path), &[OCTETS], "2").await;
    let entry = server
        .ok("filesystem.Filesystem/Stat", json!({ "path": path }))
        .await;
    assert!(entry["entry"].get("metadata").is_none());
}

#[tokio::test]
async fn composes_parts() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let parts: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|name| folder.path().join(name))
        .collect();
    for (part, content) in parts.iter().zip(["x", "yy", "z"]) {
        fs::write(part, content).unwrap();
    }
    let whole = folder.path().join("out/whole");
    let message = json!({ "source_paths": parts, "destination": whole });
    let (status, _, body) = fetch(
        server.control,
        "POST",
        "/files/compose",
        &[],
        message.to_string(),
    )
    .await;
    assert_eq!(
        (status.as_u16(), parse(&body)["path"].as_str()),
        (200, whole.to_str())
    );
    assert_eq!(fs::read(&whole).unwrap(), b"xyyz");
    assert!(parts.iter().all(|part| !part.exists()));
    let (status, _, _) = fetch(
        server.control,
        "POST",
        "/files/compose",
        &[],
        message.to_string(),
    )
    .await;
    assert_eq!(status, 404);
    assert_eq!(fs::read(&whole).unwrap(), b"xyyz");
}

#[tokio::test]
async fn a_user_has_only_their_own_rights() {
    if !is_root() {
        eprintln!("skipped: needs root to act as another user");
        return;
    }
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "root's").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let open = folder.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let nobody = |path: &Path| format!("{}&username=nobody", url(path));

    for (method, path) in [
        ("GET", &secret),
        ("POST", &secret),
        ("POST", &folder.path().join("new")),
    ] {
        let (status, _, body) = fetch(server.control, method, &nobody(path), &[OCTETS], "x").await;
        assert_eq!(status, 403, "{method} {path:?} {body:?}");
    }
    let file = open.join("deep/er/file");
    let (status, _, _) = fetch(server.control, "POST", &nobody(&file), &[OCTETS], "mine").await;
    assert_eq!(status, 200);
    let nobody_id = fs::read_to_string("/etc/passwd").unwrap();
    let nobody_id = nobody_id
        .lines()
        .find(|line| line.starts_with("nobody:"))
        .unwrap()
        .split(':')
        .nth(2)
        .unwrap()
        .to_owned();
    for path in [&file, &open.join("deep")] {
        assert_eq!(fs::metadata(path).unwrap().uid().to_string(), nobody_id);
    }
    let remove = json!({ "path": secret });
    let headers = [("authorization", "Basic bm9ib2R5Og==")];
    let (status, _) = common::unary(
        server.control,
        "filesystem.Filesystem/Remove",
        &remove,
        &headers,
    )
    .await;
    assert_eq!(status, 403);
    // The thread's identity was given back.
    let (status, _, body) = fetch(server.control, "GET", &url(&secret), &[], "").await;
    assert_eq!((status.as_u16(), &body[..]), (200, &b"root's"[..]));
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    use tokio::io::AsyncWriteExt;
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half");
    let mut stream = tokio::net::TcpStream::connect(server.control)
        .await
        .unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: a\r\ncontent-type: application/octet-stream\r\ncontent-length: 1000000\r\n\r\n",
        url(&path)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; 500_000]).await.unwrap();
    for _ in 0..200 {
        if fs::read_dir(folder.path()).unwrap().count() > 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    drop(stream);
    for _ in 0..200 {
        if fs::read_dir(folder.path()).unwrap().count() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!(
        "left behind: {:?}",
        fs::read_dir(folder.path()).unwrap().collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_reader_that_leaves_is_no_trouble() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big");
    fs::write(&path, vec![7; 32 << 20]).unwrap();
    let answer = send(server.control, request("GET", &url(&path), &[], "")).await;
    let mut body = answer.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    let (status, _, body) = fetch(server.control, "GET", &url(&path), &[], "").await;
    assert_eq!((status.as_u16(), body.len()), (200, 32 << 20));
}
