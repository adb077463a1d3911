//! Network namespaces: private networks for one test.

mod cards;
mod conntrack;
mod ethtool;
mod firewall;
mod name_files;
mod nft;
mod pinned;
mod sys;
mod syscalls;
mod topology;
mod words;

use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use socket2::SockRef;
use socket2::{Domain, Socket, Type};

use crate::deadline::PATIENCE;
use crate::workdir;
pub use cards::Card;
pub use ethtool::Rings;
pub use firewall::{Firewall, PUBLISHED_PORT};
pub(crate) use pinned::pin;
pub use pinned::{BpfClassifier, BpfLink};
pub use sys::{
    BpfKind, BpfMap, BpfVerdict, block_interrupt, bpf_ids, duplicate_of, map_entries, send_signal, unsent,
    wait_for_interrupt,
};
pub use syscalls::SyscallCount;
pub use topology::{
    BACKEND_IPV4, BACKEND_IPV6, CLIENT_IPV4, CLIENT_IPV6, EDGE_IPV4, EDGE_IPV6, Topology, backend, edge,
};
pub use words::WordMap;

/// A named network namespace; clones share it, and it is removed with the last of them.
#[derive(Debug, Clone)]
pub struct Namespace(Arc<Named>);

#[derive(Debug)]
struct Named(String);

impl Drop for Named {
    fn drop(&mut self) {
        // A failure leaves a namespace behind; the next test process sweeps it.
        drop(ip(&["netns", "del", &self.0], ""));
        name_files::remove(&self.0);
    }
}

impl Namespace {
    /// Makes an empty namespace with loopback up. `group` and `role` become its name.
    fn create(group: &str, role: &str) -> Result<Self> {
        let name = format!("{group}-{role}");
        ip(&["netns", "add", &name], "")?;
        let namespace = Self(Arc::new(Named(name)));
        namespace.ip_batch("link set lo up\n")?;
        Ok(namespace)
    }

    /// The name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.0.0
    }

    /// The inode number, which the kernel gives to another namespace when this one is gone.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn inode(&self) -> Result<u64> {
        self.enter(|| Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino()))
    }

    /// Runs `work` in a thread inside the namespace. The sockets that it opens stay in the namespace for ever, so
    /// that only their making has to happen here.
    ///
    /// # Errors
    /// When the namespace cannot be entered, when `work` panics, and what `work` returns.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = PathBuf::from("/run/netns").join(self.name());
        let handle = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                sys::enter_network_namespace(&handle).with_context(|| format!("entering {}", self.name()))?;
                work()
            });
            inside.join().map_err(|_| anyhow!("a thread in {} panicked", self.name()))?
        })
    }

    /// Opens a TCP connection out of this namespace. Reads and writes on it fail after 10 s, so that no test hangs.
    ///
    /// # Errors
    /// When the connection is refused or not accepted within 10 s.
    pub fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        self.enter(|| {
            let stream = TcpStream::connect_timeout(&to, PATIENCE)
                .with_context(|| format!("connecting from {} to {to}", self.name()))?;
            set_patience(&stream)?;
            Ok(stream)
        })
    }

    /// Listens for TCP connections in this namespace.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn listen(&self, at: SocketAddr) -> Result<TcpListener> {
        let listener = self.enter(|| {
            TcpListener::bind(at).with_context(|| format!("listening on {at} in {}", self.name()))
        })?;
        // The standard library lets 128 connections wait, and a test may open more before it accepts the first.
        SockRef::from(&listener).listen(BACKLOG)?;
        Ok(listener)
    }

    /// A command that will run in this namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.name()]).arg(program);
        command
    }

    /// Takes all links out of the namespace down, so that no packet leaves it or comes in any more.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn cut_links(&self) -> Result<()> {
        let names = ip(&["-netns", self.name(), "-brief", "link", "show", "up"], "")?;
        let links =
            names.lines().filter_map(|line| line.split(['@', ' ']).next()).filter(|name| *name != "lo");
        self.ip_batch(&links.map(|name| format!("link set {name} down\n")).collect::<String>())
    }

    /// Like [`Namespace::connect`], from this address and port.
    ///
    /// # Errors
    /// When the address cannot be had, or the connection is not accepted within 10 s.
    pub fn connect_from(&self, from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
        self.enter(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&from.into()).with_context(|| format!("binding to {from}"))?;
            socket
                .connect_timeout(&to.into(), PATIENCE)
                .with_context(|| format!("connecting from {from} to {to}"))?;
            let stream = TcpStream::from(socket);
            set_patience(&stream)?;
            Ok(stream)
        })
    }

    /// Runs lines of `ip` commands in this namespace.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        ip(&["-netns", self.name(), "-batch", "-"], lines).map(drop)
    }
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Bounds reads and writes of a socket that a test uses, and turns Nagle's algorithm off.
pub(crate) fn set_patience(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(())
}

/// Removes the namespaces of test processes that are gone.
fn sweep() -> Result<()> {
    remove_if(workdir::is_left_over)
}

/// Removes all namespaces of this process. For a process that ends without unwinding, as on Ctrl-C.
///
/// # Errors
/// When `ip` cannot list the namespaces.
pub fn remove_own() -> Result<()> {
    let own = format!("{}{}-", workdir::PREFIX, std::process::id());
    remove_if(|name| name.starts_with(&own))
}

fn remove_if(doomed: impl Fn(&str) -> bool) -> Result<()> {
    let list = ip(&["netns", "list"], "")?;
    for name in list.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| doomed(name)) {
        // Another test process may be sweeping as well: whoever comes first wins.
        drop(ip(&["netns", "del", name], ""));
        name_files::remove(name);
    }
    Ok(())
}

fn ip(arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting `ip`: install iproute2")?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it ends before it has read this, what it says of that below is worth more than a broken pipe.
        drop(stdin.write_all(input.as_bytes()));
    }
    let output = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}(the harness needs root)", arguments.join(" "), errors);
    Ok(String::from_utf8(output.stdout)?)
}
