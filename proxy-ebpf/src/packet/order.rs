//! What the daemon orders of a flow without sockets: see `proxy_common::packet::restore`.

use aya_ebpf::programs::TcContext;
use core::sync::atomic::{Ordering, compiler_fence};
use proxy_common::abi::packet::{Answer, Command, KEY_WORDS, Key, REQUEST_KEY, state};
use proxy_common::packet::restore::change;

use crate::FLOWS;
use crate::forward::now_ms;
use crate::frame::load;

/// Both entries change while this runs, which nothing holds up for long: a daemon that is late is told so.
#[inline(always)]
pub(crate) fn run(ctx: &TcContext, command: Command) -> Answer {
    let mut words = [0_u32; KEY_WORDS];
    if !load(ctx, REQUEST_KEY, &mut words) {
        return Answer::Malformed;
    }
    let Some(client) = FLOWS.get_ptr_mut(Key::from_words(words)) else { return Answer::Unknown };
    // SAFETY: an element of a map. Packets change it at the same time, by the rules of `Entry`, "Who writes what"; the daemon
    // orders one thing of a flow at a time.
    let client = unsafe { &mut *client };
    let Some(server) = FLOWS.get_ptr_mut(client.other()) else { return Answer::Unknown };
    // SAFETY: as above.
    let server = unsafe { &mut *server };
    let now_ms = now_ms();
    let next = match change(command, [client.state, server.state], now_ms.wrapping_sub(client.handover)) {
        Ok(next) => next,
        Err(answer) => return answer,
    };
    if next == state::HELD || next == state::FORWARD {
        let since = if next == state::HELD { now_ms } else { 0 };
        (client.handover, server.handover) = (since, since);
        // Whoever sees the state sees since when.
        compiler_fence(Ordering::SeqCst);
    }
    client.state = next;
    server.state = next;
    Answer::Done
}
