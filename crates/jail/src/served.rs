//! Files the process opens by name and is handed instead of being let at them.
//!
//! QEMU opens its memory file and `/dev/kvm` read-write by path, even where it only ever maps the file privately. To
//! satisfy that with permissions would let a broken VMM write into memory that other sandboxes are restored from. So the
//! process may open neither: a seccomp filter passes each read-write `openat` to the supervisor, which puts a
//! descriptor of its own, read-only where it should be, into the process. Every other open goes on as the
//! unprivileged process it comes from, so this is a convenience for the process and not one of its walls.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

/// A file and the exact name it is served under.
pub struct Served {
    /// The path string the process opens.
    pub name: String,
    /// What it gets.
    pub file: File,
}

/// The supervisor's end of the filter.
pub struct Listener(OwnedFd);

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xC000_00B7;

const PAGE: usize = 4096;
const MAX_NAME: usize = 256;

nix::ioctl_readwrite!(notif_recv, b'!', 0, libc::seccomp_notif);
nix::ioctl_readwrite!(notif_send, b'!', 1, libc::seccomp_notif_resp);
nix::ioctl_write_ptr!(notif_addfd, b'!', 3, libc::seccomp_notif_addfd);

/// A socket over which the process hands its filter's listener to the supervisor.
pub fn handover() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .context("make the handover socket")
}

/// In the process: installs the filter and sends its listener away.
pub fn install(socket: &OwnedFd) -> Result<()> {
    let filter = filter();
    let program = libc::sock_fprog {
        len: filter.len() as libc::c_ushort,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program and its instructions live through the call, which only reads them.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    let listener = Errno::result(listener).context("install the file filter")? as i32;
    // SAFETY: the call above made this descriptor, and nothing else owns it.
    let listener = unsafe { OwnedFd::from_raw_fd(listener) };
    let fds = [listener.as_raw_fd()];
    let parts = [IoSlice::new(b"L")];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &parts,
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .context("hand over the file filter")?;
    Ok(())
}

/// In the supervisor: takes what [`install`] sent; `None` when the process failed before it got there.
pub fn take(socket: &OwnedFd) -> Result<Option<Listener>> {
    let mut buffer = [0_u8; 1];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let mut space = cmsg_space!([i32; 1]);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .context("take over the file filter")?;
    for message in message.cmsgs()? {
        let ControlMessageOwned::ScmRights(fds) = message else {
            continue;
        };
        if let Some(fd) = fds.first() {
            // SAFETY: the kernel just made this descriptor for us, and nothing else owns it.
            return Ok(Some(Listener(unsafe { OwnedFd::from_raw_fd(*fd) })));
        }
    }
    Ok(None)
}

/// `openat` with `O_RDWR` notifies the listener; everything else is allowed.
fn filter() -> [libc::sock_filter; 9] {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // Offsets in `struct seccomp_data`: nr 0, arch 4, args from 16, the low word of each first on little-endian.
    [
        op(LOAD, 0, 0, 4),
        op(JUMP_IF, 0, 5, AUDIT_ARCH),
        op(LOAD, 0, 0, 0),
        op(JUMP_IF, 0, 3, libc::SYS_openat as u32),
        op(LOAD, 0, 0, 16 + 2 * 8),
        op(AND, 0, 0, libc::O_ACCMODE as u32),
        op(JUMP_IF, 1, 0, libc::O_RDWR as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        op(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
    ]
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Listener {
    /// Answers one pending open. Call it only when the listener is readable: it waits otherwise.
    ///
    /// Errors are not reported: the process that asked may be gone, and one that still waits is answered by the
    /// kernel when the listener is closed.
    pub fn answer(&self, served: &[Served]) {
        // SAFETY: all-zero is a valid `seccomp_notif`, and what the kernel asks for.
        let mut request: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is a seccomp listener and the request lives through the call.
        if unsafe { notif_recv(self.0.as_raw_fd(), &raw mut request) }.is_err() {
            return;
        }
        // The name is read once and only decides *which* of our own files is handed over, so a process that changes it
        // meanwhile gains nothing.
        let name = read_name(Pid::from_raw(request.pid as i32), request.data.args[1]);
        match served
            .iter()
            .find(|file| name.as_deref() == Some(file.name.as_bytes()))
        {
            Some(file) => self.hand_over(request.id, &file.file),
            None => self.let_go_on(request.id),
        }
    }

    fn hand_over(&self, id: u64, file: &File) {
        let answer = libc::seccomp_notif_addfd {
            id,
            flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
            srcfd: file.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: libc::O_CLOEXEC as u32,
        };
        // SAFETY: the descriptor is a seccomp listener and the answer lives through the call.
        let _ = unsafe { notif_addfd(self.0.as_raw_fd(), &raw const answer) };
    }

    fn let_go_on(&self, id: u64) {
        let mut answer = libc::seccomp_notif_resp {
            id,
            val: 0,
            error: 0,
            flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        };
        // SAFETY: the descriptor is a seccomp listener and the answer lives through the call.
        let _ = unsafe { notif_send(self.0.as_raw_fd(), &raw mut answer) };
    }
}

/// The NUL-terminated string at `address` of another process, if there is a short one.
fn read_name(pid: Pid, address: u64) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    let mut next = usize::try_from(address).ok()?;
    while name.len() < MAX_NAME {
        // Never past a page's end at once: the next page may not be there.
        let length = (PAGE - next % PAGE).min(MAX_NAME);
        let mut buffer = [0_u8; MAX_NAME];
        let remote = [RemoteIoVec {
            base: next,
            len: length,
        }];
        let read =
            process_vm_readv(pid, &mut [IoSliceMut::new(&mut buffer[..length])], &remote).ok()?;
        if let Some(end) = buffer[..read].iter().position(|byte| *byte == 0) {
            name.extend_from_slice(&buffer[..end]);
            return Some(name);
        }
        name.extend_from_slice(&buffer[..read]);
        next += read;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_across_pages_and_bounded() {
        let me = nix::unistd::getpid();
        let mut memory = vec![b'x'; 3 * PAGE];
        let start = memory.as_ptr() as usize;
        let boundary = PAGE - start % PAGE;
        memory[boundary - 3..boundary + 3].copy_from_slice(b"abcde\0");
        assert_eq!(
            read_name(me, (start + boundary - 3) as u64).as_deref(),
            Some(b"abcde".as_slice())
        );
        assert_eq!(read_name(me, start as u64 + 2 * PAGE as u64 - 700), None);
        assert_eq!(read_name(me, 0), None);
    }

    #[test]
    fn the_filter_jumps_to_its_own_ends() {
        let filter = filter();
        for (index, op) in filter.iter().enumerate() {
            if u32::from(op.code) & 7 == libc::BPF_JMP {
                assert!(index + 1 + usize::from(op.jt.max(op.jf)) < filter.len());
            }
        }
        assert_eq!(filter[8].k, libc::SECCOMP_RET_USER_NOTIF);
    }
}
