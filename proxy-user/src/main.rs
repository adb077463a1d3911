//! The daemon `snisplice`. See `snisplice --help`.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Gives memory back to the host when flows have ended, or left their sockets. glibc's allocator kept all of it, since a few bytes that stay
/// lie between those that go: of 4,000 flows without sockets the daemon held 40 MB, and with this one 10 (`cargo xtask bench --only
/// idle`). Without huge pages: they made that 15 and more, by chance.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    snisplice::main()
}
