//! Orders for single flows.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use super::Daemon;
use crate::command::{Finished, run, snisplice};

impl Daemon {
    /// Runs a command of the binary that asks this daemon, such as `kill`, with further arguments.
    ///
    /// # Errors
    /// When it cannot be started, or does not end in time.
    pub fn command(&self, verb: &str, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.edge.command(snisplice()?);
        command.arg(verb).arg("--socket").arg(self.admin_socket()).args(arguments);
        run(&mut command, b"")
    }

    /// The same for flows; it must succeed.
    ///
    /// # Errors
    /// When it does not.
    pub fn order(&self, verb: &str, ids: &[u64]) -> Result<String> {
        let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        self.command(verb, &ids)?.success()
    }

    /// The id of the live connection from `client`.
    ///
    /// # Errors
    /// When it is not listed.
    pub fn id_of(&self, client: SocketAddr) -> Result<u64> {
        let listed = self.flows()?;
        let found = listed.iter().find(|flow| flow.client == client.to_string());
        Ok(found.with_context(|| format!("no flow of {client}: {listed:?}"))?.id)
    }
}
