//! `fork` and `exec`, made for a hot path: the child is born in its cgroup and the parent holds its pidfd.
//!
//! Everything the child needs is laid out beforehand, because between the two system calls only async-signal-safe
//! work is allowed: no allocation, no locks. `clone3` is called directly: the C library offers no way to say
//! `CLONE_INTO_CGROUP`, which spares the move of a process between cgroups (a wait for an RCU grace period).

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::{agent::Birthright, user::User};

/// A program ready to be started.
pub struct Program<'a> {
    /// Paths to try in turn, as a shell does with PATH.
    pub candidates: &'a [CString],
    /// Arguments, the program's name first.
    pub args: &'a [CString],
    /// Environment, `NAME=value` each.
    pub env: &'a [CString],
    /// Working directory.
    pub cwd: &'a CStr,
    /// Whom it runs as.
    pub user: &'a User,
    /// Its stdin, stdout and stderr.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Whether stdin is a terminal it should control.
    pub terminal: bool,
    /// The cgroup it is born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The network namespace it joins.
    pub netns: Option<BorrowedFd<'a>>,
    /// What it gets back of what the agent changed for itself.
    pub birthright: Birthright,
}

/// A child that has been forked and is about to exec.
pub struct Child {
    /// Its process id, which is its session and process group as well.
    pub pid: u32,
    /// Becomes readable when it ends.
    pub pidfd: OwnedFd,
    /// Ends empty once the program runs, or carries one [`Failure`].
    pub report: OwnedFd,
}

/// The step at which a child failed before its program ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Joining the workload's network namespace.
    Network,
    /// Taking the terminal or the streams.
    Streams,
    /// Becoming the user.
    User,
    /// Entering the working directory.
    Directory,
    /// Running the program.
    Exec,
}

/// Why a program did not start.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// Where it happened.
    pub step: Step,
    /// The kernel's error number.
    pub errno: i32,
}

impl Failure {
    /// Bytes of a report.
    pub const SIZE: usize = 8;

    /// Reads a report; `None` when it is empty, that is when the program runs.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; Self::SIZE] = bytes.try_into().ok()?;
        let [step, errno] = [0, 4]
            .map(|at| i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
        let step = [
            Step::Network,
            Step::Streams,
            Step::User,
            Step::Directory,
            Step::Exec,
        ]
        .into_iter()
        .find(|known| *known as i32 == step)?;
        Some(Self { step, errno })
    }
}

/// Forks a child that becomes `program`.
///
/// # Errors
/// The kernel's, when there cannot be another process or pipe.
pub fn spawn(program: &Program<'_>) -> io::Result<Child> {
    let (report, report_write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&report, true)?;
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([ptr::null()])
            .collect()
    };
    let args = pointers(program.args);
    let env = pointers(program.env);

    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid value of this plain structure of numbers.
    let mut clone: libc::clone_args = unsafe { std::mem::zeroed() };
    clone.flags = (libc::CLONE_PIDFD as u64) | CLONE_CLEAR_SIGHAND;
    clone.pidfd = &raw mut pidfd as u64;
    clone.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = program.cgroup {
        clone.flags |= CLONE_INTO_CGROUP;
        clone.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM this is fork: the child has its own copy of memory and runs only `become_program`,
    // which keeps to async-signal-safe calls and never returns. `clone` and `pidfd` outlive the call.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut clone,
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        0 => become_program(program, &args, &env, report_write.as_raw_fd()),
        pid if pid > 0 => {
            // SAFETY: the kernel has just stored a new descriptor there, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Child {
                pid: u32::try_from(pid).unwrap_or(0),
                pidfd,
                report,
            })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

// Both are beyond 32 bits and missing in the binding for this target.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The kernel's number of signals, and of bits in its set of them.
const SIGNALS: libc::c_long = 64;

