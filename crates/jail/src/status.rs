//! How the supervisor and the process tell the launcher what became of them, until the process runs.
//!
//! One seqpacket socket, close-on-exec. The process says `started` before it executes its program; the kernel attaches
//! its pid as the launcher sees it, and the process waits until the launcher has noted who it is. Any failure on the way
//! is sent as text. End of file after `started` means that the program was executed.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use nix::cmsg_space;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixCredentials, recv,
    recvmsg, send, sendmsg, setsockopt, socketpair, sockopt,
};
use nix::unistd::Pid;

const STARTED: u8 = b'S';
const FAILED: u8 = b'F';
const MAX_MESSAGE: usize = 4096;

/// First number for descriptors that are only on their way: above every number a process may be given.
pub const STAGING_FD: i32 = 128;

/// The end that the supervisor and the process hold.
pub struct Sender(OwnedFd);

/// The launcher's end.
pub struct Receiver(OwnedFd);

/// Makes both ends.
pub fn channel() -> Result<(Sender, Receiver)> {
    let (sender, receiver) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .context("make the status socket")?;
    setsockopt(&receiver, sockopt::PassCred, &true)
        .context("ask for credentials on the status socket")?;
    // The process's own descriptors are put under low numbers while this one is still needed.
    let high =
        fcntl(&sender, FcntlArg::F_DUPFD_CLOEXEC(STAGING_FD)).context("move the status socket")?;
    // SAFETY: the call above made this descriptor, and nothing else owns it.
    let sender = unsafe { OwnedFd::from_raw_fd(high) };
    Ok((Sender(sender), Receiver(receiver)))
}

impl Sender {
    /// Says that the calling process is about to execute its program, and waits until that is noted.
    pub fn started(&self) -> Result<()> {
        self.send(STARTED, "").context("report the start")?;
        let mut noted = [0_u8; 1];
        let length = recv(self.0.as_raw_fd(), &mut noted, MsgFlags::empty())
            .context("wait for the launcher")?;
        ensure!(length == 1, "the launcher ended before the process started");
        Ok(())
    }

    /// Says what went wrong. Best effort: without a launcher there is nobody to tell.
    pub fn failed(&self, error: &anyhow::Error) {
        let _ = self.send(FAILED, &format!("{error:#}"));
    }

    fn send(&self, kind: u8, text: &str) -> nix::Result<()> {
        let text = &text.as_bytes()[..text.len().min(MAX_MESSAGE - 1)];
        let parts = [
            IoSlice::new(std::slice::from_ref(&kind)),
            IoSlice::new(text),
        ];
        sendmsg::<()>(
            self.0.as_raw_fd(),
            &parts,
            &[],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .map(drop)
    }
}

impl Receiver {
    /// Waits until the program was executed; answers what `note` made of the process's pid, or `None` when the other
    /// side ended without a word.
    pub fn process_started<T>(&self, note: impl Fn(Pid) -> Result<T>) -> Result<Option<T>> {
        let mut started = None;
        loop {
            let mut buffer = [0_u8; MAX_MESSAGE];
            let mut space = cmsg_space!(UnixCredentials);
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let message = recvmsg::<()>(
                self.0.as_raw_fd(),
                &mut parts,
                Some(&mut space),
                MsgFlags::empty(),
            )
            .context("read the status socket")?;
            let length = message.bytes;
            let pid = message.cmsgs()?.find_map(|message| match message {
                ControlMessageOwned::ScmCredentials(credentials) => {
                    Some(Pid::from_raw(credentials.pid()))
                }
                _ => None,
            });
            match (&buffer[..length], pid) {
                ([], _) => return Ok(started),
                ([STARTED, ..], Some(pid)) => {
                    started = Some(note(pid)?);
                    send(self.0.as_raw_fd(), b"N", MsgFlags::MSG_NOSIGNAL)
                        .context("let the process start")?;
                }
                ([FAILED, text @ ..], _) => bail!("{}", String::from_utf8_lossy(text)),
                _ => bail!("the status socket brought something unknown"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_carries_the_pid_and_ends_with_the_socket() {
        let (sender, receiver) = channel().expect("channel");
        let process = std::thread::spawn(move || sender.started());
        assert_eq!(
            receiver.process_started(Ok).expect("received"),
            Some(nix::unistd::getpid())
        );
        process.join().expect("joined").expect("noted");
    }

    #[test]
    fn a_failure_is_told_even_after_the_start() {
        let (sender, receiver) = channel().expect("channel");
        let process = std::thread::spawn(move || {
            sender.started().expect("noted");
            sender.failed(&anyhow::anyhow!("no such program"));
        });
        let error = receiver.process_started(Ok).expect_err("failed");
        assert_eq!(error.to_string(), "no such program");
        process.join().expect("joined");
    }

    #[test]
    fn silence_is_no_start() {
        let (sender, receiver) = channel().expect("channel");
        drop(sender);
        assert_eq!(receiver.process_started(Ok).expect("ended"), None);
    }

    #[test]
    fn without_a_launcher_nothing_starts() {
        let (sender, receiver) = channel().expect("channel");
        drop(receiver);
        assert!(sender.started().is_err());
    }
}
