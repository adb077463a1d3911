//! The life of a flow without sockets, as its two entries tell it.

use core::time::Duration;

use super::claim::is_strange;
use super::seq::place;
use super::seq_validation::{expected, is_acknowledged, may_have_ended, room};
use crate::abi::packet::{Entry, flag, state};
use crate::flow::{End, Reason, Side};

/// What ends a flow that does not end by itself.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Without a byte, once one side has ended.
    pub half_close: Duration,
    /// Without a byte. Zero: for ever.
    pub idle: Duration,
    /// Without a packet of an end that was asked for one.
    pub keepalive: Duration,
}

/// What to do about a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Look again after this time.
    Wait(Duration),
    /// Ask these ends for a sign of life, client first, and look again after this time.
    Probe([bool; 2], Duration),
    /// The same, and with questions that are answered whatever is wrong with what is known of their numbers.
    Search([bool; 2], Duration),
    /// Both ends know that it is over.
    Over(End),
    /// It has to be ended.
    Cut(End),
}

/// Of the time that an end may be silent, the part that goes by without a probe, and that between two probes: as the kernel's
/// keepalive has it on other flows.
const PARTS: u32 = 13;
const SILENT_PARTS: u32 = 3;

/// Between two looks at a flow whose last acknowledgements are under way.
const SOON: Duration = Duration::from_millis(50);

/// Between two questions to an end that may have reset the connection, or says what does not fit: Linux answers twice a second at most
/// (`net.ipv4.tcp_invalid_ratelimit`).
const ASK_AGAIN: Duration = Duration::from_millis(600);

/// Longest time between two looks.
const LONGEST: Duration = Duration::from_secs(3600);

/// Looks at a flow at `now_ms` of the clock that the entries know, of which a byte was last seen to move at `moved_ms`. None of the entries: something has removed it.
#[must_use]
pub fn step(entries: [Option<&Entry>; 2], moved_ms: u32, now_ms: u32, bounds: &Bounds) -> Step {
    let [Some(client), Some(server)] = entries else { return Step::Cut(end(Reason::KernelLost)) };
    let ended = [is_acknowledged(client, server), is_acknowledged(server, client)];
    if ended == [true; 2] {
        let first =
            Side::BOTH.into_iter().zip([client, server]).find(|(_, entry)| entry.ended & flag::FIRST != 0);
        return Step::Over(End { reason: Reason::Eof, side: first.map(|(side, _)| side) });
    }
    // Not before: an end that has gone in good order answers with a reset, too, if a packet comes twice.
    if client.reset | server.reset != 0
        && let Some(side) = resetter(client, server)
    {
        return Step::Over(end(Reason::Reset(side)));
    }
    if client.state == state::DEAD || server.state == state::DEAD {
        return Step::Cut(end(Reason::KernelLost));
    }
    let silent = [client, server].map(|entry| since(entry.active_ms, now_ms));
    let rested = since(moved_ms, now_ms);
    // Of one of them perhaps by somebody's word alone: the last acknowledgements are under way.
    let has_said = [may_have_ended(client, server), may_have_ended(server, client)];
    let is_word = |entry: &Entry| entry.ended != 0 && !entry.has_ended();
    let is_said = match has_said {
        [true, true] => true,
        [true, false] => is_word(server),
        [false, true] => is_word(client),
        [false, false] => false,
    };
    let mut wait = if is_said { SOON } else { LONGEST };
    let mut late = None;
    if ended != [false; 2] {
        if rested >= bounds.half_close {
            late = Some(Reason::HalfCloseTimeout);
        }
        wait = wait.min(bounds.half_close.saturating_sub(rested));
    }
    if !bounds.idle.is_zero() {
        if rested >= bounds.idle {
            late = late.or(Some(Reason::IdleTimeout));
        }
        wait = wait.min(bounds.idle.saturating_sub(rested));
    }
    let is_odd = is_strange(client) || is_strange(server);
    match (probe(silent, ended, wait, bounds.keepalive), late) {
        // What is known may be wrong: bytes may move that are not seen to.
        (Step::Wait(_) | Step::Probe(..) | Step::Search(..), late) if is_odd => {
            Step::Search([true; 2], if late.is_some() { ASK_AGAIN } else { wait.min(ASK_AGAIN) })
        }
        (_, Some(reason)) => Step::Cut(end(reason)),
        (Step::Wait(wait), None) => doubt([client, server], wait),
        (other, None) => other,
    }
}

