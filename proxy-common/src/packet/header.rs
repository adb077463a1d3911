//! The TCP header of a packet, and its translation from one leg to the other.

use super::seq::{before, later, place};
use super::sum::Difference;
use crate::abi::packet::{Entry, Handover};

/// Flags of a TCP header.
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// The beginning of a connection.
    pub const SYN: u8 = 0x02;
    /// The end of a connection at once.
    pub const RST: u8 = 0x04;
    /// Deliver at once.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number is good.
    pub const ACK: u8 = 0x10;
}

/// The first 20 bytes of a TCP header, as they stand in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Header {
    /// Source and target port.
    pub ports: [u16; 2],
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Its upper half: words of the header.
    pub offset: u8,
    /// [`tcp`].
    pub flags: u8,
    /// Window, before its shift.
    pub window: u16,
    /// Checksum.
    pub sum: u16,
    /// Where urgent data ends.
    pub urgent: u16,
}

const _: () = assert!(size_of::<Header>() == 20);

/// What decisions are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Sequence number of the first byte.
    pub seq: u32,
    /// Behind the last one; FIN counts.
    pub end: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Window, before its shift.
    pub window: u16,
}

impl Segment {
    /// Whether one of `flags` is set.
    #[must_use]
    #[inline(always)]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

impl Header {
    /// Bytes of the whole header. Less than 20: the packet is no TCP.
    #[must_use]
    #[inline(always)]
    pub const fn size(&self) -> u32 {
        ((self.offset >> 4) as u32) << 2
    }

    /// With so many bytes of payload.
    #[must_use]
    #[inline(always)]
    pub const fn segment(&self, payload: u32) -> Segment {
        let seq = u32::from_be(self.seq);
        let fin = (self.flags & tcp::FIN) as u32;
        Segment {
            seq,
            end: seq.wrapping_add(payload).wrapping_add(fin),
            ack: u32::from_be(self.ack),
            flags: self.flags,
            window: u16::from_be(self.window),
        }
    }
}

/// What is added to what, on the way from one leg to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shift {
    /// To sequence numbers.
    pub seq: u32,
    /// To acknowledgement numbers, and the edges of what arrived beyond them.
    pub ack: u32,
    /// To time stamps.
    pub stamp: u32,
    /// To their echoes.
    pub echo: u32,
    /// An acknowledgement number before this one, before the shift, is raised to it: `owed` of a hand-over.
    pub least_ack: Option<u32>,
    /// Shifts of the window as it comes in and as it goes out.
    pub scale: [u8; 2],
}

impl Shift {
    /// Of a flow that has left its sockets.
    #[must_use]
    #[inline(always)]
    pub const fn of(entry: &Entry) -> Self {
        Self {
            seq: entry.seq,
            ack: entry.ack,
            stamp: entry.stamp,
            echo: entry.echo,
            least_ack: None,
            scale: entry.scales(),
        }
    }

    /// Of the packets of leg 0 or 1 while their sockets drain.
    #[must_use]
    #[inline(always)]
    pub const fn draining(entry: &Entry, handover: &Handover, second: bool) -> Self {
        let [first, other] = handover.delta;
        let (delta, back) = if second { (other, first) } else { (first, other) };
        let [first, other] = handover.stamp;
        let (stamp, echo) = if second { (other, first) } else { (first, other) };
        let [first, other] = handover.owed;
        Self {
            seq: delta,
            ack: 0_u32.wrapping_sub(back),
            stamp,
            echo: 0_u32.wrapping_sub(echo),
            least_ack: Some(if second { other } else { first }),
            scale: entry.scales(),
        }
    }

