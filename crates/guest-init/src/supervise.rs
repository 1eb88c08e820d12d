//! The rest of PID 1's life: keep the guest agent running, reap whoever dies, and end the machine on SIGTERM.
//!
//! Everything waits in one place, on one descriptor: signals arrive as data, never as interruptions.

use std::convert::Infallible;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cmdline::Plan;
use crate::failure::{Context, Failure};
use crate::{CARRIED, console, machine};

/// Where the agent answers the gateway and, for the host alone, control calls; both on the control NIC.
const PUBLIC_PORT: u16 = 49983;
const CONTROL_PORT: u16 = 49984;
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MOST: Duration = Duration::from_secs(5);
/// An agent that lived this long was well: the next failure starts the backoff anew.
const SETTLED: Duration = Duration::from_secs(30);
/// How long processes have between SIGTERM and SIGKILL when the machine ends.
const FAREWELL: Duration = Duration::from_secs(3);

/// The signals of PID 1, blocked and readable.
pub struct Signals(SignalFd);

impl Signals {
    /// Takes them over; from here on none is lost.
    pub fn take() -> Result<Self, Failure> {
        let mut set = SigSet::empty();
        for signal in [
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGPWR,
        ] {
            set.add(signal);
        }
        set.thread_block().doing("block signals")?;
        SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map(Self)
            .doing("receive signals")
    }

    /// Waits until a signal is there or `longest` has passed; says whether the machine is asked to end.
    fn wait(&self, longest: Option<Duration>) -> Result<bool, Failure> {
        // One millisecond more than asked, so that a deadline has passed when we look.
        let timeout = longest.map_or(PollTimeout::NONE, |time| {
            PollTimeout::try_from(time + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        match poll(
            &mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).doing("wait for signals"),
        }
        let mut end = false;
        while let Some(info) = self.0.read_signal().doing("read a signal")? {
            end |= info.ssi_signo != Signal::SIGCHLD as u32;
        }
        Ok(end)
    }
}

/// The agent between two lives.
enum Agent {
    Running { pid: Pid, since: Instant },
    Waiting { until: Instant },
}

/// Supervises until SIGTERM, then ends the machine; comes back only when supervising itself failed.
pub fn run(plan: &Plan, control: &File, signals: &Signals) -> Result<Infallible, Failure> {
    let mut backoff = BACKOFF_FIRST;
    let mut agent = Agent::Waiting {
        until: Instant::now(),
    };
    loop {
        let pause = match agent {
            Agent::Running { .. } => None,
            Agent::Waiting { until } => Some(until.saturating_duration_since(Instant::now())),
        };
        if pause == Some(Duration::ZERO) {
            agent = Agent::Running {
                pid: start(plan, control)?,
                since: Instant::now(),
            };
            continue;
        }
        if signals.wait(pause)? {
            end(signals)?;
        }
        for (pid, how) in reap()? {
            let lived = match agent {
                Agent::Running { pid: agents, since } if agents == pid => since.elapsed(),
                _ => continue,
            };
            backoff = if lived >= SETTLED {
                BACKOFF_FIRST
            } else {
                (backoff * 2).min(BACKOFF_MOST)
            };
            console::say(&format!(
                "the guest agent ended ({how}); starting it again in {backoff:?}"
            ));
            agent = Agent::Waiting {
                until: Instant::now() + backoff,
            };
        }
    }
}

/// Starts the guest agent in the control NIC's namespace.
fn start(plan: &Plan, control: &File) -> Result<Pid, Failure> {
    let program = format!("{CARRIED}/guest-agent");
    let address = plan.control.address;
    let control = control
        .try_clone()
        .doing("hand the agent its network namespace")?;
    let mut command = Command::new(&program);
    command
        .args(["--public", &format!("{address}:{PUBLIC_PORT}")])
        .args(["--control", &format!("{address}:{CONTROL_PORT}")])
        .args(["--workload-netns", "/proc/1/ns/net"])
        .current_dir("/")
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
    // SAFETY: between fork and exec only two system calls are made, on values made before the fork; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            setns(&control, CloneFlags::CLONE_NEWNET)?;
            SigSet::empty().thread_set_mask()?;
            Ok(())
        });
    }
    let child = command.spawn().doing(format_args!("start {program}"))?;
    let id = i32::try_from(child.id()).doing("tell the agent's process id")?;
    Ok(Pid::from_raw(id))
}

/// Collects every child that has ended, with how it ended.
fn reap() -> Result<Vec<(Pid, String)>, Failure> {
    let mut ended = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => ended.push((pid, format!("exit code {code}"))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => ended.push((pid, format!("{signal}"))),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(ended),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).doing("collect processes that ended"),
        }
    }
}

/// Asks every process to end, makes those that do not, and switches the machine off.
fn end(signals: &Signals) -> Result<Infallible, Failure> {
    console::say("asked to end: stopping every process");
    let everyone = Pid::from_raw(-1);
    let _ = kill(everyone, Signal::SIGTERM);
    // Processes stopped by a signal cannot heed SIGTERM until they go on.
    let _ = kill(everyone, Signal::SIGCONT);
    wait_until_alone(signals)?;
    let _ = kill(everyone, Signal::SIGKILL);
    wait_until_alone(signals)?;
    machine::off()
}

/// Waits for every process to be gone, but no longer than [`FAREWELL`].
fn wait_until_alone(signals: &Signals) -> Result<(), Failure> {
    let deadline = Instant::now() + FAREWELL;
    while !alone() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            console::say("some processes do not end; going on without them");
            break;
        }
        signals.wait(Some(left))?;
    }
    Ok(())
}

/// Reaps, and says whether no process is left but this one; every orphan is our child sooner or later.
fn alone() -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return true,
            Ok(WaitStatus::StillAlive) | Err(_) => return false,
            Ok(_) => {}
        }
    }
}
