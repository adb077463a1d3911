//! Packets that no socket has sent.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};

use crate::guard::frame::checksum;
use crate::netns::Namespace;

/// A TCP segment over IPv4, with a right checksum.
#[derive(Debug, Clone)]
pub struct Forged {
    /// Whom it pretends to come from.
    pub from: SocketAddrV4,
    /// Where it goes.
    pub to: SocketAddrV4,
    /// TCP flags.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Offset of a fragment in units of 8 bytes, with 0x2000 where more follow.
    pub fragment: u16,
    /// Behind the header.
    pub payload: Vec<u8>,
}

impl Forged {
    /// A bare segment.
    pub fn new(from: SocketAddrV4, to: SocketAddrV4, flags: u8, seq: u32) -> Self {
        Self { from, to, flags, seq, ack: seq, fragment: 0, payload: Vec::new() }
    }

    /// Sends it out of a namespace.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn send(&self, namespace: &Namespace) -> Result<()> {
        namespace.enter(|| {
            // A socket of this protocol sends the IP header that it is given; the kernel fills in its checksum.
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
            socket.send_to(&self.bytes()?, &SocketAddr::from(self.to).into())?;
            Ok(())
        })
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let segment = self.segment()?;
        let length = u16::try_from(20 + segment.len())?;
        let mut bytes = vec![0x45, 0];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 77]);
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, 6, 0, 0]);
        bytes.extend(self.from.ip().octets());
        bytes.extend(self.to.ip().octets());
        bytes.extend(segment);
        Ok(bytes)
    }

    fn segment(&self) -> Result<Vec<u8>> {
        let mut segment = Vec::new();
        segment.extend(self.from.port().to_be_bytes());
        segment.extend(self.to.port().to_be_bytes());
        segment.extend(self.seq.to_be_bytes());
        segment.extend(self.ack.to_be_bytes());
        segment.extend([5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(&self.payload);
        let pseudo = |address: &Ipv4Addr| address.octets();
        let length = u32::try_from(segment.len())?.to_be_bytes();
        let all =
            [&pseudo(self.from.ip())[..], &pseudo(self.to.ip()), &[0, 0, 0, 6], &length, &segment].concat();
        let sum = checksum(&all);
        if let Some(place) = segment.get_mut(16..18) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
        Ok(segment)
    }
}