    /// Translates the fixed part of a header but its checksum, and says what that makes to it.
    #[inline(always)]
    pub const fn translate(&self, header: &mut Header, ports: [u16; 2]) -> Difference {
        let old = *header;
        header.ports = ports;
        header.seq = u32::from_be(old.seq).wrapping_add(self.seq).to_be();
        if old.flags & tcp::ACK != 0 {
            let ack = u32::from_be(old.ack);
            let ack = match self.least_ack {
                Some(least) => later(ack, least),
                None => ack,
            };
            header.ack = ack.wrapping_add(self.ack).to_be();
        }
        header.window = window(u16::from_be(old.window), self.scale).to_be();
        let [source, target] = ports;
        let [old_source, old_target] = old.ports;
        Difference::NONE
            .half(old_source, source)
            .half(old_target, target)
            .word(old.seq, header.seq)
            .word(old.ack, header.ack)
            .half(old.window, header.window)
    }

    /// A time stamp and its echo. An echo of 0 is none.
    #[must_use]
    #[inline(always)]
    pub const fn stamps(&self, stamp: u32, echo: u32) -> [u32; 2] {
        let echo = if echo == 0 { 0 } else { echo.wrapping_add(self.echo) };
        [stamp.wrapping_add(self.stamp), echo]
    }
}

/// A window for a receiver that shifts it by another amount. What does not fit becomes the largest that does; a window that is
/// open stays open, or its sender would wait for a probe.
#[must_use]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "bounded before")]
pub const fn window(window: u16, [scale_in, scale_out]: [u8; 2]) -> u16 {
    let shifted = ((window as u64) << (scale_in & 15)) >> (scale_out & 15);
    match shifted {
        0 if window != 0 => 1,
        0xffff.. => 0xffff,
        other => other as u16,
    }
}

/// Packets of an end that are this close to each other may have overtaken each other.
const TOGETHER_MS: u32 = 200;

/// What an entry learns of a packet that goes by it.
#[inline(always)]
pub const fn note(entry: &mut Entry, segment: &Segment, payload: u32, now_ms: u32) {
    note_sent(entry, segment, payload);
    hear(entry, segment, now_ms);
}

/// That its bytes were sent, and no more.
#[inline(always)]
pub const fn note_sent(entry: &mut Entry, segment: &Segment, payload: u32) {
    let mut sent = place(entry.sent, entry.start, segment.seq.wrapping_add(payload));
    // The number before that of a packet without bytes may be an end's that was lost on its way here.
    if payload == 0 && !entry.has_ended() && !segment.has(tcp::FIN) {
        sent = sent.saturating_sub(1);
    }
    if sent > entry.sent {
        entry.sent = sent;
    }
}