/// Who has reset a connection that was reset: the first of whom that was said, believed or not. The other one may have gone for it, and
/// answer with a reset of its own to a packet that comes later. None: nobody.
#[must_use]
pub fn resetter(client: &Entry, server: &Entry) -> Option<Side> {
    let first = |bit| {
        let of = Side::BOTH.into_iter().zip([client, server]);
        of.into_iter().find(|(_, entry)| entry.flags() & bit != 0).map(|(side, _)| side)
    };
    first(flag::CAUSE).or_else(|| first(flag::RST))
}

/// Asks an end of which somebody says that it has reset the connection. One that has none answers with a reset that is believed.
fn doubt(entries: [&Entry; 2], wait: Duration) -> Step {
    let doubted = entries.map(|entry| entry.doubt != 0);
    if doubted == [false; 2] { Step::Wait(wait) } else { Step::Probe(doubted, wait.min(ASK_AGAIN)) }
}

fn probe(silent: [Duration; 2], ended: [bool; 2], mut wait: Duration, keepalive: Duration) -> Step {
    let patience = keepalive * SILENT_PARTS / PARTS;
    let interval = (keepalive / PARTS).max(Duration::from_millis(1));
    let (mut due, mut is_long) = ([false; 2], false);
    for ((side, silent), (due, ended)) in Side::BOTH.into_iter().zip(silent).zip(due.iter_mut().zip(ended)) {
        if silent >= keepalive {
            return Step::Cut(End { reason: Reason::PeerTimeout(side), side: Some(side) });
        }
        // One that has ended may have gone in good order.
        *due = silent >= patience && !ended;
        is_long |= *due && silent >= keepalive / 2;
        wait = wait.min(if *due {
            interval.min(keepalive - silent)
        } else {
            patience.saturating_sub(silent).max(interval)
        });
    }
    match due {
        [false, false] => Step::Wait(wait),
        // Where more seems to be acknowledged than is, a probe of the usual kind is not answered.
        _ if is_long => Step::Search(due, wait),
        _ => Step::Probe(due, wait),
    }
}

const fn end(reason: Reason) -> End {
    End { reason, side: reason.side() }
}

fn since(then_ms: u32, now_ms: u32) -> Duration {
    // A packet may have come after the clock was read.
    let ms = now_ms.wrapping_sub(then_ms).cast_signed().max(0);
    Duration::from_millis(ms.unsigned_abs().into())
}

/// For how long no packet has come, by the entries' clock.
#[must_use]
pub fn rested(entries: [&Entry; 2], now_ms: u32) -> Duration {
    let [client, server] = entries.map(|entry| since(entry.active_ms, now_ms));
    client.min(server)
}

/// Bytes of the stream that comes in by `entry` which the other peer has acknowledged.
#[must_use]
pub fn bytes(entry: &Entry, other: &Entry) -> u64 {
    let acknowledged = place(entry.sent, entry.start, expected(entry, other));
    acknowledged.saturating_sub(is_acknowledged(entry, other).into())
}

