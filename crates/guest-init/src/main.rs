//! `guest-init`: the first process of every sandbox, in two stages of one small static binary.
//!
//! Stage 1 is `/init` of the initramfs. It loads the virtio drivers, waits for the disk, mounts it, carries itself, the
//! guest agent and the OpenSSL provider over on a tmpfs and switches to the disk. Stage 2 is PID 1 of the running sandbox: it mounts the
//! pseudo file systems, brings the network up, gives the control NIC a network namespace of its own, and from then on
//! supervises the guest agent, reaps orphans and shuts the machine down on SIGTERM.
//!
//! Whatever fails is one plain line on the console, and then the machine goes off: a guest never hangs half-booted.

mod cmdline;
mod console;
mod failure;
mod identity;
mod machine;
mod netlink;
mod network;
mod stage1;
mod supervise;

use std::convert::Infallible;
use std::path::Path;

use failure::{Context, Failure};

/// What stage 1 passes to stage 2 as its only argument.
const STAGE2: &str = "stage2";
/// Directory on the tmpfs `/run` that holds what the initramfs brought while the sandbox runs.
const CARRIED: &str = "/run/pandastack";

fn main() {
    let second = std::env::args().nth(1).is_some_and(|word| word == STAGE2);
    if nix::unistd::getpid().as_raw() != 1 {
        eprintln!(
            "guest-init is the first process of a sandbox: it does nothing when started as any other"
        );
        std::process::exit(2);
    }
    let Err(failure) = if second { stage2() } else { stage1::run() };
    console::say(&format!("fatal: {failure}; switching the machine off"));
    machine::off();
}

/// The life of PID 1 from the switched root to the end of the machine.
fn stage2() -> Result<Infallible, Failure> {
    let line = std::fs::read_to_string("/proc/cmdline").doing("read the kernel command line")?;
    let plan = cmdline::Plan::parse(&line)?;
    let signals = supervise::Signals::take()?;
    machine::mount_pseudo_file_systems()?;
    machine::tune();
    identity::keep_in_memory(Path::new("/etc"), Path::new(CARRIED))?;
    machine::set_hostname()?;
    let control = network::set_up(&plan)?;
    network::write_resolver(Path::new("/etc"), plan.dns)?;
    console::say(&format!(
        "machine ready after {:.2} s",
        machine::uptime_seconds()
    ));
    supervise::run(&plan, &control, &signals)
}
