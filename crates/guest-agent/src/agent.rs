//! The agent's state: what every route is handed.

use std::{cell::RefCell, collections::BTreeMap, io, path::PathBuf, rc::Rc};

use tokio::sync::Notify;

use crate::{
    filesystem::watchers::Watchers,
    init::IdentityFiles,
    logs::Logs,
    metrics::Sampler,
    netns::NetNs,
    process::{cgroup, registry::Registry},
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
}

/// What `/init` sets.
#[derive(Default)]
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
#[derive(Clone, Copy, Debug, Default)]
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
            netns,
            birthright,
            logs: Logs::default(),
            reborn: Notify::new(),
            watchers: Watchers::default(),
            sampler: Sampler::default(),
            init_pid: config.init_pid,
        }))
    }

    /// Writes what the last `/init` left to be written. Called before anything that could see the files.
    pub fn settled(&self) {
        if let Some(files) = self.unwritten.take() {
            files.write();
        }
    }
}
