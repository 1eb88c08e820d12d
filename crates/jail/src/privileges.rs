//! Giving up every privilege, for good.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::config::{Rlimit, RlimitName};

/// Becomes `uid`:`gid` with no capability in any set, no way to gain one, and closed to tracing by its equals.
pub fn drop_all(uid: u32, gid: u32) -> Result<()> {
    empty_bounding_set()?;
    setgroups(&[]).context("drop supplementary groups")?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setresgid(gid, gid, gid).context("set the group")?;
    setresuid(uid, uid, uid).context("set the user")?;
    empty_capability_sets()?;
    prctl::set_no_new_privs().context("set no_new_privs")?;
    // A process of the same user must not trace the supervisor. Executing the program lifts this for the process.
    prctl::set_dumpable(false).context("forbid tracing")
}

/// Sets soft and hard limits alike; core dumps are off whatever `limits` says.
pub fn limit(limits: &[Rlimit]) -> Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("forbid core dumps")?;
    for limit in limits {
        let resource = match limit.resource {
            RlimitName::Nofile => Resource::RLIMIT_NOFILE,
            RlimitName::Fsize => Resource::RLIMIT_FSIZE,
            RlimitName::As => Resource::RLIMIT_AS,
        };
        setrlimit(resource, limit.value, limit.value)
            .with_context(|| format!("set limit {:?}", limit.resource))?;
    }
    Ok(())
}

fn empty_bounding_set() -> Result<()> {
    for capability in 0..=63 {
        // SAFETY: these options take plain numbers.
        match Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
            Ok(_) => {}
            // One past the kernel's last capability.
            Err(Errno::EINVAL) if capability > 0 => break,
            Err(error) => return Err(error).context("empty the capability bounding set"),
        }
    }
    // SAFETY: as above.
    let cleared = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
    Errno::result(cleared).context("clear ambient capabilities")?;
    Ok(())
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: two words a set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

fn empty_capability_sets() -> Result<()> {
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let sets = [0_u32; 6];
    // SAFETY: header and data have the layout of version 3 and live through the call.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    Errno::result(set).context("empty the capability sets")?;
    Ok(())
}
