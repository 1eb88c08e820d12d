//! The five requests to the kernel's routing netlink that a sandbox needs, each sent and acknowledged.
//!
//! A request is a header, a fixed part that depends on the kind, and attributes; everything is in the machine's own byte
//! order but for addresses. See rtnetlink(7).

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::cmdline::Cidr;

const HEADER: usize = 16;

/// A socket to the routing tables of the network namespace in which it was opened.
pub struct Netlink(OwnedFd);

impl Netlink {
    /// Opens the socket in the present network namespace.
    pub fn open() -> Result<Self, Errno> {
        socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .map(Self)
    }

    /// Sets an interface up.
    pub fn up(&self, index: u32) -> Result<(), Errno> {
        self.ask(Request::link(index, libc::IFF_UP as u32))
    }

    /// Renames an interface that is down.
    pub fn rename(&self, index: u32, name: &str) -> Result<(), Errno> {
        self.ask(Request::link(index, 0).name(name))
    }

    /// Moves an interface into another network namespace, where it has the name `name` and maybe another index.
    pub fn move_to(&self, index: u32, namespace: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
        let fd = namespace.as_raw_fd().to_ne_bytes();
        self.ask(
            Request::link(index, 0)
                .attribute(libc::IFLA_NET_NS_FD, &fd)
                .name(name),
        )
    }

    /// Gives an interface an address.
    pub fn add_address(&self, index: u32, cidr: Cidr) -> Result<(), Errno> {
        self.ask(Request::address(index, cidr))
    }

    /// Sets the default route.
    pub fn add_default_route(&self, index: u32, gateway: Ipv4Addr) -> Result<(), Errno> {
        self.ask(Request::default_route(index, gateway))
    }

    fn ask(&self, request: Request) -> Result<(), Errno> {
        sendto(
            self.0.as_raw_fd(),
            &request.finish(),
            &NetlinkAddr::new(0, 0),
            MsgFlags::empty(),
        )?;
        let mut answer = [0_u8; 4096];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        // An acknowledgement is an error message whose error, right after the header, is 0.
        match answer.get(HEADER..HEADER + 4) {
            Some(code) if length >= HEADER + 4 => {
                match i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
                    0 => Ok(()),
                    negative => Err(Errno::from_raw(-negative)),
                }
            }
            _ => Err(Errno::EBADMSG),
        }
    }
}

/// One request under construction.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: i32, fixed: &[u8]) -> Self {
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        let mut bytes = vec![0; 4]; // the length, known at the end
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]); // sequence number and port: one request at a time needs neither
        bytes.extend(fixed);
        Self(bytes)
    }

    /// A change to a link; `flags` are interface flags to set.
    fn link(index: u32, flags: u32) -> Self {
        let mut fixed = vec![0; 4]; // family, padding, device type
        fixed.extend(index.to_ne_bytes());
        fixed.extend(flags.to_ne_bytes());
        fixed.extend(flags.to_ne_bytes()); // which of the flags the request is about
        Self::new(libc::RTM_NEWLINK, 0, &fixed)
    }

    fn address(index: u32, cidr: Cidr) -> Self {
        let mut fixed = vec![libc::AF_INET as u8, cidr.prefix, 0, libc::RT_SCOPE_UNIVERSE];
        fixed.extend(index.to_ne_bytes());
        Self::new(
            libc::RTM_NEWADDR,
            libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
            &fixed,
        )
        .attribute(libc::IFA_LOCAL, &cidr.address.octets())
        .attribute(libc::IFA_ADDRESS, &cidr.address.octets())
    }

    fn default_route(index: u32, gateway: Ipv4Addr) -> Self {
        let mut fixed = vec![libc::AF_INET as u8, 0, 0, 0]; // destination and source of any length, no type of service
        fixed.extend([
            libc::RT_TABLE_MAIN,
            libc::RTPROT_BOOT,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
        ]);
        fixed.extend([0; 4]);
        Self::new(
            libc::RTM_NEWROUTE,
            libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
            &fixed,
        )
        .attribute(libc::RTA_GATEWAY, &gateway.octets())
        .attribute(libc::RTA_OIF, &index.to_ne_bytes())
    }

    fn name(self, name: &str) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(libc::IFLA_IFNAME, &bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend((4 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_knows_its_length_and_pads_its_attributes() {
        let bytes = Request::link(7, 0).name("eth0").finish();
        assert_eq!(bytes.len(), HEADER + 16 + 12);
        assert_eq!(bytes[..4], 44_u32.to_ne_bytes());
        assert_eq!(bytes[20..24], 7_u32.to_ne_bytes());
        assert_eq!(
            bytes[32..34],
            9_u16.to_ne_bytes(),
            "the attribute's length leaves its padding out"
        );
        assert_eq!(&bytes[36..], b"eth0\0\0\0\0");
    }

    #[test]
    fn an_address_is_in_network_order() {
        let cidr = Cidr {
            address: Ipv4Addr::new(10, 200, 0, 2),
            prefix: 30,
        };
        let bytes = Request::address(3, cidr).finish();
        assert_eq!(bytes[HEADER..HEADER + 4], [libc::AF_INET as u8, 30, 0, 0]);
        assert!(bytes.windows(4).any(|window| window == [10, 200, 0, 2]));
    }

    #[test]
    fn the_kernel_acknowledges_and_refuses() {
        let netlink = Netlink::open().expect("any process may open one");
        assert_eq!(netlink.up(0x7fff_fff0), Err(Errno::ENODEV));
    }
}
