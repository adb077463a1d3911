//! The room of system calls: the only place in the daemon with `unsafe`, and the only one that knows socket
//! options by name.

mod bpf;
mod clock;
mod connect;
mod epoll;
mod ethtool;
mod file;
mod interfaces;
mod leg;
mod listener;
mod memory;
mod netlink;
mod netns;
mod process;
mod raw;
mod rcu_barrier;
mod readable;
mod received;
mod release;
mod restore;
mod shared;
mod signals;
mod stderr;
mod tcp;

pub(crate) use bpf::{
    MESSAGES, STREAM, attach_to_map, attached_to_map, count_entries, delete_entry, detach_link, has_tcx,
    link_at, link_iterator, object_id, pin, pinned, programs_at, run_iterator, run_program,
};
pub(crate) use clock::{now, now_ms, since, uptime_ms};
pub(crate) use connect::{connected, dial, original_destination, socket_for, way_to};
pub(crate) use epoll::Poller;
pub(crate) use ethtool::joins_packets;
pub(crate) use file::{check_own, create_anew, lock, open_own, open_regular};
pub(crate) use interfaces::{Interfaces, interface_number, interfaces};
pub(crate) use leg::{close_silently, leg, provoke_answer};
pub(crate) use listener::{bind, check_free, is_own_address};
pub(crate) use memory::{modest_tcp_memory, tcp_memory};
pub(crate) use netlink::{
    Changes, Device, Moves, News, Router, device, filter_program, filters_before, relax, route, track,
    untrack, xdp_program,
};
pub(crate) use netns::{bpf_mounts, inhabited, namespace};
pub(crate) use process::{
    Capabilities, capabilities, has_seccomp_filter, is_in_user_namespace, open_file_limit, open_files,
    raise_open_file_limit,
};
pub(crate) use raw::send_segment;
pub(crate) use rcu_barrier::{wait_for_packets, wait_for_programs};
pub(crate) use readable::readable;
pub(crate) use received::{peek, peek_past_marks, receive, tell_what_is_left};
pub(crate) use release::kernel;
pub(crate) use restore::{Connection, begin, most_sent, restore};
pub(crate) use shared::SharedWords;
pub(crate) use signals::{Signals, Stray, hold_stray_signals};
pub(crate) use stderr::{Stderr, identity_of_stderr};
pub(crate) use tcp::{
    answer_with_data, cookie, error, exact_reading, force_receive_buffer, force_send_buffer, fresh_reading,
    is_established, keep_alive, keep_urgent_bytes, limit_segments, limit_unsent, reading, reset_on_close,
    tune_receive_buffer, wake_when_all_readable, wake_when_readable, write_at_once,
};
