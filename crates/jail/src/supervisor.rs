//! The supervisor: PID 1 of the jail. Builds the walls, starts the process, keeps its logs, notes its end.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{
    ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, execve, fork, pipe2, read,
};

use crate::bounded_log::BoundedLog;
use crate::config::Config;
use crate::prepare::Opened;
use crate::served::{self, Listener, Served};
use crate::status::{STAGING_FD, Sender};
use crate::{privileges, root};

/// Runs the supervisor to its end; never returns.
pub fn run(config: &Config, opened: Opened, sender: Sender) -> ! {
    let code = match supervise(config, opened, &sender) {
        Ok(running) => {
            drop(sender);
            i32::from(running.watch().is_err())
        }
        Err(error) => {
            sender.failed(&error);
            1
        }
    };
    std::process::exit(code)
}

/// A started process and all that outlives its start.
struct Running {
    pid: Pid,
    children: SignalFd,
    listener: Option<Listener>,
    served: Vec<Served>,
    pumps: [Pump; 2],
    exit_file: File,
}

/// One output of the process, on its way to a log.
struct Pump {
    from: OwnedFd,
    to: BoundedLog,
    open: bool,
}

fn supervise(config: &Config, opened: Opened, sender: &Sender) -> Result<Running> {
    let Opened {
        passed,
        served,
        console,
        log,
        exit_file,
    } = opened;
    // Opened before the host's /dev is out of sight.
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .context("open /dev/null")?;
    umask(Mode::from_bits_truncate(0o022));
    root::enter(config)?;
    umask(Mode::from_bits_truncate(0o077));
    privileges::limit(&config.rlimits)?;
    privileges::drop_all(config.uid, config.gid)?;
    detach_standard_streams(&null)?;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None).context("block SIGCHLD")?;
    let children = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("watch for the end of children")?;
    let (console_out, console_in) = pipe2(OFlag::O_CLOEXEC).context("make the console pipe")?;
    let (log_out, log_in) = pipe2(OFlag::O_CLOEXEC).context("make the log pipe")?;
    for end in [&console_out, &log_out] {
        fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("unblock a pipe")?;
    }
    let (offer, taken) = served::handover()?;
    // SAFETY: this process has one thread, so the child may allocate and lock as it likes.
    let pid = match unsafe { fork() }.context("fork the process")? {
        ForkResult::Child => {
            let serve = if served.is_empty() {
                None
            } else {
                Some(&offer)
            };
            let Err(error) = become_process(config, passed, [&console_in, &log_in], serve, sender);
            sender.failed(&error);
            std::process::exit(127)
        }
        ForkResult::Parent { child } => child,
    };
    drop(offer);
    let listener = if served.is_empty() {
        None
    } else {
        served::take(&taken)?
    };
    let pumps = [
        Pump {
            from: console_out,
            to: console,
            open: true,
        },
        Pump {
            from: log_out,
            to: log,
            open: true,
        },
    ];
    Ok(Running {
        pid,
        children,
        listener,
        served,
        pumps,
        exit_file,
    })
}

/// The caller reads our standard output to its end: no copy of it may stay open here.
fn detach_standard_streams(null: &File) -> Result<()> {
    dup2_stdin(null).context("detach standard input")?;
    dup2_stdout(null).context("detach standard output")?;
    dup2_stderr(null).context("detach standard error")
}

fn become_process(
    config: &Config,
    passed: Vec<(OwnedFd, i32)>,
    outputs: [&OwnedFd; 2],
    serve: Option<&OwnedFd>,
    sender: &Sender,
) -> Result<Infallible> {
    let program = CString::new(config.program.as_os_str().as_bytes()).context("program path")?;
    let mut args = vec![program.clone()];
    for arg in &config.args {
        args.push(CString::new(arg.as_str()).context("argument holds NUL")?);
    }
    let mut env = Vec::new();
    for (name, value) in &config.env {
        env.push(CString::new(format!("{name}={value}")).context("environment holds NUL")?);
    }
    dup2_stdout(outputs[0]).context("connect standard output")?;
    dup2_stderr(outputs[1]).context("connect standard error")?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .context("unblock signals")?;
    if let Some(socket) = serve {
        served::install(socket)?;
    }
    pass_descriptors(passed)?;
    sender.started()?;
    let Err(error) = execve(&program, &args, &env);
    Err(error).with_context(|| format!("execute {}", config.program.display()))
}

