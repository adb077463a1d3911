//! The machine against a model of the kernel: bytes move from a source through a queue to a target in random steps,
//! with ends at random moments.

use super::super::reading::{CLOSE, CLOSE_WAIT, LAST_ACK};
use super::*;
use proptest::prelude::*;

const BOUNDS: Bounds = Bounds { half_close: Duration::from_secs(60), flush: Duration::from_secs(1) };

#[test]
fn what_was_sent_before_a_reset_counts_also_where_it_was_not_acknowledged() {
    let open = |syn| Reading { state: 1, acked: syn + 100, queued: 20, sent: 110, ..Reading::default() };
    for (side, syn) in [(Side::Client, 0), (Side::Upstream, 1)] {
        let start = open(syn);
        let machine = Teardown::new(Sides::both(Leg::from_now(&start, 0)), BOUNDS, Duration::ZERO);
        // 50 more were written, of which 30 are not sent yet, and none is acknowledged.
        let busy = Reading { queued: 70, sent: 140, ..start };
        assert_eq!(machine.given(side, &busy), 50);
        let reset = Reading { state: CLOSE, queued: 0, ..busy };
        assert_eq!((machine.written(side, &reset), machine.given(side, &reset)), (0, 20));
        let acknowledged = Reading { acked: syn + 170, sent: 170, ..reset };
        assert_eq!(machine.given(side, &acknowledged), 50);
    }
}

/// One direction of the model: received by TCP, seen by the verdict, written to the target, acknowledged. Of each, so many
/// went past the source.
#[derive(Debug, Clone, Copy, Default)]
struct Pipe {
    sent: u64,
    seen: u64,
    written: u64,
    acked: u64,
    beside: u64,
    fin_in: bool,
    fin_out: bool,
    fin_acked: bool,
}

#[derive(Debug, Default)]
struct Kernel {
    /// By source.
    pipes: Sides<Pipe>,
    reset: Sides<bool>,
}

impl Kernel {
    fn leg(&self, side: Side) -> Reading {
        let (source, target) = (self.pipes[side], self.pipes[side.other()]);
        let syn = u64::from(side == Side::Upstream);
        let acked = syn + target.acked + u64::from(target.fin_acked);
        let total = syn + target.written + u64::from(target.fin_out);
        let both = source.fin_in && target.fin_acked;
        let state = if self.reset[side] || both {
            CLOSE
        } else if source.fin_in {
            if target.fin_out { LAST_ACK } else { CLOSE_WAIT }
        } else if target.fin_out {
            5
        } else {
            1
        };
        let received = source.sent - source.beside + u64::from(source.fin_in);
        Reading { state, acked, received, queued: total - acked, ..Reading::default() }
    }

    fn look(&self) -> Look {
        Look {
            legs: Sides::of(|side| self.leg(side)),
            seen: self.pipes.map(|pipe| Seen::Bytes(pipe.seen - pipe.beside)),
            beside: self.pipes.map(|pipe| pipe.beside),
        }
    }

    /// One event of the network or the kernel, chosen by `what`.
    fn act(&mut self, what: u8, side: Side, amount: u64) {
        let gone = self.reset[side];
        let target_gone = self.reset[side.other()];
        let pipe = &mut self.pipes[side];
        match what {
            0 if !pipe.fin_in && !gone => pipe.sent += amount,
            1 => pipe.seen = (pipe.seen + amount).min(pipe.sent),
            2 if !target_gone => pipe.written = (pipe.written + amount).min(pipe.seen),
            3 if !target_gone => pipe.acked = (pipe.acked + amount).min(pipe.written),
            4 if !gone => pipe.fin_in = true,
            5 if !target_gone && pipe.fin_out && pipe.acked == pipe.written => pipe.fin_acked = true,
            // Only when nothing that was sent before is still on its way.
            6 if !pipe.fin_in && !gone && !target_gone && pipe.written == pipe.sent => {
                for count in [&mut pipe.sent, &mut pipe.seen, &mut pipe.written, &mut pipe.beside] {
                    *count += amount;
                }
            }
            _ => {}
        }
    }

    fn settle(&mut self) {
        for side in Side::BOTH {
            self.pipes[side].seen = self.pipes[side].sent;
        }
        for side in Side::BOTH {
            for what in [2, 3, 5] {
                self.act(what, side, u64::MAX >> 1);
            }
        }
    }
}

