//! Several daemons that want the same admin socket: one has it, and no other takes it away.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};
use harness::command::snisplice;
use harness::daemon::Datapath;
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::{Namespace, Topology, send_signal};
use harness::peers::http;
use harness::site::config;
use harness::workdir::WorkDir;
use serde_json::Value;

/// A host for each daemon, so that they share nothing but the file system.
struct Hosts {
    net: Topology,
    work: WorkDir,
    file: PathBuf,
}

/// Killed when it is dropped.
struct Started {
    child: Child,
    said: PathBuf,
}

impl Drop for Started {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Started {
    fn ended(&mut self) -> Result<(Option<i32>, String)> {
        let status = wait_for("the daemon to end", PATIENCE, || self.child.try_wait().transpose())??;
        Ok((status.code(), std::fs::read_to_string(&self.said)?))
    }
}

impl Hosts {
    fn new() -> Result<Self> {
        let (net, work) = (Topology::create()?, WorkDir::create()?);
        let text = config().datapath(Datapath::Copy).render(&work.file("admin.sock"));
        let file = work.write("snisplice.toml", text)?;
        Ok(Self { net, work, file })
    }

    fn socket(&self) -> PathBuf {
        self.work.file("admin.sock")
    }

    fn namespaces(&self) -> [&Namespace; 3] {
        [&self.net.edge, &self.net.client, &self.net.backend]
    }

    fn start(&self, host: &Namespace, name: &str) -> Result<Started> {
        let said = self.work.file(name);
        let mut command = host.command(snisplice()?);
        command.args(["run", "--config"]).arg(&self.file).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Started { child: command.stderr(File::create(&said)?).spawn()?, said })
    }
}

/// The process that answers on the socket.
fn owner(socket: &Path) -> Option<u32> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let answer = http::get(&mut stream, "snisplice", "/api/v1/status").ok()?;
    let status: Value = serde_json::from_str(&answer.body).ok()?;
    status.get("pid")?.as_u64()?.try_into().ok()
}

fn wait_for_owner(socket: &Path) -> Result<u32> {
    wait_for("a daemon to answer on the socket", PATIENCE, || owner(socket))
}

#[test]
fn of_daemons_that_start_at_once_one_gets_the_socket_also_after_a_kill() -> Result<()> {
    let hosts = Hosts::new()?;
    for round in 0..3 {
        // From the second round on the socket of a killed daemon is there.
        let mut all = Vec::new();
        for (index, host) in hosts.namespaces().into_iter().enumerate() {
            all.push(hosts.start(host, &format!("log-{round}-{index}"))?);
        }
        let owner = wait_for_owner(&hosts.socket())?;
        let (winner, losers): (Vec<_>, Vec<_>) = all.iter_mut().partition(|one| one.child.id() == owner);
        for loser in losers {
            let (code, said) = loser.ended()?;
            ensure!(code == Some(69) && said.contains("another snisplice"), "{code:?}: {said}");
        }
        assert_eq!(wait_for_owner(&hosts.socket())?, owner, "round {round}");
        assert_eq!(winner.len(), 1);
        // Dropping them is a kill.
    }
    Ok(())
}

#[test]
fn a_daemon_that_stops_leaves_the_socket_of_its_successor_alone() -> Result<()> {
    let hosts = Hosts::new()?;
    let socket = hosts.socket();
    let mut older = hosts.start(&hosts.net.edge, "older")?;
    assert_eq!(wait_for_owner(&socket)?, older.child.id());
    // As somebody does who cleans up by hand.
    std::fs::remove_file(&socket)?;
    drop(std::fs::remove_file(hosts.work.file("admin.sock.lock")));
    let mut newer = hosts.start(&hosts.net.client, "newer")?;
    assert_eq!(wait_for_owner(&socket)?, newer.child.id());
    let inode = socket.symlink_metadata()?.ino();

    send_signal(older.child.id(), libc::SIGTERM)?;
    assert_eq!(older.ended()?.0, Some(0));
    let left = socket.symlink_metadata().context("the older one has removed the socket")?;
    assert_eq!(left.ino(), inode);
    assert_eq!(wait_for_owner(&socket)?, newer.child.id());
    send_signal(newer.child.id(), libc::SIGTERM)?;
    assert_eq!(newer.ended()?.0, Some(0));
    assert!(!socket.exists(), "its own it removes");
    Ok(())
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() -> Result<()> {
    let hosts = Hosts::new()?;
    std::fs::write(hosts.socket(), "precious")?;
    let (code, said) = hosts.start(&hosts.net.edge, "log")?.ended()?;
    assert!(code == Some(69) && said.contains("a file that is no socket is there"), "{code:?}: {said}");
    assert_eq!(std::fs::read_to_string(hosts.socket())?, "precious");
    Ok(())
}
