//! What is compared: the ways by which a client's bytes can reach a server.

mod rivals;
mod snisplice;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path as FilePath, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};
use harness::daemon::Daemon;
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::Namespace;
use harness::workdir::WorkDir;

use crate::load;
use crate::network::{Network, Path, Placement, Service};
use crate::values::Values;

/// What carries the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing: the edge forwards packets.
    Direct,
    /// Our daemon, with this word for the datapath.
    Ours(&'static str),
    /// HAProxy, with or without larger buffers than its own, and splice(2).
    HaProxy { large: bool, splice: bool },
    /// nginx with its stream and ssl_preread modules, with or without larger buffers than its own.
    Nginx { large: bool },
    /// sniproxy.
    SniProxy,
}

/// One of the systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct System {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// True for those of `--quick`.
    pub(crate) quick: bool,
}

/// All systems, in the order of the tables.
pub(crate) const SYSTEMS: [System; 12] = [
    System { name: "direct", kind: Kind::Direct, quick: true },
    System { name: "snisplice-auto", kind: Kind::Ours("auto"), quick: false },
    System { name: "snisplice-packet", kind: Kind::Ours("packet"), quick: true },
    System { name: "snisplice-local", kind: Kind::Ours("local"), quick: true },
    System { name: "snisplice-sockmap", kind: Kind::Ours("sockmap"), quick: true },
    System { name: "snisplice-copy", kind: Kind::Ours("copy"), quick: true },
    System { name: "haproxy", kind: Kind::HaProxy { large: false, splice: false }, quick: false },
    System { name: "haproxy-large", kind: Kind::HaProxy { large: true, splice: false }, quick: true },
    System { name: "haproxy-splice", kind: Kind::HaProxy { large: true, splice: true }, quick: true },
    System { name: "nginx", kind: Kind::Nginx { large: false }, quick: false },
    System { name: "nginx-large", kind: Kind::Nginx { large: true }, quick: true },
    System { name: "sniproxy", kind: Kind::SniProxy, quick: false },
];

impl System {
    pub(crate) fn named(name: &str) -> Option<Self> {
        SYSTEMS.into_iter().find(|system| system.name == name)
    }

    /// True for the systems that ours is compared with.
    pub(crate) fn is_rival(self) -> bool {
        !matches!(self.kind, Kind::Direct | Kind::Ours(_))
    }

    /// True for rivals with settings that their defaults do not have.
    pub(crate) fn is_tuned(self) -> bool {
        matches!(self.kind, Kind::HaProxy { large: true, .. } | Kind::Nginx { large: true })
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self.kind, Kind::Ours(_))
    }

    /// True where there is something for this system to do.
    pub(crate) fn applies_to(self, placement: Placement) -> bool {
        match self.kind {
            Kind::Ours("local") => placement != Placement::Routed,
            Kind::Ours("packet") => placement == Placement::Routed,
            _ => true,
        }
    }

    /// The version that is here, or why the system cannot be measured.
    pub(crate) fn version(self, network: &Network, places: &Places) -> Result<String> {
        match self.kind {
            Kind::Direct => Ok(String::new()),
            Kind::Ours(datapath) => {
                snisplice::version(&network.path(Placement::SameHost, true), datapath, places)
            }
            kind => rivals::version(kind, places),
        }
    }

    /// Starts the system for one placement, and sees that it relays.
    pub(crate) fn start(self, network: &Network, placement: Placement, places: &Places) -> Result<Running> {
        let path = network.path(placement, self.kind != Kind::Direct);
        let process = match self.kind {
            Kind::Direct => None,
            Kind::Ours(datapath) => {
                Some(Process::Ours(snisplice::start(network.edge(), &path, datapath, places)?))
            }
            kind => Some(Process::Rival(rivals::start(kind, network.edge(), &path, places)?)),
        };
        Ok(Running { kind: self.kind, path, process })
    }
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) snisplice: PathBuf,
    /// A directory with packages of rivals that were unpacked and not installed.
    pub(crate) rivals: Option<PathBuf>,
}

/// A system at work.
#[derive(Debug)]
pub(crate) struct Running {
    kind: Kind,
    pub(crate) path: Path,
    process: Option<Process>,
}

#[derive(Debug)]
enum Process {
    Ours(Daemon),
    Rival(Rival),
}

impl Running {
    /// Waits until the system relays. The echo server must run.
    pub(crate) fn probe(&mut self) -> Result<()> {
        let path = self.path.clone();
        let ready = wait_for("the system to relay a connection", PATIENCE, || {
            let opened = load::open_greeted(&path, Service::Echo, 1).map(drop);
            match (opened, self.process.as_mut()) {
                (Ok(()), _) => Some(Ok(())),
                (Err(_), Some(Process::Rival(rival))) => rival.complaint().map(Err),
                (Err(_), _) => None,
            }
        });
        ready.and_then(|relayed| relayed)
    }