fn start() -> Teardown {
    let kernel = Kernel::default();
    Teardown::new(Sides::of(|side| Leg::from_start(&kernel.leg(side), 0)), BOUNDS, Duration::ZERO)
}

/// Steps until the machine waits or has finished; checks that no FIN overtakes a byte.
fn drive(teardown: &mut Teardown, kernel: &mut Kernel, now: Duration) -> Option<(End, bool)> {
    for _ in 0..8 {
        match teardown.step(now, &kernel.look()) {
            Step::Wait(_) => return None,
            Step::Finished { end, clean } => return Some((end, clean)),
            Step::ShutdownWrite(target) => {
                let pipe = &mut kernel.pipes[target.other()];
                assert_eq!(pipe.written, pipe.sent, "FIN before the last byte");
                assert!(!pipe.fin_out, "FIN twice");
                pipe.fin_out = true;
            }
        }
    }
    panic!("the machine neither waits nor ends");
}

proptest! {
    #[test]
    fn ends_pass_after_the_last_byte_and_only_then(
        script in proptest::collection::vec((0_u8..7, any::<bool>(), 1_u64..100_000), 0..200),
    ) {
        let (mut teardown, mut kernel) = (start(), Kernel::default());
        let mut now = Duration::ZERO;
        for (what, client, amount) in script {
            now += Duration::from_millis(1);
            kernel.act(what, if client { Side::Client } else { Side::Upstream }, amount);
            if let Some((end, clean)) = drive(&mut teardown, &mut kernel, now) {
                prop_assert!(clean && end.reason == Reason::Eof);
                prop_assert!(kernel.pipes.all(|p| p.fin_in && p.acked == p.sent && p.fin_out));
                return Ok(());
            }
        }
        // Let both sides end: the machine must come to a clean end by itself.
        Side::BOTH.into_iter().for_each(|side| kernel.pipes[side].fin_in = true);
        for _ in 0..10 {
            now += Duration::from_millis(1);
            kernel.settle();
            if let Some((end, clean)) = drive(&mut teardown, &mut kernel, now) {
                prop_assert!(clean && end.reason == Reason::Eof);
                let carried = kernel.pipes.map(|pipe| pipe.sent);
                let look = kernel.look();
                prop_assert_eq!(teardown.written(Side::Upstream, &look.legs.upstream), carried.client);
                prop_assert_eq!(teardown.written(Side::Client, &look.legs.client), carried.upstream);
                return Ok(());
            }
        }
        prop_assert!(false, "never ended");
    }

    #[test]
    fn a_reset_is_never_taken_for_an_end(
        script in proptest::collection::vec((0_u8..4, any::<bool>(), 1_u64..100_000), 0..100),
        client in any::<bool>(),
    ) {
        let (mut teardown, mut kernel) = (start(), Kernel::default());
        let side = if client { Side::Client } else { Side::Upstream };
        for (what, from_client, amount) in script {
            kernel.act(what, if from_client { Side::Client } else { Side::Upstream }, amount);
            prop_assert_eq!(drive(&mut teardown, &mut kernel, Duration::ZERO), None);
        }
        kernel.reset[side] = true;
        let mut now = Duration::ZERO;
        for _ in 0..2000 {
            now += Duration::from_millis(1);
            if let Some((end, clean)) = drive(&mut teardown, &mut kernel, now) {
                prop_assert_eq!(end.reason, Reason::Reset(side));
                prop_assert!(!clean);
                return Ok(());
            }
            kernel.act(1, side, 1000);
        }
        prop_assert!(false, "never ended");
    }
}

#[test]
fn an_idle_flow_sets_no_timer() {
    let (mut teardown, mut kernel) = (start(), Kernel::default());
    kernel.pipes.client = Pipe { sent: 10, seen: 10, written: 10, acked: 10, ..Pipe::default() };
    assert_eq!(teardown.step(Duration::from_secs(1_000_000), &kernel.look()), Step::Wait(None));
}

#[test]
fn a_target_that_never_drains_ends_in_a_reset_after_the_half_close_bound() {
    let (mut teardown, mut kernel) = (start(), Kernel::default());
    kernel.pipes.client = Pipe { sent: 10, seen: 10, written: 4, acked: 4, fin_in: true, ..Pipe::default() };
    assert!(matches!(teardown.step(Duration::ZERO, &kernel.look()), Step::Wait(Some(_))));
    assert!(matches!(teardown.step(Duration::from_secs(59), &kernel.look()), Step::Wait(Some(_))));
    let Step::Finished { end, clean } = teardown.step(Duration::from_secs(60), &kernel.look()) else {
        panic!("not bounded");
    };
    assert_eq!((end.reason, end.side, clean), (Reason::HalfCloseTimeout, Some(Side::Client), false));
}

