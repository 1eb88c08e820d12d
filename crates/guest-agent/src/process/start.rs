//! From a `Start` request to a running process.

use std::{
    collections::BTreeMap,
    ffi::CString,
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
};

use rustix::{
    fs::{Mode, OFlags},
    pipe::{PipeFlags, pipe_with},
};
use tokio::{task::spawn_local, time::Instant};

use super::{
    handle::{Parts, Process},
    messages::{ProcessConfig, StartRequest},
    pty,
    pump::{self, Source},
    ring::Stream,
    spawn::{Child, Failure, Program, Step, spawn},
};
use crate::{
    agent::Shared,
    error::{Code, Error, Result},
    netns::NetNs,
    paths,
    user::User,
    watched::{Watched, watched},
};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts what `request` asks for, as `user`; at `deadline` it is killed with everything it started.
///
/// # Errors
/// `invalid_argument` when the program or the working directory does not exist or the request cannot be an
/// argument list, `resource_exhausted` at the limit of processes, `internal` when the kernel refuses.
pub async fn start(
    agent: &Shared,
    request: StartRequest,
    user: &User,
    deadline: Option<Instant>,
) -> Result<Rc<Process>> {
    let config = request.process.unwrap_or_default();
    let place = agent.processes.reserve()?;
    let plan = Plan::new(agent, &config, user, request.pty.is_some())?;
    let streams = match request.pty {
        Some(pty) => Streams::terminal(pty.size.unwrap_or_default(), user),
        None => Streams::pipes(request.stdin.unwrap_or(true)),
    }
    .map_err(|error| Error::internal(format!("cannot make the streams of the process: {error}")))?;
    let cgroup = match &agent.cgroups {
        Some(root) => Some(root.create(&place.id.to_string()).map_err(|error| {
            Error::internal(format!("cannot make a cgroup for the process: {error}"))
        })?),
        None => None,
    };

    let spawned = spawn(&Program {
        candidates: &plan.candidates,
        args: &plan.args,
        env: &plan.env,
        cwd: &plan.cwd,
        user,
        stdio: [
            streams.child[0].as_fd(),
            streams.child[1].as_fd(),
            streams.child[2].as_fd(),
        ],
        terminal: streams.terminal.is_some(),
        cgroup: cgroup.as_ref().map(|cgroup| cgroup.directory().as_fd()),
        netns: agent.netns.as_ref().map(NetNs::workload),
        birthright: agent.birthright,
    });
    drop(streams.child);
    let ran = match spawned {
        Ok(child) => running(child, &config, &plan, user).await,
        Err(error) => Err(Error::new(
            Code::ResourceExhausted,
            format!("the kernel starts no more processes: {error}"),
        )),
    };
    let (pid, pidfd) = match ran {
        Ok(child) => child,
        Err(error) => {
            if let (Some(root), Some(cgroup)) = (&agent.cgroups, cgroup) {
                root.retire(cgroup);
            }
            return Err(error);
        }
    };
    let process = Rc::new(Process::new(Parts {
        pid,
        tag: request.tag,
        config,
        cgroup,
        stdin: streams.stdin,
        terminal: streams.terminal,
        sources: streams.sources,
        pidfd: Some(pidfd),
        deadline,
    }));
    agent.processes.add(process.clone());
    spawn_local(pump::run(agent.clone(), process.clone()));
    Ok(process)
}

/// Waits until the child's program runs.
async fn running(
    child: Child,
    config: &ProcessConfig,
    plan: &Plan,
    user: &User,
) -> Result<(u32, Watched)> {
    let broken =
        |error: io::Error| Error::internal(format!("cannot watch the new process: {error}"));
    let report = watched(child.report).map_err(broken)?;
    let mut bytes = [0; Failure::SIZE];
    let count = loop {
        let mut guard = report.readable().await.map_err(broken)?;
        match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut bytes[..])?)) {
            Ok(read) => break read.map_err(broken)?,
            Err(_would_block) => {}
        }
    };
    let Some(failure) = Failure::parse(&bytes[..count]) else {
        return Ok((child.pid, watched(child.pidfd).map_err(broken)?));
    };
    spawn_local(pump::bury(child.pidfd));
    Err(explain(failure, config, plan, user))
}

