//! The sockmap datapath.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod verdict;

use aya_ebpf::macros::stream_verdict;
use aya_ebpf::programs::SkBuffContext;

#[stream_verdict]
#[expect(clippy::needless_pass_by_value, reason = "the macro calls it with the context by value")]
fn splice(ctx: SkBuffContext) -> u32 {
    verdict::decide(&ctx)
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
