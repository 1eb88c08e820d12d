//! `guest-agent`: reads its flags, prepares its process, binds its two addresses and serves until it is
//! killed; or goes on where another build of it stopped.

use std::{ffi::OsString, io, net::SocketAddr, os::fd::RawFd, path::PathBuf, process::ExitCode};

use clap::Parser;
use futures_util::future::join_all;
use guest_agent::{
    AGENT_VERSION, ENVD_VERSION,
    agent::{Agent, Birthright, Config, Shared},
    server::{self, Side},
    upgrade,
};
use rustix::process::{Resource, Rlimit};
use tokio::{net::TcpListener, runtime, task::LocalSet};

/// The PandaStack agent inside a sandbox: processes, files, terminals and identity.
#[derive(Parser)]
#[command(version)]
struct Flags {
    /// Address of the envd protocol for clients; it demands the access token once /init has set one.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:49983")]
    public: SocketAddr,
    /// Address for the host alone: envd without token, and the control routes.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:49984")]
    control: SocketAddr,
    /// Network namespace that started processes join, for example /proc/1/ns/net.
    #[arg(long, value_name = "PATH")]
    workload_netns: Option<PathBuf>,
    /// cgroup2 directory for the cgroups of started processes.
    #[arg(long, value_name = "PATH", default_value = "/sys/fs/cgroup/pandastack")]
    cgroup_root: PathBuf,
    /// Print versions as JSON and end.
    #[arg(long, exclusive = true)]
    about: bool,
    /// Descriptor with the state of the build whose place this one takes.
    #[arg(long, hide = true)]
    inherit: Option<RawFd>,
    /// Only try to take over, and say by the exit code whether it went well.
    #[arg(long, hide = true, requires = "inherit")]
    rehearse: bool,
    /// Why the build that was to take over this one's place did not.
    #[arg(long, hide = true, requires = "inherit")]
    refused: Option<String>,
}

/// Open files the agent allows itself: five for each of its processes, and connections.
const OPEN_FILES: u64 = 65_536;

fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.about {
        println!("{{\"agentVersion\":\"{AGENT_VERSION}\",\"envdVersion\":\"{ENVD_VERSION}\"}}");
        return ExitCode::SUCCESS;
    }
    // Executed by descriptor it would be called by that.
    let _ = rustix::thread::set_name(c"guest-agent");
    let birthright = Birthright {
        open_files: raise_open_files(),
        shielded: shield(),
    };
    let _ = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let runtime = runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(512)
        .build();
    let served =
        runtime.and_then(|runtime| LocalSet::new().block_on(&runtime, serve(flags, birthright)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest-agent: cannot serve: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(flags: Flags, birthright: Birthright) -> io::Result<()> {
    let config = Config {
        workload_netns: flags.workload_netns.clone(),
        cgroup_root: flags.cgroup_root.clone(),
        init_pid: 1,
        arguments: own_arguments(&flags),
    };
    let Some(number) = flags.inherit else {
        let agent = Agent::new(&config, birthright)?;
        let public = TcpListener::bind(flags.public).await?;
        let control = TcpListener::bind(flags.control).await?;
        run(
            agent,
            vec![(Side::Public, public), (Side::Control, control)],
        )
        .await;
        return Ok(());
    };
    let inherited = match upgrade::take_over(&config, number) {
        Ok(_) if flags.rehearse => return Ok(()),
        Ok(inherited) => inherited,
        Err(error) if flags.rehearse || flags.refused.is_some() => return Err(error),
        Err(error) => return Err(upgrade::give_back(&config, number, &error)),
    };
    let (agent, listeners) = inherited.begin();
    match flags.refused {
        None => upgrade::settle_in(&agent),
        refused => drop(agent.upgrade_failure.replace(refused)),
    }
    run(agent, listeners).await;
    Ok(())
}

/// Serves every listener for ever.
async fn run(agent: Shared, listeners: Vec<(Side, TcpListener)>) {
    let serve = |(side, listener)| server::run(agent.clone(), listener, side);
    join_all(listeners.into_iter().map(serve)).await;
}

/// The command line a successor gets, the program's name first.
fn own_arguments(flags: &Flags) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().take(1).collect();
    arguments.extend(["--public".into(), flags.public.to_string().into()]);
    arguments.extend(["--control".into(), flags.control.to_string().into()]);
    arguments.extend(["--cgroup-root".into(), flags.cgroup_root.clone().into()]);
    if let Some(netns) = &flags.workload_netns {
        arguments.extend(["--workload-netns".into(), netns.clone().into()]);
    }
    arguments
}

/// Raises the agent's limit of open files; answers the one it was born with, for its processes.
fn raise_open_files() -> Option<(u64, u64)> {
    let born = rustix::process::getrlimit(Resource::Nofile);
    let (soft, hard) = (
        born.current.unwrap_or(u64::MAX),
        born.maximum.unwrap_or(u64::MAX),
    );
    if soft >= OPEN_FILES {
        return None;
    }
    let raised = Rlimit {
        current: Some(OPEN_FILES),
        maximum: Some(hard.max(OPEN_FILES)),
    };
    let within = Rlimit {
        current: Some(hard.min(OPEN_FILES)),
        maximum: Some(hard),
    };
    rustix::process::setrlimit(Resource::Nofile, raised)
        .or_else(|_| rustix::process::setrlimit(Resource::Nofile, within))
        .is_ok()
        .then_some((soft, hard))
}

/// Keeps the out-of-memory killer off the agent, without which the sandbox is lost; answers whether it is kept off.
fn shield() -> bool {
    const SCORE: &str = "/proc/self/oom_score_adj";
    let _ = std::fs::write(SCORE, "-950");
    std::fs::read_to_string(SCORE)
        .is_ok_and(|score| score.trim().parse::<i32>().is_ok_and(|score| score < 0))
}