/// What an entry learns of a packet that is not passed on: not that its bytes were sent.
#[inline(always)]
pub const fn hear(entry: &mut Entry, segment: &Segment, now_ms: u32) {
    // Packets that had been under way together with a reset are no answer to the question whether it was one.
    if entry.doubt != 0 && now_ms.wrapping_sub(entry.active_ms) > TOGETHER_MS {
        entry.doubt = 0;
    }
    if entry.active_ms != now_ms {
        entry.active_ms = now_ms;
    }
    // One that was overtaken by a later one announces a window of before.
    if segment.has(tcp::ACK) && !before(segment.ack, entry.acked) {
        if entry.acked != segment.ack {
            entry.acked = segment.ack;
        }
        if entry.window != segment.window {
            entry.window = segment.window;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::packet::flag;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn windows_stay_open_and_never_promise_more_than_a_step_too_much(raw: u16, scale in [0_u8..=14, 0_u8..=14]) {
            let out = window(raw, scale);
            let (was, is) = (u64::from(raw) << scale[0], u64::from(out) << scale[1]);
            prop_assert_eq!(out == 0, raw == 0);
            prop_assert!(is <= was || (out == 1 && was < 1 << scale[1]));
            prop_assert!(out == u16::MAX || is + (1 << scale[1]) > was);
            if scale[0] == scale[1] {
                prop_assert_eq!(out, raw);
            }
        }

        #[test]
        fn there_and_back_again(seq: u32, ack: u32, delta: [u32; 2], ports: [u16; 2]) {
            let there = Shift { seq: delta[0], ack: 0_u32.wrapping_sub(delta[1]), ..Shift::default() };
            let back = Shift { seq: 0_u32.wrapping_sub(delta[0]), ack: delta[1], ..Shift::default() };
            let header = Header { ports, seq, ack, flags: tcp::ACK, ..Header::default() };
            let mut moved = header;
            let one = there.translate(&mut moved, [1, 2]);
            let other = back.translate(&mut moved, ports);
            prop_assert_eq!(moved, header);
            prop_assert_eq!(one.and(other).apply(0x1234), 0x1234);
        }

        #[test]
        fn an_acknowledgement_is_never_below_what_the_socket_owes(ack: u32, owed: u32) {
            let shift = Shift { least_ack: Some(owed), ..Shift::default() };
            let mut header = Header { ack: ack.to_be(), flags: tcp::ACK, ..Header::default() };
            shift.translate(&mut header, [0, 0]);
            let out = u32::from_be(header.ack);
            prop_assert!(!before(out, owed) && (out == ack || out == owed));
        }
    }

    #[test]
    fn an_echo_of_nothing_stays_nothing_and_no_acknowledgement_none() {
        let shift = Shift { echo: 7, stamp: 5, ack: 9, ..Shift::default() };
        assert_eq!(shift.stamps(1, 0), [6, 0]);
        assert_eq!(shift.stamps(1, 1), [6, 8]);
        let mut header = Header { flags: tcp::RST, ..Header::default() };
        shift.translate(&mut header, [0, 0]);
        assert_eq!(header.ack, 0);
    }

    #[test]
    fn an_end_that_answers_is_not_doubted_any_more() {
        let doubt = flag::DOUBT | flag::CAUSE;
        let mut entry = Entry { active_ms: 5, ..Entry::default().with(doubt).with(flag::FIN) };
        let segment = Segment { flags: tcp::ACK, ..Segment::default() };
        hear(&mut entry, &segment, 205);
        assert_eq!(entry.flags(), doubt | flag::FIN, "it came with the one before");
        hear(&mut entry, &segment, 406);
        assert_eq!(entry.flags(), flag::FIN);
        let mut entry = Entry { active_ms: 5, ..Entry::default().with(doubt).with(flag::RST | flag::CAUSE) };
        hear(&mut entry, &segment, 206);
        assert_eq!(entry.flags(), flag::CAUSE | flag::RST, "a reset that was believed stays");
    }

    #[test]
    fn an_entry_learns_the_most_that_it_saw() {
        let mut entry = Entry { start: u32::MAX - 9, acked: 5, ..Entry::default() };
        let segment = Segment { seq: u32::MAX, end: 20, ack: 4, flags: tcp::ACK, window: 3 };
        note(&mut entry, &segment, 20, 8);
        assert_eq!((entry.sent, entry.acked, entry.window, entry.active_ms), (29, 5, 0, 8), "an old window");
        let old = Segment { seq: u32::MAX - 9, end: 0, ack: 6, ..segment };
        note(&mut entry, &old, 9, 9);
        assert_eq!((entry.sent, entry.acked, entry.window), (29, 6, 3));
    }

    #[test]
    fn an_end_that_was_lost_on_its_way_here_is_no_byte() {
        let mut entry = Entry { start: 100, sent: 10, ..Entry::default() };
        let behind = |seq| Segment { seq, end: seq, flags: tcp::ACK, ..Segment::default() };
        note(&mut entry, &behind(111), 0, 1);
        assert_eq!(entry.sent, 10);
        note(&mut entry, &behind(112), 0, 1);
        assert_eq!(entry.sent, 11, "bytes were lost, or a byte and the end");
        let mut entry = Entry { start: 100, sent: 10, ended: flag::FIN, fin: 110, ..Entry::default() };
        note(&mut entry, &behind(111), 0, 1);
        assert_eq!(entry.sent, 11, "of an end that is known it is known where it is");
        let mut entry = Entry { start: 100, sent: 10, ..Entry::default() };
        note(&mut entry, &Segment { end: 111, ..behind(110) }, 1, 1);
        assert_eq!(entry.sent, 11, "a byte");
        note(&mut entry, &Segment { end: 114, flags: tcp::ACK | tcp::FIN, ..behind(113) }, 0, 1);
        assert_eq!(entry.sent, 13, "the end itself says what was before it");
    }
}
