//! The sandbox's two NICs: one for the workload, one in a network namespace in which only the guest agent runs.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns, unshare};

use crate::cmdline::{Cidr, Plan};
use crate::failure::{Context, Failure};
use crate::netlink::Netlink;

/// The NICs are told apart by address: the order in which the kernel finds them is not the host's to promise.
const DATA_MAC: &str = "02:50:53:00:00:02";
const CONTROL_MAC: &str = "02:50:53:00:01:02";
const DATA_NAME: &str = "eth0";
const CONTROL_NAME: &str = "control";
const OWN_NAMESPACE: &str = "/proc/self/ns/net";
const NIC_DEADLINE: Duration = Duration::from_secs(10);

/// Brings both NICs up and returns the namespace of the control NIC.
pub fn set_up(plan: &Plan) -> Result<File, Failure> {
    let netlink = Netlink::open().doing("talk to the kernel about the network")?;
    let data = find(DATA_MAC)?;
    let control = find(CONTROL_MAC)?;
    let (home, enclave) = new_namespace().doing("make the agent's network namespace")?;
    netlink
        .move_to(control, enclave.as_fd(), CONTROL_NAME)
        .doing("move the control NIC into the agent's namespace")?;
    netlink.rename(data, DATA_NAME).doing("name the data NIC")?;
    bring_up(&netlink, DATA_NAME, plan.data)?;
    netlink
        .add_default_route(data, plan.gateway)
        .doing(format_args!("route by way of {}", plan.gateway))?;

    setns(&enclave, CloneFlags::CLONE_NEWNET).doing("enter the agent's network namespace")?;
    let configured = Netlink::open()
        .doing("talk to the kernel about the control NIC")
        .and_then(|netlink| bring_up(&netlink, CONTROL_NAME, plan.control));
    setns(&home, CloneFlags::CLONE_NEWNET).doing("come back from the agent's network namespace")?;
    configured.map(|()| enclave)
}

/// Replaces `resolv.conf` in `etc` by a regular file that names one resolver.
///
/// Renaming over it never follows a link that the root file system may have put there.
pub fn write_resolver(etc: &Path, dns: Option<Ipv4Addr>) -> Result<(), Failure> {
    let Some(dns) = dns else { return Ok(()) };
    let fresh = etc.join(".resolv.conf.pandastack");
    let write = || -> io::Result<()> {
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::write(&fresh, format!("nameserver {dns}\n"))?;
        fs::rename(&fresh, etc.join("resolv.conf"))
    };
    write().doing(format_args!("write {}", etc.join("resolv.conf").display()))
}

/// Makes a network namespace and returns (the one we are in, the new one).
fn new_namespace() -> io::Result<(File, File)> {
    let home = File::open(OWN_NAMESPACE)?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    let enclave = File::open(OWN_NAMESPACE)?;
    setns(&home, CloneFlags::CLONE_NEWNET)?;
    Ok((home, enclave))
}

/// Brings the loopback and the named interface of the present namespace up.
fn bring_up(netlink: &Netlink, name: &str, cidr: Cidr) -> Result<(), Failure> {
    let loopback = if_nametoindex("lo").doing("find the loopback interface")?;
    netlink
        .up(loopback)
        .doing("bring the loopback interface up")?;
    let index = if_nametoindex(name).doing(format_args!("find the interface {name}"))?;
    // The host routes IPv4 only: an address the kernel makes up would just look for routers in every restored copy.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    netlink
        .add_address(index, cidr)
        .doing(format_args!("give {name} the address {}", cidr.address))?;
    netlink.up(index).doing(format_args!("bring {name} up"))
}

/// Waits for the NIC with this address; drivers may still be probing.
fn find(mac: &str) -> Result<u32, Failure> {
    let start = Instant::now();
    loop {
        if let Some(index) = find_in(Path::new("/sys/class/net"), mac) {
            return Ok(index);
        }
        if start.elapsed() > NIC_DEADLINE {
            return Err(Failure::new(format!(
                "no network card with the address {mac} appeared within {NIC_DEADLINE:?}"
            )));
        }
        sleep(Duration::from_millis(5));
    }
}

fn find_in(class: &Path, mac: &str) -> Option<u32> {
    fs::read_dir(class).ok()?.flatten().find_map(|entry| {
        let address = fs::read_to_string(entry.path().join("address")).ok()?;
        let index = fs::read_to_string(entry.path().join("ifindex")).ok()?;
        (address.trim() == mac).then(|| index.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_is_found_by_its_address() {
        let class = std::env::temp_dir().join(format!("guest-init-nics-{}", std::process::id()));
        for (name, mac, index) in [("eth0", CONTROL_MAC, "3"), ("eth1", DATA_MAC, "2")] {
            fs::create_dir_all(class.join(name)).expect("a directory");
            fs::write(class.join(name).join("address"), format!("{mac}\n")).expect("a file");
            fs::write(class.join(name).join("ifindex"), format!("{index}\n")).expect("a file");
        }
        assert_eq!(find_in(&class, DATA_MAC), Some(2));
        assert_eq!(find_in(&class, CONTROL_MAC), Some(3));
        assert_eq!(find_in(&class, "02:00:00:00:00:00"), None);
        fs::remove_dir_all(&class).expect("removed");
    }

    #[test]
    fn the_resolver_file_replaces_a_link_and_leaves_its_target_alone() {
        let etc = std::env::temp_dir().join(format!("guest-init-etc-{}", std::process::id()));
        fs::create_dir_all(&etc).expect("a directory");
        fs::write(etc.join("precious"), "untouched").expect("a file");
        std::os::unix::fs::symlink(etc.join("precious"), etc.join("resolv.conf")).expect("a link");
        write_resolver(&etc, Some(Ipv4Addr::new(10, 200, 0, 1))).expect("written");
        assert_eq!(
            fs::read_to_string(etc.join("precious")).expect("there"),
            "untouched"
        );
        assert!(
            !fs::symlink_metadata(etc.join("resolv.conf"))
                .expect("there")
                .is_symlink()
        );
        assert_eq!(
            fs::read_to_string(etc.join("resolv.conf")).expect("there"),
            "nameserver 10.200.0.1\n"
        );
        fs::remove_dir_all(&etc).expect("removed");
    }
}
