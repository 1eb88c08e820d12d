//! What the jail is told: one JSON document, every field of it checked for spelling.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

/// Everything one jailed process may see, use and consume.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Absolute path of the program, as seen inside the jail.
    pub program: PathBuf,
    /// Its arguments, without the program's own name.
    #[serde(default)]
    pub args: Vec<String>,
    /// Its whole environment; nothing is inherited.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// User it runs as; 0 is refused.
    pub uid: u32,
    /// Group it runs as; 0 is refused. It has no supplementary groups.
    pub gid: u32,
    /// Network namespace to enter. Without one the process gets a new, empty one.
    pub netns: Option<PathBuf>,
    /// Tap devices of that namespace, opened for the process.
    #[serde(default)]
    pub taps: Vec<Tap>,
    /// Files opened for the process; it needs no right to open them itself.
    #[serde(default)]
    pub files: Vec<InheritedFile>,
    /// Listening unix sockets made for the process on paths it cannot see.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// Files the process believes to open read-write by name, and is handed instead.
    #[serde(default)]
    pub served: Vec<ServedFile>,
    /// What is put into the process's otherwise empty, read-only root.
    #[serde(default)]
    pub binds: Vec<Bind>,
    /// Symbolic links in that root.
    #[serde(default)]
    pub symlinks: Vec<Symlink>,
    /// An existing empty directory of the host on which the root is assembled; nobody else sees it there.
    pub root: PathBuf,
    /// Where the process's standard output is kept.
    pub console: BoundedLog,
    /// Where its standard error is kept.
    pub log: BoundedLog,
    /// Gets how the process ended, as JSON; empty until then.
    pub exit_file: PathBuf,
    /// Gets the identity of the supervisor and the process, as JSON, before the launcher answers.
    pub pid_file: PathBuf,
    /// `cgroup.procs` (v2) or `tasks` (v1) files of the cgroups to join.
    #[serde(default)]
    pub cgroups: Vec<PathBuf>,
    /// Resource limits; core dumps are always off.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// How eagerly the kernel picks this process when the host runs out of memory, 0 to 1000.
    #[serde(default)]
    pub oom_score_adj: u16,
}

/// A persistent tap device and the descriptor number it is inherited as.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tap {
    /// Interface name inside the network namespace.
    pub name: String,
    /// Descriptor number in the process.
    pub fd: i32,
}

/// A file opened before privileges are dropped.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InheritedFile {
    /// Path on the host.
    pub source: PathBuf,
    /// Descriptor number in the process.
    pub fd: i32,
    /// Open for writing as well as reading.
    #[serde(default)]
    pub writable: bool,
}

/// A unix stream socket that is bound and listening when the process starts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Path on the host; whatever is there is replaced. Mode 0600.
    pub path: PathBuf,
    /// Descriptor number in the process.
    pub fd: i32,
}

/// A name that, opened read-write by the process, yields a descriptor opened by the jail.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServedFile {
    /// The exact path string the process opens.
    pub name: String,
    /// Path on the host.
    pub source: PathBuf,
    /// Whether the descriptor really is writable. A private mapping needs none of that.
    #[serde(default)]
    pub writable: bool,
}

/// A file or directory of the host shown in the jail.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// Path on the host.
    pub source: PathBuf,
    /// Absolute path in the jail.
    pub target: PathBuf,
    /// Mounted read-only unless set.
    #[serde(default)]
    pub writable: bool,
    /// Device nodes work on it only if set.
    #[serde(default)]
    pub devices: bool,
}

/// A symbolic link in the jail's root.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Symlink {
    /// Absolute path of the link in the jail.
    pub link: PathBuf,
    /// What it points to.
    pub target: PathBuf,
}

/// A log that never grows beyond a bound; the oldest half is dropped when it would.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoundedLog {
    /// Path on the host.
    pub path: PathBuf,
    /// Bound in bytes, at least 4096.
    pub max_bytes: u64,
}

/// One resource limit, soft and hard alike.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    /// Which.
    pub resource: RlimitName,
    /// Its value in the resource's own unit.
    pub value: u64,
}

/// The limits that make sense for a jailed process.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RlimitName {
    /// Number of open descriptors.
    Nofile,
    /// Largest file it may write, in bytes.
    Fsize,
    /// Address space, in bytes.
    As,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"{"program": "/bin/x", "uid": 1, "gid": 1, "netns": null, "root": "/r",
        "console": {"path": "/c", "max_bytes": 4096}, "log": {"path": "/l", "max_bytes": 4096},
        "exit_file": "/e", "pid_file": "/p""#;

    #[test]
    fn minimal_configuration_is_accepted() {
        let config: Config = serde_json::from_str(&format!("{MINIMAL}}}")).expect("valid");
        assert!(config.binds.is_empty());
        assert_eq!(config.oom_score_adj, 0);
    }

    #[test]
    fn misspelt_fields_are_refused() {
        let wrong = format!("{MINIMAL}, \"cgroup\": []}}");
        let error = serde_json::from_str::<Config>(&wrong).expect_err("must be refused");
        assert!(error.to_string().contains("cgroup"));
    }
}
