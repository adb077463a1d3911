//! The handshake layer (RFC 8446 section 4): how much of the first message is there.

use super::{Defect, HelloFailure, MaxHello, Verdict};

/// Length of a handshake header: type, 24-bit length.
pub(super) const HEADER: usize = 4;

/// Handshake type of the `ClientHello`.
const CLIENT_HELLO: u8 = 1;

/// The shortest `ClientHello` body: version, random, and three lists with nothing in them.
const MIN_BODY: usize = 2 + 32 + 1 + 2 + 1;

/// The first handshake message of a stream: its header, and how many of its bytes have been seen.
pub(super) struct Message {
    max: MaxHello,
    header: [u8; HEADER],
    seen: usize,
}

impl Message {
    /// Of which nothing has been seen.
    pub(super) const fn new(max: MaxHello) -> Self {
        Self { max, header: [0; HEADER], seen: 0 }
    }

    /// Length with the header, once that is known; until then the least that a `ClientHello` can have.
    pub(super) fn len(&self) -> usize {
        HEADER + if self.seen < HEADER { MIN_BODY } else { self.body_len() }
    }

    /// How many more bytes must come, at least.
    pub(super) fn missing(&self) -> usize {
        self.len().saturating_sub(self.seen)
    }

    /// Goes on with the next handshake bytes, and tells how many of them belong to the message.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize, Verdict> {
        let mut used = 0;
        for (slot, &byte) in self.header.iter_mut().skip(self.seen).zip(bytes) {
            *slot = byte;
            used += 1;
        }
        if used > 0 {
            self.seen += used;
            self.check_header()?;
        }
        if self.seen >= HEADER {
            let more = self.missing().min(bytes.len() - used);
            self.seen += more;
            used += more;
        }
        Ok(used)
    }

    fn check_header(&self) -> Result<(), Verdict> {
        let [kind, ..] = self.header;
        if kind != CLIENT_HELLO {
            return Err(Verdict::Unusable(HelloFailure::Broken(Defect::HandshakeType)));
        }
        if self.seen < HEADER {
            return Ok(());
        }
        match self.body_len() {
            ..MIN_BODY => Err(Verdict::Unusable(HelloFailure::Broken(Defect::Body))),
            body if body <= self.max.body() => Ok(()),
            _ => Err(Verdict::Unusable(HelloFailure::TooLarge)),
        }
    }

    fn body_len(&self) -> usize {
        let [_, high, mid, low] = self.header;
        usize::from(high) << 16 | usize::from(mid) << 8 | usize::from(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_may_come_byte_by_byte() {
        let mut message = Message::new(MaxHello::DEFAULT);
        for (byte, missing) in [(1, 41), (0, 40), (0, 39), (50, 50)] {
            assert_eq!(message.take(&[byte]), Ok(1));
            assert_eq!(message.missing(), missing);
        }
        assert_eq!(message.take(&[0; 49]), Ok(49));
        assert_eq!(message.take(&[0; 9]), Ok(1));
        assert_eq!((message.missing(), message.len()), (0, 54));
        assert_eq!(message.take(&[0; 9]), Ok(0));
    }

    #[test]
    fn the_header_decides_as_soon_as_it_can() {
        let take = |bytes: &[u8]| Message::new(MaxHello::DEFAULT).take(bytes);
        assert_eq!(take(&[2]), Err(Verdict::Unusable(HelloFailure::Broken(Defect::HandshakeType))));
        assert_eq!(take(&[1, 0, 0, 37]), Err(Verdict::Unusable(HelloFailure::Broken(Defect::Body))));
        assert_eq!(take(&[1, 0, 0, 38]), Ok(4));
        assert_eq!(take(&[1, 0, 0x40, 0]), Ok(4));
        assert_eq!(take(&[1, 0, 0x40, 1]), Err(Verdict::Unusable(HelloFailure::TooLarge)));
        assert_eq!(take(&[1, 0xff]), Ok(2));
        assert_eq!(Message::new(MaxHello::MAX).take(&[1, 1, 0, 0]), Ok(4));
        assert_eq!(
            Message::new(MaxHello::MAX).take(&[1, 1, 0, 1]),
            Err(Verdict::Unusable(HelloFailure::TooLarge))
        );
    }
}
