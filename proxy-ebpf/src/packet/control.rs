//! What the daemon asks for: to read two sockets, to flip, to settle.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock};
use aya_ebpf::helpers::{
    bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_sk_release, bpf_skc_lookup_tcp, bpf_skc_to_tcp_sock,
    bpf_spin_lock, bpf_spin_unlock,
};
use aya_ebpf::programs::TcContext;
use proxy_common::abi::packet::{
    Answer, Command, Counter, Entry, Handover, KEY_BYTES, Key, REQUEST_KEY, Socket, state,
};
use proxy_common::packet::drain::{catch_up, flip, refresh};
use proxy_common::packet::seq::{later, place};

use crate::ageing;
use crate::forward::now_ms;
use crate::frame::{load, skb};
use crate::{FLOWS, HANDOVERS, Locked, count, order};

/// Set by the daemon before it loads the program, from the BTF of the running kernel.
#[unsafe(no_mangle)]
static STATE_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static RCV_NXT_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static COPIED_SEQ_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static BYTES_RECEIVED_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static WRITE_SEQ_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SND_UNA_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SND_WND_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TSOFFSET_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OUT_OF_ORDER_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static RX_OPT_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TS_RECENT_OFFSET: Global<u32> = Global::new(0);

/// Bytes of a tuple of IPv6 (`struct bpf_sock_tuple`), which a key begins with, and of one of IPv4.
const TUPLE6: u32 = 36;
const TUPLE4: u32 = 12;
const _: () = assert!(TUPLE6 as usize + 4 == KEY_BYTES);

#[inline(always)]
pub(crate) fn run(ctx: &TcContext) -> Answer {
    let mut request = [0_u32; 3];
    if !load(ctx, 0, &mut request) {
        return Answer::Malformed;
    }
    let [command, number, device] = request;
    if command == Command::Steer as u32 {
        return steer(ctx, device);
    }
    if command == Command::Tend as u32 {
        return ageing::start();
    }
    if let Some(command) = Command::of_flow(command) {
        return order::run(ctx, command);
    }
    let Some(locked) = HANDOVERS.get_ptr_mut(number) else { return Answer::Unknown };
    if command == Command::Settle as u32 {
        return settle(locked);
    }
    let flips = command == Command::Flip as u32;
    if !flips && command != Command::Look as u32 {
        return Answer::Malformed;
    }
    // SAFETY: an element of a map. The daemon writes its keys as it makes it, before it asks for this, and nobody does later.
    let keys = unsafe { &(*locked).handover.keys };
    let (Some(client), Some(server)) = (look(ctx, keys[0]), look(ctx, keys[1])) else {
        return Answer::NoSocket;
    };
    if !flips {
        // Each number is read as a whole, but not all at one moment: twice the same is true.
        let (Some(client_again), Some(server_again)) = (look(ctx, keys[0]), look(ctx, keys[1])) else {
            return Answer::NoSocket;
        };
        if client.first() != client_again.first() || server.first() != server_again.first() {
            return Answer::Backlog;
        }
    }
    let entries = [FLOWS.get_ptr_mut(keys[0]), FLOWS.get_ptr_mut(keys[1])];
    // SAFETY: `locked` is an element of a map, and until it is unlocked no helper is called. All but the keys is written under the lock only,
    // so that the hand-over is ours as long as we have it. The entries are not: see `Entry`, "Who writes what".
    unsafe {
        bpf_spin_lock(&raw mut (*locked).lock);
        let handover = &mut (*locked).handover;
        handover.sockets = [client, server];
        if flips && let [Some(one), Some(other)] = entries {
            refresh(&mut *one, &client);
            refresh(&mut *other, &server);
        }
        let answer = if flips { flip(handover) } else { Answer::Done };
        bpf_spin_unlock(&raw mut (*locked).lock);
        answer
    }
}

/// In place: beside the packets that write to the entry at the same time.
#[inline(always)]
fn steer(ctx: &TcContext, device: u32) -> Answer {
    let mut key = Key::default();
    if !load(ctx, REQUEST_KEY, &mut key) {
        return Answer::Malformed;
    }
    let Some(entry) = FLOWS.get_ptr_mut(key) else { return Answer::Unknown };
    // SAFETY: the command writes a whole word of an element of a map. Packets only read it, and of two commands the last one counts.
    unsafe { (*entry).device = device };
    count(Counter::Moved, 1);
    Answer::Done
}

