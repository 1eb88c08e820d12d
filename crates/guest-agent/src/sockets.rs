//! Ends TCP connections that came out of a snapshot: their other ends know a different machine.
//!
//! The kernel's socket diagnostics (netlink) list every connection and destroy it, so that the programs get an error
//! at once instead of waiting for an answer that never comes.

use std::{io, os::fd::OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use crate::netns::NetNs;

const DUMP: u16 = 20;
const DESTROY: u16 = 21;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const ALL: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
/// Size of `inet_diag_req_v2`.
const REQUEST_SIZE: usize = 56;
/// Size of `inet_diag_sockid`.
const ID_SIZE: usize = 48;
/// Every TCP state with a peer: not closed, listening or waiting out its time.
const STATES: u32 = 0b1011_0011_1110;

/// Destroys every TCP connection of the workload that leaves the machine; answers how many.
///
/// # Errors
/// `Unsupported` when the kernel has no `tcp_diag` or cannot destroy sockets; else the kernel's error.
pub fn reset(netns: Option<&NetNs>) -> io::Result<usize> {
    let open = || {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        Ok(socket)
    };
    let socket = match netns {
        Some(netns) => netns.visit(open)?,
        None => open()?,
    };
    let mut reset = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).unwrap_or_default();
        for id in list(&socket, family)? {
            if !(is_loopback(family, &id[4..20]) && is_loopback(family, &id[20..36]))
                && destroy(&socket, family, &id)?
            {
                reset += 1;
            }
        }
    }
    Ok(reset)
}

type Id = [u8; ID_SIZE];

fn list(socket: &OwnedFd, family: u8) -> io::Result<Vec<Id>> {
    ask(socket, DUMP, ALL, family, STATES, &[0; ID_SIZE])?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (count, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
        for (kind, body) in Replies(&buffer[..count]) {
            match kind {
                DONE => return Ok(found),
                ERROR => {
                    result(body).map_err(unsupported)?;
                    return Ok(found);
                }
                _ => {
                    if let Some(id) = body.get(4..4 + ID_SIZE).and_then(|id| id.try_into().ok()) {
                        found.push(id);
                    }
                }
            }
        }
    }
}

/// Whether the connection was there to destroy.
fn destroy(socket: &OwnedFd, family: u8, id: &Id) -> io::Result<bool> {
    ask(socket, DESTROY, ACK, family, STATES, id)?;
    let mut buffer = [0; 4096];
    let (count, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
    match Replies(&buffer[..count]).next() {
        Some((ERROR, body)) => match result(body) {
            Ok(()) => Ok(true),
            // It ended by itself in between.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(unsupported(error)),
        },
        _ => Ok(false),
    }
}

fn ask(
    socket: &OwnedFd,
    kind: u16,
    flags: u16,
    family: u8,
    states: u32,
    id: &Id,
) -> io::Result<()> {
    let mut message = Vec::with_capacity(HEADER + REQUEST_SIZE);
    message.extend_from_slice(&((HEADER + REQUEST_SIZE) as u32).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
    message.extend_from_slice(&[0; 8]); // sequence and port: one question at a time needs neither
    message.extend_from_slice(&[
        family,
        u8::try_from(libc::IPPROTO_TCP).unwrap_or_default(),
        0,
        0,
    ]);
    message.extend_from_slice(&states.to_ne_bytes());
    message.extend_from_slice(id);
    send(socket, &message, SendFlags::empty())?;
    Ok(())
}

/// The messages in one datagram: type and body.
struct Replies<'a>(&'a [u8]);

impl<'a> Iterator for Replies<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..HEADER)?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    }
}

fn result(body: &[u8]) -> io::Result<()> {
    let number = body.get(..4).map_or(libc::EPROTO, |code| {
        -i32::from_ne_bytes([code[0], code[1], code[2], code[3]])
    });
    match number {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

/// Tells a kernel without the feature from one that failed.
fn unsupported(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOENT | libc::EINVAL) => io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel cannot list and destroy TCP sockets (modules inet_diag and tcp_diag, INET_DIAG_DESTROY)",
        ),
        _ => error,
    }
}

fn is_loopback(family: u8, address: &[u8]) -> bool {
    if i32::from(family) == libc::AF_INET {
        return address[0] == 127;
    }
    let mapped = address[..10] == [0; 10] && address[10..12] == [0xff, 0xff] && address[12] == 127;
    mapped || address == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
}
