//! Whether an end of a flow without sockets was asked for a sign of life. One that could not be asked is not given up for its silence.

use core::time::Duration;

use super::life::Step;
use super::seq_validation::is_acknowledged;
use crate::abi::packet::Entry;
use crate::flow::{End, Reason, Side};

/// Of the time that an end may be silent, the part before the first question, and that between two questions: as in [`super::life`].
const PARTS: u32 = 13;
const SILENT_PARTS: u32 = 3;

/// So many questions an end leaves unanswered at least before it is given up. Time alone does not show it: a daemon that is stopped for a
/// while, or gets no processor, asks nothing meanwhile.
const UNANSWERED: u32 = PARTS - SILENT_PARTS - 2;

/// Questions to one end that nothing has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Questions {
    /// When the first one was sent, by the entries' clock.
    since_ms: u32,
    count: u32,
}

/// What each end has been asked without an interruption, client first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked([Option<Questions>; 2]);

impl Asked {
    /// A question to an end was sent at `asked_ms`, or could not be. The time is one before it was sent: answers may be there at once.
    pub fn note(&mut self, side: Side, is_sent: bool, asked_ms: u32) {
        if let Some(questions) = self.0.get_mut(side.index()) {
            let before = questions.unwrap_or(Questions { since_ms: asked_ms, count: 0 });
            *questions = is_sent.then_some(Questions { count: before.count.saturating_add(1), ..before });
        }
    }

    /// Packets have come since: what was asked before is answered.
    fn forget_answered(&mut self, entries: [&Entry; 2]) {
        for (questions, entry) in self.0.iter_mut().zip(entries) {
            // The clock stands still for some milliseconds at a time: what came in the same ones is an answer.
            *questions = questions.filter(|it| it.since_ms.wrapping_sub(entry.active_ms).cast_signed() > 0);
        }
    }

    /// What to do about a flow, if `step` is right for one whose silent ends were asked. An end is given up when it has left
    /// questions unanswered for as long as they are asked within `keepalive`, less one pause between two. Until then it is asked.
    #[must_use]
    pub fn temper(&mut self, step: Step, entries: [&Entry; 2], now_ms: u32, keepalive: Duration) -> Step {
        self.forget_answered(entries);
        let Step::Cut(End { reason: Reason::PeerTimeout(_), .. }) = step else { return step };
        let [client, server] = entries;
        // One that has ended is not asked: it may have gone in good order.
        let ended = [is_acknowledged(client, server), is_acknowledged(server, client)];
        let silent = entries.map(|entry| since(entry.active_ms, now_ms));
        let (patience, pause) = (keepalive * SILENT_PARTS / PARTS, keepalive / PARTS);
        let enough = keepalive.saturating_sub(patience).saturating_sub(pause);
        for ((side, silent), (asked, ended)) in
            Side::BOTH.into_iter().zip(silent).zip(self.0.into_iter().zip(ended))
        {
            let is_asked =
                asked.is_some_and(|it| it.count >= UNANSWERED && since(it.since_ms, now_ms) >= enough);
            if silent >= keepalive && (ended || is_asked) {
                return Step::Cut(End { reason: Reason::PeerTimeout(side), side: Some(side) });
            }
        }
        let [one, other] = silent.map(|silent| silent >= patience);
        let due = [one && !ended[0], other && !ended[1]];
        Step::Search(due, pause.max(Duration::from_millis(1)))
    }
}