/// The child's side: never returns, never allocates.
fn become_program(
    program: &Program<'_>,
    args: &[*const libc::c_char],
    env: &[*const libc::c_char],
    report: RawFd,
) -> ! {
    let failure = prepare(program).err().unwrap_or_else(|| Failure {
        step: Step::Exec,
        errno: exec(program, args, env),
    });
    let mut bytes = [0u8; Failure::SIZE];
    bytes[..4].copy_from_slice(&(failure.step as i32).to_ne_bytes());
    bytes[4..].copy_from_slice(&failure.errno.to_ne_bytes());
    // SAFETY: writes a local array to the descriptor made for it and leaves without running any destructor.
    unsafe {
        libc::write(report, bytes.as_ptr().cast(), bytes.len());
        libc::_exit(127)
    }
}

fn prepare(program: &Program<'_>) -> Result<(), Failure> {
    let check = |step: Step, result: libc::c_long| match result {
        -1 => Err(Failure {
            step,
            errno: errno(),
        }),
        _ => Ok(()),
    };
    // SAFETY: every call takes plain numbers or pointers to memory laid out before the fork; all of them are
    // async-signal-safe. The identity calls are raw because the C library's would address threads that the child
    // does not have.
    unsafe {
        if let Some(netns) = program.netns {
            check(
                Step::Network,
                libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET).into(),
            )?;
        }
        check(Step::Streams, libc::setsid().into())?;
        for (number, fd) in program.stdio.iter().enumerate() {
            check(
                Step::Streams,
                libc::dup2(fd.as_raw_fd(), number as RawFd).into(),
            )?;
        }
        if program.terminal {
            check(Step::Streams, libc::ioctl(0, libc::TIOCSCTTY, 0).into())?;
        }
        libc::syscall(
            libc::SYS_close_range,
            3,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        reset_signals();
        if program.birthright.shielded {
            let score = libc::open(
                c"/proc/self/oom_score_adj".as_ptr(),
                libc::O_WRONLY | libc::O_CLOEXEC,
            );
            libc::write(score, c"0".as_ptr().cast(), 1);
        }
        if let Some((soft, hard)) = program.birthright.open_files {
            let limit = libc::rlimit {
                rlim_cur: soft,
                rlim_max: hard,
            };
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
        let user = program.user;
        if (user.uid, user.gid) != (libc::geteuid(), libc::getegid()) || user.uid == 0 {
            let set = libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr());
            // An agent without rights keeps its own groups when it stays its own user.
            if user.uid != libc::geteuid() || libc::geteuid() == 0 {
                check(Step::User, set)?;
            }
            check(
                Step::User,
                libc::syscall(libc::SYS_setresgid, user.gid, user.gid, user.gid),
            )?;
            check(
                Step::User,
                libc::syscall(libc::SYS_setresuid, user.uid, user.uid, user.uid),
            )?;
        }
        check(Step::Directory, libc::chdir(program.cwd.as_ptr()).into())
    }
}

/// Every signal does again what it does by default, and none waits: what is ignored or blocked survives exec, and Rust
/// ignores SIGPIPE, whoever starts the agent perhaps others. Raw, because the C library keeps some to itself.
fn reset_signals() {
    // As long as the kernel's sigaction and its set of signals; all zero is the default action, and the empty set.
    let default = [0_u64; 4];
    // SAFETY: the kernel reads from a live array that is long enough; the calls are async-signal-safe and the
    // numbers that may not be set (SIGKILL, SIGSTOP) are refused without harm.
    unsafe {
        for signal in 1..=SIGNALS {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null_mut::<u64>(),
                size_of::<u64>(),
            );
        }
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            default.as_ptr(),
            ptr::null_mut::<u64>(),
            size_of::<u64>(),
        );
    }
}

/// Tries every candidate; answers the error number to tell.
fn exec(program: &Program<'_>, args: &[*const libc::c_char], env: &[*const libc::c_char]) -> i32 {
    let mut told = libc::ENOENT;
    for candidate in program.candidates {
        // SAFETY: all three point to NUL-terminated memory laid out before the fork.
        unsafe { libc::execve(candidate.as_ptr(), args.as_ptr(), env.as_ptr()) };
        match errno() {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => told = libc::EACCES,
            other => return other,
        }
    }
    told
}

fn errno() -> i32 {
    // SAFETY: the location is this thread's own and always valid.
    unsafe { *libc::__errno_location() }
}
