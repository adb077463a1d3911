//! `snisplice-demo`: a whole site in three network namespaces, and the proof that the kernel carries its bytes.
//!
//! Agents poll through the shared port by name, an old agent by its own port, and a web client uses the same shared
//! port; each knows its server by the certificate. In the end the demo compares three counts of each connection's
//! bytes: the peer's own, the daemon's access log, and the kernel's. Then agents whose flows have left their sockets go on while
//! the daemon is killed and started again.

mod outlive;
mod report;
mod scenario;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use harness::daemon::{Launch, WITHOUT_BPF};
use harness::interrupt;

use crate::text::Printer;

/// Shows snisplice at work: polling agents and a web application behind one port, joined in the kernel.
///
/// Needs root. Makes three network namespaces and removes them in the end.
#[derive(Debug, Parser)]
#[command(name = "snisplice-demo", version)]
struct Arguments {
    /// The snisplice binary to show; without it SNISPLICE_BIN, else the release build of this workspace.
    #[arg(long, value_name = "PATH")]
    snisplice: Option<PathBuf>,
    /// Prints one JSON document instead of a story.
    #[arg(long)]
    json: bool,
    /// Opens this many TLS connections one after the other, by both names in turn, and reports lost ones.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    connections: u32,
    /// Denies BPF to snisplice, as a locked-down container does: it then copies.
    #[arg(long)]
    without_bpf: bool,
}

fn main() -> ExitCode {
    match show(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            interrupt::give_way();
            eprintln!("snisplice-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Plays the demo; true when all was as it should be.
fn show(arguments: &Arguments) -> Result<bool> {
    interrupt::clean_up()?;
    let launch = arguments.snisplice.clone().map_or_else(Launch::new, |binary| Ok(Launch::of(binary)))?;
    let launch = if arguments.without_bpf { launch.under(&WITHOUT_BPF) } else { launch };
    let printer = Printer::new(!arguments.json);
    let report = scenario::play(&launch.quiet(), arguments.connections, &printer)?;
    if arguments.json {
        println!("{}", report.to_json()?);
    } else {
        printer.report(&report);
    }
    Ok(report.is_good())
}
