//! The machine around the workload: pseudo file systems, kernel settings, and the end of it all.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::resource::{Resource, setrlimit};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{setsid, sync};

use crate::console;
use crate::failure::{Context, Failure};

const CGROUPS: &str = "/sys/fs/cgroup";
/// The cgroup below which the guest agent makes one for every process that it starts.
const WORKLOADS: &str = "/sys/fs/cgroup/pandastack";
const CONTROLLERS: &str = "+cpu +io +memory +pids";

/// Kernel settings and why; a kernel that lacks one is no worse for it.
const SETTINGS: [(&str, &str); 9] = [
    // A huge page that is touched once costs every restored copy 2 MiB of its own.
    ("/sys/kernel/mm/transparent_hugepage/enabled", "madvise"),
    // The watchdogs take a pause of the whole machine for a hang.
    ("/proc/sys/kernel/watchdog", "0"),
    ("/proc/sys/kernel/hung_task_timeout_secs", "0"),
    // An idle machine would be woken twice a second to look whether there is something to compact.
    ("/proc/sys/vm/compaction_proactiveness", "0"),
    // The machine is its user's: ping and port 80 without being root.
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    // Bundlers and test runners watch whole dependency trees.
    ("/proc/sys/fs/inotify/max_user_watches", "524288"),
    ("/proc/sys/fs/inotify/max_user_instances", "1024"),
    // The disk behind us is a host's file: it schedules for itself.
    ("/sys/block/vda/queue/scheduler", "none"),
];
const OPEN_FILES_SOFT: u64 = 65_536;
const OPEN_FILES_HARD: u64 = 1_048_576;

/// Mounts what a Linux userland expects and stage 1 has not; leaves `/tmp` on the disk, where space is.
pub fn mount_pseudo_file_systems() -> Result<(), Failure> {
    // Stage 1 started us: we are a session leader only if we make ourselves one; it fails when we already are.
    let _ = setsid();
    let data = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let inert = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    on(
        "devpts",
        "/dev/pts",
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        "gid=5,mode=620,ptmxmode=666",
    )?;
    on("tmpfs", "/dev/shm", data, "mode=1777")?;
    on("cgroup2", CGROUPS, inert, "nsdelegate")?;
    for (link, target) in [
        ("fd", ""),
        ("stdin", "/0"),
        ("stdout", "/1"),
        ("stderr", "/2"),
    ] {
        match symlink(format!("/proc/self/fd{target}"), format!("/dev/{link}")) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).doing(format_args!("make /dev/{link}"));
            }
            _ => {}
        }
    }
    for directory in ["/run/lock", "/tmp"] {
        fs::create_dir_all(directory).doing(format_args!("make {directory}"))?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o1777))
            .doing(format_args!("open {directory} to all"))?;
    }
    make_cgroups().doing("give the workload a cgroup with controllers")
}

/// Sets the kernel up for a sandbox.
pub fn tune() {
    for (path, value) in SETTINGS {
        if Path::new(path).exists() && fs::write(path, value).is_err() {
            console::say(&format!(
                "the kernel refused {value:?} in {path}; going on without"
            ));
        }
    }
    if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES_SOFT, OPEN_FILES_HARD) {
        console::say(&format!(
            "cannot raise the limit of open files: {error}; going on without"
        ));
    }
}

/// Takes the host name from the root file system until the host gives the sandbox its own.
pub fn set_hostname() -> Result<(), Failure> {
    let name = fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = name
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("sandbox");
    nix::unistd::sethostname(name).doing(format_args!("set the host name {name:?}"))
}

/// Seconds since the kernel started.
pub fn uptime_seconds() -> f64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0.0, |now| now.tv_sec() as f64 + now.tv_nsec() as f64 / 1e9)
}

/// Writes everything to the disk, takes it away and ends the machine.
///
/// A restart is the one way out that needs no power management; the VMM is told to end at a restart.
pub fn off() -> ! {
    sync();
    let _ = mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
        None::<&str>,
    );
    let error = match reboot(RebootMode::RB_AUTOBOOT) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    console::say(&format!("cannot restart the machine: {error}"));
    // The kernel panics when PID 1 ends, and it is told to restart at once on a panic.
    std::process::exit(1)
}

fn on(kind: &str, target: &str, flags: MsFlags, options: &str) -> Result<(), Failure> {
    fs::create_dir_all(target).doing(format_args!("make {target}"))?;
    mount(Some(kind), target, Some(kind), flags, Some(options))
        .doing(format_args!("mount {kind} on {target}"))
}

fn make_cgroups() -> io::Result<()> {
    fs::write(format!("{CGROUPS}/cgroup.subtree_control"), CONTROLLERS)?;
    fs::create_dir(WORKLOADS)?;
    fs::write(format!("{WORKLOADS}/cgroup.subtree_control"), CONTROLLERS)
}