/// Reads the socket whose packets come in with this key. Its lock is not ours: each number is whole, and what the daemon does to
/// the socket it does not do now.
#[inline(always)]
fn look(ctx: &TcContext, mut key: Key) -> Option<Socket> {
    let socket = find(ctx, &mut key);
    if socket.is_null() {
        return None;
    }
    // SAFETY: `socket` is a socket that we hold.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket.cast()) };
    let found = if tcp.is_null() { None } else { read_all(tcp.cast_const().cast()) };
    // SAFETY: `socket` was looked up above, and is not used below.
    unsafe { bpf_sk_release(socket.cast()) };
    found
}

#[inline(always)]
fn find(ctx: &TcContext, key: &mut Key) -> *mut bpf_sock {
    let netns = u64::from_ne_bytes(i64::from(BPF_F_CURRENT_NETNS).to_ne_bytes());
    let context = skb(ctx).cast();
    // SAFETY: the context is the one the kernel called this program with, and the tuples are ours, and as long as that.
    unsafe {
        if key.is_ipv4() {
            let ([a, b], [c, d]) = (key.source_port.to_ne_bytes(), key.target_port.to_ne_bytes());
            let mut tuple = [key.source[3], key.target[3], u32::from_ne_bytes([a, b, c, d])];
            bpf_skc_lookup_tcp(context, (&raw mut tuple).cast(), TUPLE4, netns, 0)
        } else {
            bpf_skc_lookup_tcp(context, core::ptr::from_mut(key).cast(), TUPLE6, netns, 0)
        }
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "numbers of TCP wrap round")]
fn read_all(tcp: *const u8) -> Option<Socket> {
    let received = read::<u64>(tcp, BYTES_RECEIVED_OFFSET.load())?;
    // SAFETY: needs nothing.
    let now_ms = unsafe { bpf_ktime_get_ns() / 1_000_000 } as u32;
    Some(Socket {
        state: u32::from(read::<u8>(tcp, STATE_OFFSET.load())?),
        rcv_nxt: read(tcp, RCV_NXT_OFFSET.load())?,
        copied_seq: read(tcp, COPIED_SEQ_OFFSET.load())?,
        bytes_received: received as u32,
        bytes_received_high: (received >> 32) as u32,
        write_seq: read(tcp, WRITE_SEQ_OFFSET.load())?,
        snd_una: read(tcp, SND_UNA_OFFSET.load())?,
        snd_wnd: read(tcp, SND_WND_OFFSET.load())?,
        ts_recent: read(tcp, RX_OPT_OFFSET.load() + TS_RECENT_OFFSET.load())?,
        clock: now_ms.wrapping_add(read(tcp, TSOFFSET_OFFSET.load())?),
        out_of_order: u32::from(read::<u64>(tcp, OUT_OF_ORDER_OFFSET.load())? != 0),
    })
}

#[inline(always)]
fn read<T>(structure: *const u8, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address; the offset is that of a field of this size, of which all bits are valid.
    unsafe { bpf_probe_read_kernel(structure.wrapping_add(offset as usize).cast::<T>()) }.ok()
}

#[inline(always)]
fn settle(locked: *mut Locked) -> Answer {
    // SAFETY: as for the other commands: nobody writes the keys.
    let [client, server] = unsafe { &(*locked).handover.keys };
    let (Some(client), Some(server)) = (FLOWS.get_ptr_mut(client), FLOWS.get_ptr_mut(server)) else {
        return Answer::Unknown;
    };
    let now_ms = now_ms();
    // SAFETY: elements of maps, and until the lock is given back no helper is called. The hand-over is ours as long as we have it; the
    // entries are shared, see `Entry`, "Who writes what".
    unsafe {
        let (client, server) = (&mut *client, &mut *server);
        bpf_spin_lock(&raw mut (*locked).lock);
        catch_up(&mut (*locked).handover, [client.stamped, server.stamped]);
        complete(client, &(*locked).handover, [0, 1], now_ms);
        complete(server, &(*locked).handover, [1, 0], now_ms);
        // Whoever sees this sees the rest: the compiler keeps the order, and so does giving back the lock for all later packets.
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
        client.state = state::FORWARD;
        server.state = state::FORWARD;
        bpf_spin_unlock(&raw mut (*locked).lock);
    }
    Answer::Done
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "a leg is 0 or 1")]
fn complete(entry: &mut Entry, handover: &Handover, [leg, other]: [usize; 2], now_ms: u32) {
    entry.stamp = handover.stamp[leg];
    entry.echo = 0_u32.wrapping_sub(handover.stamp[other]);
    entry.sent = entry.sent.max(place(entry.sent, entry.start, handover.received[leg]));
    entry.acked = later(entry.acked, handover.owed[leg]);
    entry.stamped = later(entry.stamped, handover.sockets[leg].ts_recent);
    entry.active_ms = now_ms;
    // What comes next fits, until a packet does not.
    entry.handover = 0;
}
