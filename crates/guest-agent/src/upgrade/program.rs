//! The successor's program: received into sealed memory, rehearsed as a child, executed in this process's place.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    process::{Pid, PidfdFlags, pidfd_open},
};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use crate::{
    agent::Agent,
    error::{Error, Result},
    watched::watched,
};

/// The largest program taken, in bytes.
pub const MAX_PROGRAM: u64 = 128 << 20;
/// How long a successor may rehearse.
const REHEARSAL: Duration = Duration::from_secs(20);
/// What is repeated of a successor's complaint, in bytes.
const COMPLAINT: usize = 400;
/// Where the machine's init starts the agent from.
const SUPERVISED: &str = "/run/pandastack/guest-agent";

/// A program under construction.
pub struct Incoming {
    file: File,
    digest: Sha256,
    length: u64,
}

impl Incoming {
    /// An empty one.
    ///
    /// # Errors
    /// `internal` when the kernel has no memory for it.
    pub fn new() -> Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file =
            memfd_create("guest-agent", flags).map_err(|error| cannot_keep(&error.into()))?;
        Ok(Self {
            file: file.into(),
            digest: Sha256::new(),
            length: 0,
        })
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// `invalid_argument` beyond [`MAX_PROGRAM`], `internal` when memory is short.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.length += bytes.len() as u64;
        if self.length > MAX_PROGRAM {
            return Err(Error::invalid(format!(
                "an agent is at most {MAX_PROGRAM} bytes"
            )));
        }
        self.digest.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(|error| cannot_keep(&error))
    }

    /// The whole program, which nobody can change any more.
    ///
    /// # Errors
    /// `invalid_argument` when it is not what was announced.
    pub fn seal(self, length: u64, digest: &str) -> Result<OwnedFd> {
        let got = format!("{:x}", self.digest.finalize());
        if self.length != length || got != digest {
            return Err(Error::invalid(format!(
                "the program that arrived ({} bytes, SHA-256 {got}) is not the one announced ({length} bytes, {digest})",
                self.length
            )));
        }
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&self.file, seals).map_err(|error| cannot_keep(&error.into()))?;
        Ok(self.file.into())
    }
}

fn cannot_keep(error: &io::Error) -> Error {
    Error::internal(format!("cannot keep the new agent in memory: {error}"))
}

/// A command that runs `program` with the agent's `own` arguments and more, and inherits these descriptors.
pub fn command(
    own: &[OsString],
    program: BorrowedFd<'_>,
    more: &[&OsStr],
    inherited: Vec<RawFd>,
) -> Command {
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    if let Some((name, arguments)) = own.split_first() {
        command.arg0(name).args(arguments);
    }
    command.args(more);
    // SAFETY: only plain system calls on numbers; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            for fd in &inherited {
                if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command
}

/// Executes `command` in this process's place; comes back only when the kernel refuses.
pub fn execute(mut command: Command) -> io::Error {
    let error = command.exec();
    // The attempt has undone what Rust's start-up did; without it a client's broken connection would kill the agent.
    // SAFETY: ignoring a signal touches no memory.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    error
}

/// Runs a rehearsal to its end.
///
/// # Errors
/// `failed_precondition` with the successor's own words when it could not take over.
pub async fn rehearse(mut command: Command) -> Result<()> {
    let refused = |why: String| {
        Error::with_status(
            crate::error::Code::FailedPrecondition,
            409,
            format!("the new agent cannot take over: {why}"),
        )
    };
    let unrun = |error: io::Error| refused(format!("it cannot be run: {error}"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(unrun)?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let ended = async {
        let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
        let pidfd = watched(pidfd_open(pid, PidfdFlags::empty())?)?;
        pidfd.readable().await.map(|_| ())
    };
    let in_time = timeout(REHEARSAL, ended).await;
    if !matches!(in_time, Ok(Ok(()))) {
        let _ = child.kill();
    }
    let status = child.wait().map_err(unrun)?;
    if status.success() {
        return Ok(());
    }
    let mut words = [0; COMPLAINT];
    let count = child
        .stderr
        .take()
        .and_then(|mut stderr| stderr.read(&mut words).ok())
        .unwrap_or(0);
    let words = String::from_utf8_lossy(&words[..count]);
    Err(refused(match in_time {
        Ok(_) => format!("{status}: {}", words.trim()),
        Err(_) => format!("it did not finish its rehearsal in {REHEARSAL:?}"),
    }))
}

/// The agent's own program, to go back to.
///
/// # Errors
/// The kernel's.
pub fn own() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/self/exe")?.into())
}

/// Puts this build where init starts the agent from, so that it is started again should it ever end.
///
/// Only in a machine of ours, of which init tells by the name it starts the agent by.
pub fn settle_in(agent: &Agent) {
    if agent.arguments.first().map(Path::new) != Some(Path::new(SUPERVISED)) {
        return;
    }
    let replace = || {
        let next = format!("{SUPERVISED}.next");
        let mut file = File::create(&next)?;
        io::copy(&mut File::open("/proc/self/exe")?, &mut file)?;
        file.set_permissions(fs::Permissions::from_mode(0o555))?;
        drop(file);
        fs::rename(&next, SUPERVISED)
    };
    if let Err(error) = replace() {
        eprintln!(
            "guest-agent: init would start the former build, since {SUPERVISED} cannot be replaced: {error}"
        );
    }
}
