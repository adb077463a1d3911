//! The command line, and what each command prints.

use std::fmt;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::control::config::{Host, Loaded, Origin};
use crate::control::guard::{self, command::Request};
use crate::control::{Exit, Failure, client, colour, config, doctor, explain, logs, orders, paths, pinned};
use crate::daemon;
use crate::hub::UpstreamRegistry;
use crate::sys;

#[derive(Parser)]
#[command(
    name = "snisplice",
    version,
    about = "Puts several TLS services behind one port, by server name, and forwards in the kernel"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon
    Run {
        #[command(flatten)]
        config: ConfigPath,
        /// Format of the log records on stderr
        #[arg(long, value_enum, default_value = "text")]
        log_format: logs::Format,
        /// Log level: error, warn, info, debug, or TARGET=LEVEL,...
        #[arg(long, default_value = "info")]
        log_level: String,
        /// When the daemon stops, also end offloaded connections, which would otherwise continue without it
        #[arg(long)]
        release: bool,
    },
    /// Check a configuration: exit with 0, or with 78 and all errors
    Check {
        #[command(flatten)]
        config: ConfigPath,
        #[command(flatten)]
        output: Output,
    },
    /// Print configurations
    Config {
        #[command(subcommand)]
        what: ConfigCommand,
    },
    /// Show what works on this host, and what to change
    Doctor {
        /// End all offloaded connections of this network namespace and remove their pins, also of namespaces that no longer exist
        #[arg(long)]
        clean: bool,
        /// Folder of the pins ([packet] pins)
        #[arg(long, default_value = "/sys/fs/bpf/snisplice")]
        pins: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Show where a connection would go, and why
    Route {
        /// Server name (SNI) of the client; without it, a client that sends none
        #[arg(long)]
        sni: Option<String>,
        /// Address of the client
        #[arg(long)]
        source: Option<IpAddr>,
        /// Name of the listener that accepts the connection
        #[arg(long)]
        listener: Option<String>,
        #[command(flatten)]
        config: ConfigPath,
        #[command(flatten)]
        output: Output,
    },
    /// Show the state of the running daemon: listeners, datapaths, servers
    Status(Ask),
    /// List the live connections of the running daemon
    Flows(Ask),
    /// End connections at once, with a reset to client and server
    Kill(Orders),
    /// Offload connections now (upstreams with datapath "packet", or "auto" and a [packet] section)
    #[command(alias = "promote")]
    Offload(Orders),
    /// Restore offloaded connections: they get sockets, and are not offloaded until `snisplice offload`
    #[command(alias = "demote")]
    Restore(Orders),
    /// Show and change the guard of the running daemon: dropped packets and bans
    Guard {
        #[command(subcommand)]
        what: GuardCommand,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print the embedded default configuration, to start your own from
    Default,
}

#[derive(Subcommand)]
enum GuardCommand {
    /// List the bans
    List(Ask),
    /// Show where the guard is attached, and how many packets passed and were dropped
    Stats(Ask),
    /// Drop all packets from a network to the listeners
    Ban {
        /// An address, or a network such as 192.0.2.0/24
        net: String,
        /// Duration of the ban, such as 10m; without it, until the ban is lifted
        #[arg(long = "for", value_name = "DURATION", value_parser = config::duration)]
        time: Option<Duration>,
        /// Ban the network even if it has connections to a protected upstream, which then hang
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Lift a ban
    Unban {
        /// Network of the ban, as `snisplice guard list` prints it
        net: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Read the deny file again
    Reload(Ask),
}

#[derive(Args)]
struct Orders {
    /// Ids of the connections, as `snisplice flows` prints them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<u64>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Args)]
struct ConfigPath {
    /// Configuration file, or - for standard input [default: /etc/snisplice/snisplice.toml if it exists, else the embedded default]
    #[arg(long, short)]
    config: Option<PathBuf>,
}

#[derive(Args)]
struct Output {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Ask {
    /// Admin socket of the daemon
    #[arg(long, default_value = "/run/snisplice/admin.sock")]
    socket: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let wrong = error.use_stderr();
            let _ = error.print();
            return if wrong {
                in_json(&Failure::new(Exit::Usage, error.render().to_string().trim_end()));
                code(Exit::Usage)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let ended = match execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            in_json(&failure);
            logs::print_error(failure.told());
            code(failure.exit)
        }
    };
    logs::finish();
    ended
}

fn code(exit: Exit) -> ExitCode {
    ExitCode::from(exit as u8)
}

/// A program that has asked for JSON gets it for a failure as well.
fn in_json(failure: &Failure) {
    if !failure.is_printed && std::env::args_os().any(|argument| argument == "--json") {
        let _ = print_json(&serde_json::json!({
            "ok": false, "exit": failure.exit as u8, "errors": failure.errors(),
        }));
    }
}

fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run { config, log_format, log_level, release } => {
            // Before the first thread: all are to inherit it.
            sys::hold_stray_signals().map_err(|error| Failure::new(Exit::System, error))?;
            logs::start(log_format, &log_level)?;
            let loaded = load(&config)?;
            for warning in &loaded.warnings {
                tracing::warn!("{warning}");
            }
            daemon::run(loaded.snapshot, release)
        }
        Command::Check { config, output } => check(&config, &output),
        Command::Config { what: ConfigCommand::Default } => print(config::DEFAULT),
        Command::Doctor { clean: true, pins, .. } => print(pinned::clean(&pins)?),
        Command::Doctor { output, pins, .. } => {
            let report = doctor::examine(&pins);
            if output.json {
                print_json(&report)?;
            } else {
                print(report.text(colour::is_wanted(&std::io::stdout())))?;
            }
            let failure = || Failure::new(Exit::Unavailable, "the daemon cannot run here as it is");
            let error = || Failure { is_printed: true, ..failure() };
            report.is_ready().then_some(()).ok_or_else(error)
        }
        Command::Route { sni, source, listener, config, output } => {
            let Loaded { snapshot, warnings } = load(&config)?;
            warn(&warnings);
            let explained = explain::explain(&snapshot, sni.as_deref(), source, listener.as_deref());
            let explained = explained.map_err(|error| Failure::new(Exit::Usage, error))?;
            if output.json { print_json(&explained) } else { print(format_args!("{explained}\n")) }
        }
        Command::Status(ask) => print(client::status(&ask.socket, ask.output.json)?),
        Command::Flows(ask) => print(client::flows(&ask.socket, ask.output.json)?),
        Command::Kill(orders) => give(("kill", "killed"), &orders),
        Command::Offload(orders) => give(("offload", "offloaded"), &orders),
        Command::Restore(orders) => give(("restore", "restored"), &orders),
        Command::Guard { what } => guard_command(what),
    }
}

/// Some of the flows may have obeyed, and are told of, where others have not.
fn give(order: (&str, &str), Orders { ids, ask }: &Orders) -> Result<(), Failure> {
    let (printed, failure) = orders::give(&ask.socket, order, ids, ask.output.json)?;
    print(printed)?;
    failure.map_or(Ok(()), |failure| Err(Failure { is_printed: ask.output.json, ..failure }))
}

fn guard_command(what: GuardCommand) -> Result<(), Failure> {
    let (ask, request) = match what {
        GuardCommand::List(ask) => (ask, Request::List),
        GuardCommand::Stats(ask) => (ask, Request::Stats),
        GuardCommand::Ban { net, time, force, ask } => {
            let net = config::network(&net).map_err(|error| Failure::new(Exit::Usage, error))?;
            (ask, Request::Ban { net: net.to_string(), time, force })
        }
        GuardCommand::Unban { net, ask } => {
            let net = config::network(&net).map_err(|error| Failure::new(Exit::Usage, error))?;
            (ask, Request::Unban { net: net.to_string() })
        }
        GuardCommand::Reload(ask) => (ask, Request::Reload),
    };
    print(guard::command::run(&ask.socket, &request, ask.output.json)?)
}

/// Loads a configuration for use.
fn load(path: &ConfigPath) -> Result<Loaded, Failure> {
    let (mut loaded, origin) =
        config::load(path.config.as_deref(), &Host::default(), &UpstreamRegistry::default())?;
    loaded.warnings.extend(paths::warnings(&loaded.snapshot, &origin));
    tracing::info!(%origin, version = env!("CARGO_PKG_VERSION"), "configuration loaded");
    Ok(loaded)
}

#[derive(Serialize)]
struct Checked {
    ok: bool,
    file: Option<String>,
    errors: Vec<serde_json::Value>,
    warnings: Vec<config::Problem>,
}

/// A configuration and the files that it names, with what warnings say of this host.
fn checked(path: &ConfigPath) -> Result<(Loaded, Origin), Failure> {
    let (mut loaded, origin) =
        config::load(path.config.as_deref(), &Host::ask(), &UpstreamRegistry::default())?;
    guard::check(&loaded.snapshot)?;
    paths::check(&loaded.snapshot)?;
    loaded.warnings.extend(paths::warnings(&loaded.snapshot, &origin));
    Ok((loaded, origin))
}

fn check(path: &ConfigPath, output: &Output) -> Result<(), Failure> {
    match checked(path) {
        Ok((loaded, origin)) if output.json => print_json(&Checked {
            ok: true,
            file: Some(origin.to_string()),
            errors: Vec::new(),
            warnings: loaded.warnings,
        }),
        Ok((loaded, origin)) => {
            warn(&loaded.warnings);
            print(format_args!("{origin}: ok\n"))
        }
        Err(failure) if output.json => {
            let file = path.config.as_deref().map(|path| path.display().to_string());
            print_json(&Checked { ok: false, file, errors: failure.errors(), warnings: Vec::new() })?;
            let failure = Failure::new(failure.exit, "the configuration has errors");
            Err(Failure { is_printed: true, ..failure })
        }
        Err(failure) => Err(failure),
    }
}

fn warn(warnings: &[config::Problem]) {
    for warning in warnings {
        logs::print_warning(warning.as_warning());
    }
}

/// A reader that has gone, as in `snisplice flows | head`, is no failure.
fn print(text: impl fmt::Display) -> Result<(), Failure> {
    match write!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::System, format_args!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Exit::System, format_args!("cannot make JSON: {error}")))?;
    print(format_args!("{text}\n"))
}
