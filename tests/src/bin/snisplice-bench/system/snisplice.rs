//! Our own daemon.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use harness::command;
use harness::daemon::{Config, Daemon, Launch};
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::Namespace;
use harness::workdir::WorkDir;

use super::{Kind, Places};
use crate::network::{FRONT_PORT, Path, Service};
use crate::values::{Metric, Values};

/// The version, if this build knows the datapath.
pub(super) fn version(path: &Path, datapath: &str, places: &Places) -> Result<String> {
    let work = WorkDir::create()?;
    let file = work.write("snisplice.toml", config(path, datapath).render(&work.file("admin.sock")))?;
    let check = command::run(Command::new(&places.snisplice).args(["check", "--config"]).arg(&file), &[])?;
    if check.code != Some(0) {
        // One mistake says it: they are the same for each service.
        let said = check.stderr.lines().chain(check.stdout.lines()).next().unwrap_or_default();
        bail!("{}", said.trim_start_matches(&*file.to_string_lossy()).trim_start_matches([':', ' ']));
    }
    let version = command::run(Command::new(&places.snisplice).arg("--version"), &[])?.success()?;
    Ok(version.trim().to_owned())
}

const PACKET: &str = "packet";

/// Local ports of the flows that leave their sockets: those that [`crate::network`] leaves over.
const PORTS: &str = "1100-10900";

/// How old flows are when they leave their sockets, where the configuration does not say it.
const DEFAULT_AGE: &str = "1s";

/// Starts the daemon. It writes no access log, as the rivals write none.
pub(super) fn start(edge: &Namespace, path: &Path, datapath: &str, places: &Places) -> Result<Daemon> {
    let launch = Launch::of(places.snisplice.clone()).quiet().terse();
    // Nothing of it outlives it.
    let launch = if datapath == PACKET { launch.release() } else { launch };
    launch.start(edge, &config(path, datapath))
}

/// A route for each service.
fn config(path: &Path, datapath: &str) -> Config {
    let listening = Config::new().listen("front", &format!("0.0.0.0:{FRONT_PORT}")).datapath_word(datapath);
    let listening = listening.leaving(DEFAULT_AGE).packet_line(&format!("ports = \"{PORTS}\""));
    Service::ALL.into_iter().fold(listening, |config, service| {
        let name = service.word();
        config.route(name, &service.name(), name).upstream(name, path.upstream(service))
    })
}

/// Ends the daemon, which has no more flows once all peers have gone.
pub(super) fn stop(daemon: Daemon) -> Result<()> {
    let idle = daemon.wait_for_idle();
    let log = daemon.log();
    idle.and_then(|()| daemon.stop()).with_context(|| format!("its log: {}", log.join(" | ")))
}

/// Waits until `flows` flows have left their sockets, or are known to stay.
pub(super) fn settled(daemon: &Daemon, kind: Kind, flows: usize) -> Result<()> {
    if kind != Kind::Ours(PACKET) {
        return Ok(());
    }
    wait_for("the flows to leave their sockets", PATIENCE, || {
        let metrics = daemon.metrics().ok()?;
        let left = metrics.sum("snisplice_connections_active", &[("datapath", PACKET)]);
        let stay = metrics.sum("snisplice_datapath_fallbacks_total", &[("from", PACKET)]);
        (left + stay >= flows as f64).then_some(())
    })
}

/// What the kernel programs count: bytes that sockmap redirected, and those that a server on this host wrote past the
/// loopback connection, and those of flows without sockets.
const BY_KERNEL: [&str; 3] = [
    "snisplice_kernel_redirected_bytes_total",
    "snisplice_kernel_bypassed_bytes_total",
    "snisplice_packet_forwarded_bytes_total",
];

/// What the daemon has carried, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Carried {
    bytes: f64,
    /// Those of them that its kernel programs moved.
    by_kernel: f64,
    /// Flows that another datapath than the one asked for has carried.
    fallbacks: f64,
}

impl Carried {
    pub(super) fn read(daemon: &Daemon) -> Result<Self> {
        let metrics = daemon.metrics()?;
        Ok(Self {
            bytes: metrics.sum("snisplice_bytes_total", &[]),
            by_kernel: BY_KERNEL.iter().map(|name| metrics.sum(name, &[])).sum(),
            fallbacks: metrics.sum("snisplice_datapath_fallbacks_total", &[]),
        })
    }

    /// Adds what was carried since `before` to `values`.
    pub(super) fn report(self, before: Self, values: &mut Values) {
        let bytes = self.bytes - before.bytes;
        if bytes > 0.0 {
            values.set(Metric::KernelShare, (self.by_kernel - before.by_kernel) / bytes);
        }
        if self.fallbacks > before.fallbacks {
            values.set(Metric::Fallbacks, self.fallbacks - before.fallbacks);
        }
    }
}
