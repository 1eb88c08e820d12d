//! `guest-agent`: reads its flags, prepares its process, binds its two addresses and serves until it is killed.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Parser;
use guest_agent::{
    agent::{Agent, Birthright, Config},
    server::{self, Side},
};
use rustix::process::{Resource, Rlimit};
use tokio::{net::TcpListener, runtime, task::LocalSet};

/// The PandaStack agent inside a sandbox: processes, files, terminals and identity.
#[derive(Parser)]
#[command(version)]
struct Flags {
    /// Address of the envd protocol for clients; it demands the access token once /init has set one.
    #[arg(long, value_name = "ADDR:PORT")]
    public: SocketAddr,
    /// Address for the host alone: envd without token, and the control routes.
    #[arg(long, value_name = "ADDR:PORT")]
    control: SocketAddr,
    /// Network namespace that started processes join, for example /proc/1/ns/net.
    #[arg(long, value_name = "PATH")]
    workload_netns: Option<PathBuf>,
    /// cgroup2 directory for the cgroups of started processes.
    #[arg(long, value_name = "PATH", default_value = "/sys/fs/cgroup/pandastack")]
    cgroup_root: PathBuf,
}

/// Open files the agent allows itself: five for each of its processes, and connections.
const OPEN_FILES: u64 = 65_536;

fn main() -> ExitCode {
    let flags = Flags::parse();
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

async fn serve(flags: Flags, birthright: Birthright) -> std::io::Result<()> {
    let config = Config {
        workload_netns: flags.workload_netns,
        cgroup_root: flags.cgroup_root,
        init_pid: 1,
    };
    let agent = Agent::new(&config, birthright)?;
    let public = TcpListener::bind(flags.public).await?;
    let control = TcpListener::bind(flags.control).await?;
    tokio::join!(
        server::run(agent.clone(), public, Side::Public),
        server::run(agent, control, Side::Control)
    );
    Ok(())
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