fn explain(failure: Failure, config: &ProcessConfig, plan: &Plan, user: &User) -> Error {
    let reason = io::Error::from_raw_os_error(failure.errno);
    let cwd = plan.cwd.to_string_lossy();
    match (failure.step, failure.errno) {
        (Step::Directory, libc::ENOENT) => Error::invalid(format!("cwd '{cwd}' does not exist")),
        (Step::Directory, libc::ENOTDIR) => {
            Error::invalid(format!("cwd '{cwd}' is not a directory"))
        }
        (Step::Directory, _) => Error::invalid(format!(
            "cwd '{cwd}' cannot be entered by user '{}': {reason}",
            user.name
        )),
        (Step::Exec, libc::ENOENT) if config.cmd.contains('/') => {
            Error::invalid(format!("command '{}' does not exist", config.cmd))
        }
        (Step::Exec, libc::ENOENT) => {
            Error::invalid(format!("command '{}' was not found in PATH", config.cmd))
        }
        (Step::Exec, libc::EACCES) => Error::invalid(format!(
            "command '{}' may not be executed by user '{}'",
            config.cmd, user.name
        )),
        (Step::Exec, libc::ENOEXEC) => Error::invalid(format!(
            "command '{}' is not a program: a script needs a #! line",
            config.cmd
        )),
        (Step::Exec, libc::E2BIG) => {
            Error::invalid("the arguments and environment are too long for the kernel")
        }
        (Step::Exec, _) => Error::invalid(format!(
            "command '{}' cannot be executed: {reason}",
            config.cmd
        )),
        (Step::User, _) => Error::new(
            Code::PermissionDenied,
            format!(
                "the agent may not start processes as user '{}': {reason}",
                user.name
            ),
        ),
        (Step::Network, _) => Error::internal(format!(
            "the process cannot join the workload's network: {reason}"
        )),
        (Step::Streams, _) => {
            Error::internal(format!("the process cannot take its streams: {reason}"))
        }
    }
}

/// The strings a program is started with.
struct Plan {
    candidates: Vec<CString>,
    args: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
}

impl Plan {
    fn new(agent: &Shared, config: &ProcessConfig, user: &User, terminal: bool) -> Result<Self> {
        if config.cmd.is_empty() {
            return Err(Error::invalid(
                "the request has no command: give 'process.cmd'",
            ));
        }
        let settings = agent.settings.borrow();
        let mut env: BTreeMap<&str, &str> = BTreeMap::from([
            ("HOME", user.home.as_str()),
            ("LOGNAME", user.name.as_str()),
            ("PATH", DEFAULT_PATH),
            ("SHELL", user.shell.as_str()),
            ("USER", user.name.as_str()),
        ]);
        if terminal {
            env.insert("TERM", "xterm-256color");
        }
        env.extend(
            settings
                .env
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        env.extend(
            config
                .envs
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        if let Some(name) = env
            .keys()
            .find(|name| name.is_empty() || name.contains('='))
        {
            return Err(Error::invalid(format!(
                "'{name}' cannot be the name of an environment variable"
            )));
        }

        let cwd = match config.cwd.as_deref().filter(|cwd| !cwd.is_empty()) {
            Some(cwd) => paths::resolve(cwd, user, settings.base(user))?,
            None => {
                let base = settings.base(user);
                if std::path::Path::new(base).is_dir() {
                    base.to_owned()
                } else {
                    "/".to_owned()
                }
            }
        };
        let candidates = if config.cmd.contains('/') {
            vec![config.cmd.clone()]
        } else {
            env.get("PATH")
                .unwrap_or(&"")
                .split(':')
                .map(|folder| format!("{folder}/{}", config.cmd))
                .collect()
        };
        Ok(Self {
            candidates: candidates.into_iter().map(text).collect::<Result<_>>()?,
            args: [&config.cmd]
                .into_iter()
                .chain(&config.args)
                .map(|arg| text(arg.as_str()))
                .collect::<Result<_>>()?,
            env: env
                .iter()
                .map(|(name, value)| text(format!("{name}={value}")))
                .collect::<Result<_>>()?,
            cwd: text(cwd)?,
        })
    }
}

fn text(text: impl Into<Vec<u8>>) -> Result<CString> {
    CString::new(text).map_err(|_| {
        Error::invalid("a NUL byte cannot stand in a command, argument, variable or path")
    })
}

/// Both ends of everything a process reads and writes.
struct Streams {
    child: [OwnedFd; 3],
    sources: Vec<Source>,
    stdin: Option<Rc<Watched>>,
    terminal: Option<Rc<Watched>>,
}

impl Streams {
    fn terminal(size: super::messages::Size, user: &User) -> io::Result<Self> {
        let pty = pty::open(size, user)?;
        let master = shared(pty.master)?;
        let child = [pty.slave.try_clone()?, pty.slave.try_clone()?, pty.slave];
        let sources = vec![Source {
            stream: Stream::Pty,
            fd: master.clone(),
        }];
        Ok(Self {
            child,
            sources,
            stdin: None,
            terminal: Some(master),
        })
    }

    fn pipes(with_stdin: bool) -> io::Result<Self> {
        let (stdin_read, stdin) = if with_stdin {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            (read, Some(shared(write)?))
        } else {
            (
                rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?,
                None,
            )
        };
        let (stdout, stdout_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, stderr_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let sources = vec![
            Source {
                stream: Stream::Stdout,
                fd: shared(stdout)?,
            },
            Source {
                stream: Stream::Stderr,
                fd: shared(stderr)?,
            },
        ];
        Ok(Self {
            child: [stdin_read, stdout_write, stderr_write],
            sources,
            stdin,
            terminal: None,
        })
    }
}

/// The agent's end of a pipe or terminal, ready for the event loop.
fn shared(fd: OwnedFd) -> io::Result<Rc<Watched>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(Rc::new(watched(fd)?))
}
