//! Holding the workload still around a capture.
//!
//! A copy of a machine goes on from the captured instant before anybody can tell it who it is. Processes that ran in those
//! first milliseconds would draw the same random numbers in every copy and read a clock that stopped. So the host has
//! them held just before it captures a machine: the copy's `/init` lets them go once it has made the machine unique, and the host
//! lets the original's go right after. Only the agent itself runs in between.
//!
//! A host that dies in between must not leave a machine frozen: whoever is held is let go after [`MOST`] at the latest.

use std::{cell::Cell, io, rc::Rc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{agent::Shared, process::cgroup};

/// How long processes have to come to rest; those that wait for a disk take longer, and are left behind.
const REST: Duration = Duration::from_millis(250);
const LOOK: Duration = Duration::from_micros(500);
/// How long processes are held when nobody lets them go, in time of the machine: a capture stops that clock.
const MOST: Duration = Duration::from_secs(10);

/// Which hold is the present one, so that an old one's end does not end it.
#[derive(Default)]
pub struct Hold(Rc<Cell<u64>>);

/// Holds every process that the agent started, and all their descendants.
///
/// # Errors
/// The kernel's; then nothing is held. Without cgroups there is nothing to hold by, which is no error.
pub async fn hold(agent: &Shared) -> io::Result<()> {
    let Some(cgroups) = &agent.cgroups else {
        return Ok(());
    };
    let (number, present) = (agent.hold.0.get() + 1, agent.hold.0.clone());
    present.set(number);
    cgroups.freeze(true)?;
    let later = agent.clone();
    tokio::task::spawn_local(async move {
        sleep(MOST).await;
        if present.get() == number {
            eprintln!(
                "guest-agent: processes were held for {MOST:?} and nobody let them go: letting them go"
            );
            let _ = release(&later);
        }
    });
    let deadline = Instant::now() + REST;
    while !cgroups.is_frozen()? && Instant::now() < deadline {
        sleep(LOOK).await;
    }
    Ok(())
}

/// Lets go of what [`hold`] holds; nothing held is fine.
///
/// # Errors
/// The kernel's.
pub fn release(agent: &Shared) -> io::Result<()> {
    agent.hold.0.set(agent.hold.0.get() + 1);
    agent
        .cgroups
        .as_ref()
        .map_or(Ok(()), |cgroups: &cgroup::Root| cgroups.freeze(false))
}
