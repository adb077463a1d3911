//! The local datapath: the sockmap one, and two programs for servers on this host.
//!
//! `bypass` runs when a captured server sends. It puts the bytes straight into the client's socket, if nothing that the
//! server sent before is still on its way through the loopback connection, and if the client takes what it is given. Else
//! they go the ordinary way, with its ordinary backpressure.
//!
//! `reach` finds the socket of a server and captures it. Kernels from 7.3 on do not let a program of its type change a map of sockets: there
//! `mark` finds and marks it, and `seize`, an iterator, captures the marked ones. They are attached to nothing: the daemon runs them.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod verdict;

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::Global;
use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::bindings::{
    BPF_F_CURRENT_NETNS, BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock,
};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::{
    bpf_ktime_get_coarse_ns, bpf_map_lookup_elem, bpf_map_update_elem, bpf_sk_lookup_tcp, bpf_sk_release,
    bpf_sk_storage_delete, bpf_sk_storage_get, bpf_skc_to_tcp_sock,
};
use aya_ebpf::macros::{btf_map, classifier, map, sk_msg, stream_verdict};
use aya_ebpf::maps::{HashMap, SockHash};
use aya_ebpf::programs::{SkBuffContext, SkMsgContext, TcContext};
use proxy_common::abi::credit::{Pace, low};
use proxy_common::abi::local::{
    Answer, CEILING, Mark, REQUEST_BYTES, Request, TUPLE_BYTES, TUPLE_BYTES_IPV4, Task,
};
use proxy_common::abi::sockmap::{Direction, MAX_SOCKETS};
use verdict::{COPIED_SEQ_OFFSET, DIRECTIONS, SOCKETS, look_at, others, read};

#[map]
static BACKENDS: SockHash<u64> = SockHash::with_max_entries(MAX_SOCKETS, 0);

#[map]
static BYPASSES: HashMap<u64, Bypass> = HashMap::with_max_entries(MAX_SOCKETS, BPF_F_NO_PREALLOC);

#[map]
static CAPTURED: HashMap<u64, u64> = HashMap::with_max_entries(MAX_SOCKETS, BPF_F_NO_PREALLOC);

#[btf_map]
static MARKS: SkStorage<Mark> = SkStorage::new();

#[unsafe(no_mangle)]
static RCV_NXT_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static BYTES_ACKED_OFFSET: Global<u32> = Global::new(0);

/// `TCP_ESTABLISHED` (`include/net/tcp_states.h`).
const ESTABLISHED: u32 = 1;

/// Where the bytes of one server's socket go.
#[derive(Clone, Copy)]
#[repr(C)]
struct Bypass {
    /// Where the direction from the server to the client is.
    slot: u64,
    /// Its source: our socket to the server.
    upstream: u64,
    /// The `tcp_sock` of the client's socket: to be read with a helper that checks the address, since it may be gone.
    client: u64,
    /// Bytes that the server sent before the direction began.
    before: u64,
    /// How fast the client acknowledges. The verdict has its own, since it runs under another lock.
    pace: Pace,
}

#[stream_verdict]
#[expect(clippy::needless_pass_by_value, reason = "the macro calls it with the context by value")]
fn splice(ctx: SkBuffContext) -> u32 {
    verdict::decide(&ctx)
}

#[sk_msg]
#[expect(clippy::needless_pass_by_value, reason = "the macro calls it with the context by value")]
fn bypass(ctx: SkMsgContext) -> u32 {
    let size = u64::from(ctx.size());
    // SAFETY: the context is the one the kernel called this program with.
    let socket = unsafe { (*ctx.msg).__bindgen_anon_3.sk };
    if socket.is_null() {
        return SK_PASS;
    }
    // SAFETY: the kernel calls with the socket that sends.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket.cast()) };
    if tcp.is_null() {
        return SK_PASS;
    }
    let Some(bypass) = BYPASSES.get_ptr_mut(tcp as u64) else { return SK_PASS };
    // SAFETY: this program runs under the lock of the server's socket, and nothing else writes the entry.
    let bypass = unsafe { &mut *bypass };
    let Some(direction) = DIRECTIONS.get_ptr_mut(low(bypass.slot)) else { return SK_PASS };
    if !is_clear(tcp.cast(), bypass, direction) {
        return SK_PASS;
    }
    // SAFETY: `direction` is an element of a map. Each of its words has one writer (`Direction`); this one is the daemon's.
    let target = unsafe { (*direction).target };
    if SOCKETS.redirect_msg(&ctx, target, 0) != i64::from(SK_PASS) {
        return SK_PASS;
    }
    // SAFETY: as above. This word is written under the lock of the socket that sends, which is held here.
    unsafe { (*direction).beside += size };
    SK_PASS
}