/// Bytes of it that the other peer may have got when the connection was broken off: its last acknowledgements may be lost.
#[must_use]
pub fn most_bytes(entry: &Entry, other: &Entry) -> u64 {
    let known = bytes(entry, other);
    if is_acknowledged(entry, other) {
        return known;
    }
    let sent = if !entry.has_ended() {
        entry.sent
    } else {
        // Packets from behind the end count it as a byte. What goes on beyond that has not ended: a stranger said so.
        let end = place(entry.sent, entry.start, entry.fin);
        if entry.sent > end.saturating_add(1) { entry.sent } else { entry.sent.min(end) }
    };
    sent.clamp(known, known.saturating_add(room(other).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        half_close: Duration::from_secs(60),
        idle: Duration::from_secs(100),
        keepalive: Duration::from_secs(13),
    };

    fn entries() -> [Entry; 2] {
        let one = Entry {
            start: 10,
            sent: 90,
            acked: 200,
            window: 100,
            state: state::FORWARD,
            active_ms: 5,
            ..Entry::default()
        };
        let other = Entry { start: 100, sent: 100, acked: 100, ..one };
        [one, other]
    }

    fn at(entries: &[Entry; 2], now_ms: u32, bounds: &Bounds) -> Step {
        step(entries.each_ref().map(Some), 5, now_ms, bounds)
    }

    #[test]
    fn an_end_that_has_gone_answers_a_packet_that_comes_twice_with_a_reset() {
        let mut flow = entries();
        (flow[0].ended, flow[0].reset, flow[0].fin) = (flag::FIN | flag::FIRST, flag::RST, 100);
        flow[1].acked = 101;
        (flow[1].ended, flow[1].fin) = (flag::FIN, 200);
        flow[0].acked = 201;
        assert_eq!(at(&flow, 5, &BOUNDS), Step::Over(End { reason: Reason::Eof, side: Some(Side::Client) }));
        flow[0].acked = 200;
        let reset = Reason::Reset(Side::Client);
        assert_eq!(at(&flow, 5, &BOUNDS), Step::Over(End { reason: reset, side: Some(Side::Client) }));
    }

    #[test]
    fn the_first_to_reset_is_the_one_of_whom_it_was_said_first() {
        const LATER: u8 = flag::RST | flag::DOUBT;
        for (flags, side) in [
            ([flag::RST, 0], Side::Client),
            ([flag::RST, flag::DOUBT | flag::CAUSE], Side::Upstream),
            ([flag::RST, flag::RST | flag::CAUSE], Side::Upstream),
            ([LATER, flag::RST | flag::CAUSE], Side::Upstream),
            ([flag::RST | flag::CAUSE, LATER], Side::Client),
            ([flag::DOUBT | flag::CAUSE, LATER], Side::Client),
            ([flag::DOUBT, flag::RST], Side::Upstream),
        ] {
            let mut flow = entries();
            let plain = [0, 1].map(|side| Entry { doubt: 0, reset: 0, ..flow[side] });
            flow = [plain[0].with(flags[0]), plain[1].with(flags[1])];
            let over = End { reason: Reason::Reset(side), side: Some(side) };
            assert_eq!(at(&flow, 5, &BOUNDS), Step::Over(over), "{flags:?}");
        }
    }

    #[test]
    fn a_flow_is_over_when_both_ends_know() {
        let mut flow = entries();
        (flow[0].ended, flow[0].fin) = (flag::FIN | flag::FIRST, 100);
        flow[1].acked = 101;
        assert!(matches!(at(&flow, 5, &BOUNDS), Step::Wait(_)));
        (flow[1].ended, flow[1].fin) = (flag::FIN, 200);
        assert_eq!(at(&flow, 5, &BOUNDS), Step::Wait(SOON));
        flow[0].acked = 201;
        let eof = End { reason: Reason::Eof, side: Some(Side::Client) };
        assert_eq!(at(&flow, 5, &BOUNDS), Step::Over(eof));
        assert_eq!([bytes(&flow[0], &flow[1]), bytes(&flow[1], &flow[0])], [90, 100]);
    }

    #[test]
    fn an_end_that_a_stranger_has_spoken_of_is_not_waited_for() {
        let mut flow = entries();
        // Both streams go on behind it.
        (flow[0].ended, flow[0].fin, flow[1].acked) = (flag::FIN | flag::FIRST, 90, 100);
        (flow[1].ended, flow[1].fin, flow[0].acked) = (flag::FIN, 190, 200);
        assert!(
            matches!(at(&flow, 5, &BOUNDS), Step::Wait(wait) if wait > SOON),
            "{:?}",
            at(&flow, 5, &BOUNDS)
        );
    }

    #[test]
    fn an_end_by_somebodys_word_is_waited_for_if_the_other_one_is_sure() {
        let mut flow = entries();
        (flow[0].ended, flow[0].fin) = (flag::FIN | flag::FIRST, 100);
        (flow[1].ended, flow[1].fin) = (flag::SAID, 200);
        flow[1].acked = 101;
        assert_eq!(at(&flow, 5, &BOUNDS), Step::Wait(SOON));
        flow[0].acked = 201;
        assert!(matches!(at(&flow, 5, &BOUNDS), Step::Over(End { reason: Reason::Eof, .. })));
        flow[0].ended = flag::SAID;
        assert!(matches!(at(&flow, 5, &BOUNDS), Step::Over(_)), "both are acknowledged");
        flow[1].acked = 100;
        assert!(matches!(at(&flow, 5, &BOUNDS), Step::Wait(SOON)), "and one of them is about to be");
        flow[0].acked = 200;
        assert!(matches!(at(&flow, 5, &BOUNDS), Step::Wait(wait) if wait > SOON), "words are not waited for");
    }

    #[test]
    fn silence_is_probed_and_then_is_an_end() {
        let mut flow = entries();
        flow[0].active_ms = 2000;
        assert_eq!(at(&flow, 2000, &BOUNDS), Step::Wait(Duration::from_millis(1005)));
        assert_eq!(at(&flow, 3005, &BOUNDS), Step::Probe([false, true], Duration::from_secs(1)));
        assert!(matches!(at(&flow, 6500, &BOUNDS), Step::Probe([true, true], _)));
        assert!(
            matches!(at(&flow, 6505, &BOUNDS), Step::Search([true, true], _)),
            "it may be as deaf as it is silent"
        );
        assert!(matches!(at(&flow, 13004, &BOUNDS), Step::Search([true, true], _)));
        let gone = End { reason: Reason::PeerTimeout(Side::Upstream), side: Some(Side::Upstream) };
        assert_eq!(at(&flow, 13005, &BOUNDS), Step::Cut(gone));
        assert!(
            matches!(at(&flow, 0, &BOUNDS), Step::Wait(_)),
            "a clock that was read before the packet came"
        );
    }

    #[test]
    fn an_end_that_is_said_to_have_reset_is_asked() {
        let mut flow = entries();
        flow[1].doubt = flag::DOUBT;
        assert_eq!(at(&flow, 5, &BOUNDS), Step::Probe([false, true], ASK_AGAIN));
    }

    #[test]
    fn rest_has_its_bounds() {
        let patient = Bounds { keepalive: Duration::from_secs(1000), ..BOUNDS };
        let mut flow = entries();
        assert_eq!(at(&flow, 100_004, &patient), Step::Wait(Duration::from_millis(1)));
        assert_eq!(at(&flow, 100_005, &patient), Step::Cut(end(Reason::IdleTimeout)));
        (flow[0].ended, flow[0].fin) = (flag::FIN, 100);
        assert!(matches!(at(&flow, 60_005, &patient), Step::Wait(_)), "nobody has acknowledged that");
        flow[1].acked = 101;
        assert_eq!(at(&flow, 60_005, &patient), Step::Cut(end(Reason::HalfCloseTimeout)));
        (flow[0].active_ms, flow[1].active_ms) = (60_000, 60_000);
        assert_eq!(
            at(&flow, 60_005, &patient),
            Step::Cut(end(Reason::HalfCloseTimeout)),
            "an answer to a probe"
        );
        let forever = Bounds { idle: Duration::ZERO, ..patient };
        flow[0].ended = 0;
        assert!(matches!(at(&flow, 200_000, &forever), Step::Wait(_)));
    }

    #[test]
    fn what_does_not_fit_is_asked_about_before_anything_ends_for_what_is_known() {
        let patient = Bounds { keepalive: Duration::from_secs(1000), ..BOUNDS };
        let ask = Step::Search([true; 2], ASK_AGAIN);
        let mut flow = entries();
        for side in 0..2 {
            flow[side].handover = 1;
            assert_eq!(at(&flow, 5, &patient), ask);
            assert_eq!(at(&flow, 100_005, &patient), ask, "idle");
            assert!(
                matches!(at(&flow, 1_000_005, &patient), Step::Cut(_)),
                "no packet for as long as keepalive says"
            );
            flow[side].handover = 0;
        }
        (flow[0].ended, flow[0].fin, flow[1].acked, flow[1].handover) = (flag::FIN, 100, 101, 1);
        assert_eq!(at(&flow, 60_005, &patient), ask, "half closed");
        flow[1].state = state::HELD;
        assert!(matches!(at(&flow, 60_005, &patient), Step::Cut(_)), "while packets are held it is a time");
    }

    #[test]
    fn bytes_are_those_that_were_acknowledged_and_at_most_those_that_were_sent() {
        let mut flow = entries();
        flow[0].sent = 5000;
        let both = |flow: &[Entry; 2]| (bytes(&flow[0], &flow[1]), most_bytes(&flow[0], &flow[1]));
        assert_eq!(both(&flow), (90, 5000));
        flow[0].sent = 1 << 28;
        assert_eq!(both(&flow).1, 90 + u64::from(room(&flow[1])), "more than there is room for");
        (flow[0].sent, flow[0].ended, flow[0].fin) = (95, flag::FIN, 104);
        assert_eq!(both(&flow), (90, 94), "behind the end is no byte");
        flow[1].acked = 105;
        assert_eq!(both(&flow), (94, 94));
    }

    #[test]
    fn a_flow_whose_entries_are_gone_is_lost() {
        let [one, _] = entries();
        assert_eq!(step([Some(&one), None], 5, 5, &BOUNDS), Step::Cut(end(Reason::KernelLost)));
    }
}
