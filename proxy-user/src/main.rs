//! The daemon `snisplice`. See `snisplice --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    snisplice::main()
}