/// Whether bytes that are put into the client's socket now stand right behind all that the server sent before, and are not
/// too many.
#[inline(always)]
fn is_clear(server: *const u8, bypass: &mut Bypass, direction: *mut Direction) -> bool {
    let Some(looped) = sent(server) else { return false };
    let Some(client) = look_at(bypass.client as *const u8) else { return false };
    // SAFETY: `direction` is an element of a map. Its words have other writers, one each, and are read whole: what is not yet true of them
    // all together is not clear.
    let [source, base, beside, floor, ceiling, passed, taken] = unsafe {
        [
            others(&raw const (*direction).source),
            others(&raw const (*direction).base),
            others(&raw const (*direction).beside),
            others(&raw const (*direction).floor),
            others(&raw const (*direction).ceiling),
            others(&raw const (*direction).passed),
            others(&raw const (*direction).taken),
        ]
    };
    // While userspace carries some, the client's socket takes less at a time than the credit.
    if source != bypass.upstream
        || base == 0
        || passed != taken
        || client.write_seq.wrapping_sub(low(base))
            != looped.wrapping_sub(low(bypass.before)).wrapping_add(low(beside))
    {
        return false;
    }
    // SAFETY: needs nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let credit = bypass.pace.credit(now, client.snd_una, client.round_trip_us).max(floor);
    u64::from(client.write_seq.wrapping_sub(client.snd_una)) <= credit.min(ceiling).min(CEILING)
}

/// Bytes that a socket which was accepted has sent by itself since it was, as far as 32 bits can tell. Its lock is ours.
#[inline(always)]
fn sent(tcp: *const u8) -> Option<u32> {
    let now = look_at(tcp)?;
    let first = now.snd_una.wrapping_sub(read(tcp, BYTES_ACKED_OFFSET.load())?);
    Some(now.write_seq.wrapping_sub(first))
}

#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "the macro calls it with the context by value")]
fn reach(ctx: TcContext) -> i32 {
    answer(&ctx, |socket, mark| capture(socket.cast(), &mark))
}

#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "the macro calls it with the context by value")]
fn mark(ctx: TcContext) -> i32 {
    answer(&ctx, put)
}

/// Finds the socket that a request is about. `capture` is called if it is to be captured.
#[inline(always)]
fn answer(ctx: &TcContext, capture: impl Fn(*mut bpf_sock, Mark) -> Answer) -> i32 {
    let mut request = MaybeUninit::<Request>::uninit();
    let Some(request) = load(ctx, &mut request) else { return Answer::Malformed as i32 };
    let socket = find(ctx, request);
    if socket.is_null() {
        return Answer::NotFound as i32;
    }
    let answer = examine(socket, request, capture);
    // SAFETY: `socket` was looked up above, and is not used below.
    unsafe { bpf_sk_release(socket.cast()) };
    answer as i32
}

#[inline(always)]
fn load<'a>(ctx: &TcContext, request: &'a mut MaybeUninit<Request>) -> Option<&'a mut Request> {
    // SAFETY: the memory is ours, and bytes of any value make a request.
    let bytes = unsafe { core::slice::from_raw_parts_mut(request.as_mut_ptr().cast::<u8>(), REQUEST_BYTES) };
    // SAFETY: the helper writes all of it, or fails.
    let result = unsafe {
        aya_ebpf::helpers::bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            0,
            bytes.as_mut_ptr().cast(),
            size(REQUEST_BYTES),
        )
    };
    // SAFETY: written above.
    (result == 0).then(|| unsafe { request.assume_init_mut() })
}

/// The socket at the other end of our connection, in the network namespace of the daemon. To be released.
#[inline(always)]
fn find(ctx: &TcContext, request: &mut Request) -> *mut bpf_sock {
    let (ctx, tuple) = (ctx.skb.skb.cast(), request.tuple.as_mut_ptr().cast());
    let netns = u64::from_ne_bytes(i64::from(BPF_F_CURRENT_NETNS).to_ne_bytes());
    // SAFETY: the context is the one the kernel called this program with, and the tuple is ours, and as long as that.
    unsafe {
        if request.family == 4 {
            bpf_sk_lookup_tcp(ctx, tuple, size(TUPLE_BYTES_IPV4), netns, 0)
        } else {
            bpf_sk_lookup_tcp(ctx, tuple, size(TUPLE_BYTES), netns, 0)
        }
    }
}

/// Sizes as helpers want them.
#[expect(clippy::cast_possible_truncation, reason = "evaluated for small constants only")]
const fn size(bytes: usize) -> u32 {
    bytes as u32
}

