//! Which absolute path a client means.

use crate::{
    error::{Error, Result},
    user::User,
};

/// Turns a client's path into a clean absolute one.
///
/// `~` and `~/…` mean the user's home; a relative path starts at `base`; `.` and `..` are taken out by text, so the
/// result never depends on links.
///
/// # Errors
/// `invalid_argument` for a NUL byte or for `~name`.
pub fn resolve(path: &str, user: &User, base: &str) -> Result<String> {
    if path.contains('\0') {
        return Err(Error::invalid("a path cannot contain a NUL byte"));
    }
    let joined = if path == "~" {
        user.home.clone()
    } else if let Some(rest) = path.strip_prefix("~/") {
        format!("{}/{rest}", user.home)
    } else if path.starts_with('~') {
        return Err(Error::invalid(format!(
            "'{path}': only ~ and ~/ are expanded, give the absolute path instead"
        )));
    } else if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{base}/{path}")
    };
    Ok(clean(&joined))
}

/// The directory a path lies in.
pub fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

/// The last component of a path.
pub fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Takes `.`, `..` and doubled slashes out of an absolute path.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> User {
        User {
            name: "ann".into(),
            uid: 1,
            gid: 1,
            groups: vec![],
            home: "/home/ann".into(),
            shell: "/bin/sh".into(),
        }
    }

    #[test]
    fn resolves_against_home_and_base() {
        for (given, expected) in [
            ("a/b", "/base/a/b"),
            ("", "/base"),
            ("~", "/home/ann"),
            ("~/x", "/home/ann/x"),
            ("/a//b/./c/../d", "/a/b/d"),
            ("/../..", "/"),
            ("ünï/\u{1F600}", "/base/ünï/\u{1F600}"),
        ] {
            assert_eq!(resolve(given, &ann(), "/base").expect(given), expected);
        }
        assert!(resolve("a\0b", &ann(), "/").is_err());
        assert!(resolve("~bob/x", &ann(), "/").is_err());
    }

    #[test]
    fn splits() {
        assert_eq!((parent("/a/b"), name("/a/b")), ("/a", "b"));
        assert_eq!((parent("/a"), name("/a")), ("/", "a"));
    }
}
