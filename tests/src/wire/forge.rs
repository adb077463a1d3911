//! Packets that no socket has sent.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use crate::guard::frame::checksum;
use crate::netns::Namespace;

/// A TCP segment, with a right checksum.
#[derive(Debug, Clone)]
pub struct Forged {
    /// Whom it pretends to come from.
    pub from: SocketAddr,
    /// Where it goes: an address of the same family.
    pub to: SocketAddr,
    /// TCP flags.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// The window that it announces.
    pub window: u16,
    /// TCP options: a multiple of 4 bytes, 40 at most.
    pub options: Vec<u8>,
    /// IPv4 only: offset of a fragment in units of 8 bytes, with 0x2000 where more follow.
    pub fragment: u16,
    /// Behind the header.
    pub payload: Vec<u8>,
}

impl Forged {
    /// A bare segment.
    pub fn new(from: SocketAddr, to: SocketAddr, flags: u8, seq: u32) -> Self {
        Self {
            from,
            to,
            flags,
            seq,
            ack: seq,
            window: u16::MAX,
            options: Vec::new(),
            fragment: 0,
            payload: Vec::new(),
        }
    }

    /// Sends it out of a namespace. IPv4 only.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn send(&self, namespace: &Namespace) -> Result<()> {
        namespace.enter(|| {
            // A socket of this protocol sends the IP header that it is given; the kernel fills in its checksum.
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
            socket.send_to(&self.bytes()?, &self.to.into())?;
            Ok(())
        })
    }

    /// The Ethernet frame to this hardware address that carries it.
    ///
    /// # Errors
    /// When it is too long.
    pub fn frame(&self, to: [u8; 6]) -> Result<Vec<u8>> {
        let kind = if self.from.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
        Ok([&to[..], &[2; 6], &kind, &self.bytes()?].concat())
    }

    /// The packet, without a header of the link.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        let segment = self.segment()?;
        let mut bytes = Vec::with_capacity(40 + segment.len());
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let length = u16::try_from(20 + segment.len())?;
                bytes.extend([0x45, 0]);
                bytes.extend(length.to_be_bytes());
                bytes.extend([0, 77]);
                bytes.extend(self.fragment.to_be_bytes());
                bytes.extend([64, 6, 0, 0]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
                let sum = checksum(&bytes);
                if let Some(place) = bytes.get_mut(10..12) {
                    place.copy_from_slice(&sum.to_be_bytes());
                }
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                bytes.extend([0x60, 0, 0, 0]);
                bytes.extend(u16::try_from(segment.len())?.to_be_bytes());
                bytes.extend([6, 64]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
            }
            (from, to) => bail!("{from} and {to} are of two families"),
        }
        bytes.extend(segment);
        Ok(bytes)
    }

    fn segment(&self) -> Result<Vec<u8>> {
        let header = 20 + self.options.len();
        let mut segment = Vec::with_capacity(header + self.payload.len());
        segment.extend(self.from.port().to_be_bytes());
        segment.extend(self.to.port().to_be_bytes());
        segment.extend(self.seq.to_be_bytes());
        segment.extend(self.ack.to_be_bytes());
        segment.extend([u8::try_from(header / 4)? << 4, self.flags]);
        segment.extend(self.window.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(&self.options);
        segment.extend(&self.payload);
        let length = u32::try_from(segment.len())?.to_be_bytes();
        let pseudo = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
            (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
            _ => Vec::new(),
        };
        let sum = checksum(&[&pseudo[..], &[0, 0, 0, 6], &length, &segment].concat());
        if let Some(place) = segment.get_mut(16..18) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
        Ok(segment)
    }
}