#[test]
fn progress_of_the_open_direction_renews_the_half_close_bound() {
    let (mut teardown, mut kernel) = (start(), Kernel::default());
    kernel.pipes.client.fin_in = true;
    assert_eq!(drive(&mut teardown, &mut kernel, Duration::ZERO), None);
    for minute in 1..100_u64 {
        kernel.pipes.upstream.sent += 1;
        kernel.settle();
        assert_eq!(drive(&mut teardown, &mut kernel, Duration::from_secs(minute * 59)), None);
    }
}

/// Steps every 10 ms, with something happening in between, until the end.
fn drive_to_end(
    teardown: &mut Teardown,
    kernel: &mut Kernel,
    mut happen: impl FnMut(&mut Kernel),
) -> (Duration, bool) {
    let mut now = Duration::ZERO;
    loop {
        if let Some((end, clean)) = drive(teardown, kernel, now) {
            assert_eq!(end.reason, Reason::Drain);
            return (now, clean);
        }
        assert!(now < BOUNDS.flush * 2, "never ended");
        now += Duration::from_millis(10);
        happen(kernel);
    }
}

#[test]
fn told_to_close_a_quiet_flow_ends_in_order() {
    let (mut teardown, mut kernel) = (start(), Kernel::default());
    kernel.pipes.client = Pipe { sent: 5, seen: 5, written: 5, acked: 5, ..Pipe::default() };
    teardown.close(Duration::ZERO, Reason::Drain);
    let (took, clean) = drive_to_end(&mut teardown, &mut kernel, Kernel::settle);
    assert!(clean && took >= QUIET && took < BOUNDS.flush, "{took:?}");
}

#[test]
fn a_flow_that_has_rested_for_long_ends_in_order_at_once_and_one_that_waits_with_a_reset() {
    let rested = Pipe { sent: 5, seen: 5, written: 5, acked: 5, ..Pipe::default() };
    let waiting = Pipe { written: 4, acked: 3, ..rested };
    for (pipe, in_order) in [(rested, true), (waiting, false)] {
        let (mut teardown, mut kernel) = (start(), Kernel::default());
        kernel.pipes.client = pipe;
        teardown.close(Duration::ZERO, Reason::IdleTimeout);
        assert_eq!(drive(&mut teardown, &mut kernel, Duration::ZERO), None);
        let (sent, later) = (kernel.pipes.map(|pipe| pipe.fin_out), Duration::from_millis(1));
        assert_eq!(sent, Sides::both(in_order));
        if in_order {
            kernel.settle();
        }
        let ended = drive(&mut teardown, &mut kernel, if in_order { later } else { BOUNDS.flush });
        assert_eq!(ended, Some((End { reason: Reason::IdleTimeout, side: None }, in_order)));
    }
}

#[test]
fn told_to_close_a_stuck_flow_ends_with_a_reset() {
    let (mut teardown, mut kernel) = (start(), Kernel::default());
    kernel.pipes.upstream = Pipe { sent: 5, seen: 5, ..Pipe::default() };
    teardown.close(Duration::ZERO, Reason::Drain);
    let (took, clean) = drive_to_end(&mut teardown, &mut kernel, |_| {});
    assert!(!clean && took >= BOUNDS.flush, "{took:?}");
}

#[test]
fn told_to_close_a_flow_in_mid_transfer_ends_with_a_reset_even_if_nothing_is_under_way_for_a_moment() {
    let (mut teardown, mut kernel) = (start(), Kernel::default());
    teardown.close(Duration::ZERO, Reason::Drain);
    let (took, clean) = drive_to_end(&mut teardown, &mut kernel, |kernel| {
        kernel.act(0, Side::Upstream, 1000);
        kernel.settle();
    });
    assert!(!clean && took >= BOUNDS.flush, "{took:?}");
}

#[test]
fn told_to_close_a_stalled_transfer_that_goes_on_ends_with_a_reset() {
    let (mut teardown, mut kernel) = (start(), Kernel::default());
    kernel.pipes.upstream = Pipe { sent: 1000, seen: 1000, written: 10, acked: 10, ..Pipe::default() };
    teardown.close(Duration::ZERO, Reason::Drain);
    let mut elapsed = 0;
    let (_, clean) = drive_to_end(&mut teardown, &mut kernel, |kernel| {
        elapsed += 10;
        if elapsed > 800 {
            kernel.settle();
        }
    });
    assert!(!clean);
}

