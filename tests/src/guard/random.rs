//! Random sites, addresses and frames, near to each other, so that they meet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::frame::{Extension, Frame};
use super::model::Site;

/// A source of numbers (xorshift64*, Vigna 2016).
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is small.
    pub fn below(&mut self, bound: u8) -> u8 {
        let [.., byte, _] = self.number().to_ne_bytes();
        byte % bound.max(1)
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: u8) -> bool {
        self.below(times) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> Option<T> {
        let count = u8::try_from(choices.len()).unwrap_or(u8::MAX);
        choices.get(usize::from(self.below(count))).copied()
    }

    /// One of a few addresses, or any.
    pub fn address(&mut self, is_v4: bool) -> IpAddr {
        let wild = self.once_in(4);
        let low = self.below(16);
        if is_v4 {
            let near = Ipv4Addr::new(10, 1, low / 8, low);
            let any = self.number().to_ne_bytes();
            return if wild { Ipv4Addr::new(any[0], any[1], any[2], any[3]).into() } else { near.into() };
        }
        let near = Ipv6Addr::new(0xfd00, 1, 0, u16::from(low / 8), 0, 0, 0, u16::from(low));
        let any = u128::from(self.number()) << 64 | u128::from(self.number());
        if wild { Ipv6Addr::from(any).into() } else { near.into() }
    }

    fn networks(&mut self, count: u8, sparse: bool) -> Vec<(IpAddr, u8)> {
        (0..count)
            .map(|_| {
                let is_v4 = self.once_in(2);
                let address = self.address(is_v4);
                let most = if is_v4 { 32 } else { 128 };
                let bits = if sparse { most - self.below(12) } else { self.below(most + 1) };
                (address, bits)
            })
            .collect()
    }

    /// A site without bans.
    pub fn site(&mut self) -> Site {
        let listeners = (0..8_u8).map(|n| (self.address(n % 2 == 0), if n < 4 { 443 } else { 10_943 }));
        let listeners = listeners.collect();
        let (allow, deny) = (self.below(4), self.below(12));
        Site {
            listeners,
            allow: self.networks(allow, true),
            deny: self.networks(deny, true),
            banned: Vec::new(),
        }
    }

    fn extension(&mut self) -> Extension {
        let few = self.below(3);
        match self.below(7) {
            0 => Extension::HopByHop(few),
            1 | 2 => Extension::Destination(few),
            3 => Extension::Routing(u8::from(few == 2)),
            4 => Extension::Fragment(u16::from(few / 2) * 100, self.once_in(2)),
            5 => Extension::Fragment(0, self.once_in(2)),
            _ => Extension::Authentication(few),
        }
    }

    /// Bytes of a frame to one of the listeners of `site`, or somewhere else; most of them are right in most respects.
    pub fn frame(&mut self, site: &Site) -> Vec<u8> {
        let is_v4 = self.once_in(2);
        let family: Vec<_> =
            site.listeners.iter().filter(|(address, _)| address.is_ipv4() == is_v4).copied().collect();
        let (mut to, mut port) = self.of(&family).unwrap_or((self.address(is_v4), 443));
        if self.once_in(8) {
            to = self.address(is_v4);
        }
        if self.once_in(8) {
            port = port.wrapping_add(u16::from(self.below(3)));
        }
        let [flags, ..] = self.number().to_ne_bytes();
        let flags = if self.once_in(2) {
            self.of(&[0x02, 0x10, 0x18, 0x12, 0x11, 0x14]).unwrap_or(flags)
        } else {
            flags
        };
        let mut frame = Frame::new(self.address(is_v4), to, port, flags);
        for _ in 0..self.below(5).saturating_sub(1) {
            frame.tags.push(if self.once_in(3) { 0x88a8 } else { 0x8100 });
        }
        frame.rest = usize::from(self.below(60));
        self.spoil(&mut frame);
        let mut bytes = frame.bytes();
        if self.once_in(6) {
            bytes.truncate(usize::from(self.below(120)));
        }
        for _ in 0..if self.once_in(4) { self.below(4) } else { 0 } {
            let at = usize::from(self.below(100));
            let [byte, ..] = self.number().to_ne_bytes();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes
    }

    fn spoil(&mut self, frame: &mut Frame) {
        if self.once_in(4) {
            frame.options = self.below(11);
        }
        if self.once_in(5) {
            frame.fragment = (self.of(&[0, 0, 1, 185]).unwrap_or_default(), self.once_in(2));
        }
        if self.once_in(3) {
            frame.extensions = (0..self.below(9)).map(|_| self.extension()).collect();
        }
        if self.once_in(4) {
            frame.offset = self.below(16);
        }
        if self.once_in(5) {
            frame.lie = i32::from(self.below(90)) - 60;
        }
        if self.once_in(16) {
            frame.protocol = self.below(60);
        }
        frame.big = self.once_in(16);
    }
}