    /// How it is set up, without the paths of this machine.
    pub(crate) fn configuration(&self, places: &Places) -> Option<String> {
        let (text, folder) = match &self.process {
            None => return None,
            Some(Process::Ours(daemon)) => {
                (fs::read_to_string(daemon.config_file()).ok()?, daemon.admin_socket().parent()?.to_owned())
            }
            Some(Process::Rival(rival)) => {
                (rival.configuration.clone(), rival.work.file("output").parent()?.to_owned())
            }
        };
        let text = text.replace(&folder.display().to_string(), "run");
        Some(match &places.rivals {
            Some(root) => text.replace(&root.display().to_string(), ""),
            None => text,
        })
    }

    /// The ids of its processes.
    pub(crate) fn processes(&self) -> Vec<u32> {
        match &self.process {
            None => Vec::new(),
            Some(Process::Ours(daemon)) => descendants(daemon.pid()),
            // The first one only contains the others.
            Some(Process::Rival(rival)) => descendants(rival.child.id()).split_off(1),
        }
    }

    /// Waits until so many flows are carried as they will be: for the datapath to which flows come only after a while.
    pub(crate) fn settled(&self, flows: usize) -> Result<()> {
        match &self.process {
            Some(Process::Ours(daemon)) => snisplice::settled(daemon, self.kind, flows),
            _ => Ok(()),
        }
    }

    /// Measures with `work`, and adds who carried what was moved.
    pub(crate) fn measure(&self, work: impl FnOnce(&Path) -> Result<Values>) -> Result<Values> {
        let Some(Process::Ours(daemon)) = &self.process else { return work(&self.path) };
        let before = snisplice::Carried::read(daemon)?;
        let mut values = work(&self.path)?;
        snisplice::Carried::read(daemon)?.report(before, &mut values);
        Ok(values)
    }

    /// Ends the system.
    pub(crate) fn stop(self) -> Result<()> {
        match self.process {
            None => Ok(()),
            Some(Process::Ours(daemon)) => snisplice::stop(daemon),
            Some(Process::Rival(rival)) => rival.stop(),
        }
    }
}

/// Another proxy as a child process, with all its workers in a namespace of process ids of their own, so that none
/// outlives the first one.
#[derive(Debug)]
struct Rival {
    name: String,
    child: Child,
    configuration: String,
    /// Holds its files.
    work: WorkDir,
}

/// What each rival is started by: it dies when this process does, and its workers with it.
const CONTAINED: [&str; 8] =
    ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child=KILL", "--"];

impl Rival {
    fn spawn(edge: &Namespace, work: WorkDir, program: &Command, configuration: String) -> Result<Self> {
        let name = program.get_program().to_string_lossy().into_owned();
        let [first, rest @ ..] = &CONTAINED;
        let mut command = edge.command(first);
        command.args(rest).arg(program.get_program()).args(program.get_args());
        command.envs(program.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let log = fs::File::create(work.file("output"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { name, child, configuration, work })
    }

    /// What it said when it ended early; `None` while it runs.
    fn complaint(&mut self) -> Option<anyhow::Error> {
        let status = self.child.try_wait().ok()??;
        Some(anyhow::anyhow!("{} ended with {status}: {}", self.name, self.output()))
    }

    fn output(&self) -> String {
        let text = fs::read_to_string(self.work.file("output")).unwrap_or_default();
        text.lines().rev().take(5).collect::<Vec<_>>().join(" | ")
    }

    fn stop(mut self) -> Result<()> {
        if let Some(error) = self.complaint() {
            return Err(error);
        }
        self.end()
    }

    /// Kills it and waits until the last of its processes has gone, and with it its listening socket.
    fn end(&mut self) -> Result<()> {
        let all = descendants(self.child.id());
        self.child.kill()?;
        self.child.wait()?;
        wait_for("the rival's processes to end", PATIENCE, || {
            all.iter().all(|pid| !FilePath::new("/proc").join(pid.to_string()).exists()).then_some(())
        })
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        drop(self.end());
    }
}

/// The process and all that descend from it.
fn descendants(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(parent) = all.get(next) {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        all.extend(children.unwrap_or_default().split_whitespace().flat_map(str::parse::<u32>));
        next += 1;
    }
    all
}

/// Looks for a program where the packages were unpacked, and then on `PATH`.
fn find(places: &Places, program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let unpacked = places.rivals.iter().flat_map(|root| ["usr/sbin", "usr/bin"].map(|dir| root.join(dir)));
    let found = unpacked.chain(system).map(|dir| dir.join(program)).find(|file| file.is_file());
    match found {
        Some(file) => Ok(file),
        None => bail!("{program} is not installed"),
    }
}

/// As many threads or workers as our daemon has.
fn workers() -> Result<usize> {
    Ok(thread::available_parallelism()?.get())
}
