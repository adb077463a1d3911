//! Running a loaded BPF program once, by hand. aya can, too, but not by several threads that share the program.

use std::io;
use std::os::fd::AsFd;

use super::syscall::{bpf, number};

/// `BPF_PROG_TEST_RUN` (`include/uapi/linux/bpf.h`).
const TEST_RUN: libc::c_long = 10;

/// The part of `union bpf_attr` that this command reads.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    program: u32,
    answer: u32,
    input_size: u32,
    output_size: u32,
    input: u64,
    output: u64,
    repeat: u32,
    duration: u32,
    context: [u32; 2],
    contexts: [u64; 2],
    flags: u32,
    cpu: u32,
    batch: u32,
    padding: u32,
}

const _: () = assert!(size_of::<Attributes>() == 80);

/// Runs a classifier on a packet of these bytes, in the network namespace of this thread, and returns what it returns.
pub(crate) fn run_program(program: &impl AsFd, packet: &[u8]) -> io::Result<u32> {
    let mut attributes = Attributes {
        program: number(program)?,
        input_size: u32::try_from(packet.len()).map_err(io::Error::other)?,
        input: packet.as_ptr() as u64,
        repeat: 1,
        ..Attributes::default()
    };
    // SAFETY: `input` is the address of `packet`, which lives as long as the call; the kernel writes to nothing but `attributes`.
    unsafe { bpf(TEST_RUN, &mut attributes) }.map(|_| attributes.answer)
}
