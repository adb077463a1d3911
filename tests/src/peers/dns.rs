//! Name servers: one that never answers, and dnsmasq.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result};

use crate::deadline::{PATIENCE, wait_for};
use crate::netns::{Namespace, send_signal};
use crate::workdir::WorkDir;

/// A question that came by UDP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// By which its sender knows the answer.
    pub id: u16,
    /// Without a dot at the end.
    pub name: String,
    /// 1: A. 28: AAAA.
    pub kind: u16,
}

/// A name server that never answers.
#[derive(Debug)]
pub struct SilentNameServer(UdpSocket);

impl SilentNameServer {
    /// Binds port 53 of an address of the namespace.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub fn bind(namespace: &Namespace, at: SocketAddr) -> Result<Self> {
        namespace.enter(|| {
            let socket = UdpSocket::bind(at).with_context(|| format!("binding {at}"))?;
            socket.set_nonblocking(true)?;
            Ok(Self(socket))
        })
    }

    /// What has come since the last call.
    ///
    /// # Errors
    /// When the socket fails, or something came that is no question.
    pub fn questions(&self) -> Result<Vec<Question>> {
        let mut all = Vec::new();
        let mut packet = [0; 2048];
        loop {
            match self.0.recv(&mut packet) {
                Ok(size) => {
                    let bytes = packet.get(..size).unwrap_or_default();
                    all.push(parse(bytes).with_context(|| format!("no question: {bytes:?}"))?);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(all),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The first question of a message (RFC 1035 section 4.1), without compression.
fn parse(message: &[u8]) -> Option<Question> {
    let word = |at: usize| Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?));
    let (mut name, mut at) = (String::new(), 12);
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = message.get(at..at + length)?;
        let dot = if name.is_empty() { "" } else { "." };
        write!(name, "{dot}{}", String::from_utf8_lossy(label).to_lowercase()).ok()?;
        at += length;
    }
    Some(Question { id: word(0)?, name, kind: word(at)? })
}

/// `dnsmasq`, which knows what a file in the form of `/etc/hosts` says, and gives it a second to live. It is killed on drop.
#[derive(Debug)]
pub struct Dnsmasq {
    child: Child,
    work: WorkDir,
}

impl Dnsmasq {
    /// Starts it in a namespace and waits until it listens. All names below `zone` are its own.
    ///
    /// # Errors
    /// When there is no dnsmasq, or it does not listen within 10 s.
    pub fn start(namespace: &Namespace, at: SocketAddr, zone: &str, hosts: &str) -> Result<Self> {
        let work = WorkDir::create()?;
        let file = work.write("hosts", hosts)?;
        let mut command = namespace.command("setpriv");
        command
            .args(["--pdeathsig", "KILL", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null"])
            .args(["--no-resolv", "--no-hosts", "--local-ttl=1", "--user=root", "--pid-file"])
            .args(["--bind-interfaces", "--except-interface=lo", "--log-facility=-"])
            .arg(format!("--listen-address={}", at.ip()))
            .arg(format!("--local=/{zone}/"))
            .arg(format!("--addn-hosts={}", file.display()))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().context("starting dnsmasq: install dnsmasq-base")?;
        let server = Self { child, work };
        wait_for("dnsmasq to listen", PATIENCE, || namespace.enter(|| Ok(TcpStream::connect(at)?)).ok())?;
        Ok(server)
    }

    /// From now on it knows this.
    ///
    /// # Errors
    /// When the file cannot be written, or it is gone.
    pub fn set(&self, hosts: &str) -> Result<()> {
        self.work.write("hosts", hosts)?;
        Ok(send_signal(self.child.id(), libc::SIGHUP)?)
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
