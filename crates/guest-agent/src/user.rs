//! Users and groups of the sandbox, read from its own `/etc/passwd` and `/etc/group`.
//!
//! The files are read by hand: the binary is static, so the C library's name service could not load its modules.

use std::{collections::HashMap, ffi::CString, fs};

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};

/// An account in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Every group the user is a member of, the primary one included.
    pub groups: Vec<u32>,
    /// Home directory, absolute.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

impl User {
    /// The account called `name`.
    ///
    /// # Errors
    /// `unauthenticated` when there is no such account: the name stands in the place of credentials.
    pub fn lookup(name: &str) -> Result<Self> {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let group = fs::read_to_string("/etc/group").unwrap_or_default();
        find(name, &passwd, &group)
            .or_else(|| (name == "root").then(superuser))
            .ok_or_else(|| {
                Error::new(
                    Code::Unauthenticated,
                    format!("user '{name}' does not exist in the sandbox"),
                )
            })
    }

    /// The account requests run as when they name none: `preferred` if set, else `user`, else root.
    ///
    /// # Errors
    /// As [`User::lookup`], for a `preferred` that does not exist.
    pub fn default(preferred: Option<&str>) -> Result<Self> {
        match preferred {
            Some(name) => Self::lookup(name),
            None => Self::lookup("user").or_else(|_| Self::lookup("root")),
        }
    }
}

fn superuser() -> User {
    User {
        name: "root".into(),
        uid: 0,
        gid: 0,
        groups: vec![0],
        home: "/root".into(),
        shell: "/bin/sh".into(),
    }
}

fn find(name: &str, passwd: &str, group: &str) -> Option<User> {
    if name.is_empty() || CString::new(name).is_err() {
        return None;
    }
    let fields: Vec<&str> = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|f| f.len() >= 7 && f[0] == name)?;
    let (uid, gid) = (fields[2].parse().ok()?, fields[3].parse().ok()?);
    let mut groups = vec![gid];
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [_, _, id, members] = fields[..]
            && members.split(',').any(|member| member == name)
            && let Ok(id) = id.parse()
            && !groups.contains(&id)
        {
            groups.push(id);
        }
    }
    let home = if fields[5].starts_with('/') {
        fields[5]
    } else {
        "/"
    };
    let shell = if fields[6].is_empty() {
        "/bin/sh"
    } else {
        fields[6]
    };
    Some(User {
        name: name.into(),
        uid,
        gid,
        groups,
        home: home.into(),
        shell: shell.into(),
    })
}

/// Names of user and group ids, read once for a listing.
pub struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    /// Reads both tables.
    pub fn read() -> Self {
        Self {
            users: ids("/etc/passwd"),
            groups: ids("/etc/group"),
        }
    }

    /// The name of a user id, or the number itself.
    pub fn user(&self, uid: u32) -> String {
        self.users
            .get(&uid)
            .cloned()
            .unwrap_or_else(|| uid.to_string())
    }

    /// The name of a group id, or the number itself.
    pub fn group(&self, gid: u32) -> String {
        self.groups
            .get(&gid)
            .cloned()
            .unwrap_or_else(|| gid.to_string())
    }
}

fn ids(path: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in fs::read_to_string(path).unwrap_or_default().lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(id)) =
            (fields.next(), fields.nth(1).and_then(|id| id.parse().ok()))
        {
            names.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_groups_and_home() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1001:,,,:/home/ann:\nbad:x:y:z\n";
        let group = "root:x:0:\nann:x:1001:\ndocker:x:50:bob,ann\nx:x:51:annie\n";
        let ann = find("ann", passwd, group).expect("ann is there");
        assert_eq!((ann.uid, ann.gid, ann.groups), (1000, 1001, vec![1001, 50]));
        assert_eq!(
            (ann.home.as_str(), ann.shell.as_str()),
            ("/home/ann", "/bin/sh")
        );
        assert_eq!(find("bad", passwd, group), None);
        assert_eq!(find("", passwd, group), None);
    }
}
