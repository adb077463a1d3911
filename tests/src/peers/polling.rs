//! A server that agents poll, in the manner of Octopus' Halibut on port 10943.
//!
//! The agent connects and introduces itself; then the server drives. It sends a message, which is null when there is
//! no work for the agent, and the agent asks for the next one. Only the message bodies are simpler here than in
//! reality: 16 bytes, and for a package the bytes of the package after them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::backend::Service;
use super::{Duplex, need_line, read_line};
use crate::keyed;

/// The null message, as the real server's serialiser and deflate make it.
pub(crate) const NULL: [u8; 16] = *b"\xe3\x63\x60\x60\xe0\xf2\x4d\x2d\x2e\x4e\x4c\x4f\x65\x60\x00\x00";
/// The first half of the message that announces a package; its length follows as 8 bytes, little-endian.
pub(crate) const PACKAGE: [u8; 8] = *b"PACKAGE\0";
/// The stream number of the bytes of a package.
pub(crate) const PACKAGE_STREAM: u64 = 0x0c70;

const FRIENDLY_PAGE: &str = "HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: 34\r\n\r\n\
                             Octopus Server configured (a test)";

type Packages = HashMap<String, VecDeque<u64>>;

#[derive(Debug, Default)]
struct Queues {
    /// Sizes of the packages that wait, by subscription.
    packages: Mutex<Packages>,
    /// Rung when a package is queued.
    bell: Condvar,
}

/// A polling server; clones share the queues.
#[derive(Debug, Clone)]
pub struct Polling {
    wait: Duration,
    queues: Arc<Queues>,
}

impl Polling {
    /// A server that sends a null message when there is no work within `wait` (30 s in reality).
    pub fn new(wait: Duration) -> Self {
        Self { wait, queues: Arc::default() }
    }

    /// Queues a package of `bytes` bytes for an agent.
    pub fn queue_package(&self, subscription: &str, bytes: u64) {
        let mut packages = self.queues.packages.lock().unwrap_or_else(PoisonError::into_inner);
        packages.entry(subscription.to_owned()).or_default().push_back(bytes);
        self.queues.bell.notify_all();
    }

    /// Takes the next package of an agent, and waits for it as the real server does.
    fn next_package(&self, subscription: &str) -> Option<u64> {
        let none_for = |packages: &mut Packages| packages.get(subscription).is_none_or(VecDeque::is_empty);
        let packages = self.queues.packages.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.queues.bell.wait_timeout_while(packages, self.wait, none_for);
        let (mut packages, _) = waited.unwrap_or_else(PoisonError::into_inner);
        packages.get_mut(subscription)?.pop_front()
    }

    fn send_message(&self, connection: &mut dyn Duplex, subscription: &str) -> Result<()> {
        match self.next_package(subscription) {
            None => connection.write_all(&NULL)?,
            Some(bytes) => {
                connection.write_all(&[PACKAGE, bytes.to_le_bytes()].concat())?;
                keyed::send(connection, PACKAGE_STREAM, bytes)?;
                connection.flush()?;
                let answer = need_line(connection)?;
                ensure!(answer == "RECEIVED", "the agent answered {answer:?} to a package");
            }
        }
        Ok(connection.flush()?)
    }
}

impl Service for Polling {
    fn serve(&self, connection: &mut dyn Duplex) -> Result<()> {
        let Some(greeting) = read_line(connection)? else { return Ok(()) };
        while !need_line(connection)?.is_empty() {}
        if greeting != "MX" {
            // A browser, or the probe that agents send when they register.
            return Ok(connection.write_all(FRIENDLY_PAGE.as_bytes())?);
        }
        let identity = need_line(connection)?;
        let Some(subscription) = identity.strip_prefix("MX-SUBSCRIBER 1.0 ") else {
            bail!("not an identity: {identity:?}")
        };
        need_line(connection)?;
        connection.write_all(b"MX-SERVER 1.0\r\n\r\n")?;
        connection.flush()?;
        loop {
            self.send_message(connection, subscription)?;
            match read_line(connection)?.as_deref() {
                Some("NEXT") => connection.write_all(b"PROCEED\r\n")?,
                Some("END") | None => return Ok(()),
                Some(other) => bail!("neither NEXT nor END: {other:?}"),
            }
        }
    }
}