fn since(then_ms: u32, now_ms: u32) -> Duration {
    // A packet may have come after the clock was read.
    let ms = now_ms.wrapping_sub(then_ms).cast_signed().max(0);
    Duration::from_millis(ms.unsigned_abs().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::packet::{flag, state};

    const KEEPALIVE: Duration = Duration::from_secs(13);

    fn entries(active_ms: [u32; 2]) -> [Entry; 2] {
        active_ms.map(|active_ms| Entry { active_ms, state: state::FORWARD, ..Entry::default() })
    }

    fn cut(side: Side) -> Step {
        Step::Cut(End { reason: Reason::PeerTimeout(side), side: Some(side) })
    }

    fn temper(asked: &mut Asked, step: Step, entries: &[Entry; 2], now_ms: u32) -> Step {
        asked.temper(step, entries.each_ref(), now_ms, KEEPALIVE)
    }

    /// By the ends' clock, asked every second from 3 s of silence on, from `from_ms` on with success.
    fn given_up_at(from_ms: u32) -> Option<u32> {
        let (mut asked, flow) = (Asked::default(), entries([0, 100_000]));
        (3000..60_000).step_by(1000).find(|now_ms| {
            asked.note(Side::Client, *now_ms >= from_ms, *now_ms);
            *now_ms >= 13_000 && temper(&mut asked, cut(Side::Client), &flow, *now_ms) == cut(Side::Client)
        })
    }

    #[test]
    fn an_end_that_was_asked_all_the_time_is_given_up_at_once() {
        assert_eq!(given_up_at(4000), Some(13_000));
    }

    #[test]
    fn an_end_that_could_not_be_asked_is_given_up_after_it_was_asked_as_long_as_any_other() {
        assert_eq!(given_up_at(20_000), Some(29_000));
        assert_eq!(given_up_at(u32::MAX), None);
    }

    #[test]
    fn one_question_that_was_not_sent_begins_the_time_anew() {
        let (mut asked, flow) = (Asked::default(), entries([0, 0]));
        for now_ms in (3000..=13_000).step_by(1000) {
            asked.note(Side::Client, true, now_ms);
            asked.note(Side::Upstream, now_ms != 12_000, now_ms);
        }
        assert_eq!(temper(&mut asked, cut(Side::Upstream), &flow, 13_000), cut(Side::Client));
        asked.note(Side::Client, false, 13_000);
        let again = Step::Search([true; 2], Duration::from_secs(1));
        assert_eq!(temper(&mut asked, cut(Side::Client), &flow, 13_000), again);
    }

    #[test]
    fn an_answer_ends_the_questions() {
        let mut asked = Asked::default();
        asked.note(Side::Client, true, 3000);
        let mut flow = entries([4000, 16_000]);
        assert!(matches!(
            temper(&mut asked, cut(Side::Client), &flow, 17_000),
            Step::Search([true, false], _)
        ));
        assert_eq!(asked, Asked::default());
        // The clock of the entries goes round.
        flow[0].active_ms = u32::MAX - 20_000;
        for again in 0..UNANSWERED {
            asked.note(Side::Client, true, (u32::MAX - 10_000).wrapping_add(1000 * again));
        }
        assert_eq!(temper(&mut asked, cut(Side::Client), &flow, 5), cut(Side::Client));
    }

    #[test]
    fn an_answer_that_comes_in_the_same_tick_as_its_question_is_one() {
        // A daemon that looks every second, and then not for a minute.
        let (mut asked, mut flow) = (Asked::default(), entries([0, 100_000]));
        for now_ms in (3000..20_000).step_by(1000) {
            let _ = temper(&mut asked, Step::Probe([true, false], KEEPALIVE), &flow, now_ms);
            asked.note(Side::Client, true, now_ms);
            flow[0].active_ms = now_ms;
        }
        let again = Step::Search([true, false], Duration::from_secs(1));
        assert_eq!(temper(&mut asked, cut(Side::Client), &flow, 80_000), again);
    }

    #[test]
    fn a_daemon_that_was_away_after_a_question_asks_again() {
        let (mut asked, flow) = (Asked::default(), entries([0, 100_000]));
        for now_ms in [3000, 4000, 5000] {
            asked.note(Side::Client, true, now_ms);
        }
        let again = Step::Search([true, false], Duration::from_secs(1));
        for now_ms in (80_000..85_000).step_by(1000) {
            assert_eq!(temper(&mut asked, cut(Side::Client), &flow, now_ms), again, "{now_ms}");
            asked.note(Side::Client, true, now_ms);
        }
        assert_eq!(temper(&mut asked, cut(Side::Client), &flow, 85_000), cut(Side::Client));
    }

    #[test]
    fn all_other_steps_stay_what_they_are_and_an_end_that_has_ended_is_not_asked() {
        let mut asked = Asked::default();
        let mut flow = entries([0, 0]);
        let wait = Step::Wait(KEEPALIVE);
        assert_eq!(temper(&mut asked, wait, &flow, 50_000), wait);
        (flow[0].ended, flow[0].fin) = (flag::FIN, 100);
        flow[1].acked = 101;
        assert!(is_acknowledged(&flow[0], &flow[1]));
        assert_eq!(temper(&mut asked, cut(Side::Client), &flow, 50_000), cut(Side::Client));
    }
}
