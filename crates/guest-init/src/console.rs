//! The serial console: where this program's few lines go.

use std::fs::OpenOptions;
use std::io::Write;

/// Makes `/dev/console` the standard input, output and error of this process, and of those it starts.
///
/// The kernel does this only when the node exists before it starts `/init`; opening it again is right in both cases.
pub fn attach() -> std::io::Result<()> {
    let console = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/console")?;
    nix::unistd::dup2_stdin(&console)?;
    nix::unistd::dup2_stdout(&console)?;
    nix::unistd::dup2_stderr(&console)?;
    Ok(())
}

/// Prints one line. A console that cannot be written to is no reason to stop.
pub fn say(sentence: &str) {
    let _ = writeln!(std::io::stderr(), "pandastack-init: {sentence}");
}