/// Puts each descriptor under its number, by way of high numbers so that none overwrites another that is still needed.
fn pass_descriptors(passed: Vec<(OwnedFd, i32)>) -> Result<()> {
    let mut staged = Vec::new();
    for (fd, number) in passed {
        let moved =
            fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(STAGING_FD)).context("stage a descriptor")?;
        // SAFETY: the call above made this descriptor, and nothing else owns it.
        staged.push((unsafe { OwnedFd::from_raw_fd(moved) }, number));
    }
    for (fd, number) in staged {
        // SAFETY: whatever held this number was close-on-exec and is not used after this point.
        Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), number) })
            .context("pass a descriptor")?;
    }
    Ok(())
}

impl Running {
    /// Pumps and serves until the process ends, then writes down how.
    fn watch(mut self) -> Result<()> {
        let status = loop {
            let asked = self.wait_for_work()?;
            for pump in &mut self.pumps {
                pump.drain();
            }
            if let Some(listener) = &self.listener {
                if asked.contains(PollFlags::POLLIN) {
                    listener.answer(&self.served);
                } else if !asked.is_empty() {
                    self.listener = None;
                }
            }
            if let Some(status) = self.reap()? {
                break status;
            }
        };
        for pump in &mut self.pumps {
            pump.drain();
        }
        self.exit_file
            .write_all(exit_report(status).as_bytes())
            .context("write how the process ended")
    }

    /// Sleeps until there is something to do; says what is the matter with the listener of served files.
    fn wait_for_work(&self) -> Result<PollFlags> {
        let mut fds = vec![PollFd::new(self.children.as_fd(), PollFlags::POLLIN)];
        for pump in self.pumps.iter().filter(|pump| pump.open) {
            fds.push(PollFd::new(pump.from.as_fd(), PollFlags::POLLIN));
        }
        if let Some(listener) = &self.listener {
            fds.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("wait"),
        }
        let asked = fds
            .last()
            .filter(|_| self.listener.is_some())
            .and_then(PollFd::revents);
        Ok(asked.unwrap_or(PollFlags::empty()))
    }

    /// Collects every child that ended, adopted orphans included; answers how *the* process ended, once it has.
    fn reap(&mut self) -> Result<Option<WaitStatus>> {
        while let Ok(Some(_)) = self.children.read_signal() {}
        let mut ended = None;
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(ended),
                Ok(status) if status.pid() == Some(self.pid) => ended = Some(status),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("collect an ended process"),
            }
        }
    }
}

impl Pump {
    /// Moves what is there. A log that cannot be written loses output, not the process.
    fn drain(&mut self) {
        let mut buffer = [0_u8; 16 * 1024];
        // Bounded, so that a flood on one pipe cannot keep the supervisor from its other duties.
        for _ in 0..8 {
            match read(&self.from, &mut buffer) {
                Ok(0) => {
                    self.open = false;
                    return;
                }
                Ok(length) => {
                    let _ = self.to.append(&buffer[..length]);
                }
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

fn exit_report(status: WaitStatus) -> String {
    let (code, signal) = match status {
        WaitStatus::Exited(_, code) => (Some(code), None),
        WaitStatus::Signaled(_, signal, _) => (None, Some(signal as i32)),
        _ => (None, None),
    };
    let ended_at = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64());
    serde_json::json!({ "code": code, "signal": signal, "ended_at": ended_at }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_reports_tell_codes_from_signals() {
        let exited = exit_report(WaitStatus::Exited(Pid::from_raw(2), 3));
        assert!(
            exited.contains("\"code\":3") && exited.contains("\"signal\":null"),
            "{exited}"
        );
        let killed = exit_report(WaitStatus::Signaled(
            Pid::from_raw(2),
            Signal::SIGKILL,
            false,
        ));
        assert!(
            killed.contains("\"code\":null") && killed.contains("\"signal\":9"),
            "{killed}"
        );
    }
}
