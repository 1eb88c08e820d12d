//! The launcher: everything that needs the host's view, then the fork, then the answer.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, setsid};
use serde::Serialize;

use crate::config::Config;
use crate::status::{Receiver, channel};
use crate::{prepare, supervisor};

/// Who was started, told apart from later users of the same pid by the start time (clock ticks after boot).
#[derive(Debug, Serialize)]
pub struct Started {
    /// PID 1 of the new namespace, by its pid on the host.
    pub supervisor: Identity,
    /// The jailed process, by its pid on the host.
    pub vmm: Identity,
    /// The boot these pids belong to.
    pub boot_id: String,
}

/// A process that cannot be mistaken for another.
#[derive(Debug, Serialize)]
pub struct Identity {
    /// Process id on the host.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`.
    pub start_time: u64,
}

/// Starts the process that `config` describes and returns once it runs.
///
/// On failure nothing is left running, and the error names the step that failed.
pub fn launch(config: Config) -> Result<Started> {
    check(&config)?;
    close_inherited()?;
    fs::write("/proc/self/oom_score_adj", config.oom_score_adj.to_string())
        .context("set oom_score_adj")?;
    prepare::join_cgroups(&config.cgroups)?;
    setsid().context("start a session of its own")?;
    let opened = prepare::open_all(&config)?;
    let (sender, receiver) = channel()?;
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)
        .context("make new PID, IPC and UTS namespaces")?;
    // SAFETY: this process has one thread, so the child may allocate and lock as it likes.
    match unsafe { fork() }.context("fork the supervisor")? {
        ForkResult::Child => {
            drop(receiver);
            supervisor::run(&config, opened, sender)
        }
        ForkResult::Parent { child } => {
            drop(sender);
            drop(opened);
            let started = answer(&config, &receiver, child);
            if started.is_err() {
                // Killing PID 1 of the namespace takes whatever it had started with it; it may also be gone already.
                let _ = kill(child, Signal::SIGKILL);
                let _ = waitpid(child, None);
            }
            started
        }
    }
}

fn check(config: &Config) -> Result<()> {
    ensure!(
        config.uid != 0 && config.gid != 0,
        "configuration is not valid: uid and gid must not be 0"
    );
    for log in [&config.console, &config.log] {
        ensure!(
            log.max_bytes >= 4096,
            "configuration is not valid: max_bytes of a log must be at least 4096"
        );
    }
    ensure!(
        config.oom_score_adj <= 1000,
        "configuration is not valid: oom_score_adj must be at most 1000"
    );
    Ok(())
}

/// Nothing the caller left open may live on in the supervisor.
fn close_inherited() -> Result<()> {
    // SAFETY: only descriptors 0 to 2 are in use in this process so far.
    let closed = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    nix::errno::Errno::result(closed).context("close inherited descriptors")?;
    Ok(())
}

fn answer(config: &Config, receiver: &Receiver, supervisor: Pid) -> Result<Started> {
    let Some(vmm) = receiver.process_started(identify)? else {
        bail!("the supervisor ended before it started the process");
    };
    let started = Started {
        supervisor: identify(supervisor)?,
        vmm,
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("read boot id")?
            .trim()
            .to_owned(),
    };
    write_whole(
        &config.pid_file,
        serde_json::to_string(&started)?.as_bytes(),
    )
    .with_context(|| format!("write {}", config.pid_file.display()))?;
    Ok(started)
}

fn identify(pid: Pid) -> Result<Identity> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("identify process {pid}"))?;
    let start_time = start_time(&stat).context("read a process's start time")?;
    Ok(Identity {
        pid: pid.as_raw(),
        start_time,
    })
}

/// Field 22 of a `stat` line. The command name before it may hold spaces and brackets, so count from its end.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

/// Writes a file so that a reader finds all of it or nothing.
fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(content)?;
    fs::rename(&partial, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_survives_a_hostile_command_name() {
        let stat = "7 (a) R (b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9876 1 2";
        assert_eq!(start_time(stat), Some(9876));
        assert_eq!(start_time("garbage"), None);
    }

    #[test]
    fn files_appear_whole_and_replace_what_was_there() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("jail.json");
        write_whole(&path, b"first, and longer").expect("written");
        write_whole(&path, b"second").expect("written");
        assert_eq!(fs::read(&path).expect("readable"), b"second");
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
    }
}
