//! What the launcher opens on the host, with the rights the process will never have.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns, unshare};

use crate::bounded_log::BoundedLog;
use crate::config::{self, Config};
use crate::served::Served;

const FIRST_PASSED_FD: i32 = 3;
const LAST_PASSED_FD: i32 = 63;

/// Everything opened, ready to be handed on.
pub struct Opened {
    /// Descriptors the process inherits, each under a number of its own.
    pub passed: Vec<(OwnedFd, i32)>,
    /// Files the supervisor serves by name.
    pub served: Vec<Served>,
    /// The log of standard output.
    pub console: BoundedLog,
    /// The log of standard error.
    pub log: BoundedLog,
    /// Gets how the process ended.
    pub exit_file: File,
}

/// Moves this process, and so all its children, into the cgroups whose `tasks` or `cgroup.procs` files these are.
pub fn join_cgroups(files: &[PathBuf]) -> Result<()> {
    for file in files {
        fs::write(file, "0").with_context(|| format!("join cgroup {}", file.display()))?;
    }
    Ok(())
}

/// Opens everything `config` names and enters its network namespace, in which the taps are.
pub fn open_all(config: &Config) -> Result<Opened> {
    let mut passed = Vec::new();
    for file in &config.files {
        let opened = open(&file.source, file.writable)?;
        passed.push((opened.into(), checked_number(file.fd)?));
    }
    for listener in &config.listeners {
        passed.push((listen(&listener.path)?, checked_number(listener.fd)?));
    }
    let mut served = Vec::new();
    for file in &config.served {
        served.push(Served {
            name: file.name.clone(),
            file: open(&file.source, file.writable)?,
        });
    }
    let console = open_log(&config.console)?;
    let log = open_log(&config.log)?;
    let exit_file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&config.exit_file)
        .with_context(|| format!("create {}", config.exit_file.display()))?;
    enter_network(config.netns.as_deref())?;
    for tap in &config.taps {
        passed.push((open_tap(&tap.name)?, checked_number(tap.fd)?));
    }
    let mut numbers: Vec<i32> = passed.iter().map(|(_, number)| *number).collect();
    numbers.sort_unstable();
    ensure!(
        numbers.windows(2).all(|pair| pair[0] != pair[1]),
        "configuration is not valid: two files share a descriptor number"
    );
    Ok(Opened {
        passed,
        served,
        console,
        log,
        exit_file,
    })
}

fn checked_number(fd: i32) -> Result<i32> {
    ensure!(
        (FIRST_PASSED_FD..=LAST_PASSED_FD).contains(&fd),
        "configuration is not valid: descriptor numbers go from {FIRST_PASSED_FD} to {LAST_PASSED_FD}, not {fd}"
    );
    Ok(fd)
}

fn open(path: &Path, writable: bool) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(writable)
        .open(path)
        .with_context(|| {
            format!(
                "open {}{}",
                path.display(),
                if writable { " for writing" } else { "" }
            )
        })
}

fn open_log(log: &config::BoundedLog) -> Result<BoundedLog> {
    BoundedLog::create(&log.path, log.max_bytes)
        .with_context(|| format!("create {}", log.path.display()))
}

fn listen(path: &Path) -> Result<OwnedFd> {
    let result = (|| {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        // A socket's address holds 108 bytes; the path below an open folder is always short enough.
        let folder = File::open(folder)?;
        let short = Path::new("/proc/self/fd")
            .join(folder.as_raw_fd().to_string())
            .join(name);
        let listener = UnixListener::bind(short)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(listener.into())
    })();
    result.with_context(|| format!("listen on {}", path.display()))
}

fn enter_network(netns: Option<&Path>) -> Result<()> {
    match netns {
        Some(path) => {
            let namespace = open(path, false)?;
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("enter network namespace {}", path.display()))
        }
        None => unshare(CloneFlags::CLONE_NEWNET).context("make an empty network namespace"),
    }
}

nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);

/// Attaches to a tap that exists. The kernel would make a missing one, unconfigured: that is refused.
fn open_tap(name: &str) -> Result<OwnedFd> {
    let bytes = name.as_bytes();
    ensure!(
        !bytes.is_empty() && bytes.len() < libc::IFNAMSIZ && !bytes.contains(&0),
        "configuration is not valid: {name:?} is no interface name"
    );
    let c_name = std::ffi::CString::new(name).context("interface name")?;
    // SAFETY: the argument is a valid C string.
    let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
    ensure!(
        index != 0,
        "open tap {name}: no such interface in the network namespace"
    );
    let tap = open(Path::new("/dev/net/tun"), true)?;
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: `request` is a whole `ifreq` that lives through the call.
    unsafe { tun_set_iff(tap.as_raw_fd(), &request) }
        .with_context(|| format!("open tap {name}"))?;
    Ok(tap.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_numbers_outside_the_range_are_refused() {
        assert!(checked_number(2).is_err());
        assert!(checked_number(64).is_err());
        assert_eq!(checked_number(10).expect("allowed"), 10);
    }

    #[test]
    fn a_listener_replaces_what_was_there_and_is_private() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("qmp.sock");
        fs::write(&path, "stale").expect("written");
        let first = listen(&path).expect("listening");
        assert_eq!(
            fs::metadata(&path).expect("there").permissions().mode() & 0o777,
            0o600
        );
        std::os::unix::net::UnixStream::connect(&path)
            .expect("a client is queued before anyone accepts");
        drop(first);
    }

    #[test]
    fn a_listener_may_have_a_path_longer_than_an_address() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let folder = dir.path().join("long".repeat(40));
        fs::create_dir(&folder).expect("made");
        listen(&folder.join("qmp.sock")).expect("listening");
        assert!(folder.join("qmp.sock").exists());
    }

    #[test]
    fn a_file_is_not_opened_for_writing_unless_asked() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("memory");
        fs::write(&path, "x").expect("written");
        let mut file = open(&path, false).expect("opened");
        assert!(std::io::Write::write_all(&mut file, b"y").is_err());
    }
}
