//! Frames on the wire: floods, and what the guard says of them.

mod crafted;
mod forge;
mod guard;
mod sys;
mod tunnel;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::command::run;
use crate::netns::Namespace;
pub use crafted::{CraftedHost, CraftedPeer};
pub use forge::Forged;
pub use guard::{Guard, GuardInterface, Listed};
pub(crate) use sys::ethtool;
pub use sys::{
    FrameSocket, Program, Run, detach_links_of, interface_number, refuse_bpf, send_ip_options, vanish,
};
pub use tunnel::Tunnel;

/// A flood that sends the same frames again and again, no faster than it was told, until it is dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: Option<JoinHandle<Result<()>>>,
}

/// The time in which a part of the flood is sent.
const BEAT: Duration = Duration::from_millis(1);

impl Flood {
    /// Starts it, out of an interface of a namespace. `rate`: frames in a second.
    ///
    /// # Errors
    /// When there is no such interface, or no socket can be had.
    pub fn start(from: &Namespace, interface: &str, frames: Vec<Vec<u8>>, rate: u64) -> Result<Self> {
        let socket = from.enter(|| Ok(FrameSocket::open(interface_number(interface)?)?))?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&sent));
        let sender = std::thread::spawn(move || send(&socket, &frames, rate, &stopped, &counter));
        Ok(Self { stop, sent, sender: Some(sender) })
    }

    /// Frames that the kernel has taken so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it, and returns how many frames it sent.
    ///
    /// # Errors
    /// When it could not send.
    pub fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            sender.join().map_err(|_| anyhow!("the flood panicked"))??;
        }
        Ok(self.sent())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            drop(sender.join());
        }
    }
}

fn send(
    socket: &FrameSocket,
    frames: &[Vec<u8>],
    rate: u64,
    stop: &AtomicBool,
    counter: &AtomicU64,
) -> Result<()> {
    let (begun, mut next) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let due = u64::try_from(begun.elapsed().as_micros())? * rate / 1_000_000;
        let missing = usize::try_from(due.saturating_sub(counter.load(Ordering::Relaxed)))?;
        let batch = frames.get(next..).unwrap_or_default();
        let batch = batch.get(..missing.min(batch.len())).unwrap_or_default();
        let taken = socket.send(batch)?;
        next = if next + batch.len() >= frames.len() { 0 } else { next + batch.len() };
        // What the interface did not take counts as sent: the flood does not catch up with it.
        counter.fetch_add(u64::try_from(batch.len().max(taken))?, Ordering::Relaxed);
        if missing == 0 {
            crate::deadline::dawdle(BEAT);
        }
    }
    Ok(())
}

/// The hardware address of an interface.
///
/// # Errors
/// When there is no such interface.
pub fn hardware_address(of: &Namespace, interface: &str) -> Result<[u8; 6]> {
    let text = run(of.command("ip").args(["-brief", "link", "show", interface]), b"")?.success()?;
    let word = text.split_whitespace().find(|word| word.matches(':').count() == 5).context("no address")?;
    let bytes: Result<Vec<u8>, _> = word.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    bytes?.try_into().map_err(|_| anyhow!("{word} is no hardware address"))
}

/// The frame, sent to this hardware address.
#[must_use]
pub fn addressed(mut frame: Vec<u8>, to: [u8; 6]) -> Vec<u8> {
    if let Some(place) = frame.first_chunk_mut() {
        *place = to;
    }
    frame
}
