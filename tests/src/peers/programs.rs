//! Peers that are real programs: curl and openssl.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result};

use super::tls::{Fingerprint, Identity};
use crate::command::run;
use crate::deadline::{PATIENCE, wait_for};
use crate::netns::Namespace;
use crate::workdir::WorkDir;

/// Runs curl for `https://<name>:<port><path>`, with `name` standing for the address `to`, and returns what it gets.
/// Certificates are not checked.
///
/// # Errors
/// When curl fails, also for a status of 400 or more.
pub fn curl(
    net: &Namespace,
    to: SocketAddr,
    name: &str,
    path: &str,
    upload: Option<&Path>,
) -> Result<String> {
    let port = to.port();
    let mut command = net.command("curl");
    command
        .args(["--silent", "--show-error", "--fail", "--insecure", "--http1.1", "--max-time", "15"])
        .arg("--resolve")
        .arg(format!("{name}:{port}:{}", to.ip()))
        .arg(format!("https://{name}:{port}{path}"));
    if let Some(file) = upload {
        command.arg("--data-binary").arg(format!("@{}", file.display()));
    }
    run(&mut command, b"")?.success()
}

/// The certificate that `openssl s_client` is shown at `to`, with `arguments` such as `-servername NAME`.
///
/// # Errors
/// When openssl fails.
pub fn openssl_certificate(net: &Namespace, to: SocketAddr, arguments: &[&str]) -> Result<Fingerprint> {
    let mut command = net.command("openssl");
    command.args(["s_client", "-connect"]).arg(to.to_string()).args(arguments);
    let output = run(&mut command, b"")?.success()?;
    Fingerprint::of_pem(&output).with_context(|| format!("{command:?} printed {output}"))
}

/// `openssl s_server`, which answers each line with the line reversed. It is killed on drop.
#[derive(Debug)]
pub struct OpensslServer {
    child: Child,
    _files: WorkDir,
}

impl OpensslServer {
    /// Starts it in a namespace and waits until it listens.
    ///
    /// # Errors
    /// When it does not listen within 10 s.
    pub fn start(net: &Namespace, at: SocketAddr, identity: &Identity) -> Result<Self> {
        let files = WorkDir::create()?;
        let pem = files.write("server.pem", identity.pem())?;
        let child = net
            .command("openssl")
            .args(["s_server", "-rev", "-quiet", "-accept"])
            .arg(at.to_string())
            .arg("-cert")
            .arg(&pem)
            .arg("-key")
            .arg(&pem)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting openssl s_server")?;
        let server = Self { child, _files: files };
        wait_for("openssl s_server to listen", PATIENCE, || listens(net, at).then_some(()))?;
        Ok(server)
    }
}

impl Drop for OpensslServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// True when something in the namespace listens at this address. Does not connect, so that no connection is counted.
fn listens(net: &Namespace, at: SocketAddr) -> bool {
    let port = at.port().to_string();
    let filter = format!("sport = :{port}");
    let listed =
        run(net.command("ss").args(["--no-header", "--listening", "--tcp", "--numeric", &filter]), b"");
    listed.is_ok_and(|listed| listed.stdout.contains(&format!(":{port}")))
}
