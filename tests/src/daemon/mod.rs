//! The daemon under test as a child process in the edge's namespace.

mod api;
mod classic;
mod config;
mod foreign;
mod launch;
mod metrics;
mod orders;

use std::fs;
use std::io::PipeReader;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::de::DeserializeOwned;

use crate::command::{run, snisplice};
use crate::deadline::{PATIENCE, wait_for};
use crate::netns::{Namespace, send_signal};
use crate::peers::http::{self, Response};
use crate::pins::Pins;
use crate::workdir::WorkDir;
pub use api::{
    Access, Connections, DatapathState, Datapaths, Flow, Kernel, Listener, Packet, Server, Status, Upstream,
};
pub use classic::check_classic;
pub use config::{ADMIN_PORT, Config, Datapath};
pub use launch::{Launch, WITHOUT_BPF, WITHOUT_RAW};
pub use metrics::Metrics;

/// What asks for that format.
const OPEN_METRICS: &str = "Accept: application/openmetrics-text; version=1.0.0\r\n";

/// A running daemon. Dropping it kills it, and prints its log for the reader of a failed test.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    edge: Namespace,
    log: Arc<Mutex<Vec<String>>>,
    /// Where nobody reads it yet.
    log_end: Option<PipeReader>,
    log_reader: Option<JoinHandle<()>>,
    work: WorkDir,
    quiet: bool,
    /// Its own, where the configuration names none.
    pins: Option<Pins>,
}

impl Daemon {
    /// Starts the daemon in `edge` and waits until it is ready.
    ///
    /// # Errors
    /// When there is no binary, or it does not become ready within 10 s.
    pub fn start(edge: &Namespace, config: &Config) -> Result<Self> {
        Launch::new()?.start(edge, config)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The number of its threads.
    ///
    /// # Errors
    /// When it is gone.
    pub fn threads(&self) -> Result<usize> {
        Ok(Path::new("/proc").join(self.pid().to_string()).join("task").read_dir()?.count())
    }

    /// The processor time that it has used so far.
    ///
    /// # Errors
    /// When it is gone.
    pub fn processor_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The name, which may hold anything, stands in brackets; the 14th and the 15th field are what is wanted.
        let fields: Vec<_> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
        let fields = fields.get(11..13).context("too few fields")?.iter();
        let ticks: u64 = fields.map(|field| field.parse::<u64>()).sum::<Result<_, _>>()?;
        Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
    }

    /// Removes what it has pinned to a place of its own, when it does not run any more.
    ///
    /// # Errors
    /// When it still runs, or has no such place.
    pub fn clean_pins(&self) -> Result<String> {
        let pins = self.pins.as_ref().context("the daemon has no pins of its own")?;
        let mut command = self.edge.command(snisplice()?);
        command.args(["doctor", "--clean", "--pins"]).arg(pins.path());
        run(&mut command, b"")?.success()
    }

