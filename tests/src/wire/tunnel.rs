//! A way between two namespaces that is no Ethernet: packets of IP without a header before them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::sys::tunnel;
use crate::netns::Namespace;

/// The largest packet of IP.
const LARGEST: usize = 1 << 16;

/// Time between two looks whether it is to end.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// It goes on as long as the value lives.
#[derive(Debug)]
pub struct Tunnel {
    stop: Arc<AtomicBool>,
    carriers: Vec<JoinHandle<()>>,
}

impl Tunnel {
    /// Makes an interface of this name at both ends, with these addresses (`10.9.0.1/24`).
    ///
    /// # Errors
    /// When the kernel has no such interfaces.
    pub fn between(name: &str, ends: [(&Namespace, &str); 2]) -> Result<Self> {
        let make = |(namespace, address): (&Namespace, &str)| {
            let file = namespace.enter(|| tunnel(name).context("making a tunnel"))?;
            namespace.ip_batch(&format!("link set dev {name} up\naddress add {address} dev {name}\n"))?;
            Ok::<File, anyhow::Error>(file)
        };
        let [one, other] = ends;
        let (one, other) = (make(one)?, make(other)?);
        let stop = Arc::new(AtomicBool::new(false));
        let carry = |from: &File, to: &File| {
            let (from, to, stop) = (from.try_clone()?, to.try_clone()?, Arc::clone(&stop));
            Ok::<_, anyhow::Error>(std::thread::spawn(move || carry(from, to, &stop)))
        };
        let carriers = vec![carry(&one, &other)?, carry(&other, &one)?];
        Ok(Self { stop, carriers })
    }
}

fn carry(mut from: File, mut to: File, stop: &AtomicBool) {
    let mut packet = vec![0; LARGEST];
    while !stop.load(Ordering::Relaxed) {
        let ready = {
            let mut watched = [PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN)];
            poll(&mut watched, Some(&LOOK)).is_ok_and(|ready| ready > 0)
        };
        if ready && let Ok(length) = from.read(&mut packet) {
            // What the other end does not take is lost, as on a wire.
            drop(to.write(packet.get(..length).unwrap_or_default()));
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for carrier in self.carriers.drain(..) {
            drop(carrier.join());
        }
    }
}
