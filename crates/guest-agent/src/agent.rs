//! The agent's state: what every route is handed.

use std::{
    cell::{OnceCell, RefCell},
    collections::BTreeMap,
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    rc::Rc,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};

use crate::{
    filesystem::watchers::Watchers,
    hold::Hold,
    init::IdentityFiles,
    logs::Logs,
    metrics::Sampler,
    netns::NetNs,
    process::{cgroup, registry::Registry},
    server::Side,
    user::User,
};

/// How the agent is set up; from the command line.
#[derive(Clone, Debug)]
pub struct Config {
    /// The network namespace processes run in; `None` leaves them in the agent's.
    pub workload_netns: Option<PathBuf>,
    /// The cgroup2 directory below which each process gets a cgroup.
    pub cgroup_root: PathBuf,
    /// The process that `/shutdown` asks to end.
    pub init_pid: u32,
    /// See [`Agent::arguments`].
    pub arguments: Vec<OsString>,
}

/// What `/init` sets.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Settings {
    /// Token the public side demands.
    pub access_token: Option<String>,
    /// Environment of every process.
    pub env: BTreeMap<String, String>,
    /// User of requests that name none.
    pub default_user: Option<String>,
    /// Where relative paths start, instead of the user's home.
    pub default_workdir: Option<String>,
}

impl Settings {
    /// The directory relative paths start from.
    pub fn base<'a>(&'a self, user: &'a User) -> &'a str {
        self.default_workdir.as_deref().unwrap_or(&user.home)
    }
}

/// Attributes that children inherit and that the agent changed for itself alone.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Birthright {
    /// The soft and hard limit of open files, when the agent raised its own.
    pub open_files: Option<(u64, u64)>,
    /// Whether the agent is shielded from the out-of-memory killer, which its processes must not be.
    pub shielded: bool,
}

/// Everything the agent knows.
pub struct Agent {
    /// What `/init` set.
    pub settings: RefCell<Settings>,
    /// What `/init` has still to write to files.
    pub unwritten: RefCell<Option<IdentityFiles>>,
    /// Running processes.
    pub processes: Rc<Registry>,
    /// Where processes get their cgroups; `None` without cgroup2.
    pub cgroups: Option<cgroup::Root>,
    /// Which hold on them is the present one.
    pub hold: Hold,
    /// The workload's network namespace, if it is not the agent's own.
    pub netns: Option<NetNs>,
    /// What processes get back of what the agent changed for itself.
    pub birthright: Birthright,
    /// The output of all processes, in lines.
    pub logs: Logs,
    /// Tells tunnels that their other end knows a different machine.
    pub reborn: Notify,
    /// Directory watchers that are polled.
    pub watchers: Watchers,
    /// CPU use between two looks.
    pub sampler: Sampler,
    /// See [`Config::init_pid`].
    pub init_pid: u32,
    /// The agent's own command line, without what an upgrade adds; to be repeated to a successor.
    pub arguments: Vec<OsString>,
    /// The sockets it listens on, kept open while another build takes its place.
    pub listeners: RefCell<Vec<(Side, OwnedFd)>>,
    /// Whether new connections are taken; they wait in the kernel while not.
    pub open: watch::Sender<bool>,
    /// Ends every connection, but one that asked to be spared.
    pub leaving: Notify,
    /// Why the last upgrade that was begun did not come about.
    pub upgrade_failure: RefCell<Option<String>>,
    digest: OnceCell<String>,
}

/// The one agent of the process, shared by its tasks, all on one thread.
pub type Shared = Rc<Agent>;

impl Agent {
    /// Opens what the configuration names.
    ///
    /// # Errors
    /// When the network namespace cannot be opened.
    pub fn new(config: &Config, birthright: Birthright) -> io::Result<Shared> {
        let netns = match &config.workload_netns {
            Some(path) => Some(NetNs::open(path)?),
            None => None,
        };
        let cgroups = cgroup::Root::open(&config.cgroup_root);
        if cgroups.is_none() {
            eprintln!(
                "guest-agent: {} is not a writable cgroup2 directory; killing a process reaches its process group only",
                config.cgroup_root.display()
            );
        }
        Ok(Rc::new(Self {
            settings: RefCell::default(),
            unwritten: RefCell::default(),
            processes: Rc::default(),
            cgroups,
            hold: Hold::default(),
            netns,
            birthright,
            logs: Logs::default(),
            reborn: Notify::new(),
            watchers: Watchers::default(),
            sampler: Sampler::default(),
            init_pid: config.init_pid,
            arguments: config.arguments.clone(),
            listeners: RefCell::default(),
            open: watch::Sender::new(true),
            leaving: Notify::new(),
            upgrade_failure: RefCell::default(),
            digest: OnceCell::new(),
        }))
    }

    /// SHA-256 of the agent's own program, in hexadecimal; empty when it cannot be read.
    ///
    /// Read at the first use and then remembered, so that it is known already in what comes out of a snapshot.
    pub fn digest(&self) -> &str {
        self.digest.get_or_init(|| {
            std::fs::read("/proc/self/exe").map_or_else(
                |_| String::new(),
                |program| format!("{:x}", Sha256::digest(program)),
            )
        })
    }

    /// Notes the digest that whoever started this build has checked.
    pub fn set_digest(&self, digest: String) {
        // Set once only: a build does not change.
        let _ = self.digest.set(digest);
    }

    /// Writes what the last `/init` left to be written. Called before anything that could see the files.
    pub fn settled(&self) {
        if let Some(files) = self.unwritten.take() {
            files.write();
        }
    }
}