#[test]
fn a_source_that_failed_while_userspace_was_stuck_is_lost_whatever_its_counts_say() {
    let (mut teardown, mut kernel) = (start(), Kernel::default());
    kernel.pipes.client = Pipe { sent: 10, seen: 9, written: 9, acked: 9, ..Pipe::default() };
    kernel.reset.client = true;
    let look = |seen| Look { seen: Sides::new(seen, Seen::Unknown), ..kernel.look() };
    assert_eq!(teardown.step(Duration::ZERO, &look(Seen::Unknown)), Step::Wait(None));
    assert!(matches!(teardown.step(Duration::ZERO, &look(Seen::Failed)), Step::Wait(Some(_))));
    let Step::Finished { end, clean } = teardown.step(Duration::from_secs(1), &look(Seen::Failed)) else {
        panic!("not ended");
    };
    assert_eq!((end.reason, clean), (Reason::Reset(Side::Client), false));
}

#[test]
fn the_last_segment_may_be_on_its_way_through_the_verdict() {
    let (mut teardown, mut kernel) = (start(), Kernel::default());
    // FIN came with the last data, both sides closed, and the verdict has not run for that data.
    kernel.pipes.client = Pipe { sent: 10, seen: 4, fin_in: true, ..Pipe::default() };
    kernel.reset.client = true;
    assert!(matches!(teardown.step(Duration::ZERO, &kernel.look()), Step::Wait(Some(_))));
    kernel.pipes.client.seen = 10;
    assert!(matches!(teardown.step(Duration::from_millis(1), &kernel.look()), Step::Wait(Some(_))));
}

#[test]
fn a_verdict_that_never_runs_for_the_last_segment_ends_in_a_reset() {
    let (mut teardown, mut kernel) = (start(), Kernel::default());
    kernel.pipes.client = Pipe { sent: 10, seen: 4, ..Pipe::default() };
    kernel.reset.client = true;
    assert_eq!(drive(&mut teardown, &mut kernel, Duration::ZERO), None);
    let mut now = Duration::from_secs(1);
    let (end, clean) = loop {
        now += Duration::from_millis(10);
        if let Some(end) = drive(&mut teardown, &mut kernel, now) {
            break end;
        }
        assert!(now < Duration::from_secs(3), "never ended");
    };
    assert_eq!((end.reason, clean), (Reason::Reset(Side::Client), false));
}

#[test]
fn a_reset_is_put_down_to_the_side_that_sent_it_though_the_other_one_ended_first() {
    for side in Side::BOTH {
        let (mut teardown, mut kernel) = (start(), Kernel::default());
        kernel.pipes[side.other()].fin_in = true;
        assert_eq!(drive(&mut teardown, &mut kernel, Duration::ZERO), None);
        kernel.reset[side] = true;
        let mut now = Duration::ZERO;
        let (end, _) = loop {
            now += Duration::from_millis(10);
            if let Some(end) = drive(&mut teardown, &mut kernel, now) {
                break end;
            }
            assert!(now < Duration::from_secs(3), "never ended");
        };
        assert_eq!(end, End { reason: Reason::Reset(side), side: Some(side) });
    }
}

/// Who carries a flow may change only before its first end: a machine that begins later does not know what its peers were told.
#[test]
fn an_end_that_was_passed_on_is_known_to_this_machine_only() {
    let (mut first, mut kernel) = (start(), Kernel::default());
    assert!(!first.has_ends());
    kernel.pipes.upstream.fin_in = true;
    assert_eq!(first.step(Duration::ZERO, &kernel.look()), Step::ShutdownWrite(Side::Client));
    assert!(first.has_ends());
    (kernel.pipes.upstream.fin_out, kernel.pipes.upstream.fin_acked) = (true, true);
    let mut second = start();
    kernel.pipes.client.fin_in = true;
    assert_eq!(first.step(Duration::ZERO, &kernel.look()), Step::ShutdownWrite(Side::Upstream));
    let end = End::new(Reason::Reset(Side::Client), Some(Side::Client));
    assert_eq!(second.step(Duration::ZERO, &kernel.look()), Step::Finished { end, clean: false });
}