#[inline(always)]
fn examine(
    socket: *mut bpf_sock,
    request: &Request,
    capture: impl Fn(*mut bpf_sock, Mark) -> Answer,
) -> Answer {
    // SAFETY: `socket` is a socket that we hold.
    let state = unsafe { (*socket).state };
    if request.task == Task::Settle as u64 {
        return settle(socket);
    }
    if state != ESTABLISHED {
        return Answer::NotEstablished;
    }
    if request.task == Task::Look as u64 {
        return Answer::Yes;
    }
    // SAFETY: as above.
    let tcp: *mut u8 = unsafe { bpf_skc_to_tcp_sock(socket.cast()) }.cast();
    if tcp.is_null() {
        return Answer::NotEstablished;
    }
    let unread = match (read::<u32>(tcp, COPIED_SEQ_OFFSET.load()), read::<u32>(tcp, RCV_NXT_OFFSET.load())) {
        (Some(copied), Some(received)) => copied != received,
        _ => true,
    };
    if unread {
        return Answer::Unread;
    }
    let Some(client) = client(request.client) else { return Answer::NoClient };
    let Request { upstream, slot, before, .. } = *request;
    capture(socket, Mark { upstream, slot, before, server: tcp as u64, client, answer: 0 })
}

fn marks() -> *mut c_void {
    (&raw const MARKS).cast_mut().cast()
}

/// Marks a socket for `seize`.
#[inline(always)]
fn put(socket: *mut bpf_sock, mut mark: Mark) -> Answer {
    let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    // SAFETY: MARKS is a map of marks, and `socket` is a socket that we hold. One that was left by a run that was not settled goes.
    let found = unsafe {
        bpf_sk_storage_delete(marks(), socket.cast());
        bpf_sk_storage_get(marks(), socket.cast(), (&raw mut mark).cast(), flags)
    };
    if found.is_null() { Answer::Refused } else { Answer::Yes }
}

/// Removes the mark of a socket, and says what `seize` has made of it.
#[inline(always)]
fn settle(socket: *mut bpf_sock) -> Answer {
    // SAFETY: MARKS is a map of marks, and `socket` is a socket that we hold.
    let found =
        unsafe { bpf_sk_storage_get(marks(), socket.cast(), core::ptr::null_mut(), 0).cast::<Mark>() };
    if found.is_null() {
        return Answer::NotFound;
    }
    // SAFETY: an element of a map. The daemon runs one of these programs at a time.
    let answer = unsafe { (*found).answer };
    // SAFETY: as above; `found` is not used below.
    unsafe { bpf_sk_storage_delete(marks(), socket.cast()) };
    if answer == Answer::Yes as u64 { Answer::Yes } else { Answer::Refused }
}

/// What the kernel calls an iterator over a map of this type with (`struct bpf_iter__bpf_sk_storage_map`).
#[repr(C)]
struct Visit {
    meta: *mut c_void,
    map: *mut c_void,
    /// Null at the end.
    socket: *mut c_void,
    mark: *mut Mark,
}

/// Captures a marked socket. The kernel calls it for each in turn.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn seize(visit: *mut Visit) -> i32 {
    // SAFETY: the kernel calls with such a structure.
    let (socket, mark) = unsafe { ((*visit).socket, (*visit).mark) };
    if socket.is_null() || mark.is_null() {
        return 0;
    }
    // SAFETY: the mark of `socket`. The daemon runs one of these programs at a time.
    unsafe {
        if (*mark).answer == 0 {
            let answer = capture(socket, &*mark);
            (*mark).answer = answer as u64;
        }
    }
    0
}

#[inline(always)]
fn capture(socket: *mut c_void, mark: &Mark) -> Answer {
    let Mark { slot, upstream, before, server, client, .. } = *mark;
    let bypass = Bypass { slot, upstream, client, before, pace: Pace::default() };
    let mut key = upstream;
    if BYPASSES.insert(server, bypass, 0).is_err() || CAPTURED.insert(key, server, 0).is_err() {
        return Answer::Refused;
    }
    // SAFETY: BACKENDS is a map whose keys are u64, and `socket` is a socket that the kernel holds.
    let result = unsafe {
        bpf_map_update_elem(
            (&raw const BACKENDS).cast_mut().cast(),
            (&raw mut key).cast(),
            socket,
            u64::from(BPF_NOEXIST),
        )
    };
    // The daemon removes what was inserted above.
    if result == 0 { Answer::Yes } else { Answer::Refused }
}

/// The address of the `tcp_sock` of a spliced socket.
#[inline(always)]
fn client(cookie: u64) -> Option<u64> {
    let mut key = cookie;
    // SAFETY: SOCKETS is a map, and its keys are u64. What is found is held until it is released below.
    let socket =
        unsafe { bpf_map_lookup_elem((&raw const SOCKETS).cast_mut().cast(), (&raw mut key).cast()) };
    if socket.is_null() {
        return None;
    }
    // SAFETY: `socket` is a socket that we hold.
    let address = unsafe { bpf_skc_to_tcp_sock(socket) } as u64;
    // SAFETY: `socket` was looked up above, and is not used below.
    unsafe { bpf_sk_release(socket) };
    (address != 0).then_some(address)
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers used here are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {
    unreachable!("built for the BPF target only");
}
