//! `pandastack-jail`: starts one untrusted process behind walls, and watches it until it ends.
//!
//! Usage: `pandastack-jail [CONFIG]`; without an argument the configuration ([`config::Config`]) is read from standard
//! input. Prints one line of JSON and exits as soon as the process runs:
//! `{"supervisor": {"pid", "start_time"}, "vmm": {"pid", "start_time"}, "boot_id"}`, or `{"error": "<step>: <cause>"}`
//! with exit status 1, in which case nothing is left running.
//!
//! Three processes take part. The *launcher* (this one; root) joins the cgroups and the network namespace and opens
//! what the process may use. The *supervisor* is its child and PID 1 of a new PID namespace: it builds a root with
//! only the process's files in it, gives up every privilege, and then stays to keep the logs bounded, to serve the few
//! files the process may have, and to write down how it ended. The *process* is the supervisor's child. The launcher
//! exits at once, so neither of the others is anybody's child but init's; they end when the process ends, or when the
//! supervisor is killed, which takes the whole namespace with it.

mod bounded_log;
mod config;
mod launcher;
mod prepare;
mod privileges;
mod root;
mod served;
mod status;
mod supervisor;

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

fn main() -> ExitCode {
    match read_config().and_then(launcher::launch) {
        Ok(started) => {
            println!("{}", serde_json::json!(started));
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}", serde_json::json!({ "error": format!("{error:#}") }));
            ExitCode::FAILURE
        }
    }
}

fn read_config() -> Result<config::Config> {
    let text = match std::env::args_os().nth(1) {
        Some(path) => std::fs::read_to_string(&path)
            .with_context(|| format!("read configuration {}", Path::new(&path).display()))?,
        None => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("read configuration from standard input")?;
            text
        }
    };
    serde_json::from_str(&text).context("configuration is not valid")
}