    /// The path of the admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.work.file("admin.sock")
    }

    /// The path of the configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.work.file("snisplice.toml")
    }

    /// Asks the admin socket.
    ///
    /// # Errors
    /// When it does not answer with HTTP.
    pub fn get(&self, path: &str) -> Result<Response> {
        let mut socket =
            UnixStream::connect(self.admin_socket()).context("connecting to the admin socket")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        http::get(&mut socket, "snisplice", path)
    }

    /// Asks the admin address, which only serves the edge itself.
    ///
    /// # Errors
    /// When it does not answer with HTTP.
    pub fn get_over_tcp(&self, path: &str) -> Result<Response> {
        self.ask_over_tcp(&format!("127.0.0.1:{ADMIN_PORT}"), path, "")
    }

    /// The same by another name of the endpoint, and with further lines of headers.
    ///
    /// # Errors
    /// When it does not answer with HTTP.
    pub fn ask_over_tcp(&self, host: &str, path: &str, headers: &str) -> Result<Response> {
        let mut socket = self.edge.connect(SocketAddr::from(([127, 0, 0, 1], ADMIN_PORT)))?;
        http::get_with(&mut socket, host, path, headers)
    }

    fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let response = self.get(path)?;
        ensure!(response.status == 200, "{path}: {response:?}");
        serde_json::from_str(&response.body).with_context(|| format!("{path}: {}", response.body))
    }

    /// What `/api/v1/status` says.
    ///
    /// # Errors
    /// When it does not answer as the interface is specified.
    pub fn status(&self) -> Result<Status> {
        self.get_json("/api/v1/status")
    }

    /// What `/api/v1/flows` lists.
    ///
    /// # Errors
    /// When it does not answer as the interface is specified.
    pub fn flows(&self) -> Result<Vec<Flow>> {
        Ok(self.get_json::<api::Flows>("/api/v1/flows")?.flows)
    }

    /// Waits until as many connections are offloaded.
    ///
    /// # Errors
    /// When they are not within the time that tests wait.
    pub fn wait_for_packets(&self, flows: usize) -> Result<()> {
        wait_for(&format!("{flows} connections to be offloaded"), PATIENCE, || {
            let listed = self.flows().ok()?;
            let offloaded = listed.iter().filter(|flow| flow.datapath.as_deref() == Some("packet")).count();
            (offloaded == flows).then_some(())
        })
        .with_context(|| format!("{:#?}", self.flows()))
    }

    /// What `/metrics` counts.
    ///
    /// # Errors
    /// When it does not answer in the OpenMetrics format.
    pub fn metrics(&self) -> Result<Metrics> {
        let mut socket =
            UnixStream::connect(self.admin_socket()).context("connecting to the admin socket")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let response = http::get_with(&mut socket, "snisplice", "/metrics", OPEN_METRICS)?;
        ensure!(response.status == 200, "/metrics: {response:?}");
        response.body.parse()
    }

    /// Waits for a counter to reach `at_least`; see [`Metrics::sum`] for the other arguments.
    ///
    /// # Errors
    /// When it does not within 10 s; the message says where it stands.
    #[track_caller]
    pub fn wait_for_metric(&self, name: &str, labels: &[(&str, &str)], at_least: f64) -> Result<()> {
        let reached = wait_for(&format!("{name}{labels:?} to reach {at_least}"), PATIENCE, || {
            (self.metrics().ok()?.sum(name, labels) >= at_least).then_some(())
        });
        reached.with_context(|| match self.metrics() {
            Ok(metrics) => format!("{name} is {:?}", metrics.samples_of(name)),
            Err(error) => error.to_string(),
        })
    }

    /// Waits for a flow to be listed.
    ///
    /// # Errors
    /// When it is not within 10 s; the message lists the flows that there are.
    #[track_caller]
    pub fn wait_for_flow(&self, what: &str, wanted: impl Fn(&Flow) -> bool) -> Result<Flow> {
        let found = wait_for(what, PATIENCE, || self.flows().ok()?.into_iter().find(&wanted));
        found.with_context(|| format!("flows: {:?}", self.flows()))
    }

    /// Waits until no connection is open.
    ///
    /// # Errors
    /// When there still is one after 10 s; the message lists them.
    #[track_caller]
    pub fn wait_for_idle(&self) -> Result<()> {
        let idle = wait_for("the last connection to end", PATIENCE, || {
            (self.status().ok()?.connections.active == 0).then_some(())
        });
        idle.with_context(|| format!("flows: {:?}", self.flows()))
    }

    /// Waits for the access record of the connection from `client`.
    ///
    /// # Errors
    /// When there is none within 10 s.
    #[track_caller]
    pub fn wait_for_access(&self, client: SocketAddr) -> Result<Access> {
        wait_for(&format!("the access record of {client}"), PATIENCE, || {
            self.access().into_iter().find(|record| record.client == client.to_string())
        })
    }

    /// The access records so far.
    pub fn access(&self) -> Vec<Access> {
        self.log().iter().filter_map(|line| Access::parse(line)).collect()
    }

    /// The access records in the log from line `from` on, and the line that comes next.
    pub fn access_after(&self, from: usize) -> (Vec<Access>, usize) {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = log.get(from..).unwrap_or_default();
        (fresh.iter().filter_map(|line| Access::parse(line)).collect(), log.len())
    }

    /// Waits for a line of the log that contains `text`.
    ///
    /// # Errors
    /// When there is none within 10 s.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) -> Result<String> {
        wait_for(&format!("a line with {text:?} in the log"), PATIENCE, || {
            self.log().into_iter().find(|line| line.contains(text))
        })
    }

    /// Reads the log from here on, if nobody does yet.
    pub fn read_log(&mut self) {
        if let Some(log_end) = self.log_end.take() {
            self.log_reader = Some(launch::collect_log(log_end, &self.log));
        }
    }

    /// The lines of the log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn log_text(&self) -> String {
        format!("log of the daemon:\n{}", self.log().join("\n"))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the daemon is gone.
    pub fn signal(&self, signal: i32) -> Result<()> {
        send_signal(self.pid(), signal).with_context(|| format!("sending signal {signal} to the daemon"))
    }

    /// Waits for the daemon to end, and for the rest of its log.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    #[track_caller]
    pub fn wait_for_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let status = wait_for("the daemon to end", limit, || self.child.try_wait().transpose())??;
        self.join_log();
        Ok(status)
    }

    /// Ends the daemon as an operator would, when all flows have ended.
    ///
    /// # Errors
    /// When it does not end within 10 s with code 0, leaves its socket behind, or has panicked.
    #[track_caller]
    pub fn stop(mut self) -> Result<()> {
        self.signal(libc::SIGTERM)?;
        let status = self.wait_for_exit(PATIENCE)?;
        ensure!(status.success(), "the daemon ended with {status}");
        ensure!(!self.admin_socket().exists(), "the daemon left its admin socket behind");
        let panic = self.log().into_iter().find(|line| line.contains("panicked at"));
        ensure!(panic.is_none(), "the daemon panicked: {panic:?}");
        Ok(())
    }

    fn join_log(&mut self) {
        if let Some(reader) = self.log_reader.take() {
            drop(reader.join());
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        self.read_log();
        self.join_log();
        if !self.quiet {
            eprintln!("{}", self.log_text());
        }
    }
}

/// A command line of the binary under test, outside of any namespace.
///
/// # Errors
/// When there is no binary.
pub fn cli(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(snisplice()?);
    command.args(arguments);
    Ok(command)
}

/// The ids of the BPF objects that a process holds open, by kind: `map_id`, `prog_id`.
///
/// # Errors
/// When the process is gone.
pub fn bpf_objects_of(pid: u32, kind: &str) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for entry in Path::new("/proc").join(pid.to_string()).join("fdinfo").read_dir()? {
        // A descriptor may be closed between listing and reading.
        let info = fs::read_to_string(entry?.path()).unwrap_or_default();
        let values = info.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(':'));
        ids.extend(values.filter_map(|value| value.trim().parse::<u32>().ok()));
    }
    Ok(ids)
}
